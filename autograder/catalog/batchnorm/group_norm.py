"""The exercise group_norm of lecture 02: statistics that need no batch."""

import torch

from autograder.catalog.answers import Answers
from autograder.catalog.batchnorm.draws import LOOSE, affine, spread
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import BATCH_NORM, GROUP_NORM, INSTANCE_NORM, LAYER_NORM
from autograder.catalog.observations import carries, gradients
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import batchnorm as reference


def _grouped(d: Draw, groups: int, per_group: int, dtype: torch.dtype = torch.float64) -> Case:
    c = groups * per_group
    x = spread(d, d.integer(2, 3), c, d.integer(2, 4), d.integer(2, 5)).to(dtype)
    # Far apart, so that no four values of a channel come out alike by chance and show eps.
    x = x + 4 * (torch.arange(x.shape[3]) % 2)
    return Case((x.to(dtype), groups, *affine(d, c, dtype=dtype)))


def _proper_groups(d: Draw) -> Case:
    return _grouped(d, *_groups(d))


def _groups(d: Draw) -> tuple[int, int]:
    """Of different number and size, so that the one taken for the other shows."""
    return d.choice([(2, 3), (3, 2), (2, 4)])


def _extreme_groups(d: Draw) -> Case:
    c = d.integer(2, 4)
    groups = d.choice([1, c])
    return _grouped(d, groups, c // groups)


def _group_eps(d: Draw) -> Case:
    case = _proper_groups(d)
    x, *rest = case.args
    return Case((x * 0.1, *rest), {"eps": d.choice([0.1, 0.5, 1e-2])})


def _indivisible(d: Draw) -> Case:
    groups = d.integer(2, 4)
    c = groups * d.integer(1, 2) + d.integer(1, groups - 1)
    return Case((d.tensor(2, c, 2, 3), groups, *affine(d, c)))


def _group_float32(d: Draw) -> Case:
    return _grouped(d, *_groups(d), torch.float32)


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
        eps (0.25): eps is added to the variance, inside the root
        gradients (0.5): gradients flow to x, gamma and beta, through the statistics as well
        tried: the gradient of the output's inner product with fixed random numbers
        refuses_indivisible (0.5): channels that num_groups does not divide are refused with a ValueError
        carries (0.25): float32 stays float32, and no argument is modified in place
        """,
        groups=on(_proper_groups, tolerance=LOOSE),
        layer_and_instance=on(_extreme_groups, tolerance=LOOSE),
        eps=on(_group_eps),
        gradients=on(_proper_groups, gradients(0, 2, 3), tolerance=LOOSE),
        refuses_indivisible=on(_indivisible, examples=4, beside="groups"),
        carries=on(_group_float32, carries, examples=4, beside="groups"),
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

eps_outside_root: eps
- (var + eps).sqrt()
+ (var.sqrt() + eps)
You added eps after the root.
Divide by sqrt(var + eps).

group_size_for_number: all but refuses_indivisible carries
- axes = (2, 3, 4)
+ num_groups = c // num_groups
+ axes = (2, 3, 4)
You took num_groups for the number of channels in a group.
There are num_groups groups, of C // num_groups channels each.

affine_per_group: all but refuses_indivisible carries
- axes = (2, 3, 4)
+ axes = (2, 3, 4)
+ gamma = gamma[:num_groups].repeat_interleave(c // num_groups)
+ beta = beta[:num_groups].repeat_interleave(c // num_groups)
You scaled and shifted per group.
gamma and beta have one number per channel; only the statistics are shared by a group.

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

double_returned: carries
- axes = (2, 3, 4)
+ x, axes = x.double(), (2, 3, 4)
You computed in float64, and returned float64 for float32.
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
