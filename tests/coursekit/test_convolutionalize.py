import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from coursekit.convolutionalize import convolutionalize, linear_to_conv
from tests.coursekit.draws import randn, seeds, sizes


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


@pytest.mark.gpu
def test_on_the_gpu():
    cnn = classifier("batch norm between").cuda().eval()
    fcn = convolutionalize(cnn, (3, 26, 19))
    x = randn(2, 3, 3, 26, 19).cuda()
    torch.testing.assert_close(fcn(x)[:, :, 0, 0], cnn(x))
