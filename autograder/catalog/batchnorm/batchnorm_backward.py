"""The exercise batchnorm_backward of lecture 02: the gradient by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.batchnorm.draws import LOOSE, batch_axes, column, image_batch, spread
from autograder.catalog.forbidden import AUTOGRAD, BATCH_NORM
from autograder.catalog.observations import carries, component
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden, Hint, Misconception, Property, Variant
from coursekit import batchnorm as reference


def _backward_case(draw_x: Callable[[Draw], torch.Tensor]) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        x = draw_x(d)
        return Case((d.tensor(*x.shape), x, d.positive(x.shape[1], low=0.5, high=3.0)))

    return draw


def _backward_rows(d: Draw) -> torch.Tensor:
    # Two rows are symmetric: several terms vanish there, and wrong answers look right.
    return spread(d, d.integer(3, 7), d.integer(1, 5))


def _backward_small_variance(d: Draw) -> Case:
    x = _backward_rows(d) * 0.1
    eps = {"eps": d.choice([0.1, 0.5, 1e-2])}
    return Case((d.tensor(*x.shape), x, d.positive(x.shape[1])), eps)


def _backward_both(d: Draw) -> Case:
    x = d.choice([_backward_rows, image_batch])(d)
    return Case((d.tensor(*x.shape), x, d.positive(x.shape[1])))


def _parameters(subject: Subject, case: Case) -> Any:
    result = subject(*case.args, **case.kwargs)
    if not isinstance(result, list | tuple) or len(result) != 3:
        return result
    return {"grad_gamma": result[1], "grad_beta": result[2]}


def _backward(
    grad_y, x, gamma, eps, *, count=None, mean_term=True, var_term=True, scale=True, unbiased=False,
    raw_gamma=False, average=False, over=None,
):  # fmt: skip
    """The analytic gradient with each of its mistakes behind a switch."""
    axes = batch_axes(x)
    n = x.numel() // x.shape[1] if count is None else count(x)
    mean = x.mean(axes, keepdim=True)
    std = (x.var(axes, unbiased=unbiased, keepdim=True) + eps).sqrt()
    x_hat = (x - mean) / std
    grad_hat = grad_y * column(gamma, x) if scale else grad_y
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
    axes = batch_axes(x)
    n = x.numel() // x.shape[1]
    std = (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    x_hat = (x - x.mean(axes, keepdim=True)) / std
    grad_gamma, grad_beta = (grad_y * x_hat).sum(axes), grad_y.sum(axes)
    grad_y *= column(gamma, x)
    shares = grad_y.sum(axes, keepdim=True) + x_hat * (grad_y * x_hat).sum(axes, keepdim=True)
    return (grad_y - shares / n) / std, grad_gamma, grad_beta


def _backward_axes_kept(grad_y, x, gamma, eps=1e-5):
    grad_x, grad_gamma, grad_beta = _backward(grad_y, x, gamma, eps)
    return grad_x, column(grad_gamma, x), column(grad_beta, x)


def _backward_one_sum(grad_y, x, gamma, eps=1e-5):
    axes = batch_axes(x)
    n = x.numel() // x.shape[1]
    mean = x.mean(axes, keepdim=True)
    std = (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    x_hat = (x - mean) / std
    grad_beta = grad_y.sum(axes)
    grad_gamma = (grad_y * x_hat).sum(axes)
    inner = n * grad_y - column(grad_beta, x) - x_hat * column(grad_gamma, x)
    return column(gamma, x) / (n * std) * inner, grad_gamma, grad_beta


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


EXERCISE = Exercise(
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
            _backward_case(image_batch),
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
