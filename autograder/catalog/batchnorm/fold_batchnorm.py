"""The exercise fold_batchnorm of lecture 02: fold the layer into the convolution before it."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.batchnorm.draws import LOOSE
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import applied, described, draw_statistics, filled
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden
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


CLAIMS = Exercise(
    id="fold_batchnorm",
    topic="batchnorm",
    title="Fold the layer into the convolution before it",
    reference=reference.fold_batchnorm,
    minutes=20,
    difficulty=3,
    properties=claims(
        """
        same_output (1.5): the folded convolution gives what the two layers give in eval mode
        tried: fold_batchnorm(conv, bn)(x)
        eps (0.5): the batch norm's own eps is part of the scale
        tried: fold_batchnorm(conv, bn)(x)
        geometry (0.75): stride, padding, dilation and groups carry over
        tried: fold_batchnorm(conv, bn)(x)
        without_bias (0.5): a convolution without bias can be folded
        tried: fold_batchnorm(conv, bn)(x)
        without_affine (0.25): a batch norm with affine=False can be folded
        tried: fold_batchnorm(conv, bn)(x)
        originals (0.5): a new nn.Conv2d in the convolution's mode; conv and bn stay as they were
        tried: conv, bn and the result looked at afterwards
        """,
        same_output=on(_fold_case(_plain_conv), applied("x"), tolerance=LOOSE),
        eps=on(_fold_case(_plain_conv, eps=[0.5, 0.1]), applied("x")),
        geometry=on(_fold_case(_special_conv), applied("x"), tolerance=LOOSE),
        without_bias=on(_fold_case(_bare_conv), applied("x"), tolerance=LOOSE),
        without_affine=on(_fold_case(_plain_conv, affine=[False]), applied("x"), tolerance=LOOSE),
        originals=on(_fold_safely, _folds_apart, examples=4, beside="same_output"),
    ),
    hints=hints("""
        I don't know what folding means
        In eval mode the batch norm is a line per channel: y = scale·x + shift. Which numbers are scale and
          shift?

        The weights fit, but the output is shifted
        Scale the filter that makes the channel; the old bias goes through the same line.

        It breaks without a bias or without gamma and beta
        scale = gamma / sqrt(running_var + eps); weight' = weight · scale.view(-1, 1, 1, 1); bias' = (bias −
          running_mean)·scale + beta, with 0 for a missing bias or beta and 1 for a missing gamma.
        """),
    forbidden=(Forbidden("torch.nn.utils.fusion", ("torch.nn.utils.fusion.",)),),
)

answers = Answers(CLAIMS)


@answers.right
def in_a_copy(conv, bn):
    """scale and bias, written into a copy"""
    gamma = 1 if bn.weight is None else bn.weight
    beta = 0 if bn.bias is None else bn.bias
    bias = 0 if conv.bias is None else conv.bias
    scale = gamma / (bn.running_var + bn.eps).sqrt()
    folded = copy.deepcopy(conv)
    with torch.no_grad():
        folded.weight.mul_(scale.view(-1, 1, 1, 1))
        folded.bias = nn.Parameter((bias - bn.running_mean) * scale + beta)
    return folded


answers.edits("""
mean_forgotten: all but originals
- (bias - bn.running_mean) * scale + beta
+ bias * scale + beta
You did not subtract the running mean.
The new bias is (b − running_mean)·scale + beta.

bias_not_scaled: all but without_bias originals
- (bias - bn.running_mean) * scale + beta
+ bias - bn.running_mean * scale + beta
You added the old bias without scaling it.
The batch norm scales all that reaches it: (b − running_mean)·scale + beta.

bias_dropped: all but without_bias originals
- (bias - bn.running_mean) * scale + beta
+ -bn.running_mean * scale + beta
You dropped the convolution's own bias.
It goes through the batch norm too: (b − running_mean)·scale + beta.

only_the_weight: all but originals
- folded.bias = nn.Parameter((bias - bn.running_mean) * scale + beta)
You scaled the weight and left the bias as it was.
The bias changes too: (b − running_mean)·scale + beta.

eps_forgotten: eps
- (bn.running_var + bn.eps).sqrt()
+ bn.running_var.sqrt()
You left out eps.
scale = gamma / sqrt(running_var + bn.eps).

variance_without_root: all but originals
- (bn.running_var + bn.eps).sqrt()
+ (bn.running_var + bn.eps)
You divided by the variance.
scale = gamma / sqrt(running_var + eps): the root is missing.

default_geometry: geometry
- folded = copy.deepcopy(conv)
+ folded = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size).train(conv.training)
- folded.weight.mul_(scale.view(-1, 1, 1, 1))
+ folded.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1))
You built the new convolution with the default stride, padding, dilation and groups.
Hand all of conv.stride, conv.padding, conv.dilation and conv.groups on.

affine_required: without_affine
- gamma = 1 if bn.weight is None else bn.weight
- beta = 0 if bn.bias is None else bn.bias
+ gamma, beta = bn.weight, bn.bias
You used bn.weight and bn.bias, which are None with affine=False.
Take 1 and 0 there.

bias_required: without_bias
- bias = 0 if conv.bias is None else conv.bias
+ bias = conv.bias
You used conv.bias, which is None in a convolution without bias.
Take 0 there; the folded convolution always needs a bias.

in_place: originals
- folded = copy.deepcopy(conv)
+ folded = conv
You changed the convolution that was handed in.
Copy it first (copy.deepcopy(conv)), then write into the copy.

mode_not_kept: originals
- return folded
+ return folded.train(not conv.training)
The folded convolution is not in the mode of the one that was handed in.
folded.train(conv.training) sets it.
""")


@answers.right
def deep_copy(conv, bn):
    """a deep copy, rewritten"""
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


@answers.right
def probed(conv, bn):
    """probed at 0 and 1, filter by filter"""
    channels = conv.out_channels
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups, True, conv.padding_mode)
    folded = nn.Conv2d(conv.in_channels, channels, conv.kernel_size, *geometry).to(conv.weight)
    with torch.no_grad():
        std = (bn.running_var + bn.eps) ** 0.5
        gamma = bn.weight if bn.affine else torch.ones_like(std)
        beta = bn.bias if bn.affine else torch.zeros_like(std)
        at_zero = gamma * (0 - bn.running_mean) / std + beta
        at_one = gamma * (1 - bn.running_mean) / std + beta
        for k in range(channels):
            folded.weight[k] = conv.weight[k] * (at_one[k] - at_zero[k])
        folded.bias.copy_(at_zero if conv.bias is None else at_zero + (at_one - at_zero) * conv.bias)
    return folded.train(conv.training)


EXERCISE = answers.exercise()
