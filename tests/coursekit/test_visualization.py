import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import alexnet, resnet18, vgg16
from torchvision.utils import make_grid

from coursekit.visualization import (
    capture_activations,
    filter_grid,
    maximize_activation,
    receptive_field,
    top_patches,
    total_variation,
)
from tests.coursekit.draws import images, layouts, randn, seeds, sizes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(dtype=torch.float64):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 2),
    ).to(dtype)


# Filters


@given(
    st.integers(1, 11),
    st.sampled_from([1, 3]),
    sizes,
    st.integers(2, 6),
    st.integers(1, 5),
    st.integers(0, 3),
    seeds,
    layouts,
)
def test_the_filter_grid_is_that_of_torchvision_with_missing_cells_filled(
    K, C, h, w, columns, padding, seed, layout
):
    weight = layout(randn(seed, K, C, h, w))
    weight[0] = 0.7
    before = weight.clone()
    got = filter_grid(weight, columns, padding)

    missing = -K % columns
    scaled = [
        (f - f.min()) / (f.max() - f.min()) if f.max() > f.min() else torch.full_like(f, 0.5) for f in weight
    ]
    cells = torch.stack(scaled + [torch.ones_like(weight[0])] * missing).expand(-1, 3, -1, -1)
    rows = -(-K // columns)
    shape = (3, rows * (h + padding) + padding, columns * (w + padding) + padding)
    assert got.shape == shape
    # A single image make_grid leaves without a frame; two columns give it one.
    frame = make_grid(torch.cat([cells, torch.ones_like(cells[:1])]), columns, padding, pad_value=1.0)
    torch.testing.assert_close(got, frame[:, : shape[1], : shape[2]])
    assert got.min() == 0 or K == 1
    assert torch.equal(weight, before)


def test_the_filter_grid_of_a_layer_needs_no_gradient():
    weight = nn.Conv2d(3, 9, 7).weight
    assert filter_grid(weight).shape == (3, 2 * 8 + 1, 8 * 8 + 1)
    assert not filter_grid(weight).requires_grad
    assert filter_grid(weight.half()).dtype == torch.float16
    assert filter_grid((weight * 99).to(torch.uint8)).dtype == torch.float32


# Activations


class Tangled(nn.Module):
    """A layer that is called twice, one at two places, one after which everything changes in place."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.same_relu = self.relu
        self.drop = nn.Dropout(0.5)
        self.spare = nn.Identity()
        self.pair = Two()

    def forward(self, x):
        x = x.mul_(2)
        y = self.relu(self.conv(x))
        z = self.conv(y.clone())
        z.add_(1)
        self.pair(z)
        return self.drop(self.same_relu(z))


class Two(nn.Module):
    def forward(self, x):
        return x, x


def test_captures_the_outputs_of_the_last_calls_before_anything_changes_them():
    torch.manual_seed(0)
    model = Tangled().double().eval()
    x = randn(1, 2, 2, 5, 4).requires_grad_()
    before = x.detach().clone()
    got = capture_activations(model, x, ["same_relu", "conv", "", "relu"])

    conv = model.conv
    second = conv(conv(2 * before).relu())
    assert list(got) == ["same_relu", "conv", "", "relu"]
    torch.testing.assert_close(got["conv"], second.detach())
    torch.testing.assert_close(got["relu"], (second.detach() + 1).relu())
    assert torch.equal(got["relu"], got["same_relu"])
    assert torch.equal(got[""], got["relu"])
    assert not any(t.requires_grad for t in got.values())
    assert torch.equal(x.detach(), before)
    addresses = {t.data_ptr() for t in got.values()}
    assert len(addresses) == len(got)


def test_captures_in_the_mode_found():
    model = network().train()
    x = randn(0, 4, 3, 10, 8)
    maps = capture_activations(model, x, ["0.1", "3"])
    channels = maps["0.1"].transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.mean(1), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
    assert (maps["3"] == 0).any()
    assert model[0][1].num_batches_tracked == 1
    model.eval()
    assert not (capture_activations(model, x, ["3"])["3"] == 0).all(0).any()
    assert model[0][1].num_batches_tracked == 1


@pytest.mark.parametrize("fails", [False, True])
def test_capturing_leaves_hooks_and_modes_as_found(fails):
    model = network().eval()
    model[2].train()
    calls = []
    model[2].register_forward_hook(lambda module, arguments, output: calls.append(1))
    before = state(model)
    if fails:
        with pytest.raises(RuntimeError):
            capture_activations(model, torch.zeros(1, 4, 8, 8).double(), ["0.0", "2"])
    else:
        capture_activations(model, torch.zeros(1, 3, 8, 8).double(), ["0.0", "2"])
        assert calls == [1]
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)


# Receptive fields


@st.composite
def chains(draw):
    """(kernel, stride, padding, dilation) of a few layers."""
    numbers = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
    return draw(st.lists(numbers, max_size=4))


@given(chains())
def test_the_receptive_field_is_where_the_gradient_of_a_unit_is_not_zero(layers):
    size, jump, start = receptive_field(layers)
    padding = sum(p for _, _, p, _ in layers) * jump
    x = torch.ones(1, 1, size + 3 * jump + 2 * padding, dtype=torch.float64, requires_grad=True)
    y = x
    for k, s, p, d in layers:
        weight = torch.rand(1, 1, k, dtype=torch.float64) + 0.1
        y = nn.functional.conv1d(y, weight, stride=s, padding=p, dilation=d)

    seen = {}
    for unit in range(y.shape[2]):
        (gradient,) = torch.autograd.grad(y[0, 0, unit], x, retain_graph=True)
        pixels = gradient[0, 0].nonzero().flatten().tolist()
        first = start + unit * jump - (size - 1) / 2
        assert first == int(first)
        inside = [int(first), int(first) + size - 1]
        if inside[0] >= 0 and inside[1] < x.shape[2]:
            # Dilation and strides can leave holes, but never at the ends.
            assert [pixels[0], pixels[-1]] == inside
            seen[unit] = pixels[0]
        elif pixels:
            assert pixels[0] >= inside[0]
            assert pixels[-1] <= inside[1]
    assert len(seen) >= 2
    assert all(seen[u + 1] - seen[u] == jump for u in seen if u + 1 in seen)


def layers_of(*modules):
    """(kernel, stride, padding, dilation) along one axis, read off the convolutions and pools."""

    def one(value):
        return value if isinstance(value, int) else value[0]

    return [
        tuple(one(value) for value in (m.kernel_size, m.stride, m.padding, m.dilation))
        for m in modules
        if isinstance(m, nn.Conv2d | nn.MaxPool2d)
    ]


def test_the_receptive_fields_of_alexnet():
    features = alexnet().features
    fields = [receptive_field(layers_of(*features[: i + 1]))[:2] for i in (0, 2, 3, 5, 6, 8, 10, 12)]
    assert fields == [(11, 4), (19, 8), (51, 8), (67, 16), (99, 16), (131, 16), (163, 16), (195, 32)]


def test_the_receptive_fields_of_vgg_16():
    with torch.device("meta"):
        features = vgg16().features
    # conv1_2, pool1, conv2_2, pool2, conv3_3, pool3, conv4_3, pool4, conv5_3, pool5
    ends = (2, 4, 7, 9, 14, 16, 21, 23, 28, 30)
    assert [receptive_field(layers_of(*features[: i + 1]))[:2] for i in ends] == [
        (5, 1), (6, 2), (14, 2), (16, 4), (40, 4), (44, 8), (92, 8), (100, 16), (196, 16), (212, 32),
    ]  # fmt: skip
    # The seven by seven window of its first dense layer, as FCN uses it.
    assert receptive_field([*layers_of(*features), (7, 1, 0, 1)])[:2] == (404, 32)


def test_the_receptive_fields_of_resnet_18():
    net = resnet18()
    layers, fields = [net.conv1, net.maxpool], []
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        layers += [conv for block in stage for conv in (block.conv1, block.conv2)]
        fields.append(receptive_field(layers_of(*layers)))
    assert receptive_field(layers_of(*layers[:2]))[:2] == (11, 4)
    assert [field[:2] for field in fields] == [(43, 4), (99, 8), (211, 16), (435, 32)]
    assert [start for _, _, start in fields] == [0, 0, 0, 0]


def test_no_layer_sees_one_pixel():
    assert receptive_field([]) == (1, 1, 0.0)


# The patches that excite a channel


@given(
    st.integers(1, 6), st.integers(1, 3), sizes, sizes, st.integers(1, 8), chains(), st.tuples(sizes, sizes), seeds,
    layouts, st.booleans(),
)  # fmt: skip
def test_the_top_patches_are_the_fields_of_the_best_units(
    N, K, h, w, k, layers, image_size, seed, layout, ties
):
    activations = layout(randn(seed, N, K, h, w))
    activations = activations.round() if ties else activations
    field = size, jump, start = receptive_field(layers)
    got = top_patches(activations, K - 1, k, field, image_size)

    best = []
    for n in range(N):
        cells = [(activations[n, K - 1, r, c].item(), r, c) for r in range(h) for c in range(w)]
        best.append((*max(cells, key=lambda cell: cell[0]), n))
    expected = []
    for _, r, c, n in sorted(best, key=lambda entry: -entry[0])[:k]:
        ends = []
        for cell, side in ((r, image_size[0]), (c, image_size[1])):
            center = start + cell * jump
            ends.append(np.clip([center - size / 2 + 0.5, center + size / 2 + 0.5], 0, side))
        (top, bottom), (left, right) = ends
        expected.append((n, top, left, bottom, right))
    assert got == expected
    assert all(type(number) is int for patch in got for number in patch)


def test_the_top_patches_hold_what_the_layer_was_made_to_see():
    """A filter that looks for a cross, photographs of nothing else, and each cross somewhere else."""
    conv = nn.Conv2d(1, 1, 5, stride=2, padding=1, bias=False)
    cross = torch.zeros(5, 5)
    cross[2], cross[:, 2] = 1, 1
    conv.weight.data[0, 0] = cross - 0.3
    places = [(1, 3), (5, 9), (7, 1)]
    x = torch.zeros(3, 1, 14, 18)
    for n, (top, left) in enumerate(places):
        x[n, 0, top : top + 5, left : left + 5] = (n + 1) * cross
    maps = capture_activations(conv, x, [""])[""]
    patches = top_patches(maps, 0, 2, receptive_field([(5, 2, 1, 1)]), (14, 18))
    assert patches == [(2, 7, 1, 12, 6), (1, 5, 9, 10, 14)]
    assert torch.equal(x[2, 0, 7:12, 1:6], 3 * cross)


# Total variation


@given(images(values=1))
def test_total_variation_is_the_sum_over_all_neighbors(x):
    n, c, h, w = x.shape
    flat = x.tolist()
    total = 0.0
    for i in range(n):
        for j in range(c):
            for row in range(h):
                for column in range(w):
                    here = flat[i][j][row][column]
                    total += abs(flat[i][j][row + 1][column] - here) if row + 1 < h else 0.0
                    total += abs(flat[i][j][row][column + 1] - here) if column + 1 < w else 0.0
    assert total_variation(x).item() == pytest.approx(total, abs=1e-9)


def test_total_variation_of_bytes_does_not_wrap():
    x = torch.tensor([[[[0, 255], [255, 0]]]], dtype=torch.uint8)
    assert total_variation(x) == 4 * 255
    assert total_variation(x).dtype == torch.float32


@given(images(values=1))
def test_the_gradient_of_total_variation_is_the_difference_of_signs(x):
    x = x.clone().requires_grad_()
    (got,) = torch.autograd.grad(total_variation(x), x)
    values = x.detach().numpy()
    expected = np.zeros(x.shape)
    for axis in (2, 3):
        sign = np.sign(np.diff(values, axis=axis))
        none = np.zeros_like(values.take([0], axis))
        expected += np.concatenate([none, sign], axis) - np.concatenate([sign, none], axis)
    np.testing.assert_allclose(got, expected)


# Maximal activation


def by_hand(objective, x, steps, step_size):
    for _ in range(steps):
        x = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(objective(x), x)
        x = (x + step_size * g / (g * g).mean() ** 0.5).detach()
    return x


@pytest.mark.parametrize("position", [None, (2, 1)])
def test_ascends_the_stated_objective(position):
    model = network()
    got = maximize_activation(
        model, "2", 3, position, (1, 3, 10, 8), steps=4, step_size=0.5, l2=0.3, tv=0.2, generator=seeded()
    )
    reference = network().eval()[:3]

    def objective(x):
        maps = reference(x)[:, 3]
        excitation = maps.mean() if position is None else maps[0, 2, 1]
        return excitation - 0.3 * (x * x).mean() - 0.2 * total_variation(x) / x.numel()

    start = 0.1 * torch.randn(1, 3, 10, 8, generator=seeded())
    torch.testing.assert_close(got, by_hand(objective, start.double(), 4, 0.5))


def test_reads_the_layer_before_an_in_place_relu_changes_it():
    model = network()
    got = maximize_activation(model, "0.1", 1, shape=(1, 3, 6, 6), steps=3, generator=seeded())
    reference = network().eval()[0][:2]
    start = 0.1 * torch.randn(1, 3, 6, 6, generator=seeded())
    torch.testing.assert_close(got, by_hand(lambda x: reference(x)[:, 1].mean(), start.double(), 3, 1.0))


def test_a_class_score_is_a_channel_too():
    model = network()
    image = maximize_activation(model, "6", 1, shape=(1, 3, 12, 12), steps=8, generator=seeded())
    noise = maximize_activation(model, "6", 1, shape=(1, 3, 12, 12), steps=0, generator=seeded())
    model.eval()
    assert model(image)[0, 1] > model(noise)[0, 1] + 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_step_returns_the_noise_in_the_dtype_of_the_model(dtype):
    image = maximize_activation(network(dtype), "2", 0, shape=(2, 3, 7, 9), steps=0, generator=seeded(5))
    assert torch.equal(image, (0.1 * torch.randn(2, 3, 7, 9, generator=seeded(5))).to(dtype))


def test_a_zero_gradient_takes_no_step():
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
    nn.init.constant_(model[0].bias, -1e3)
    assert torch.equal(
        maximize_activation(model, "1", 0, steps=3, generator=seeded()),
        maximize_activation(model, "1", 0, steps=0, generator=seeded()),
    )


def test_a_tiny_gradient_takes_a_whole_step():
    model = nn.Conv2d(3, 1, 1)
    nn.init.constant_(model.weight, 1e-30)
    moved = maximize_activation(model, "", 0, steps=1, generator=seeded())
    noise = maximize_activation(model, "", 0, steps=0, generator=seeded())
    torch.testing.assert_close(moved - noise, torch.ones_like(noise))


def test_a_module_at_two_places_has_two_paths():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 2, 1), relu, nn.Conv2d(2, 2, 1), relu)
    image = maximize_activation(model, "3", 1, shape=(1, 3, 4, 4), steps=0, generator=seeded())
    assert image.shape == (1, 3, 4, 4)


def state(model):
    hooks = [len(m._forward_hooks) for m in model.modules()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    values = {name: value.clone() for name, value in model.state_dict().items()}
    return [m.training for m in model.modules()], hooks, grads, values


@pytest.mark.parametrize("fails", [False, True])
def test_leaves_the_model_as_found(fails):
    model = network()
    model[0][1].eval()
    model[2].weight.grad = torch.ones_like(model[2].weight)
    before = state(model)
    if fails:
        with pytest.raises(RuntimeError):
            maximize_activation(model, "2", 0, shape=(1, 4, 8, 8))
    else:
        with torch.no_grad():
            image = maximize_activation(model, "2", 0, shape=(1, 3, 8, 8), steps=2)
        assert not image.requires_grad
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)


@pytest.mark.gpu
def test_on_the_gpu_the_same_noise_leads_to_the_same_image():
    arguments = {"layer": "2", "channel": 1, "shape": (1, 3, 9, 8), "steps": 3}
    on_gpu = maximize_activation(network().cuda(), **arguments, generator=seeded())
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), maximize_activation(network(), **arguments, generator=seeded()))
    generator = torch.Generator("cuda").manual_seed(0)
    assert maximize_activation(network(), **arguments, generator=generator).device.type == "cpu"
