import pytest
import torch
from hypothesis import given
from torch import nn

from coursekit.visualization import maximize_activation, total_variation
from tests.coursekit.draws import images


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
