"""The exercise group_norm of lecture 02: statistics that need no batch."""

import torch

from autograder.catalog.answers import Answers
from autograder.catalog.batchnorm.draws import CLOSE, EPS, LOOSE, affine, entries, spread
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import BATCH_NORM, GROUP_NORM, INSTANCE_NORM, LAYER_NORM
from autograder.catalog.observations import gradients, numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import batchnorm as reference

# Groups of different number and size, so that the one taken for the other shows, and N, H, W of the images.
# As many columns as channels come first: there what goes along the wrong axis shows in numbers.
PROPER = ((2, 3, (2, 2, 6)), (3, 2, (1, 3, 4)), (2, 4, (3, 1, 3)), (4, 2, (2, 3, 2)))
# One group, as many as channels, and one channel alone, which is both.
EXTREME = ((1, 3, (2, 2, 3)), (3, 1, (2, 2, 3)), (1, 4, (1, 3, 5)), (2, 1, (3, 2, 6)), (1, 1, (2, 4, 2)))


def _grouped(d: Draw, groups: int, per_group: int, size: tuple[int, int, int]) -> tuple[torch.Tensor, int]:
    n, *rest = size
    x = spread(d, n, groups * per_group, *rest)
    # Far apart, so that no few values of a channel come out alike by chance and show eps.
    return x + 4 * (torch.arange(x.shape[3]) % 2), groups


def _case(d: Draw, x: torch.Tensor, groups: int) -> Case:
    return Case((x, groups, *affine(d, x.shape[1], x.dtype)))


def _proper(d: Draw) -> Case:
    return _case(d, *_grouped(d, *d.each(PROPER)))


def _extreme(d: Draw) -> Case:
    return _case(d, *_grouped(d, *d.each(EXTREME)))


def _differentiated(d: Draw) -> Case:
    # The default of eps is the business of another property.
    return Case((*_proper(d).args, 1e-5))


def _narrow(d: Draw) -> Case:
    given, scale = d.each(EPS)
    if given.get("eps") == 0.1:
        # Each variance is below eps then: what takes it for their least is told from what leaves it out.
        scale /= 5
    x, groups = _grouped(d, *d.each(PROPER))
    return Case(_case(d, x * scale, groups).args, given)


def _indivisible(d: Draw) -> Case:
    """Groups that leave a rest, and more groups than channels."""
    groups, c = d.each([(2, 3), (4, 6), (3, 2), (4, 1)])
    return _case(d, d.tensor(2, c, 2, 3), groups)


def _both_dtypes(d: Draw) -> Case:
    dtype = d.each([torch.float32, torch.float64])
    x, groups = _grouped(d, *PROPER[0])
    return _case(d, x.to(dtype), groups)


CLAIMS = Exercise(
    id="group_norm",
    topic="batchnorm",
    title="Statistics that need no batch",
    reference=reference.group_norm,
    minutes=15,
    difficulty=2,
    properties=claims(
        """
        groups (1): each sample's channels are normalized group by group
        layer_and_instance (0.5): num_groups=1 is layer norm, num_groups=C is instance norm
        eps (0.25): eps is added to the variance, inside the root; it may be 0
        gradients (0.5): gradients flow to x, gamma and beta, through the statistics as well
        tried: the gradient of the output's inner product with fixed random numbers
        refuses_indivisible (0.5): channels that num_groups does not divide are refused with a ValueError
        carries (0.25): float32 stays float32 and float64 float64, and no argument is modified in place
        """,
        groups=on(_proper, numbers, tolerance=LOOSE),
        layer_and_instance=on(_extreme, numbers, tolerance=LOOSE),
        eps=on(_narrow, numbers, tolerance=CLOSE),
        gradients=on(_differentiated, gradients(0, 2, 3), tolerance=LOOSE),
        refuses_indivisible=on(_indivisible, examples=4, beside="groups"),
        carries=on(_both_dtypes, entries, examples=4, beside="groups"),
    ),
    hints=hints("""
        My groups mix the wrong channels
        Reshape first: which five axes make a group's channels an axis of its own?

        My numbers are off
        The batch axis is never reduced here, and gamma still belongs to a channel.

        I don't know how to start
        g = x.reshape(N, num_groups, C // num_groups, H, W); mean and biased variance over axes (2, 3, 4) with
          keepdim; normalize, reshape back, then gamma and beta as (1, C, 1, 1).
        """),
    forbidden=(GROUP_NORM, LAYER_NORM, INSTANCE_NORM, BATCH_NORM),
)

answers = Answers(CLAIMS)


@answers.right
def five_axes(x, num_groups, gamma, beta, eps=1e-5):
    """a fifth axis for the groups"""
    n, c, h, w = x.shape
    if c % num_groups:
        raise ValueError(f"num_groups must divide the {c} channels of x, got {num_groups}")
    axes = (2, 3, 4)
    g = x.reshape(n, num_groups, c // num_groups, h, w)
    mean = g.mean(axes, keepdim=True)
    var = g.var(axes, unbiased=False, keepdim=True)
    x_hat = ((g - mean) / (var + eps).sqrt()).reshape(n, c, h, w)
    return x_hat * gamma.view(1, c, 1, 1) + beta.view(1, c, 1, 1)


answers.edits("""
over_the_batch: all but refuses_indivisible carries
- axes = (2, 3, 4)
+ axes = (0, 2, 3, 4)
You took the statistics over the batch as well.
Each sample stands alone: reduce over the group's channels, H and W, and keep axis 0.

instance_norm: all but refuses_indivisible carries
- axes = (2, 3, 4)
+ axes = (3, 4)
You normalized each channel by itself, whatever num_groups is.
The channels of a group share one mean and one variance: reduce over them too.

layer_norm: all but refuses_indivisible carries
- axes = (2, 3, 4)
+ axes = (1, 2, 3, 4)
You normalized all channels of an image together, whatever num_groups is.
Each group of channels has a mean and a variance of its own: keep the axis of the groups.

each_pixel: all but refuses_indivisible carries
- axes = (2, 3, 4)
+ axes = (2,)
You normalized over the channels of a group at each pixel by itself.
A group's mean and variance run over its pixels, too: reduce over the group's channels, H and W.

interleaved_groups: groups eps gradients
- g = x.reshape(n, num_groups, c // num_groups, h, w)
+ g = x.reshape(n, c // num_groups, num_groups, h, w).transpose(1, 2)
- x_hat = ((g - mean) / (var + eps).sqrt()).reshape(n, c, h, w)
+ x_hat = ((g - mean) / (var + eps).sqrt()).transpose(1, 2).reshape(n, c, h, w)
Your groups take every num_groups-th channel.
A group is a run of neighboring channels: reshape to (N, num_groups, C // num_groups, H, W).

unbiased_variance: all but refuses_indivisible carries
- unbiased=False
+ unbiased=True
You divided by n−1: this is the unbiased variance.
Divide by n: `var(..., unbiased=False)`.

unbiased_std_plus_eps: all but refuses_indivisible carries
- var = g.var(axes, unbiased=False, keepdim=True)
- x_hat = ((g - mean) / (var + eps).sqrt()).reshape(n, c, h, w)
+ std = g.std(axes, keepdim=True)
+ x_hat = ((g - mean) / (std + eps)).reshape(n, c, h, w)
You divided by the std() of torch plus eps: it divides the squares by n−1, and eps comes after the root.
Divide by sqrt(var + eps), with the biased variance, `var(..., unbiased=False)`.

eps_ignored: eps
- (var + eps).sqrt()
+ var.sqrt()
You did not use eps.
Add it to the variance before the root.

eps_fixed: eps
- (var + eps).sqrt()
+ (var + 1e-5).sqrt()
You add 1e-5, whatever eps is.
eps is an argument, and 1e-5 only its default: add eps.

eps_outside_root: eps
- (var + eps).sqrt()
+ (var.sqrt() + eps)
You added eps after the root.
Divide by sqrt(var + eps).

eps_as_least: eps
- (var + eps).sqrt()
+ var.clamp(min=eps).sqrt()
You took eps for the least that the variance may be.
It is added to every variance, however large: divide by sqrt(var + eps).

group_size_for_number: all but refuses_indivisible carries
- axes = (2, 3, 4)
+ num_groups = c // num_groups
+ axes = (2, 3, 4)
You took num_groups for the number of channels in a group.
There are num_groups groups, of C // num_groups channels each.

not_affine: all but refuses_indivisible carries
- x_hat * gamma.view(1, c, 1, 1) + beta.view(1, c, 1, 1)
+ x_hat
You returned the normalized values without gamma and beta.
Scale and shift at the end: gamma * x_hat + beta, one number per channel.

affine_on_last_axis: all but refuses_indivisible carries
- x_hat * gamma.view(1, c, 1, 1) + beta.view(1, c, 1, 1)
+ x_hat * gamma + beta
gamma and beta were broadcast along the width instead of the channels.
Give them the shape (1, C, 1, 1) first: gamma.view(1, -1, 1, 1).

affine_per_group: all but refuses_indivisible carries
- axes = (2, 3, 4)
+ axes = (2, 3, 4)
+ gamma = gamma[:num_groups].repeat_interleave(c // num_groups)
+ beta = beta[:num_groups].repeat_interleave(c // num_groups)
You scaled and shifted per group.
gamma and beta have one number per channel; only the statistics are shared by a group.

divisor_left_to_reshape: refuses_indivisible
- if c % num_groups:
-     raise ValueError(f"num_groups must divide the {c} channels of x, got {num_groups}")
- axes = (2, 3, 4)
- g = x.reshape(n, num_groups, c // num_groups, h, w)
+ axes = (2,)
+ g = x.reshape(n, num_groups, -1)
You leave the check to a reshape: it complains only where num_groups does not divide all C·H·W values, and
  cuts through channels elsewhere.
Raise a ValueError when C % num_groups is not 0.

detached_statistics: gradients
- g.mean(axes, keepdim=True)
+ g.mean(axes, keepdim=True).detach()
- g.var(axes, unbiased=False, keepdim=True)
+ g.var(axes, unbiased=False, keepdim=True).detach()
Your mean and variance are cut from the graph, so the gradient treats them as constants.
Leave out detach, .data and no_grad: the statistics depend on x.

in_place: gradients carries
- mean = g.mean(axes, keepdim=True)
- var = g.var(axes, unbiased=False, keepdim=True)
- x_hat = ((g - mean) / (var + eps).sqrt()).reshape(n, c, h, w)
+ g -= g.mean(axes, keepdim=True)
+ g /= ((g**2).mean(axes, keepdim=True) + eps).sqrt()
+ x_hat = x
You modified x in place: a view or a reshape of x is x itself (-=, /= or a method that ends in _).
Write g - mean into a new name: the caller's tensor and the graph need the old one.

float32_returned: carries
- return x_hat * gamma.view(1, c, 1, 1) + beta.view(1, c, 1, 1)
+ return (x_hat * gamma.view(1, c, 1, 1) + beta.view(1, c, 1, 1)).float()
Your result is float32, also for float64.
Compute in the dtype of x; what you make yourself takes it from there, as x.new_zeros(…) does.

double_returned: carries
- axes = (2, 3, 4)
+ x, axes = x.double(), (2, 3, 4)
Your result is float64, also for float32.
Compute in x's dtype, or convert back at the end: `.to(x.dtype)`.
""")


@answers.wrong("refuses_indivisible")
def uneven_groups(x, num_groups, gamma, beta, eps=1e-5):
    """You accept channels that cannot be split evenly.

    Raise a ValueError when C % num_groups is not 0.
    """
    parts = []
    for part in x.split(-(-x.shape[1] // num_groups), dim=1):
        mean, var = part.mean((1, 2, 3), keepdim=True), part.var((1, 2, 3), unbiased=False, keepdim=True)
        parts.append((part - mean) / (var + eps).sqrt())
    return torch.cat(parts, 1) * gamma.view(1, -1, 1, 1) + beta.view(1, -1, 1, 1)


@answers.right
def looped(x, num_groups, gamma, beta, eps=1e-5):
    """a loop over samples and groups"""
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


@answers.right
def averaging_matrix(x, num_groups, gamma, beta, eps=1e-5):
    """a block matrix between channels"""
    c = x.shape[1]
    if c % num_groups:
        raise ValueError(f"num_groups must divide {c}, got {num_groups}")
    member = torch.arange(c, device=x.device) // (c // num_groups)
    blocks = (member[:, None] == member[None, :]).to(x.dtype) * num_groups / c
    mean = torch.einsum("kc,nc->nk", blocks, x.mean((2, 3)))[:, :, None, None]
    var = torch.einsum("kc,nc->nk", blocks, ((x - mean) ** 2).mean((2, 3)))[:, :, None, None]
    return (x - mean) * torch.rsqrt(var + eps) * gamma[:, None, None] + beta[:, None, None]


EXERCISE = answers.exercise()
