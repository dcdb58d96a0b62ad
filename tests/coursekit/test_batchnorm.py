import copy
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from coursekit import batchnorm
from coursekit.batchnorm import (
    BatchNorm,
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_in_blocks,
    fold_batchnorm,
    group_norm,
)
from tests.coursekit.draws import images, randn, seeds

epsilons = st.sampled_from([1e-5, 1e-3, 0.3])


def parameters(seed, channels):
    return randn(seed, channels), randn(seed + 1, channels)


def torch_batchnorm(x, gamma, beta, eps):
    # A copy in plain order: for one image of height 1 laid out like (1, 1, 1, C), torch 2.15's own gradient is wrong.
    return F.batch_norm(x.contiguous(), None, None, gamma, beta, training=True, eps=eps)


def gradients(function, *inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y = function(*inputs)
    grad_y = randn(7, *y.shape)
    return torch.autograd.grad(y, inputs, grad_y)


@pytest.mark.parametrize("form", [batchnorm_forward, batchnorm_in_blocks])
@given(images(ranks=(2, 4)), seeds, epsilons)
def test_forward_and_its_gradients_are_those_of_torch(form, x, seed, eps):
    gamma, beta = parameters(seed, x.shape[1])
    before = x.clone()

    def ours(x, gamma, beta):
        return form(x, gamma, beta, eps)

    def theirs(x, gamma, beta):
        return torch_batchnorm(x, gamma, beta, eps)

    torch.testing.assert_close(ours(x, gamma, beta), theirs(x, gamma, beta), atol=1e-8, rtol=1e-8)
    for mine, other in zip(gradients(ours, x, gamma, beta), gradients(theirs, x, gamma, beta), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-7, rtol=1e-7)
    assert torch.equal(x, before)


@given(st.integers(1, 200), images(ranks=(2, 4)), seeds)
def test_blocks_of_any_size_give_the_same(size, x, seed):
    gamma, beta = parameters(seed, x.shape[1])
    with mock.patch.object(batchnorm, "BLOCK", size):
        got = gradients(batchnorm_in_blocks, x, gamma, beta)
    for mine, plain in zip(got, gradients(batchnorm_forward, x, gamma, beta), strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-7, rtol=1e-7)


@given(images(ranks=(2, 4)), seeds, epsilons)
def test_backward_is_what_autograd_finds(x, seed, eps):
    gamma, beta = parameters(seed, x.shape[1])
    expected = gradients(lambda x, gamma, beta: torch_batchnorm(x, gamma, beta, eps), x, gamma, beta)
    with torch.no_grad():
        got = batchnorm_backward(randn(7, *x.shape), x, gamma, eps)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-7, rtol=1e-7)


def test_one_value_per_channel_leaves_only_the_shift():
    assert torch.equal(batchnorm_forward(randn(0, 1, 3), *parameters(1, 3)), parameters(1, 3)[1][None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_carries_through(dtype):
    x, gamma, beta = randn(0, 4, 3, 5, 2).to(dtype), torch.ones(3, dtype=dtype), torch.zeros(3, dtype=dtype)
    assert batchnorm_forward(x, gamma, beta).dtype == dtype
    assert batchnorm_in_blocks(x, gamma, beta).dtype == dtype
    assert group_norm(x, 3, gamma, beta).dtype == dtype
    assert {g.dtype for g in batchnorm_backward(x, x, gamma)} == {dtype}


def test_a_large_offset_costs_little_accuracy():
    x = randn(0, 64, 2, 9, 7) + 1e4
    ones, zeros = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    single = batchnorm_forward(x.float(), ones.float(), zeros.float())
    torch.testing.assert_close(single.double(), batchnorm_forward(x, ones, zeros), atol=3e-3, rtol=0)


@given(
    st.lists(images(ranks=(2, 4)), min_size=1, max_size=4),
    st.sampled_from([0.1, 0.7, 1.0, 0.0, None]),
    seeds,
)
def test_layer_and_its_buffers_are_those_of_torch(batches, momentum, seed):
    channels = batches[0].shape[1]
    torch_layer = nn.BatchNorm2d if batches[0].ndim == 4 else nn.BatchNorm1d
    ours = BatchNorm(channels, eps=1e-4, momentum=momentum).double()
    theirs = torch_layer(channels, eps=1e-4, momentum=momentum).double()
    with torch.no_grad():
        theirs.weight.copy_(randn(seed, channels))
        theirs.bias.copy_(randn(seed + 1, channels))
    ours.load_state_dict(theirs.state_dict())

    batches = [x for x in batches if x.shape[1] == channels and x.ndim == batches[0].ndim]
    for x in batches:
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-8, rtol=1e-8)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, msg=name)

    ours.eval(), theirs.eval()
    before = copy.deepcopy(ours.state_dict())
    x = batches[0]
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(ours(x[:1]), theirs(x[:1]), atol=1e-8, rtol=1e-8)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


@given(images(ranks=(2, 4)), st.booleans())
def test_layer_gradients_are_those_of_torch(x, training):
    ours = BatchNorm(x.shape[1]).double().train(training)
    theirs = (nn.BatchNorm2d if x.ndim == 4 else nn.BatchNorm1d)(x.shape[1]).double().train(training)
    for layer in (ours, theirs):
        layer.running_var.fill_(2.5)
        layer.input = x.clone().requires_grad_()
        layer(layer.input.contiguous()).pow(3).sum().backward()
    pairs = [(ours.weight, theirs.weight), (ours.bias, theirs.bias), (ours.input, theirs.input)]
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-6)


def test_layer_keeps_its_buffers_in_place():
    layer = BatchNorm(3)
    running_mean = layer.running_mean
    layer(torch.randn(4, 3))
    assert layer.running_mean is running_mean
    assert not running_mean.requires_grad


@st.composite
def convolutions(draw):
    groups = draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 1000)))
    conv = nn.Conv2d(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        kernel_size=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        stride=draw(st.tuples(st.integers(1, 2), st.integers(1, 3))),
        padding=draw(st.sampled_from([0, 1, (2, 0)])),
        dilation=draw(st.integers(1, 2)),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "replicate"])),
    )
    return conv.double()


@given(convolutions(), st.booleans(), st.booleans(), seeds)
def test_folded_convolution_does_both(conv, affine, training, seed):
    bn = nn.BatchNorm2d(conv.out_channels, eps=1e-3, affine=affine).double()
    bn.running_mean.copy_(randn(seed, conv.out_channels))
    bn.running_var.copy_(randn(seed, conv.out_channels).abs() + 0.1)
    if affine:
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    conv.train(training)
    before = copy.deepcopy((conv.state_dict(), bn.state_dict()))

    folded = fold_batchnorm(conv, bn)
    assert folded.training is training
    assert type(folded) is nn.Conv2d
    x = randn(seed, 2, conv.in_channels, 7, 9)
    conv.eval(), bn.eval()
    expected = bn(conv(x))
    torch.testing.assert_close(folded(x), expected, atol=1e-9, rtol=1e-9)
    if affine:
        torch.testing.assert_close(folded(x), fuse_conv_bn_eval(conv, bn)(x), atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    for state, module in zip(before, (conv, bn), strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_own_layer_folds_too():
    conv, bn = nn.Conv2d(3, 4, 3), BatchNorm(4)
    bn(conv(torch.randn(5, 3, 8, 7)))
    bn.eval()
    x = torch.randn(2, 3, 8, 7)
    torch.testing.assert_close(fold_batchnorm(conv, bn)(x), bn(conv(x)), atol=1e-5, rtol=1e-5)


@given(st.integers(1, 4), st.integers(1, 3), seeds, epsilons)
def test_group_norm_is_that_of_torch(groups, per_group, seed, eps):
    channels = groups * per_group
    x = 3 + randn(seed, 2, channels, 3, 5)
    gamma, beta = parameters(seed, channels)

    def ours(x, gamma, beta):
        return group_norm(x, groups, gamma, beta, eps)

    def theirs(x, gamma, beta):
        return F.group_norm(x, groups, gamma, beta, eps)

    torch.testing.assert_close(ours(x, gamma, beta), theirs(x, gamma, beta))
    for mine, other in zip(gradients(ours, x, gamma, beta), gradients(theirs, x, gamma, beta), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-8, rtol=1e-8)


@given(images())
def test_one_group_is_layer_norm_and_one_each_is_instance_norm(x):
    ones, zeros = torch.ones(x.shape[1]).double(), torch.zeros(x.shape[1]).double()
    layer = F.layer_norm(x, x.shape[1:])
    torch.testing.assert_close(group_norm(x, 1, ones, zeros), layer, atol=1e-8, rtol=1e-8)
    instance = F.instance_norm(x)
    torch.testing.assert_close(group_norm(x, x.shape[1], ones, zeros), instance, atol=1e-8, rtol=1e-8)


@pytest.mark.gpu
def test_on_the_gpu_everything_stays_there_and_agrees():
    x, gamma, beta = randn(0, 4, 6, 5, 7), *parameters(1, 6)
    on_gpu = [t.cuda() for t in (x, gamma, beta)]
    for function in (batchnorm_forward, lambda x, g, b: group_norm(x, 3, g, b)):
        got = function(*on_gpu)
        assert got.is_cuda
        torch.testing.assert_close(got.cpu(), function(x, gamma, beta))
    layer, twin = BatchNorm(6).double().cuda(), BatchNorm(6).double()
    torch.testing.assert_close(layer(on_gpu[0]).cpu(), twin(x))
    torch.testing.assert_close(layer.running_var.cpu(), twin.running_var)
