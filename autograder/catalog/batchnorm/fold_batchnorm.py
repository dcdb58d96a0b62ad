"""The exercise fold_batchnorm of lecture 02: fold the layer into the convolution before it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.batchnorm.draws import LOOSE
from autograder.catalog.observations import applied, described, draw_statistics, filled
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden, Hint, Misconception, Property, Variant
from autograder.values import Network
from coursekit import batchnorm as reference


def _trained_norm(d: Draw, c: int, *, affine: bool = True, eps: float = 1e-5) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(c, affine=affine, eps=eps).double().eval()
    draw_statistics(d, bn)
    if affine:
        with torch.no_grad():
            bn.weight.copy_(d.positive(c, low=0.5, high=3.0))
            bn.bias.copy_(d.tensor(c))
    return bn


def _fold_case(make: Callable[[Draw], nn.Conv2d], **norm: Sequence[Any]) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        conv = filled(d, make(d), scale=1.0)
        options = {name: d.choice(choices) for name, choices in norm.items()}
        bn = _trained_norm(d, conv.out_channels, **options)
        x = d.tensor(2, conv.in_channels, d.integer(5, 7), d.integer(5, 8))
        return Case((Network.describe(conv), Network.describe(bn)), {}, {"x": x})

    return draw


def _plain_conv(d: Draw) -> nn.Conv2d:
    sizes: list[int | tuple[int, int]] = [1, 3, (2, 3)]
    return nn.Conv2d(d.integer(1, 3), d.integer(2, 4), d.choice(sizes))


def _special_conv(d: Draw) -> nn.Conv2d:
    groups = d.integer(2, 3)
    strides: list[int | tuple[int, int]] = [2, (1, 2)]
    paddings: list[int | tuple[int, int]] = [1, (1, 0)]
    return nn.Conv2d(
        groups * d.integer(1, 2), groups * d.integer(1, 2), d.choice([2, 3]), groups=groups,
        stride=d.choice(strides), padding=d.choice(paddings), dilation=d.choice([1, 2]),
    )  # fmt: skip


def _bare_conv(d: Draw) -> nn.Conv2d:
    return nn.Conv2d(d.integer(1, 3), d.integer(2, 4), d.choice([1, 3]), bias=False)


def _fold_safely(d: Draw) -> Case:
    conv = filled(d, _plain_conv(d), scale=1.0).train(d.flag())
    return Case((Network.describe(conv), Network.describe(_trained_norm(d, conv.out_channels))))


def _folds_apart(subject: Subject, case: Case) -> Any:
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
    root = (bn.get_buffer("running_var") + bn.eps).sqrt()
    return root.reciprocal() if bn.weight is None else bn.weight / root


def _shift(bn: nn.BatchNorm2d) -> torch.Tensor | float:
    return 0.0 if bn.bias is None else bn.bias


def _like(conv, weight, bias):
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


EXERCISE = Exercise(
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
            applied("x"),
            tolerance=LOOSE,
            tried="fold_batchnorm(conv, bn)(x)",
        ),
        Property(
            "eps",
            "the batch norm's own eps is part of the scale",
            0.5,
            _fold_case(_plain_conv, eps=[0.5, 0.1]),
            applied("x"),
            tried="fold_batchnorm(conv, bn)(x)",
        ),
        Property(
            "geometry",
            "stride, padding, dilation and groups carry over",
            0.75,
            _fold_case(_special_conv),
            applied("x"),
            tolerance=LOOSE,
            tried="fold_batchnorm(conv, bn)(x)",
        ),
        Property(
            "without_bias",
            "a convolution without bias can be folded",
            0.5,
            _fold_case(_bare_conv),
            applied("x"),
            tolerance=LOOSE,
            tried="fold_batchnorm(conv, bn)(x)",
        ),
        Property(
            "without_affine",
            "a batch norm with affine=False can be folded",
            0.25,
            _fold_case(_plain_conv, affine=[False]),
            applied("x"),
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
