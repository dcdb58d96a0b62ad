"""Exercises of lecture 02: batch normalization, its backward pass, the layer, folding, group normalization."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from autograder.catalog._common import (
    AUTOGRAD,
    BATCH_NORM,
    GROUP_NORM,
    INSTANCE_NORM,
    LAYER_NORM,
    carries,
    component,
    described,
    filled,
    gradients,
)
from autograder.exercise import Case, Exercise, Forbidden, Hint, Misconception, Property, Variant
from autograder.values import Network
from coursekit import batchnorm as reference

# Loose enough that the place of eps = 1e-5 does not show: that is one property's business, not every one's.
LOOSE = (1e-3, 1e-4)


def _axes(x: torch.Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


def _column(v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return v.view(1, -1, *[1] * (x.dim() - 2))


def _spread(d: Any, n: int, c: int, *size: int) -> torch.Tensor:
    """A batch whose channels differ in scale and offset and never come close to constant, where eps = 1e-5
    would show in every number."""
    x = d.positive(n, c, *size, low=0.0, high=1.0)
    x = x + 2.0 * _column(torch.arange(n, dtype=x.dtype) % 2, x.movedim(0, 1)).movedim(1, 0)
    scale = d.positive(c, low=1.5, high=4.0)
    return d.layout(x * _column(scale, x) + _column(d.tensor(c), x))


def _rows(d: Any) -> torch.Tensor:
    return _spread(d, d.integer(2, 7), d.integer(2, 5))


def _images(d: Any) -> torch.Tensor:
    return _spread(d, d.integer(2, 3), d.integer(2, 4), d.integer(1, 4), d.integer(2, 5))


def _affine(d: Any, c: int, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return d.positive(c, **kwargs), d.tensor(c, **kwargs)


# -- batchnorm_forward --------------------------------------------------------------------------------------


def _forward_case(draw_x: Any, eps: Any = None) -> Any:
    def draw(d: Any) -> Case:
        x = draw_x(d)
        kwargs = {} if eps is None else {"eps": d.choice(eps)}
        return Case((x, *_affine(d, x.shape[1])), kwargs)

    return draw


def _forward_small_variance(d: Any) -> Case:
    x = _rows(d) * 0.1
    return Case((x, *_affine(d, x.shape[1])), {"eps": d.choice([0.1, 0.5, 1e-2])})


def _forward_float32(d: Any) -> Case:
    x = _rows(d).float()
    return Case((x, *_affine(d, x.shape[1], dtype=torch.float32)))


def _normalized(x: torch.Tensor, eps: float, unbiased: bool = False) -> torch.Tensor:
    axes = _axes(x)
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / (x.var(axes, unbiased=unbiased, keepdim=True) + eps).sqrt()


def _forward_unbiased(x, gamma, beta, eps=1e-5):
    return _column(gamma, x) * _normalized(x, eps, unbiased=True) + _column(beta, x)


def _forward_eps_outside(x, gamma, beta, eps=1e-5):
    axes = _axes(x)
    mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    return _column(gamma, x) * (x - mean) / (var.sqrt() + eps) + _column(beta, x)


def _forward_no_eps(x, gamma, beta, eps=1e-5):
    return _column(gamma, x) * _normalized(x, 0.0) + _column(beta, x)


def _forward_whole(x, gamma, beta, eps=1e-5):
    x_hat = (x - x.mean()) / (x.var(unbiased=False) + eps).sqrt()
    return _column(gamma, x) * x_hat + _column(beta, x)


def _forward_each_sample(x, gamma, beta, eps=1e-5):
    axes = tuple(range(1, x.dim()))
    mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    return _column(gamma, x) * (x - mean) / (var + eps).sqrt() + _column(beta, x)


def _forward_batch_axis(x, gamma, beta, eps=1e-5):
    mean, var = x.mean(0, keepdim=True), x.var(0, unbiased=False, keepdim=True)
    return _column(gamma, x) * (x - mean) / (var + eps).sqrt() + _column(beta, x)


def _forward_detached(x, gamma, beta, eps=1e-5):
    axes = _axes(x)
    mean = x.mean(axes, keepdim=True).detach()
    var = x.var(axes, unbiased=False, keepdim=True).detach()
    return _column(gamma, x) * (x - mean) / (var + eps).sqrt() + _column(beta, x)


def _forward_not_affine(x, gamma, beta, eps=1e-5):
    return _normalized(x, eps)


def _forward_swapped(x, gamma, beta, eps=1e-5):
    return _column(beta, x) * _normalized(x, eps) + _column(gamma, x)


def _forward_no_root(x, gamma, beta, eps=1e-5):
    axes = _axes(x)
    mean, var = x.mean(axes, keepdim=True), x.var(axes, unbiased=False, keepdim=True)
    return _column(gamma, x) * (x - mean) / (var + eps) + _column(beta, x)


def _forward_last_axis(x, gamma, beta, eps=1e-5):
    return gamma * _normalized(x, eps) + beta


def _forward_in_place(x, gamma, beta, eps=1e-5):
    axes = _axes(x)
    x -= x.mean(axes, keepdim=True)
    x /= (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    return _column(gamma, x) * x + _column(beta, x)


def _forward_loop(x, gamma, beta, eps=1e-5):
    channels = []
    for c in range(x.shape[1]):
        v = x[:, c]
        n = v.numel()
        mean = v.sum() / n
        var = ((v - mean) ** 2).sum() / n
        channels.append(gamma[c] * (v - mean) / torch.sqrt(var + eps) + beta[c])
    return torch.stack(channels, dim=1)


def _forward_einsum(x, gamma, beta, eps=1e-5):
    flat = x.reshape(x.shape[0], x.shape[1], -1)
    count = flat.shape[0] * flat.shape[2]
    mean = torch.einsum("ncp->c", flat) / count
    second = torch.einsum("ncp,ncp->c", flat, flat) / count
    inverse = (second - mean**2 + eps) ** -0.5
    y = torch.einsum("ncp,c->ncp", flat - mean[:, None], inverse * gamma) + beta[:, None]
    return y.reshape(x.shape)


def _forward_transposed(x, gamma, beta, eps=1e-5):
    last = x.movedim(1, -1)
    rows = last.reshape(-1, x.shape[1])
    var, mean = torch.var_mean(rows, dim=0, correction=0)
    return ((last - mean) * torch.rsqrt(var + eps) * gamma + beta).movedim(-1, 1)


def _forward_gradients(subject: Any, case: Case) -> Any:
    rows, images = case.args
    return {
        "rows": subject.vjp(*rows, wrt=[0, 1, 2])["grads"],
        "images": subject.vjp(*images, wrt=[0, 1, 2])["grads"],
    }


def _forward_gradient_case(d: Any) -> Case:
    rows, images = _rows(d), _images(d)
    return Case(((rows, *_affine(d, rows.shape[1])), (images, *_affine(d, images.shape[1]))))


FORWARD = Exercise(
    id="batchnorm_forward",
    topic="batchnorm",
    title="Normalize, then scale and shift",
    reference=reference.batchnorm_forward,
    minutes=15,
    difficulty=2,
    properties=(
        Property(
            "rows",
            "(N, C): every column is normalized over the batch, scaled by gamma, shifted by beta",
            1.0,
            _forward_case(_rows),
            tolerance=LOOSE,
        ),
        Property(
            "images",
            "(N, C, H, W): one mean and one variance per channel, over N, H and W",
            1.0,
            _forward_case(_images),
            tolerance=LOOSE,
        ),
        Property("eps", "eps is added to the variance, inside the root", 0.5, _forward_small_variance),
        Property(
            "gradients",
            "gradients flow to x, gamma and beta, through the batch statistics as well",
            1.0,
            _forward_gradient_case,
            _forward_gradients,
            tolerance=LOOSE,
            tried="the gradient of the output's inner product with fixed random numbers",
        ),
        Property(
            "carries",
            "float32 stays float32, and no argument is modified in place",
            0.5,
            _forward_float32,
            carries,
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "unbiased_variance",
            "You divided by N−1: this is the unbiased variance, which torch computes by default.",
            "The batch is normalized by its own spread, so the sum of squares is divided by N: "
            "`x.var(..., unbiased=False)`.",
            ("rows", "images", "eps", "gradients"),
            _forward_unbiased,
        ),
        Misconception(
            "eps_outside_root",
            "You added eps to the standard deviation, after the root.",
            "It belongs to the variance: divide by sqrt(var + eps).",
            ("eps",),
            _forward_eps_outside,
        ),
        Misconception(
            "eps_ignored",
            "You did not use eps.",
            "Add it to the variance before the root; it keeps a constant channel from dividing by zero.",
            ("eps",),
            _forward_no_eps,
        ),
        Misconception(
            "whole_tensor",
            "You normalized with one mean and one variance for the whole tensor.",
            "Each channel has its own: reduce over every axis but axis 1.",
            ("rows", "images", "eps", "gradients"),
            _forward_whole,
        ),
        Misconception(
            "each_sample",
            "You normalized each sample by itself, as layer normalization does.",
            "Batch normalization compares the samples with each other: reduce over axis 0 (and H and W), "
            "keep axis 1.",
            ("rows", "images", "eps", "gradients"),
            _forward_each_sample,
        ),
        Misconception(
            "batch_axis_only",
            "For images you took the statistics over the batch axis alone, so every pixel has its own.",
            "A channel's statistics run over all its pixels: reduce over N, H and W together.",
            ("images", "gradients"),
            _forward_batch_axis,
        ),
        Misconception(
            "variance_without_root",
            "You divided by the variance.",
            "Divide by its root, sqrt(var + eps), so that the result has unit variance.",
            ("rows", "images", "eps", "gradients"),
            _forward_no_root,
        ),
        Misconception(
            "detached_statistics",
            "Your mean and variance are cut from the graph, so the gradient treats them as constants.",
            "Leave out detach, .data, .item() and no_grad: the statistics depend on x.",
            ("gradients",),
            _forward_detached,
        ),
        Misconception(
            "not_affine",
            "You returned the normalized values without gamma and beta.",
            "Scale and shift at the end: gamma * x_hat + beta, one number per channel.",
            ("rows", "images", "eps", "gradients"),
            _forward_not_affine,
        ),
        Misconception(
            "gamma_and_beta_swapped",
            "You scaled by beta and shifted by gamma.",
            "gamma multiplies, beta is added.",
            ("rows", "images", "eps", "gradients"),
            _forward_swapped,
        ),
        Misconception(
            "affine_on_last_axis",
            "For images gamma and beta were broadcast along the width instead of the channels.",
            "Give them the shape (1, C, 1, 1) first: gamma.view(1, -1, 1, 1).",
            ("images", "gradients"),
            _forward_last_axis,
        ),
        Misconception(
            "in_place",
            "You modified x in place (-=, /= or a method that ends in _).",
            "Write x - mean into a new name: the caller's tensor and the graph need the old one.",
            ("gradients", "carries"),
            _forward_in_place,
        ),
    ),
    right=(
        Variant("a loop over channels", _forward_loop),
        Variant("einsum and the second moment", _forward_einsum),
        Variant("channels moved last, rsqrt", _forward_transposed),
    ),
    hints=(
        Hint(
            "My shapes don't match",
            "Which axes disappear when a channel's mean is taken? keepdim=True leaves them there with length 1, so that broadcasting works.",
        ),
        Hint(
            "My numbers are close, but not equal",
            "Look at the divisor of the variance (N or N−1) and at the place of eps.",
        ),
        Hint(
            "I don't know how to start",
            "axes = (0,) for (N, C) and (0, 2, 3) for images; mean and var over axes with keepdim=True and unbiased=False; x_hat = (x - mean) / sqrt(var + eps); gamma and beta viewed as (1, C) or (1, C, 1, 1).",
        ),
    ),
    forbidden=(BATCH_NORM, INSTANCE_NORM, GROUP_NORM, LAYER_NORM),
)


# -- batchnorm_backward -------------------------------------------------------------------------------------


def _backward_case(draw_x: Any) -> Any:
    def draw(d: Any) -> Case:
        x = draw_x(d)
        return Case((d.tensor(*x.shape), x, d.positive(x.shape[1], low=0.5, high=3.0)))

    return draw


def _backward_rows(d: Any) -> torch.Tensor:
    # Two rows are symmetric: several terms vanish there, and wrong answers look right.
    return _spread(d, d.integer(3, 7), d.integer(1, 5))


def _backward_small_variance(d: Any) -> Case:
    x = _backward_rows(d) * 0.1
    eps = {"eps": d.choice([0.1, 0.5, 1e-2])}
    return Case((d.tensor(*x.shape), x, d.positive(x.shape[1])), eps)


def _backward_both(d: Any) -> Case:
    x = d.choice([_backward_rows, _images])(d)
    return Case((d.tensor(*x.shape), x, d.positive(x.shape[1])))


def _parameters(subject: Any, case: Case) -> Any:
    result = subject(*case.args, **case.kwargs)
    if not isinstance(result, list | tuple) or len(result) != 3:
        return result
    return {"grad_gamma": result[1], "grad_beta": result[2]}


def _backward(
    grad_y, x, gamma, eps, *, count=None, mean_term=True, var_term=True, scale=True, unbiased=False,
    raw_gamma=False, average=False, over=None,
):  # fmt: skip
    """The analytic gradient with each of its mistakes behind a switch."""
    axes = _axes(x)
    n = x.numel() // x.shape[1] if count is None else count(x)
    mean = x.mean(axes, keepdim=True)
    std = (x.var(axes, unbiased=unbiased, keepdim=True) + eps).sqrt()
    x_hat = (x - mean) / std
    grad_hat = grad_y * _column(gamma, x) if scale else grad_y
    grad_x = grad_hat
    if mean_term:
        grad_x = grad_x - grad_hat.sum(axes, keepdim=True) / n
    if var_term:
        grad_x = grad_x - x_hat * (grad_hat * x_hat).sum(axes, keepdim=True) / n
    reduce = torch.mean if average else torch.sum
    axes = over or axes
    grad_gamma = reduce(grad_y * (x if raw_gamma else x_hat), axes)
    return grad_x / std, grad_gamma, reduce(grad_y, axes)


def _backward_constant(grad_y, x, gamma, eps=1e-5):
    return _backward(grad_y, x, gamma, eps, mean_term=False, var_term=False)


def _backward_constant_variance(grad_y, x, gamma, eps=1e-5):
    return _backward(grad_y, x, gamma, eps, var_term=False)


def _backward_constant_mean(grad_y, x, gamma, eps=1e-5):
    return _backward(grad_y, x, gamma, eps, mean_term=False)


def _backward_no_gamma(grad_y, x, gamma, eps=1e-5):
    return _backward(grad_y, x, gamma, eps, scale=False)


def _backward_batch_count(grad_y, x, gamma, eps=1e-5):
    return _backward(grad_y, x, gamma, eps, count=lambda x: x.shape[0])


def _backward_unbiased(grad_y, x, gamma, eps=1e-5):
    return _backward(grad_y, x, gamma, eps, unbiased=True)


def _backward_raw_gamma(grad_y, x, gamma, eps=1e-5):
    return _backward(grad_y, x, gamma, eps, raw_gamma=True)


def _backward_average(grad_y, x, gamma, eps=1e-5):
    return _backward(grad_y, x, gamma, eps, average=True)


def _backward_no_eps(grad_y, x, gamma, eps=1e-5):
    return _backward(grad_y, x, gamma, 0.0)


def _backward_in_place(grad_y, x, gamma, eps=1e-5):
    axes = _axes(x)
    n = x.numel() // x.shape[1]
    std = (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    x_hat = (x - x.mean(axes, keepdim=True)) / std
    grad_gamma, grad_beta = (grad_y * x_hat).sum(axes), grad_y.sum(axes)
    grad_y *= _column(gamma, x)
    shares = grad_y.sum(axes, keepdim=True) + x_hat * (grad_y * x_hat).sum(axes, keepdim=True)
    return (grad_y - shares / n) / std, grad_gamma, grad_beta


def _backward_axes_kept(grad_y, x, gamma, eps=1e-5):
    grad_x, grad_gamma, grad_beta = _backward(grad_y, x, gamma, eps)
    return grad_x, _column(grad_gamma, x), _column(grad_beta, x)


def _backward_one_sum(grad_y, x, gamma, eps=1e-5):
    axes = _axes(x)
    n = x.numel() // x.shape[1]
    mean = x.mean(axes, keepdim=True)
    std = (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    x_hat = (x - mean) / std
    grad_beta = grad_y.sum(axes)
    grad_gamma = (grad_y * x_hat).sum(axes)
    inner = n * grad_y - _column(grad_beta, x) - x_hat * _column(grad_gamma, x)
    return _column(gamma, x) / (n * std) * inner, grad_gamma, grad_beta


def _backward_graph(grad_y, x, gamma, eps=1e-5):
    """Node by node, as a computational graph is walked backwards."""
    channels = [[], [], []]
    for c in range(x.shape[1]):
        v, g = x[:, c], grad_y[:, c]
        m = v.numel()
        centered = v - v.mean()
        var = (centered * centered).mean()
        inverse = (var + eps) ** -0.5
        grad_hat = g * gamma[c]
        grad_inverse = (grad_hat * centered).sum()
        grad_var = grad_inverse * -0.5 * (var + eps) ** -1.5
        grad_centered = grad_hat * inverse + grad_var * 2 * centered / m
        channels[0].append(grad_centered - grad_centered.mean())
        channels[1].append((g * centered * inverse).sum())
        channels[2].append(g.sum())
    return torch.stack(channels[0], 1), torch.stack(channels[1]), torch.stack(channels[2])


BACKWARD = Exercise(
    id="batchnorm_backward",
    topic="batchnorm",
    title="The gradient by hand",
    reference=reference.batchnorm_backward,
    minutes=30,
    difficulty=4,
    properties=(
        Property(
            "rows",
            "(N, C): grad_x, with the mean's and the variance's share",
            1.25,
            _backward_case(_backward_rows),
            component(0, 3),
            tolerance=LOOSE,
        ),
        Property(
            "images",
            "(N, C, H, W): grad_x, every channel over its N·H·W values",
            1.0,
            _backward_case(_images),
            component(0, 3),
            tolerance=LOOSE,
        ),
        Property(
            "parameters", "grad_gamma and grad_beta", 0.75, _backward_both, _parameters, tolerance=LOOSE
        ),
        Property(
            "eps",
            "grad_x has eps where the forward pass has it",
            0.5,
            _backward_small_variance,
            component(0, 3),
        ),
        Property(
            "carries",
            "the three shapes, and no argument is modified in place",
            0.5,
            _backward_both,
            carries,
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "statistics_as_constants",
            "Your grad_x is grad_y·gamma/std: mean and variance are treated as constants.",
            "Both depend on x, so two more terms are subtracted: the mean of grad_hat, and x_hat times the mean "
            "of grad_hat·x_hat.",
            ("rows", "images", "eps"),
            _backward_constant,
        ),
        Misconception(
            "variance_as_constant",
            "Your grad_x lacks the path through the variance.",
            "Subtract x_hat times the mean of grad_hat·x_hat as well.",
            ("rows", "images", "eps"),
            _backward_constant_variance,
        ),
        Misconception(
            "mean_as_constant",
            "Your grad_x lacks the path through the mean.",
            "Subtract the mean of grad_hat over the batch as well.",
            ("rows", "images", "eps"),
            _backward_constant_mean,
        ),
        Misconception(
            "gamma_forgotten",
            "Your grad_x does not pass through gamma.",
            "The output is gamma·x_hat + beta, so the gradient that reaches x_hat is grad_y·gamma.",
            ("rows", "images", "eps"),
            _backward_no_gamma,
        ),
        Misconception(
            "batch_count",
            "For images you divided by N; a channel has N·H·W values.",
            "The m of the formula is the number of values that share a mean: x.numel() / C.",
            ("images",),
            _backward_batch_count,
        ),
        Misconception(
            "unbiased_variance",
            "You normalized with the unbiased variance, divided by N−1.",
            "The forward pass divides by N; its gradient is taken at the same numbers.",
            ("rows", "images", "parameters", "eps"),
            _backward_unbiased,
        ),
        Misconception(
            "grad_gamma_from_x",
            "Your grad_gamma is the sum of grad_y·x.",
            "gamma multiplies the normalized values: sum grad_y·x_hat.",
            ("parameters",),
            _backward_raw_gamma,
        ),
        Misconception(
            "averaged_parameters",
            "You averaged grad_gamma and grad_beta over the batch.",
            "Every value used the same gamma and beta, so their gradients add up: sum, no division.",
            ("parameters",),
            _backward_average,
        ),
        Misconception(
            "eps_ignored",
            "You did not use eps.",
            "The standard deviation in the gradient is the forward pass's sqrt(var + eps).",
            ("eps",),
            _backward_no_eps,
        ),
        Misconception(
            "axes_kept",
            "Your grad_gamma and grad_beta still have the axes of length 1 that keepdim left.",
            "A gradient has the shape of its tensor, here (C,): sum without keepdim, or flatten.",
            ("parameters", "carries"),
            _backward_axes_kept,
        ),
        Misconception(
            "in_place",
            "You multiplied grad_y by gamma in place.",
            "Write grad_hat = grad_y * gamma, a new tensor: the caller still needs grad_y.",
            ("carries",),
            _backward_in_place,
        ),
    ),
    right=(
        Variant("the one-line form with n·grad_y", _backward_one_sum),
        Variant("node by node, a channel at a time", _backward_graph),
    ),
    hints=(
        Hint(
            "I don't know where to begin",
            "grad_gamma and grad_beta first: what multiplies gamma in the forward pass, and over which axes is it shared?",
        ),
        Hint(
            "grad_x is off by a little",
            "y depends on x directly, through the mean, and through the variance: three terms.",
        ),
        Hint(
            "I have the three terms, but they don't add up",
            "With grad_hat = grad_y·gamma: grad_x = (grad_hat − mean(grad_hat) − x_hat·mean(grad_hat·x_hat)) / sqrt(var + eps), every mean over the axes of the statistics.",
        ),
    ),
    forbidden=(
        AUTOGRAD,
        BATCH_NORM,
        Forbidden("aten.native_batch_norm_backward", ("aten.native_batch_norm_backward",)),
    ),
)


# -- BatchNorm ----------------------------------------------------------------------------------------------


class _Layer(nn.Module):
    """The layer with a seam at each step, where the misconceptions put their mistake."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.make_buffers(num_features)

    def make_buffers(self, num_features):
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def refuse(self, x):
        if x.numel() // x.shape[1] == 1:
            raise ValueError(
                f"x must have more than one value per channel when training, got {tuple(x.shape)}"
            )

    def statistics(self, x):
        axes = _axes(x)
        return x.mean(axes), x.var(axes, unbiased=False)

    def step(self):
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def unbiased(self, var, n):
        return var * n / (n - 1)

    def track(self, mean, var, n):
        with torch.no_grad():
            self.num_batches_tracked += 1
            m = self.step()
            self.running_mean.copy_((1 - m) * self.running_mean + m * mean)
            self.running_var.copy_((1 - m) * self.running_var + m * self.unbiased(var, n))

    def forward(self, x):
        if self.training:
            self.refuse(x)
            mean, var = self.statistics(x)
            self.track(mean, var, x.numel() // x.shape[1])
        else:
            mean, var = self.running_mean, self.running_var
        return self.affine(x, mean, var)

    def affine(self, x, mean, var):
        x_hat = (x - _column(mean, x)) / (_column(var, x) + self.eps).sqrt()
        return _column(self.weight, x) * x_hat + _column(self.bias, x)


class _LayerBiasedRunning(_Layer):
    def unbiased(self, var, n):
        return var


class _LayerMomentumReversed(_Layer):
    def track(self, mean, var, n):
        with torch.no_grad():
            self.num_batches_tracked += 1
            m = self.step() if self.momentum is None else 1 - self.momentum
            self.running_mean.copy_((1 - m) * self.running_mean + m * mean)
            self.running_var.copy_((1 - m) * self.running_var + m * self.unbiased(var, n))


class _LayerEvalUsesBatch(_Layer):
    def forward(self, x):
        mean, var = self.statistics(x)
        if self.training:
            self.refuse(x)
            self.track(mean, var, x.numel() // x.shape[1])
        return self.affine(x, mean, var)


class _LayerEvalUpdates(_Layer):
    def forward(self, x):
        if not self.training:
            y = super().forward(x)
            self.track(*self.statistics(x), x.numel() // x.shape[1])
            return y
        return super().forward(x)


class _LayerNormalizesUnbiased(_Layer):
    def statistics(self, x):
        axes = _axes(x)
        return x.mean(axes), x.var(axes)

    def unbiased(self, var, n):
        return var


class _LayerPlainAttributes(_Layer):
    def make_buffers(self, num_features):
        self.running_mean = torch.zeros(num_features, dtype=torch.float64)
        self.running_var = torch.ones(num_features, dtype=torch.float64)
        self.num_batches_tracked = torch.tensor(0)


class _LayerFixedWhenCumulative(_Layer):
    def step(self):
        return 0.1 if self.momentum is None else self.momentum


class _LayerAcceptsOne(_Layer):
    def refuse(self, x):
        pass

    def unbiased(self, var, n):
        return var * n / max(n - 1, 1)


class _LayerTrainsOnRunning(_Layer):
    def forward(self, x):
        if self.training:
            self.refuse(x)
            mean, var = self.statistics(x)
            self.track(mean, var, x.numel() // x.shape[1])
        return self.affine(x, self.running_mean, self.running_var)


class _LayerNeverCounts(_Layer):
    def track(self, mean, var, n):
        with torch.no_grad():
            m = 0.1 if self.momentum is None else self.momentum
            self.running_mean.copy_((1 - m) * self.running_mean + m * mean)
            self.running_var.copy_((1 - m) * self.running_var + m * self.unbiased(var, n))


class _LayerRunningStd(_Layer):
    def track(self, mean, var, n):
        super().track(mean, (self.unbiased(var, n)).sqrt() * (n - 1) / n, n)


class _LayerDetached(_Layer):
    def statistics(self, x):
        mean, var = super().statistics(x)
        return mean.detach(), var.detach()


class _LayerLerp(nn.Module):
    """lerp, var_mean, buffers replaced instead of written."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        for name, value in [("running_mean", torch.zeros), ("running_var", torch.ones)]:
            self.register_buffer(name, value(num_features))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        last = x.movedim(1, -1)
        mean, var = self.running_mean, self.running_var
        if self.training:
            rows = last.reshape(-1, last.shape[-1])
            if len(rows) < 2:
                raise ValueError(f"x must have more than one value per channel, got shape {tuple(x.shape)}")
            var, mean = torch.var_mean(rows, 0, correction=0)
            self.num_batches_tracked = self.num_batches_tracked + 1
            m = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked.item()
            self.running_mean = torch.lerp(self.running_mean, mean.detach(), m)
            self.running_var = torch.lerp(self.running_var, rows.detach().var(0), m)
        return (self.weight * (last - mean) * torch.rsqrt(var + self.eps) + self.bias).movedim(-1, 1)


class _LayerLoop(_Layer):
    """A channel at a time, running numbers kept one by one."""

    def forward(self, x):
        if self.training:
            self.refuse(x)
            self.num_batches_tracked.add_(1)
        channels = []
        for c in range(x.shape[1]):
            v = x[:, c]
            mean, var = self.running_mean[c], self.running_var[c]
            if self.training:
                mean = v.sum() / v.numel()
                square = ((v - mean) ** 2).sum()
                var = square / v.numel()
                with torch.no_grad():
                    m = self.step()
                    self.running_mean[c] += m * (mean - self.running_mean[c])
                    self.running_var[c] += m * (square / (v.numel() - 1) - self.running_var[c])
            channels.append(self.weight[c] * (v - mean) / (var + self.eps) ** 0.5 + self.bias[c])
        return torch.stack(channels, dim=1)


def _layer_state(d: Any, c: int) -> dict[str, torch.Tensor]:
    return {
        "weight": d.positive(c),
        "bias": d.tensor(c),
        "running_mean": d.tensor(c),
        "running_var": d.positive(c),
        "num_batches_tracked": torch.tensor(d.integer(0, 3)),
    }


def _layer_case(batches: int, **config: Any) -> Any:
    def draw(d: Any) -> Case:
        c = d.integer(2, 4)
        shape = d.choice([lambda: (), lambda: (d.integer(1, 3), d.integer(1, 4))])()
        chosen = {
            name: options[0] if len(options) == 1 else d.choice(options) for name, options in config.items()
        }
        xs = [_spread(d, d.integer(2, 5), c, *shape) for _ in range(batches)]
        return Case((c,), chosen, {"state": _layer_state(d, c), "batches": xs})

    return draw


def _loaded(subject: Any, case: Case) -> Any:
    layer = subject(*case.args, **case.kwargs)
    layer.do("double")
    # Not strict: a missing buffer is the business of the property about the state dict.
    layer.do("load_state_dict", case.extra["state"], strict=False)
    return layer


def _buffers(layer: Any) -> dict[str, Any]:
    seen = layer.inspect()
    known = {**seen["parameters"], **seen["buffers"]}
    return {name: known.get(name) for name in ("running_mean", "running_var")}


def _trains(subject: Any, case: Case) -> Any:
    layer = _loaded(subject, case)
    return [layer(x) for x in case.extra["batches"]]


def _tracks(subject: Any, case: Case) -> Any:
    layer = _loaded(subject, case)
    after = []
    for x in case.extra["batches"]:
        layer(x)
        after.append(_buffers(layer))
    return after


def _accumulates(subject: Any, case: Case) -> Any:
    layer = subject(*case.args, **case.kwargs)
    layer.do("double")
    after = []
    for x in case.extra["batches"]:
        layer(x)
        after.append(_buffers(layer))
    return after


def _evaluates(subject: Any, case: Case) -> Any:
    layer = _loaded(subject, case)
    layer.do("eval")
    before = _buffers(layer)
    outputs = [layer(x) for x in case.extra["batches"]]
    after = _buffers(layer)
    return {"outputs": outputs, "buffers changed": not _same(before, after)}


def _same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return all(
        isinstance(after[k], torch.Tensor) and isinstance(v, torch.Tensor) and torch.equal(v, after[k])
        for k, v in before.items()
        if v is not None
    )


def _holds(subject: Any, case: Case) -> Any:
    layer = subject(*case.args, **case.kwargs)
    fresh = layer.inspect()
    for x in case.extra["batches"]:
        layer(x.float())
    after = layer.inspect()
    return {
        "parameters": {n: fresh["parameters"][n] for n in sorted(fresh["parameters"])},
        "buffers": {n: fresh["buffers"][n] for n in sorted(fresh["buffers"])},
        "keys of the state dict": sorted(fresh["state"]),
        "num_batches_tracked afterwards": after["buffers"].get("num_batches_tracked"),
    }


def _refuses(subject: Any, case: Case) -> Any:
    layer = subject(*case.args, **case.kwargs)
    return layer(*case.extra["batches"])


def _one_value(d: Any) -> Case:
    c = d.integer(1, 4)
    x = d.tensor(1, c, *d.choice([(), (1, 1)]), dtype=torch.float32)
    return Case((c,), {}, {"batches": [x]})


def _layer_gradients(subject: Any, case: Case) -> Any:
    layer = _loaded(subject, case)
    (x,) = case.extra["batches"]
    training = layer.vjp(x, wrt=[0, layer])["grads"]
    # The training call has moved the running statistics; their update has a property of its own.
    layer.do("load_state_dict", case.extra["state"], strict=False)
    layer.do("eval")
    return {"training": training, "eval": layer.vjp(x, wrt=[0, layer])["grads"]}


LAYER = Exercise(
    id="BatchNorm",
    topic="batchnorm",
    title="The layer, in training and in inference",
    reference=reference.BatchNorm,
    minutes=30,
    difficulty=3,
    properties=(
        Property(
            "training_output",
            "in training mode the batch is normalized by its own statistics",
            1.0,
            _layer_case(2),
            _trains,
            tolerance=LOOSE,
            tried="double(), load_state_dict, then training calls",
        ),
        Property(
            "running_statistics",
            "running ← (1−momentum)·running + momentum·batch, with the unbiased variance",
            1.25,
            _layer_case(2, momentum=[0.1, 0.25, 0.4]),
            _tracks,
            tried="double(), load_state_dict, then training calls; the buffers after each",
        ),
        Property(
            "eval_mode",
            "in eval mode the running statistics are used and nothing changes",
            1.0,
            _layer_case(2, eps=[1e-5, 0.1]),
            _evaluates,
            tried="double(), load_state_dict, eval(), then calls",
        ),
        Property(
            "state",
            "weight and bias are parameters; running_mean, running_var, num_batches_tracked are buffers",
            0.75,
            _layer_case(2),
            _holds,
            examples=3,
            tried="a new layer looked at, then two training calls",
        ),
        Property(
            "cumulative",
            "momentum=None averages over all batches seen",
            0.5,
            _layer_case(3, momentum=[None]),
            _accumulates,
            examples=4,
            tried="double(), three training calls; the buffers after each",
        ),
        Property(
            "refuses_one_value",
            "training on one value per channel is refused with a ValueError",
            0.5,
            _one_value,
            _refuses,
            examples=4,
            tried="one training call on a single value per channel",
        ),
        Property(
            "gradients",
            "gradients reach x, weight and bias in both modes",
            1.0,
            _layer_case(1),
            _layer_gradients,
            tolerance=LOOSE,
            tried="double(), load_state_dict, the gradient in training mode, then in eval mode",
        ),
    ),
    misconceptions=(
        Misconception(
            "biased_running_variance",
            "Your running variance follows the biased variance of each batch.",
            "The running variance estimates the data set's: multiply by n/(n−1) before averaging; the "
            "normalization itself keeps the biased one.",
            ("running_statistics", "cumulative"),
            _LayerBiasedRunning,
        ),
        Misconception(
            "momentum_reversed",
            "Your momentum weighs the old value: running ← momentum·running + (1−momentum)·batch.",
            "Here momentum is the weight of the new batch: running ← (1−momentum)·running + momentum·batch.",
            ("running_statistics",),
            _LayerMomentumReversed,
        ),
        Misconception(
            "eval_uses_the_batch",
            "In eval mode you still normalize by the batch's statistics.",
            "Look at self.training: in eval mode use running_mean and running_var.",
            ("eval_mode", "gradients"),
            _LayerEvalUsesBatch,
        ),
        Misconception(
            "eval_updates",
            "Your running statistics move in eval mode.",
            "Update them only while self.training is true.",
            ("eval_mode",),
            _LayerEvalUpdates,
        ),
        Misconception(
            "normalizes_by_unbiased",
            "You normalize the batch by the unbiased variance.",
            "Two variances: biased (÷n) to normalize, unbiased (÷(n−1)) to track.",
            ("training_output", "gradients"),
            _LayerNormalizesUnbiased,
        ),
        Misconception(
            "plain_attributes",
            "Your running statistics are plain attributes, so they are not saved, loaded or moved with the layer.",
            'Use self.register_buffer("running_mean", ...), likewise for the other two.',
            ("running_statistics", "eval_mode", "state", "cumulative", "gradients"),
            _LayerPlainAttributes,
        ),
        Misconception(
            "momentum_none_as_default",
            "With momentum=None you still use 0.1.",
            "None asks for the plain average of all batches: weigh the k-th batch by 1/k.",
            ("cumulative",),
            _LayerFixedWhenCumulative,
        ),
        Misconception(
            "accepts_one_value",
            "You train on one value per channel: its variance is 0 and the output is just the bias.",
            "Raise a ValueError when x.numel() / C is 1 in training mode.",
            ("refuses_one_value",),
            _LayerAcceptsOne,
        ),
        Misconception(
            "trains_on_running_statistics",
            "In training mode you normalize by the running statistics.",
            "Normalize by the batch and only track the running statistics; gradients must pass through the batch's.",
            ("training_output", "gradients"),
            _LayerTrainsOnRunning,
        ),
        Misconception(
            "never_counts",
            "num_batches_tracked stays 0.",
            "Add 1 in every training call, before it is used for the cumulative average.",
            ("state", "cumulative"),
            _LayerNeverCounts,
        ),
        Misconception(
            "running_standard_deviation",
            "Your running_var averages standard deviations.",
            "Average the variances; the root is taken when the layer normalizes.",
            ("running_statistics", "cumulative"),
            _LayerRunningStd,
        ),
        Misconception(
            "detached_statistics",
            "The batch statistics are cut from the graph, so their share of the gradient is lost.",
            "Detach only what is tracked; the mean and variance that normalize belong to the graph.",
            ("gradients",),
            _LayerDetached,
        ),
    ),
    right=(
        Variant("lerp, var_mean, buffers replaced", _LayerLerp),
        Variant("a channel at a time", _LayerLoop),
    ),
    hints=(
        Hint(
            "Eval mode is wrong",
            "Which two tensors stand in for the batch's mean and variance, and who writes them?",
        ),
        Hint(
            "The running variance is off by a few percent",
            "It follows the unbiased variance, the output uses the biased one.",
        ),
        Hint(
            "I don't know how to start",
            "register_buffer for running_mean (zeros), running_var (ones), num_batches_tracked (0). Training: count, m = momentum or 1/count, update both under no_grad with var·n/(n−1), normalize by the batch. Eval: normalize by the buffers.",
        ),
    ),
    forbidden=(BATCH_NORM, INSTANCE_NORM, GROUP_NORM, LAYER_NORM),
)


# -- fold_batchnorm -----------------------------------------------------------------------------------------


def _trained_norm(d: Any, c: int, *, affine: bool = True, eps: float = 1e-5) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(c, affine=affine, eps=eps).double().eval()
    bn.running_mean.copy_(d.tensor(c))
    bn.running_var.copy_(d.positive(c))
    if affine:
        with torch.no_grad():
            bn.weight.copy_(d.positive(c, low=0.5, high=3.0))
            bn.bias.copy_(d.tensor(c))
    return bn


def _fold_case(make: Any, **norm: Any) -> Any:
    def draw(d: Any) -> Case:
        conv = filled(d, make(d), scale=1.0)
        options = {name: d.choice(choices) for name, choices in norm.items()}
        bn = _trained_norm(d, conv.out_channels, **options)
        x = d.tensor(2, conv.in_channels, d.integer(5, 7), d.integer(5, 8))
        return Case((Network.describe(conv), Network.describe(bn)), {}, {"x": x})

    return draw


def _plain_conv(d: Any) -> nn.Conv2d:
    return nn.Conv2d(d.integer(1, 3), d.integer(2, 4), d.choice([1, 3, (2, 3)]))


def _special_conv(d: Any) -> nn.Conv2d:
    groups = d.integer(2, 3)
    return nn.Conv2d(
        groups * d.integer(1, 2), groups * d.integer(1, 2), d.choice([2, 3]), groups=groups,
        stride=d.choice([2, (1, 2)]), padding=d.choice([1, (1, 0)]), dilation=d.choice([1, 2]),
    )  # fmt: skip


def _bare_conv(d: Any) -> nn.Conv2d:
    return nn.Conv2d(d.integer(1, 3), d.integer(2, 4), d.choice([1, 3]), bias=False)


def _folds(subject: Any, case: Case) -> Any:
    folded = subject(*case.args)
    return folded(case.extra["x"]) if callable(folded) else folded


def _fold_safely(d: Any) -> Case:
    conv = filled(d, _plain_conv(d), scale=1.0).train(d.flag())
    return Case((Network.describe(conv), Network.describe(_trained_norm(d, conv.out_channels))))


def _folds_apart(subject: Any, case: Case) -> Any:
    conv, bn = (subject.build(n) for n in case.args)
    before = conv.inspect(), bn.inspect()
    folded = subject(conv, bn)
    seen = folded.inspect() if callable(folded) else {"training": folded, "storages": {}}
    after = conv.inspect(), bn.inspect()
    kept = [
        torch.equal(one[group][name], other[group][name])
        for one, other in zip(before, after, strict=True)
        for group in ("parameters", "buffers")
        for name in one[group]
    ]
    return {
        "answer": described(folded),
        "conv and bn unchanged": all(kept),
        "training flag": seen["training"],
        "weights shared with conv": sorted(
            set(seen["storages"].values()) & set(before[0]["storages"].values())
        )
        != [],
    }


def _scale(bn: nn.BatchNorm2d) -> torch.Tensor:
    gamma = 1.0 if bn.weight is None else bn.weight
    return gamma / (bn.running_var + bn.eps).sqrt()


def _shift(bn: nn.BatchNorm2d) -> Any:
    return 0.0 if bn.bias is None else bn.bias


def _like(conv: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    folded = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups,
        padding_mode=conv.padding_mode, device=weight.device, dtype=weight.dtype,
    ).train(conv.training)  # fmt: skip
    with torch.no_grad():
        folded.weight.copy_(weight)
        folded.bias.copy_(bias)
    return folded


def _old_bias(conv: nn.Conv2d) -> torch.Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


def _weights(conv: nn.Conv2d, scale: torch.Tensor) -> torch.Tensor:
    return conv.weight * scale.view(-1, 1, 1, 1)


def _fold_no_mean(conv, bn):
    scale = _scale(bn)
    return _like(conv, _weights(conv, scale), _old_bias(conv) * scale + _shift(bn))


def _fold_bias_unscaled(conv, bn):
    scale = _scale(bn)
    return _like(conv, _weights(conv, scale), _old_bias(conv) - bn.running_mean * scale + _shift(bn))


def _fold_bias_dropped(conv, bn):
    scale = _scale(bn)
    return _like(conv, _weights(conv, scale), -bn.running_mean * scale + _shift(bn))


def _fold_no_eps(conv, bn):
    gamma = 1.0 if bn.weight is None else bn.weight
    scale = gamma / bn.running_var.sqrt()
    return _like(conv, _weights(conv, scale), (_old_bias(conv) - bn.running_mean) * scale + _shift(bn))


def _fold_no_root(conv, bn):
    gamma = 1.0 if bn.weight is None else bn.weight
    scale = gamma / (bn.running_var + bn.eps)
    return _like(conv, _weights(conv, scale), (_old_bias(conv) - bn.running_mean) * scale + _shift(bn))


def _fold_weight_only(conv, bn):
    return _like(conv, _weights(conv, _scale(bn)), _old_bias(conv) + 0 * bn.running_mean)


def _fold_default_geometry(conv, bn):
    scale = _scale(bn)
    folded = nn.Conv2d(conv.weight.shape[1], conv.out_channels, conv.kernel_size, dtype=conv.weight.dtype)
    with torch.no_grad():
        folded.weight.copy_(_weights(conv, scale))
        folded.bias.copy_((_old_bias(conv) - bn.running_mean) * scale + _shift(bn))
    return folded.train(conv.training)


def _fold_needs_affine(conv, bn):
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return _like(conv, _weights(conv, scale), (_old_bias(conv) - bn.running_mean) * scale + bn.bias)


def _fold_needs_bias(conv, bn):
    scale = _scale(bn)
    return _like(conv, _weights(conv, scale), (conv.bias - bn.running_mean) * scale + _shift(bn))


def _fold_in_place(conv, bn):
    scale = _scale(bn)
    bias = (_old_bias(conv) - bn.running_mean) * scale + _shift(bn)
    with torch.no_grad():
        conv.weight.mul_(scale.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(bias.detach())
    return conv


def _fold_forgets_mode(conv, bn):
    scale = _scale(bn)
    folded = _like(conv, _weights(conv, scale), (_old_bias(conv) - bn.running_mean) * scale + _shift(bn))
    return folded.train(not conv.training)


def _fold_deepcopy(conv, bn):
    folded = copy.deepcopy(conv)
    scale = torch.rsqrt(bn.running_var + bn.eps)
    offset = -bn.running_mean * scale
    if bn.affine:
        scale, offset = scale * bn.weight, offset * bn.weight + bn.bias
    with torch.no_grad():
        folded.weight *= scale[:, None, None, None]
        bias = offset if conv.bias is None else offset + conv.bias * scale
        folded.bias = nn.Parameter(bias.clone())
    return folded


def _fold_by_probing(conv, bn):
    """What the batch norm does to 0 and to 1 is all there is to know of it."""
    with torch.no_grad():
        c = conv.out_channels
        std = (bn.running_var + bn.eps) ** 0.5
        gamma = bn.weight if bn.affine else torch.ones_like(std)
        beta = bn.bias if bn.affine else torch.zeros_like(std)
        at_zero = gamma * (0 - bn.running_mean) / std + beta
        at_one = gamma * (1 - bn.running_mean) / std + beta
        rows = [conv.weight[k] * (at_one[k] - at_zero[k]) for k in range(c)]
        bias = at_zero if conv.bias is None else at_zero + (at_one - at_zero) * conv.bias
        return _like(conv, torch.stack(rows), bias)


FOLD = Exercise(
    id="fold_batchnorm",
    topic="batchnorm",
    title="Fold the layer into the convolution before it",
    reference=reference.fold_batchnorm,
    minutes=20,
    difficulty=3,
    properties=(
        Property(
            "same_output",
            "the folded convolution gives what the two layers give in eval mode",
            1.5,
            _fold_case(_plain_conv),
            _folds,
            tolerance=LOOSE,
            tried="fold_batchnorm(conv, bn)(x)",
        ),
        Property(
            "eps",
            "the batch norm's own eps is part of the scale",
            0.5,
            _fold_case(_plain_conv, eps=[0.5, 0.1]),
            _folds,
            tried="fold_batchnorm(conv, bn)(x)",
        ),
        Property(
            "geometry",
            "stride, padding, dilation and groups carry over",
            0.75,
            _fold_case(_special_conv),
            _folds,
            tolerance=LOOSE,
            tried="fold_batchnorm(conv, bn)(x)",
        ),
        Property(
            "without_bias",
            "a convolution without bias can be folded",
            0.5,
            _fold_case(_bare_conv),
            _folds,
            tolerance=LOOSE,
            tried="fold_batchnorm(conv, bn)(x)",
        ),
        Property(
            "without_affine",
            "a batch norm with affine=False can be folded",
            0.25,
            _fold_case(_plain_conv, affine=[False]),
            _folds,
            tolerance=LOOSE,
            tried="fold_batchnorm(conv, bn)(x)",
        ),
        Property(
            "originals",
            "a new nn.Conv2d in the convolution's mode; conv and bn stay as they were",
            0.5,
            _fold_safely,
            _folds_apart,
            examples=4,
            tried="conv, bn and the result looked at afterwards",
        ),
    ),
    misconceptions=(
        Misconception(
            "mean_forgotten",
            "You did not subtract the running mean.",
            "The new bias is (b − running_mean)·scale + beta.",
            ("same_output", "eps", "geometry", "without_bias", "without_affine"),
            _fold_no_mean,
        ),
        Misconception(
            "bias_not_scaled",
            "You added the old bias without scaling it.",
            "The batch norm scales all that reaches it: (b − running_mean)·scale + beta.",
            ("same_output", "eps", "geometry", "without_affine"),
            _fold_bias_unscaled,
        ),
        Misconception(
            "bias_dropped",
            "You dropped the convolution's own bias.",
            "It goes through the batch norm too: (b − running_mean)·scale + beta.",
            ("same_output", "eps", "geometry", "without_affine"),
            _fold_bias_dropped,
        ),
        Misconception(
            "only_the_weight",
            "You scaled the weight and left the bias as it was.",
            "The bias changes too: (b − running_mean)·scale + beta.",
            ("same_output", "eps", "geometry", "without_bias", "without_affine"),
            _fold_weight_only,
        ),
        Misconception(
            "eps_forgotten",
            "You left out eps.",
            "scale = gamma / sqrt(running_var + bn.eps).",
            ("eps",),
            _fold_no_eps,
        ),
        Misconception(
            "variance_without_root",
            "You divided by the variance.",
            "scale = gamma / sqrt(running_var + eps): the root is missing.",
            ("same_output", "eps", "geometry", "without_bias", "without_affine"),
            _fold_no_root,
        ),
        Misconception(
            "default_geometry",
            "You built the new convolution with the default stride, padding, dilation and groups.",
            "Hand all of conv.stride, conv.padding, conv.dilation and conv.groups on.",
            ("geometry",),
            _fold_default_geometry,
        ),
        Misconception(
            "affine_required",
            "You used bn.weight and bn.bias, which are None with affine=False.",
            "Take 1 and 0 there.",
            ("without_affine",),
            _fold_needs_affine,
        ),
        Misconception(
            "bias_required",
            "You used conv.bias, which is None in a convolution without bias.",
            "Take 0 there; the folded convolution always needs a bias.",
            ("without_bias",),
            _fold_needs_bias,
        ),
        Misconception(
            "in_place",
            "You changed the convolution that was handed in.",
            "Copy it first (copy.deepcopy(conv)), then write into the copy.",
            ("originals",),
            _fold_in_place,
        ),
        Misconception(
            "mode_not_kept",
            "The folded convolution is not in the mode of the one that was handed in.",
            "folded.train(conv.training) sets it.",
            ("originals",),
            _fold_forgets_mode,
        ),
    ),
    right=(
        Variant("a deep copy, rewritten", _fold_deepcopy),
        Variant("probed at 0 and 1, filter by filter", _fold_by_probing),
    ),
    hints=(
        Hint(
            "I don't know what folding means",
            "In eval mode the batch norm is a line per channel: y = scale·x + shift. Which numbers are scale and shift?",
        ),
        Hint(
            "The weights fit, but the output is shifted",
            "Scale the filter that makes the channel; the old bias goes through the same line.",
        ),
        Hint(
            "It breaks without a bias or without gamma and beta",
            "scale = gamma / sqrt(running_var + eps); weight' = weight · scale.view(-1, 1, 1, 1); bias' = (bias − running_mean)·scale + beta, with 0 for a missing bias or beta and 1 for a missing gamma.",
        ),
    ),
    forbidden=(Forbidden("torch.nn.utils.fusion", ("torch.nn.utils.fusion.",)),),
)


# -- group_norm ---------------------------------------------------------------------------------------------


def _grouped(d: Any, groups: int, per_group: int, dtype: torch.dtype = torch.float64) -> Case:
    c = groups * per_group
    x = _spread(d, d.integer(2, 3), c, d.integer(2, 4), d.integer(2, 5)).to(dtype)
    x = x + torch.arange(x.shape[3]) % 2
    return Case((x.to(dtype), groups, *_affine(d, c, dtype=dtype)))


def _proper_groups(d: Any) -> Case:
    return _grouped(d, *_groups(d))


def _groups(d: Any) -> tuple[int, int]:
    """Of different number and size, so that the one taken for the other shows."""
    return d.choice([(2, 3), (3, 2), (2, 4)])


def _extreme_groups(d: Any) -> Case:
    c = d.integer(2, 4)
    groups = d.choice([1, c])
    return _grouped(d, groups, c // groups)


def _group_eps(d: Any) -> Case:
    case = _proper_groups(d)
    x, *rest = case.args
    return Case((x * 0.1, *rest), {"eps": d.choice([0.1, 0.5, 1e-2])})


def _indivisible(d: Any) -> Case:
    groups = d.integer(2, 4)
    c = groups * d.integer(1, 2) + d.integer(1, groups - 1)
    return Case((d.tensor(2, c, 2, 3), groups, *_affine(d, c)))


def _group_float32(d: Any) -> Case:
    return _grouped(d, *_groups(d), torch.float32)


def _group(
    x, num_groups, gamma, beta, eps, *, unbiased=False, axes=(2, 3, 4), interleaved=False, outside=False
):
    n, c, h, w = x.shape
    if c % num_groups:
        raise ValueError(f"num_groups must divide the {c} channels of x, got {num_groups}")
    if interleaved:
        g = x.reshape(n, c // num_groups, num_groups, h, w).transpose(1, 2)
    else:
        g = x.reshape(n, num_groups, c // num_groups, h, w)
    mean, var = g.mean(axes, keepdim=True), g.var(axes, unbiased=unbiased, keepdim=True)
    g = (g - mean) / (var.sqrt() + eps if outside else (var + eps).sqrt())
    x_hat = (g.transpose(1, 2) if interleaved else g).reshape(n, c, h, w)
    return x_hat * gamma.view(1, c, 1, 1) + beta.view(1, c, 1, 1)


def _group_over_batch(x, num_groups, gamma, beta, eps=1e-5):
    return _group(x, num_groups, gamma, beta, eps, axes=(0, 2, 3, 4))


def _group_instance(x, num_groups, gamma, beta, eps=1e-5):
    return _group(x, num_groups, gamma, beta, eps, axes=(3, 4))


def _group_interleaved(x, num_groups, gamma, beta, eps=1e-5):
    return _group(x, num_groups, gamma, beta, eps, interleaved=True)


def _group_unbiased(x, num_groups, gamma, beta, eps=1e-5):
    return _group(x, num_groups, gamma, beta, eps, unbiased=True)


def _group_eps_outside(x, num_groups, gamma, beta, eps=1e-5):
    return _group(x, num_groups, gamma, beta, eps, outside=True)


def _group_affine_per_group(x, num_groups, gamma, beta, eps=1e-5):
    size = x.shape[1] // num_groups
    return _group(
        x,
        num_groups,
        gamma[:num_groups].repeat_interleave(size),
        beta[:num_groups].repeat_interleave(size),
        eps,
    )


def _group_size_for_number(x, num_groups, gamma, beta, eps=1e-5):
    if x.shape[1] % num_groups:
        raise ValueError(f"num_groups must divide {x.shape[1]}, got {num_groups}")
    return _group(x, x.shape[1] // num_groups, gamma, beta, eps)


def _group_rest_dropped(x, num_groups, gamma, beta, eps=1e-5):
    size = -(-x.shape[1] // num_groups)
    parts = [
        (part - part.mean((1, 2, 3), keepdim=True))
        / (part.var((1, 2, 3), unbiased=False, keepdim=True) + eps).sqrt()
        for part in x.split(size, dim=1)
    ]
    return torch.cat(parts, 1) * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)


def _group_detached(x, num_groups, gamma, beta, eps=1e-5):
    n, c = x.shape[:2]
    if c % num_groups:
        raise ValueError(f"num_groups must divide {c}, got {num_groups}")
    g = x.reshape(n, num_groups, -1)
    mean, var = g.mean(2, keepdim=True).detach(), g.var(2, unbiased=False, keepdim=True).detach()
    x_hat = ((g - mean) / (var + eps).sqrt()).reshape(x.shape)
    return x_hat * gamma.view(1, c, 1, 1) + beta.view(1, c, 1, 1)


def _group_in_place(x, num_groups, gamma, beta, eps=1e-5):
    c = x.shape[1]
    if c % num_groups:
        raise ValueError(f"num_groups must divide {c}, got {num_groups}")
    g = x.unflatten(1, (num_groups, -1))
    g -= g.mean((2, 3, 4), keepdim=True)
    g /= ((g**2).mean((2, 3, 4), keepdim=True) + eps).sqrt()
    return x * gamma.view(1, c, 1, 1) + beta.view(1, c, 1, 1)


def _group_in_double(x, num_groups, gamma, beta, eps=1e-5):
    return _group(x.double(), num_groups, gamma, beta, eps)


def _group_loop(x, num_groups, gamma, beta, eps=1e-5):
    c = x.shape[1]
    if c % num_groups != 0:
        raise ValueError(f"num_groups must divide {c}, got {num_groups}")
    size = c // num_groups
    images = []
    for image in x:
        groups = []
        for k in range(num_groups):
            v = image[k * size : (k + 1) * size]
            centered = v - v.sum() / v.numel()
            groups.append(centered / torch.sqrt((centered**2).sum() / v.numel() + eps))
        images.append(torch.cat(groups))
    return torch.stack(images) * gamma[:, None, None] + beta[:, None, None]


def _group_by_matrix(x, num_groups, gamma, beta, eps=1e-5):
    """Averaging over a group is a block matrix between channels."""
    c = x.shape[1]
    if c % num_groups:
        raise ValueError(f"num_groups must divide {c}, got {num_groups}")
    member = torch.arange(c, device=x.device) // (c // num_groups)
    blocks = (member[:, None] == member[None, :]).to(x.dtype) * num_groups / c
    mean = torch.einsum("kc,nc->nk", blocks, x.mean((2, 3)))[:, :, None, None]
    var = torch.einsum("kc,nc->nk", blocks, ((x - mean) ** 2).mean((2, 3)))[:, :, None, None]
    return (x - mean) * torch.rsqrt(var + eps) * gamma[:, None, None] + beta[:, None, None]


GROUP = Exercise(
    id="group_norm",
    topic="batchnorm",
    title="Statistics that need no batch",
    reference=reference.group_norm,
    minutes=15,
    difficulty=2,
    properties=(
        Property(
            "groups",
            "each sample's channels are normalized group by group",
            1.0,
            _proper_groups,
            tolerance=LOOSE,
        ),
        Property(
            "layer_and_instance",
            "num_groups=1 is layer norm, num_groups=C is instance norm",
            0.5,
            _extreme_groups,
            tolerance=LOOSE,
        ),
        Property("eps", "eps is added to the variance, inside the root", 0.25, _group_eps),
        Property(
            "gradients",
            "gradients flow to x, gamma and beta, through the statistics as well",
            0.5,
            _proper_groups,
            gradients(0, 2, 3),
            tolerance=LOOSE,
            tried="the gradient of the output's inner product with fixed random numbers",
        ),
        Property(
            "refuses_indivisible",
            "channels that num_groups does not divide are refused with a ValueError",
            0.5,
            _indivisible,
            examples=4,
        ),
        Property(
            "carries",
            "float32 stays float32, and no argument is modified in place",
            0.25,
            _group_float32,
            carries,
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "over_the_batch",
            "You took the statistics over the batch as well.",
            "Each sample stands alone: reduce over the group's channels, H and W, and keep axis 0.",
            ("groups", "layer_and_instance", "eps", "gradients"),
            _group_over_batch,
        ),
        Misconception(
            "instance_norm",
            "You normalized each channel by itself, whatever num_groups is.",
            "The channels of a group share one mean and one variance: reduce over them too.",
            ("groups", "layer_and_instance", "eps", "gradients"),
            _group_instance,
        ),
        Misconception(
            "interleaved_groups",
            "Your groups take every num_groups-th channel.",
            "A group is a run of neighboring channels: reshape to (N, num_groups, C // num_groups, H, W).",
            ("groups", "eps", "gradients"),
            _group_interleaved,
        ),
        Misconception(
            "unbiased_variance",
            "You divided by n−1: this is the unbiased variance.",
            "Divide by n: `var(..., unbiased=False)`.",
            ("groups", "layer_and_instance", "eps", "gradients"),
            _group_unbiased,
        ),
        Misconception(
            "eps_outside_root",
            "You added eps after the root.",
            "Divide by sqrt(var + eps).",
            ("eps",),
            _group_eps_outside,
        ),
        Misconception(
            "group_size_for_number",
            "You took num_groups for the number of channels in a group.",
            "There are num_groups groups, of C // num_groups channels each.",
            ("groups", "layer_and_instance", "eps", "gradients"),
            _group_size_for_number,
        ),
        Misconception(
            "affine_per_group",
            "You scaled and shifted per group.",
            "gamma and beta have one number per channel; only the statistics are shared by a group.",
            ("groups", "layer_and_instance", "eps", "gradients"),
            _group_affine_per_group,
        ),
        Misconception(
            "uneven_groups",
            "You accept channels that cannot be split evenly.",
            "Raise a ValueError when C % num_groups is not 0.",
            ("refuses_indivisible",),
            _group_rest_dropped,
        ),
        Misconception(
            "detached_statistics",
            "Your mean and variance are cut from the graph, so the gradient treats them as constants.",
            "Leave out detach, .data and no_grad: the statistics depend on x.",
            ("gradients",),
            _group_detached,
        ),
        Misconception(
            "in_place",
            "You modified x in place: a view or a reshape of x is x itself (-=, /= or a method that ends in _).",
            "Write g - mean into a new name: the caller's tensor and the graph need the old one.",
            ("gradients", "carries"),
            _group_in_place,
        ),
        Misconception(
            "double_returned",
            "You computed in float64, and returned float64 for float32.",
            "Compute in x's dtype, or convert back at the end: `.to(x.dtype)`.",
            ("carries",),
            _group_in_double,
        ),
    ),
    right=(
        Variant("a loop over samples and groups", _group_loop),
        Variant("a block matrix between channels", _group_by_matrix),
    ),
    hints=(
        Hint(
            "My groups mix the wrong channels",
            "Reshape first: which five axes make a group's channels an axis of its own?",
        ),
        Hint(
            "My numbers are off",
            "The batch axis is never reduced here, and gamma still belongs to a channel.",
        ),
        Hint(
            "I don't know how to start",
            "g = x.reshape(N, num_groups, C // num_groups, H, W); mean and biased variance over axes (2, 3, 4) with keepdim; normalize, reshape back, then gamma and beta as (1, C, 1, 1).",
        ),
    ),
    forbidden=(GROUP_NORM, LAYER_NORM, INSTANCE_NORM, BATCH_NORM),
)

EXERCISES = (FORWARD, LAYER, BACKWARD, FOLD, GROUP)
