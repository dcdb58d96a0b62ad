"""The exercise group_norm of lecture 02: statistics that need no batch."""

from __future__ import annotations

import torch

from autograder.catalog.batchnorm.draws import LOOSE, affine, spread
from autograder.catalog.forbidden import BATCH_NORM, GROUP_NORM, INSTANCE_NORM, LAYER_NORM
from autograder.catalog.observations import carries, gradients
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
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


EXERCISE = Exercise(
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
