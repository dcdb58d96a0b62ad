"""The exercise batchnorm_backward of lecture 02: the gradient by hand."""

from collections.abc import Callable
from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.batchnorm.draws import LOOSE, image_batch, spread
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import AUTOGRAD, BATCH_NORM
from autograder.catalog.observations import carries, component
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden
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


CLAIMS = Exercise(
    id="batchnorm_backward",
    topic="batchnorm",
    title="The gradient by hand",
    reference=reference.batchnorm_backward,
    minutes=30,
    difficulty=4,
    properties=claims(
        """
        rows (1.25): (N, C): grad_x, with the mean's and the variance's share
        images (1): (N, C, H, W): grad_x, every channel over its N·H·W values
        parameters (0.75): grad_gamma and grad_beta
        eps (0.5): grad_x has eps where the forward pass has it
        carries (0.5): the three shapes, and no argument is modified in place
        """,
        rows=on(_backward_case(_backward_rows), component(0, 3), tolerance=LOOSE),
        images=on(_backward_case(image_batch), component(0, 3), tolerance=LOOSE),
        parameters=on(_backward_both, _parameters, tolerance=LOOSE),
        eps=on(_backward_small_variance, component(0, 3)),
        carries=on(_backward_both, carries, examples=4, beside="rows"),
    ),
    hints=hints("""
        I don't know where to begin
        grad_gamma and grad_beta first: what multiplies gamma in the forward pass, and over which axes is it
          shared?

        grad_x is off by a little
        y depends on x directly, through the mean, and through the variance: three terms.

        I have the three terms, but they don't add up
        With grad_hat = grad_y·gamma: grad_x = (grad_hat − mean(grad_hat) − x_hat·mean(grad_hat·x_hat)) /
          sqrt(var + eps), every mean over the axes of the statistics.
        """),
    forbidden=(
        AUTOGRAD,
        BATCH_NORM,
        Forbidden("aten.native_batch_norm_backward", ("aten.native_batch_norm_backward",)),
    ),
)

answers = Answers(CLAIMS)


@answers.right
def step_by_step(grad_y, x, gamma, eps=1e-5):
    """grad_hat, then the share of the mean, then the variance's"""
    axes = (0, 2, 3) if x.dim() == 4 else (0,)
    shape = (1, -1, 1, 1) if x.dim() == 4 else (1, -1)
    m = x.numel() // x.shape[1]
    mean = x.mean(axes, keepdim=True)
    std = (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    x_hat = (x - mean) / std
    grad_gamma = (grad_y * x_hat).sum(axes)
    grad_beta = grad_y.sum(axes)
    grad_hat = grad_y * gamma.view(shape)
    grad_x = grad_hat - grad_hat.sum(axes, keepdim=True) / m
    grad_x = grad_x - x_hat * (grad_hat * x_hat).sum(axes, keepdim=True) / m
    return grad_x / std, grad_gamma, grad_beta


answers.edits("""
statistics_as_constants: rows images eps
- grad_x = grad_hat - grad_hat.sum(axes, keepdim=True) / m
- grad_x = grad_x - x_hat * (grad_hat * x_hat).sum(axes, keepdim=True) / m
+ grad_x = grad_hat
Your grad_x is grad_y·gamma/std: mean and variance are treated as constants.
Both depend on x, so two more terms are subtracted: the mean of grad_hat, and x_hat times the mean of
  grad_hat·x_hat.

variance_as_constant: rows images eps
- grad_x = grad_x - x_hat * (grad_hat * x_hat).sum(axes, keepdim=True) / m
Your grad_x lacks the path through the variance.
Subtract x_hat times the mean of grad_hat·x_hat as well.

mean_as_constant: rows images eps
- grad_x = grad_hat - grad_hat.sum(axes, keepdim=True) / m
+ grad_x = grad_hat
Your grad_x lacks the path through the mean.
Subtract the mean of grad_hat over the batch as well.

gamma_forgotten: rows images eps
- grad_hat = grad_y * gamma.view(shape)
+ grad_hat = grad_y
Your grad_x does not pass through gamma.
The output is gamma·x_hat + beta, so the gradient that reaches x_hat is grad_y·gamma.

batch_count: images
- m = x.numel() // x.shape[1]
+ m = x.shape[0]
For images you divided by N; a channel has N·H·W values.
The m of the formula is the number of values that share a mean: x.numel() / C.

unbiased_variance: all but carries
- x.var(axes, unbiased=False, keepdim=True)
+ x.var(axes, keepdim=True)
You normalized with the unbiased variance, divided by N−1.
The forward pass divides by N; its gradient is taken at the same numbers.

grad_gamma_from_x: parameters
- grad_gamma = (grad_y * x_hat).sum(axes)
+ grad_gamma = (grad_y * x).sum(axes)
Your grad_gamma is the sum of grad_y·x.
gamma multiplies the normalized values: sum grad_y·x_hat.

averaged_parameters: parameters
- grad_gamma = (grad_y * x_hat).sum(axes)
- grad_beta = grad_y.sum(axes)
+ grad_gamma = (grad_y * x_hat).mean(axes)
+ grad_beta = grad_y.mean(axes)
You averaged grad_gamma and grad_beta over the batch.
Every value used the same gamma and beta, so their gradients add up: sum, no division.

eps_ignored: eps
- (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
+ x.var(axes, unbiased=False, keepdim=True).sqrt()
You did not use eps.
The standard deviation in the gradient is the forward pass's sqrt(var + eps).

axes_kept: parameters carries
- grad_gamma = (grad_y * x_hat).sum(axes)
- grad_beta = grad_y.sum(axes)
+ grad_gamma = (grad_y * x_hat).sum(axes, keepdim=True)
+ grad_beta = grad_y.sum(axes, keepdim=True)
Your grad_gamma and grad_beta still have the axes of length 1 that keepdim left.
A gradient has the shape of its tensor, here (C,): sum without keepdim, or flatten.

in_place: carries
- grad_hat = grad_y * gamma.view(shape)
+ grad_y *= gamma.view(shape)
+ grad_hat = grad_y
You multiplied grad_y by gamma in place.
Write grad_hat = grad_y * gamma, a new tensor: the caller still needs grad_y.
""")


@answers.right
def one_line(grad_y, x, gamma, eps=1e-5):
    """the one-line form with n·grad_y"""
    axes, shape = (0, *range(2, x.dim())), (1, -1, *[1] * (x.dim() - 2))
    n = x.numel() // x.shape[1]
    std = (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    x_hat = (x - x.mean(axes, keepdim=True)) / std
    grad_beta = grad_y.sum(axes)
    grad_gamma = (grad_y * x_hat).sum(axes)
    inner = n * grad_y - grad_beta.view(shape) - x_hat * grad_gamma.view(shape)
    return gamma.view(shape) / (n * std) * inner, grad_gamma, grad_beta


@answers.right
def by_node(grad_y, x, gamma, eps=1e-5):
    """node by node, a channel at a time"""
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


EXERCISE = answers.exercise()
