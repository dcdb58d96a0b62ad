"""The exercise batchnorm_forward of lecture 02: normalize, then scale and shift."""

from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.batchnorm.draws import (
    CLOSE,
    LOOSE,
    affine,
    entries,
    images,
    narrow_rows,
    rows,
    spread,
)
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import BATCH_NORM, GROUP_NORM, INSTANCE_NORM, LAYER_NORM
from autograder.catalog.observations import numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import batchnorm as reference


def _with_affine(d: Draw, x: torch.Tensor) -> Case:
    return Case((x, *affine(d, x.shape[1])))


def _rows(d: Draw) -> Case:
    return _with_affine(d, rows(d))


def _images(d: Draw) -> Case:
    return _with_affine(d, images(d))


def _narrow(d: Draw) -> Case:
    x, given = narrow_rows(d)
    return Case((x, *affine(d, x.shape[1])), given)


def _both_dtypes(d: Draw) -> Case:
    dtype = d.each([torch.float32, torch.float64])
    x = spread(d, d.integer(2, 7), d.integer(2, 5)).to(dtype)
    return Case((x, *affine(d, x.shape[1], dtype)))


def _rows_and_images(d: Draw) -> Case:
    x = images(d)
    some = torch.cat([x.movedim(1, -1).reshape(-1, x.shape[1]), d.tensor(1, x.shape[1])])
    # The default of eps is the business of another property.
    return Case(tuple((given, *affine(d, x.shape[1]), 1e-5) for given in (some, x)))


def _gradients(subject: Subject, case: Case) -> Any:
    some, maps = case.args
    return {
        "rows": subject.vjp(*some, wrt=[0, 1, 2])["grads"],
        "images": subject.vjp(*maps, wrt=[0, 1, 2])["grads"],
    }


CLAIMS = Exercise(
    id="batchnorm_forward",
    topic="batchnorm",
    title="Normalize, then scale and shift",
    reference=reference.batchnorm_forward,
    minutes=15,
    difficulty=2,
    properties=claims(
        """
        rows (1): (N, C): every column is normalized over the batch, scaled by gamma, shifted by beta
        images (1): (N, C, H, W): one mean and one variance per channel, over N, H and W, also of one image
        eps (0.5): eps is added to the variance, inside the root; it may be 0
        gradients (1): gradients flow to x, gamma and beta, through the batch statistics as well
        tried: the gradient of the output's inner product with fixed random numbers
        carries (0.5): float32 stays float32 and float64 float64, and no argument is modified in place
        """,
        rows=on(_rows, numbers, tolerance=LOOSE),
        images=on(_images, numbers, tolerance=LOOSE),
        eps=on(_narrow, numbers, tolerance=CLOSE),
        gradients=on(_rows_and_images, _gradients, tolerance=LOOSE),
        carries=on(_both_dtypes, entries, examples=4, beside="rows"),
    ),
    hints=hints("""
        My shapes don't match
        Which axes disappear when a channel's mean is taken? keepdim=True leaves them there with length 1, so
          that broadcasting works.

        My numbers are close, but not equal
        Look at the divisor of the variance (N or N−1) and at the place of eps.

        I don't know how to start
        axes = (0,) for (N, C) and (0, 2, 3) for images; mean and var over axes with keepdim=True and
          unbiased=False; x_hat = (x - mean) / sqrt(var + eps); gamma and beta viewed as (1, C) or (1, C, 1,
          1).
        """),
    forbidden=(BATCH_NORM, INSTANCE_NORM, GROUP_NORM, LAYER_NORM),
)

answers = Answers(CLAIMS)


@answers.right
def by_axes(x, gamma, beta, eps=1e-5):
    """mean and variance with keepdim"""
    axes = (0, 2, 3) if x.dim() == 4 else (0,)
    shape = (1, -1, 1, 1) if x.dim() == 4 else (1, -1)
    mean = x.mean(axes, keepdim=True)
    var = x.var(axes, unbiased=False, keepdim=True)
    x_hat = (x - mean) / (var + eps).sqrt()
    return gamma.view(shape) * x_hat + beta.view(shape)


answers.edits("""
unbiased_variance: all but carries
- x.var(axes, unbiased=False, keepdim=True)
+ x.var(axes, keepdim=True)
You divided by N−1: this is the unbiased variance, which torch computes by default.
The batch is normalized by its own spread, so the sum of squares is divided by N: `x.var(...,
  unbiased=False)`.

eps_outside_root: eps
- (var + eps).sqrt()
+ (var.sqrt() + eps)
You added eps to the standard deviation, after the root.
It belongs to the variance: divide by sqrt(var + eps).

eps_ignored: eps
- (var + eps).sqrt()
+ var.sqrt()
You did not use eps.
Add it to the variance before the root; it keeps a constant channel from dividing by zero.

eps_fixed: eps
- (var + eps).sqrt()
+ (var + 1e-5).sqrt()
You add 1e-5, whatever eps is.
eps is an argument, and 1e-5 only its default: add eps.

eps_as_least: eps
- (var + eps).sqrt()
+ var.clamp(min=eps).sqrt()
You took eps for the least that the variance may be.
It is added to every variance, however large: divide by sqrt(var + eps).

unbiased_std_plus_eps: all but carries
- var = x.var(axes, unbiased=False, keepdim=True)
- x_hat = (x - mean) / (var + eps).sqrt()
+ std = x.std(axes, keepdim=True)
+ x_hat = (x - mean) / (std + eps)
You divided by x.std() + eps: torch's std divides the squares by N−1, and eps comes after the root.
Divide by sqrt(var + eps), with the biased variance, `x.var(..., unbiased=False)`.

whole_tensor: all but carries
- mean = x.mean(axes, keepdim=True)
- var = x.var(axes, unbiased=False, keepdim=True)
+ mean = x.mean()
+ var = x.var(unbiased=False)
You normalized with one mean and one variance for the whole tensor.
Each channel has its own: reduce over every axis but axis 1.

each_sample: all but carries
- axes = (0, 2, 3) if x.dim() == 4 else (0,)
+ axes = (1, 2, 3) if x.dim() == 4 else (1,)
You normalized each sample by itself, as layer normalization does.
Batch normalization compares the samples with each other: reduce over axis 0 (and H and W), keep axis 1.

batch_axis_only: images gradients
- axes = (0, 2, 3) if x.dim() == 4 else (0,)
+ axes = (0,)
For images you took the statistics over the batch axis alone, so every pixel has its own.
A channel's statistics run over all its pixels: reduce over N, H and W together.

rows_only: images gradients
- axes = (0, 2, 3) if x.dim() == 4 else (0,)
- shape = (1, -1, 1, 1) if x.dim() == 4 else (1, -1)
+ axes = (0,)
+ shape = (1, -1)
With images you do what is right for rows: statistics over the batch axis alone, gamma and beta along the
  width.
For (N, C, H, W) reduce over N, H and W together, and give gamma and beta the shape (1, C, 1, 1).

instance_norm: images gradients
- axes = (0, 2, 3) if x.dim() == 4 else (0,)
+ axes = (2, 3) if x.dim() == 4 else (0,)
You normalized each channel of each image by itself, as instance normalization does.
A channel's statistics run over the images, too: reduce over N, H and W together.

axes_found_by_length: images gradients
- axes = (0, 2, 3) if x.dim() == 4 else (0,)
+ axes = [axis for axis, length in enumerate(x.shape) if length != len(gamma)]
You took the statistics over all axes not as long as gamma: where N, H or W equals C, one is left out.
The channels are axis 1, however long the others are: reduce over axes 0, 2 and 3, or over axis 0.

variances_of_images_averaged: images gradients
- x.var(axes, unbiased=False, keepdim=True)
+ x.var(axes[1:] or axes, unbiased=False, keepdim=True).mean(0, keepdim=True)
For images you averaged the variances that each image has around its own mean.
Images whose means differ add to the spread: take the variance over N, H and W at once.

statistics_on_last_axis: images gradients
- mean = x.mean(axes, keepdim=True)
- var = x.var(axes, unbiased=False, keepdim=True)
+ mean = x.mean(axes)
+ var = x.var(axes, unbiased=False)
For images your mean and variance have the shape (C,), and were broadcast along the width.
Keep the axes that are reduced, `keepdim=True`, or give them the shape (1, C, 1, 1) afterwards.

variance_without_root: all but carries
- (var + eps).sqrt()
+ (var + eps)
You divided by the variance.
Divide by its root, sqrt(var + eps), so that the result has unit variance.

detached_statistics: gradients
- x.mean(axes, keepdim=True)
+ x.mean(axes, keepdim=True).detach()
- x.var(axes, unbiased=False, keepdim=True)
+ x.var(axes, unbiased=False, keepdim=True).detach()
Your mean and variance are cut from the graph, so the gradient treats them as constants.
Leave out detach, .data, .item() and no_grad: the statistics depend on x.

not_affine: all but carries
- return gamma.view(shape) * x_hat + beta.view(shape)
+ return x_hat
You returned the normalized values without gamma and beta.
Scale and shift at the end: gamma * x_hat + beta, one number per channel.

gamma_and_beta_swapped: all but carries
- gamma.view(shape) * x_hat + beta.view(shape)
+ beta.view(shape) * x_hat + gamma.view(shape)
You scaled by beta and shifted by gamma.
gamma multiplies, beta is added.

affine_on_last_axis: images gradients
- gamma.view(shape) * x_hat + beta.view(shape)
+ gamma * x_hat + beta
For images gamma and beta were broadcast along the width instead of the channels.
Give them the shape (1, C, 1, 1) first: gamma.view(1, -1, 1, 1).

float32_returned: carries
- return gamma.view(shape) * x_hat + beta.view(shape)
+ return (gamma.view(shape) * x_hat + beta.view(shape)).float()
Your result is float32, also for float64.
Compute in the dtype of x; what you make yourself takes it from there, as x.new_zeros(…) does.

float64_returned: carries
- return gamma.view(shape) * x_hat + beta.view(shape)
+ return (gamma.view(shape) * x_hat + beta.view(shape)).double()
Your result is float64, also for float32.
Compute in the dtype of x, or convert back at the end: `.to(x.dtype)`.

in_place: gradients carries
- x_hat = (x - mean) / (var + eps).sqrt()
+ x -= mean
+ x /= (var + eps).sqrt()
- gamma.view(shape) * x_hat + beta.view(shape)
+ gamma.view(shape) * x + beta.view(shape)
You modified x in place (-=, /= or a method that ends in _).
Write x - mean into a new name: the caller's tensor and the graph need the old one.
""")


@answers.right
def looped(x, gamma, beta, eps=1e-5):
    """a loop over channels"""
    channels = []
    for c in range(x.shape[1]):
        v = x[:, c]
        n = v.numel()
        mean = v.sum() / n
        var = ((v - mean) ** 2).sum() / n
        channels.append(gamma[c] * (v - mean) / torch.sqrt(var + eps) + beta[c])
    return torch.stack(channels, dim=1)


@answers.right
def moments(x, gamma, beta, eps=1e-5):
    """einsum and the second moment"""
    flat = x.reshape(x.shape[0], x.shape[1], -1)
    count = flat.shape[0] * flat.shape[2]
    mean = torch.einsum("ncp->c", flat) / count
    second = torch.einsum("ncp,ncp->c", flat, flat) / count
    inverse = (second - mean**2 + eps) ** -0.5
    y = torch.einsum("ncp,c->ncp", flat - mean[:, None], inverse * gamma) + beta[:, None]
    return y.reshape(x.shape)


@answers.right
def transposed(x, gamma, beta, eps=1e-5):
    """channels moved last, rsqrt"""
    last = x.movedim(1, -1)
    rows = last.reshape(-1, x.shape[1])
    var, mean = torch.var_mean(rows, dim=0, correction=0)
    return ((last - mean) * torch.rsqrt(var + eps) * gamma + beta).movedim(-1, 1)


EXERCISE = answers.exercise()
