"""The exercise bed_of_nails of lecture 05: each value becomes a nail."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from autograder.catalog.forbidden import CONV_TRANSPOSE, MAX_UNPOOL
from autograder.catalog.observations import gradients
from autograder.catalog.upsampling.draws import (
    carries_by_name,
    in_double,
    maps,
    nails,
    nearest,
    single_precision,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import upsampling as reference


def _nails_case(d: Draw) -> Case:
    return Case((maps(d), d.choice([3, 2, 4, 1])))


def _nails_bottom_right(x, factor):
    return nails(x, factor, factor - 1)


def _nails_centered(x, factor):
    return nails(x, factor, factor // 2)


def _nails_no_tail(x, factor):
    return nails(x, factor)[..., : factor * (x.shape[2] - 1) + 1, : factor * (x.shape[3] - 1) + 1]


def _nails_corner(x, factor):
    N, C, H, W = x.shape
    out = x.new_zeros(N, C, factor * H, factor * W)
    out[..., :H, :W] = x
    return out


def _nails_detached(x, factor):
    return nails(x.detach(), factor)


def _nails_default_dtype(x, factor):
    N, C, H, W = x.shape
    out = torch.zeros(N, C, factor * H, factor * W, device=x.device)
    out[..., ::factor, ::factor] = x
    return out


def _nails_mask(x, factor):
    big = nearest(x, factor)
    rows = torch.arange(big.shape[2], device=x.device) % factor == 0
    columns = torch.arange(big.shape[3], device=x.device) % factor == 0
    return big * (rows[:, None] & columns)


def _nails_stack(x, factor):
    N, C, H, W = x.shape
    zero = torch.zeros_like(x)
    wide = torch.stack([x] + [zero] * (factor - 1), dim=4).reshape(N, C, H, W * factor)
    zero = torch.zeros_like(wide)
    return torch.stack([wide] + [zero] * (factor - 1), dim=3).reshape(N, C, H * factor, W * factor)


def _nails_pad(x, factor):
    N, C, H, W = x.shape
    cells = x.reshape(N, C, H, 1, W, 1)
    cells = F.pad(cells, (0, factor - 1, 0, 0, 0, factor - 1))
    return cells.reshape(N, C, H * factor, W * factor)


EXERCISE = Exercise(
    id="bed_of_nails",
    topic="upsampling",
    title="Each value becomes a nail",
    reference=reference.bed_of_nails,
    minutes=5,
    difficulty=1,
    properties=(
        Property(
            "nails",
            "each value at the top left of its factor×factor block, zeros elsewhere",
            1.0,
            _nails_case,
        ),
        Property(
            "gradients",
            "gradients flow back to x",
            0.5,
            _nails_case,
            gradients(0),
            tried="the gradient of the output's inner product with fixed random numbers",
        ),
        Property(
            "carries",
            "float32 stays float32, and x is not modified in place",
            0.5,
            single_precision,
            carries_by_name("x", "factor"),
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "bottom_right",
            "Your nails stand at the bottom right of their blocks.",
            "Top left is index 0 of each block: out[..., ::factor, ::factor].",
            ("nails", "gradients"),
            _nails_bottom_right,
        ),
        Misconception(
            "in_the_middle",
            "Your nails stand in the middle of their blocks.",
            "Top left is index 0 of each block: out[..., ::factor, ::factor].",
            ("nails", "gradients"),
            _nails_centered,
        ),
        Misconception(
            "last_zeros_missing",
            "You put zeros between the values, but none after the last one.",
            "Every value has a whole block, the last one too: the result is (factor·H, factor·W).",
            ("nails", "gradients", "carries"),
            _nails_no_tail,
        ),
        Misconception(
            "all_in_one_corner",
            "You copied the map into the top left corner as it is.",
            "Spread the values out: factor pixels from one to the next.",
            ("nails", "gradients"),
            _nails_corner,
        ),
        Misconception(
            "value_repeated",
            "You filled each block with its value: that is the nearest neighbor.",
            "Only the top left pixel of the block has the value, the others are 0.",
            ("nails", "gradients"),
            nearest,
        ),
        Misconception(
            "detached",
            "Your result is cut from the graph, so no gradient reaches x.",
            "Leave out detach, .data, .item() and no_grad; writing x into a slice of a new tensor keeps the graph.",
            ("gradients",),
            _nails_detached,
        ),
        Misconception(
            "default_dtype",
            "Your zeros are float32 whatever x is.",
            "x.new_zeros(...) makes zeros of the dtype and on the device of x.",
            ("nails",),
            _nails_default_dtype,
        ),
        Misconception(
            "always_float64",
            "Your result is float64 whatever x was.",
            "x.new_zeros(...) makes zeros of the dtype and on the device of x.",
            ("carries",),
            in_double(nails),
        ),
    ),
    right=(
        Variant("nearest neighbor times a mask", _nails_mask),
        Variant("stacked with zeros", _nails_stack),
        Variant("blocks padded with zeros", _nails_pad),
    ),
    hints=(
        Hint(
            "I don't know what size to make", "Each value owns factor×factor pixels, the last ones included."
        ),
        Hint("No gradient arrives", "Write x itself into the zeros, not its numbers."),
        Hint(
            "I don't know how to start",
            "out = x.new_zeros(N, C, factor * H, factor * W), then assign x to out[..., ::factor, ::factor].",
        ),
    ),
    forbidden=(CONV_TRANSPOSE, MAX_UNPOOL),
)
