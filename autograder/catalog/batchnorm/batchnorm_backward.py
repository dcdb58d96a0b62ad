"""The exercise batchnorm_backward of lecture 02: the gradient by hand."""

from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.batchnorm.draws import CLOSE, LOOSE, entries, images, narrow_rows, rows, signed
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import AUTOGRAD, BATCH_NORM
from autograder.catalog.observations import as_double, component
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden
from coursekit import batchnorm as reference

# Two rows are symmetric: several terms vanish there, and wrong answers look right.
FEWEST = 3
# Given where eps is not asked about, in its place: another default, or another name, is one property's business.
DEFAULT = 1e-5


def _with_gradient(d: Draw, x: torch.Tensor, *eps: float, **named: float) -> Case:
    gamma = signed(d.positive(x.shape[1], low=0.5, high=3.0))
    return Case((d.tensor(*x.shape).to(x.dtype), x, gamma.to(x.dtype), *eps), named)


def _rows(d: Draw) -> Case:
    return _with_gradient(d, rows(d, least=FEWEST), DEFAULT)


def _images(d: Draw) -> Case:
    return _with_gradient(d, images(d), DEFAULT)


def _narrow(d: Draw) -> Case:
    x, given = narrow_rows(d, least=FEWEST)
    return _with_gradient(d, x, **given)


def _rows_or_images(d: Draw) -> Case:
    return d.each([_rows, _images])(d)


def _both_dtypes(d: Draw) -> Case:
    made, dtype = d.each(
        [(rows, torch.float32), (images, torch.float64), (images, torch.float32), (rows, torch.float64)]
    )
    return _with_gradient(d, made(d).to(dtype))


_first = component(0, 3)


def _of_x(subject: Subject, case: Case) -> Any:
    return as_double(_first(subject, case))


def _of_parameters(subject: Subject, case: Case) -> Any:
    """The numbers alone: shapes and dtypes are another property's business."""
    result = subject(*case.args, **case.kwargs)
    if not isinstance(result, list | tuple) or len(result) != 3:
        return result
    named = {"grad_gamma": result[1], "grad_beta": result[2]}
    return {
        name: as_double(g).reshape(-1)
        if isinstance(g, torch.Tensor) and max(g.shape, default=1) == g.numel()
        else g
        for name, g in named.items()
    }


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
        images (1): (N, C, H, W): grad_x, every channel over its N·H·W values, also of one image
        parameters (0.75): grad_gamma and grad_beta
        eps (0.5): grad_x has eps where the forward pass has it; it may be 0
        carries (0.5): the three shapes and the dtype of x, and no argument is modified in place
        """,
        rows=on(_rows, _of_x, tolerance=LOOSE),
        images=on(_images, _of_x, tolerance=LOOSE),
        parameters=on(_rows_or_images, _of_parameters, tolerance=LOOSE),
        eps=on(_narrow, _of_x, tolerance=CLOSE),
        carries=on(_both_dtypes, entries, examples=4, beside="rows"),
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

variance_term_added: rows images eps
- grad_x = grad_x - x_hat
+ grad_x = grad_x + x_hat
You add the variance's share to grad_x.
It is subtracted, as the mean's share is: grad_hat − mean(grad_hat) − x_hat·mean(grad_hat·x_hat).

sums_for_means: rows images eps
- grad_hat.sum(axes, keepdim=True) / m
+ grad_hat.sum(axes, keepdim=True)
- (grad_hat * x_hat).sum(axes, keepdim=True) / m
+ (grad_hat * x_hat).sum(axes, keepdim=True)
You subtract sums of grad_hat and of grad_hat·x_hat from grad_hat.
They are means: divide by the m values that share the statistics.

variance_without_root: rows images eps
- return grad_x / std, grad_gamma, grad_beta
+ return grad_x / std**2, grad_gamma, grad_beta
You divided grad_x by the variance.
Divide by its root, sqrt(var + eps), once.

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

parameters_times_gamma: parameters
- grad_gamma = (grad_y * x_hat).sum(axes)
- grad_beta = grad_y.sum(axes)
- grad_hat = grad_y * gamma.view(shape)
+ grad_hat = grad_y * gamma.view(shape)
+ grad_gamma = (grad_hat * x_hat).sum(axes)
+ grad_beta = grad_hat.sum(axes)
Your grad_gamma and grad_beta come out times gamma.
Only the way to x leads through gamma: sum grad_y·x_hat and grad_y, before grad_y is multiplied by it.

gradients_swapped: parameters
- return grad_x / std, grad_gamma, grad_beta
+ return grad_x / std, grad_beta, grad_gamma
You returned grad_beta before grad_gamma.
The order is grad_x, grad_gamma, grad_beta.

batch_axis_only: images parameters carries
- axes = (0, 2, 3) if x.dim() == 4 else (0,)
+ axes = (0,)
- m = x.numel() // x.shape[1]
+ m = x.shape[0]
For images you reduced over the batch axis alone, as for rows.
A channel's statistics, and its gamma and beta, are shared by all its pixels: reduce over N, H and W.

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

eps_fixed: eps
- (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
+ (x.var(axes, unbiased=False, keepdim=True) + 1e-5).sqrt()
You add 1e-5, whatever eps is.
eps is an argument, and 1e-5 only its default: add eps.

eps_outside_root: eps
- (x.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
+ x.var(axes, unbiased=False, keepdim=True).sqrt() + eps
You added eps to the standard deviation, after the root.
The forward pass divides by sqrt(var + eps), and so does its gradient.

axes_kept: carries
- grad_gamma = (grad_y * x_hat).sum(axes)
- grad_beta = grad_y.sum(axes)
+ grad_gamma = (grad_y * x_hat).sum(axes, keepdim=True)
+ grad_beta = grad_y.sum(axes, keepdim=True)
Your grad_gamma and grad_beta still have the axes of length 1 that keepdim left.
A gradient has the shape of its tensor, here (C,): sum without keepdim, or flatten.

float32_returned: carries
- return grad_x / std, grad_gamma, grad_beta
+ return (grad_x / std).float(), grad_gamma.float(), grad_beta.float()
Your gradients are float32, also for float64.
Compute in the dtype of x; what you make yourself takes it from there, as x.new_zeros(…) does.

float64_returned: carries
- return grad_x / std, grad_gamma, grad_beta
+ return (grad_x / std).double(), grad_gamma.double(), grad_beta.double()
Your gradients are float64, also for float32.
Compute in the dtype of x, or convert back at the end: `.to(x.dtype)`.

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


answers.edits("""
exponent_not_lowered: rows images eps
- (var + eps) ** -1.5
+ (var + eps) ** -0.5
For the derivative of (var + eps)^(−1/2) you took −1/2 · (var + eps)^(−1/2).
The exponent is lowered by 1: −1/2 · (var + eps)^(−3/2).
""")


EXERCISE = answers.exercise()
