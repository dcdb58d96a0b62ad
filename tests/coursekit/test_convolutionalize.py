import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from skimage import measure
from torch import nn

from coursekit.convolutionalize import (
    cell_to_box,
    class_heatmaps,
    convolutionalize,
    instances_to_targets,
    linear_to_conv,
    sliding_window,
)
from tests.coursekit.draws import layouts, randn, seeds, sizes


@given(sizes, sizes, sizes, sizes, st.booleans(), seeds)
def test_dense_layer_and_convolution_agree_on_every_window(out, channels, h, w, bias, seed):
    linear = nn.Linear(channels * h * w, out, bias=bias).double()
    conv = linear_to_conv(linear, channels, (h, w))
    assert (conv.bias is None) == (not bias)
    x = randn(seed, 2, channels, h + 2, w + 1)
    y = conv(x)
    assert y.shape == (2, out, 3, 2)
    for row in range(3):
        for column in range(2):
            window = x[:, :, row : row + h, column : column + w]
            torch.testing.assert_close(y[:, :, row, column], linear(window.flatten(1)))
    with torch.no_grad():
        conv.weight.zero_()
    assert linear.weight.abs().sum() > 0


def features(*channels):
    layers = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3), nn.BatchNorm2d(after), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return layers


relu = nn.ReLU(inplace=True)
HEADS = {
    "dense layers": lambda: [nn.Flatten(), nn.Linear(6 * 5 * 3, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 4)],
    "no bias": lambda: [nn.Flatten(), nn.Linear(6 * 5 * 3, 4, bias=False)],
    "batch norm between": lambda: [
        nn.Flatten(), nn.Linear(6 * 5 * 3, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 4)],
    "bare batch norm": lambda: [
        nn.Flatten(), nn.Linear(6 * 5 * 3, 4), nn.BatchNorm1d(4, affine=False, momentum=None)],
    "average": lambda: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)],
    "average of scores": lambda: [nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()],
    "average to its own size": lambda: [nn.AdaptiveAvgPool2d((5, 3)), nn.Flatten(), nn.Linear(6 * 5 * 3, 4)],
    "nested": lambda: [nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(6 * 5 * 3, 4))), nn.Identity()],
    "one layer twice": lambda: [
        relu, nn.Flatten(), nn.Linear(6 * 5 * 3, 7), relu, nn.Linear(7, 4), nn.LogSoftmax(dim=1)],
}  # fmt: skip


def classifier(head):
    torch.manual_seed(1)
    cnn = nn.Sequential(nn.Sequential(*features(3, 5, 6)), *HEADS[head]()).double()
    cnn(randn(0, 8, 3, 26, 19))
    return cnn


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_fully_convolutional_twin(head, training):
    cnn = classifier(head).train(training)
    before = copy.deepcopy(cnn.state_dict())
    random_state = torch.get_rng_state()
    fcn = convolutionalize(cnn, (3, 26, 19))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training is training for module in [*fcn.modules(), *cnn.modules()])
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())

    cnn.eval(), fcn.eval()
    x = randn(2, 3, 3, 26, 19)
    assert fcn(x).shape == (3, 4, 1, 1)
    torch.testing.assert_close(fcn(x)[:, :, 0, 0], cnn(x))

    large = randn(3, 2, 3, 34, 31)
    maps = fcn(large)
    assert maps.shape == (2, 4, 3, 4)
    for row in range(3):
        for column in range(4):
            window = large[:, :, 4 * row : 4 * row + 26, 4 * column : 4 * column + 19]
            torch.testing.assert_close(maps[:, :, row, column], cnn(window))

    with torch.no_grad():
        for parameter in fcn.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())


def test_batch_norm_between_dense_layers_trains_alike():
    cnn = classifier("batch norm between")
    fcn = convolutionalize(cnn, (3, 26, 19))
    x = randn(2, 6, 3, 26, 19)
    torch.testing.assert_close(fcn(x)[:, :, 0, 0], cnn(x))
    torch.testing.assert_close(fcn[3].running_var, cnn[3].running_var)


def test_mixed_training_flags_carry_over():
    cnn = classifier("dense layers").train()
    cnn[0][1].eval()
    fcn = convolutionalize(cnn, (3, 26, 19))
    assert [m.training for m in fcn.modules()] == [m.training for m in cnn.modules()]


class Spy(nn.Module):
    """Passes its input on, and remembers how it was called."""

    def __init__(self):
        super().__init__()
        self.batches, self.modes = [], set()

    def forward(self, x):
        self.batches.append(len(x))
        self.modes.add((self.training, torch.is_grad_enabled()))
        return x


@given(st.integers(1, 4), st.integers(1, 5), sizes, sizes, st.sampled_from([1.0, 1e4]), layouts, seeds)
def test_heatmaps_are_the_softmax_of_every_column(n, classes, h, w, scale, layout, seed):
    images = layout(scale * randn(seed, n, 3, h, w))
    fcn = nn.Conv2d(3, classes, 1).double()
    got = class_heatmaps(fcn, images)
    assert not got.requires_grad
    scores = np.einsum("lc,nchw->nlhw", fcn.weight.detach()[:, :, 0, 0].numpy(), images.numpy())
    expected = special.softmax(scores + fcn.bias.detach().numpy()[:, None, None], axis=1)
    torch.testing.assert_close(got, torch.from_numpy(expected))


@pytest.mark.parametrize("training", [False, True])
def test_inference_leaves_mode_and_statistics_as_found(training):
    spy = Spy()
    fcn = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm2d(3), nn.Dropout(), spy).train(training)
    fcn[1].train(not training)
    flags, before = [m.training for m in fcn.modules()], copy.deepcopy(fcn.state_dict())
    images = torch.randn(2, 3, 7, 5, requires_grad=True)
    kept = images.detach().clone()
    torch.testing.assert_close(class_heatmaps(fcn, images).sum(1), torch.ones(2, 7, 5))
    cnn = nn.Sequential(fcn, nn.Flatten())
    sliding_window(cnn, images[0], 3, 2)
    with pytest.raises(ValueError, match="fcn must be"):
        class_heatmaps(cnn, images)
    assert spy.modes == {(False, False)}
    assert torch.equal(images, kept)
    assert [m.training for m in fcn.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in fcn.state_dict().items())


def test_integer_images_become_float():
    fcn = nn.Conv2d(3, 2, 1)
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    torch.testing.assert_close(class_heatmaps(fcn, images), fcn(images.float()).softmax(1).detach())
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    got = sliding_window(cnn, images[0], 2, 1)
    torch.testing.assert_close(got[:, 1, 2], cnn(images[:1, :, 1:3, 2:4].float())[0].detach())


@given(
    st.integers(1, 3), st.integers(0, 9), st.integers(0, 9), st.integers(1, 5), st.integers(1, 4), layouts, seeds
)  # fmt: skip
def test_sliding_window_scores_every_crop(classes, taller, wider, window, stride, layout, seed):
    image = layout(randn(seed, 2, window + taller, window + wider))
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(2 * window**2, 3), nn.Tanh(), nn.Linear(3, classes)).double()
    got = sliding_window(cnn, image, window, stride)
    tops, lefts = range(0, taller + 1, stride), range(0, wider + 1, stride)
    assert got.shape == (classes, len(tops), len(lefts))
    for r, top in enumerate(tops):
        for c, left in enumerate(lefts):
            crop = image[:, top : top + window, left : left + window]
            torch.testing.assert_close(got[:, r, c], cnn(crop[None])[0])


@given(st.sampled_from(["dense layers", "average", "nested"]), sizes, sizes, st.integers(1, 3), seeds)
def test_sliding_window_and_converted_network_agree(head, taller, wider, step, seed):
    torch.manual_seed(seed)
    size = {"dense layers": 6 * 5 * 5, "nested": 6 * 5 * 5}.get(head)
    heads = {
        "dense layers": lambda: [nn.Flatten(), nn.Linear(size, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 4)],
        "nested": lambda: [nn.Sequential(nn.Flatten(), nn.Linear(size, 4))],
        "average": HEADS["average"],
    }
    cnn = nn.Sequential(*features(3, 5, 6), *heads[head]()).double().train(bool(seed % 2))
    fcn = convolutionalize(cnn, (3, 26, 26)).eval()
    image = randn(seed, 3, 26 + taller, 26 + wider)
    got = sliding_window(cnn, image, 26, 4 * step)
    torch.testing.assert_close(got, fcn(image[None])[0, :, ::step, ::step])


def test_sliding_window_holds_few_crops_at_a_time():
    spy = Spy()
    sliding_window(nn.Sequential(spy, nn.Flatten()), torch.randn(1, 40, 50), 3, 1)
    assert sum(spy.batches) == 38 * 48
    assert max(spy.batches) <= 256


LAYERS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2)),
    min_size=1,
    max_size=3,
)


def field_of(layers):
    """Size, jump and center of the first cell's field, from the input positions that each layer reads."""
    first = last = 0
    jump = 1
    for kernel, stride, padding, dilation in reversed(layers):
        first = first * stride - padding
        last = last * stride - padding + (kernel - 1) * dilation
        jump *= stride
    return last - first + 1, jump, (first + last) / 2


@given(LAYERS, LAYERS, seeds)
def test_a_cell_sees_what_its_gradient_reaches(down, across, seed):
    layers = list(zip(down, across, strict=False))
    convs = [
        nn.Conv2d(1, 1, (y[0], x[0]), (y[1], x[1]), (y[2], x[2]), (y[3], x[3]), bias=False) for y, x in layers
    ]
    for conv in convs:
        nn.init.ones_(conv.weight)
    fields = [field_of([pair[axis] for pair in layers]) for axis in range(2)]
    shape = [field[0] + 2 * field[1] for field in fields]
    x = torch.ones(1, 1, *shape, requires_grad=True)
    y = nn.Sequential(*convs)(x)
    row, col = seed % y.shape[2], seed // 7 % y.shape[3]
    (gradient,) = torch.autograd.grad(y[0, 0, row, col], x)
    top, left, bottom, right = box = cell_to_box(row, col, *fields)
    assert all(type(side) is int for side in box)
    assert (bottom - top, right - left) == (fields[0][0], fields[1][0])
    rows, columns = gradient[0, 0].any(1).nonzero()[:, 0], gradient[0, 0].any(0).nonzero()[:, 0]
    # Dilated taps that fall into the padding leave holes; where none does, both ends are reached.
    if len(rows) and top >= 0 and bottom <= shape[0]:
        assert (rows[0], rows[-1] + 1) == (top, bottom)
    if len(columns) and left >= 0 and right <= shape[1]:
        assert (columns[0], columns[-1] + 1) == (left, right)
    assert all(top <= r < bottom for r in rows)
    assert all(left <= c < right for c in columns)


def test_boxes_of_padded_networks_reach_beyond_the_image():
    same = (3, 1, 0.0)
    assert cell_to_box(0, 0, same, same) == (-1, -1, 2, 2)
    assert cell_to_box(2, 5, same, (4, 2, 1.5)) == (1, 10, 4, 14)


@st.composite
def instance_maps(draw):
    h, w, count = draw(sizes), draw(sizes), draw(st.integers(0, 4))
    ids = draw(st.lists(st.integers(1, 120), min_size=count, max_size=count, unique=True))
    pixels = st.sampled_from([0, *ids])
    rows = draw(st.lists(st.lists(pixels, min_size=w, max_size=w), min_size=h, max_size=h))
    dtype = draw(st.sampled_from([torch.uint8, torch.int32, torch.int64]))
    return torch.tensor(rows, dtype=dtype), {i: draw(st.integers(1, 5)) for i in ids}


@given(instance_maps())
def test_targets_of_every_problem_agree_with_the_instance_map(drawn):
    instances, classes = drawn
    before = instances.clone()
    targets = instances_to_targets(instances, classes)
    height, width = instances.shape
    ids = sorted(set(instances.flatten().tolist()) - {0})
    assert torch.equal(instances, before)
    assert targets["labels"] == {classes[i] for i in ids}
    assert targets["semantic"].tolist() == [[classes.get(i, 0) for i in row] for row in instances.tolist()]
    assert targets["masks"].shape == (len(ids), height, width)
    assert targets["masks"].dtype == torch.bool
    assert targets["boxes"].shape == (len(ids), 5)
    objects = measure.regionprops(instances.long().numpy())
    for mask, box, i, found in zip(targets["masks"], targets["boxes"], ids, objects, strict=True):
        assert mask.tolist() == (instances == i).tolist()
        top, left, bottom, right = found.bbox
        assert box.tolist() == [left, top, right - left, bottom - top, classes[i]]
    assert targets["boxes"].dtype == targets["semantic"].dtype == torch.int64


def test_a_map_without_objects_keeps_the_shapes():
    targets = instances_to_targets(torch.zeros(4, 7, dtype=torch.uint8), {1: 2})
    assert targets["labels"] == set()
    assert not targets["semantic"].any()
    assert targets["boxes"].shape == (0, 5)
    assert targets["masks"].shape == (0, 4, 7)
    assert targets["masks"].dtype == torch.bool


@pytest.mark.gpu
def test_inference_on_the_gpu():
    cnn = classifier("average")
    image = randn(0, 3, 34, 30)
    fcn = convolutionalize(cnn, (3, 26, 26))
    expected = sliding_window(cnn, image, 26, 4), class_heatmaps(fcn, image[None])
    cnn.cuda(), fcn.cuda()
    got = sliding_window(cnn, image.cuda(), 26, 4), class_heatmaps(fcn, image.cuda()[None])
    assert all(maps.is_cuda for maps in got)
    torch.testing.assert_close([maps.cpu() for maps in got], list(expected))
    targets = instances_to_targets(torch.tensor([[0, 5], [5, 2]]).cuda(), {5: 1, 2: 1})
    assert all(targets[name].is_cuda for name in ("semantic", "boxes", "masks"))
    assert targets["boxes"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 2, 2, 1]]


@pytest.mark.gpu
def test_on_the_gpu():
    cnn = classifier("batch norm between").cuda().eval()
    fcn = convolutionalize(cnn, (3, 26, 19))
    x = randn(2, 3, 3, 26, 19).cuda()
    torch.testing.assert_close(fcn(x)[:, :, 0, 0], cnn(x))
