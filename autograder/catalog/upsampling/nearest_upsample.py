"""The exercise nearest_upsample of lecture 05: each value becomes a block."""

from __future__ import annotations

import torch

from autograder.catalog.forbidden import CONV_TRANSPOSE, INTERPOLATE
from autograder.catalog.upsampling.draws import (
    carries_by_name,
    each,
    in_double,
    maps,
    nails,
    nearest,
    single_precision,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import upsampling as reference


def _blocks_case(d: Draw) -> Case:
    return Case((maps(d), d.choice([2, 3])))


def _narrow_case(d: Draw) -> Case:
    calls = {
        "one row, factor 4": (d.tensor(1, 2, 1, 3), 4),
        "one column, factor 5": (d.tensor(2, 1, 3, 1), 5),
        "one value, factor 2": (d.tensor(1, 1, 1, 1), 2),
        "factor 1": (d.tensor(1, 1, 5, 4), 1),
    }
    return Case((), {}, calls)


def _nearest_tiled(x, factor):
    return x.repeat(1, 1, factor, factor)


def _nearest_rows_only(x, factor):
    return x.repeat_interleave(factor, dim=2)


def _nearest_wrong_axes(x, factor):
    return x.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def _nearest_flat(x, factor):
    N, C, H, W = x.shape
    return x.repeat_interleave(factor * factor).reshape(N, C, factor * H, factor * W)


def _nearest_nails(x, factor):
    return nails(x, factor)


def _nearest_index(x, factor):
    rows = torch.arange(factor * x.shape[2], device=x.device) // factor
    columns = torch.arange(factor * x.shape[3], device=x.device) // factor
    return x[:, :, rows][:, :, :, columns]


def _nearest_expand(x, factor):
    N, C, H, W = x.shape
    blocks = x[:, :, :, None, :, None].expand(N, C, H, factor, W, factor)
    return blocks.reshape(N, C, H * factor, W * factor)


def _nearest_loop(x, factor):
    rows = []
    for i in range(x.shape[2]):
        row = torch.cat([x[:, :, i, j : j + 1] for j in range(x.shape[3]) for _ in range(factor)], dim=2)
        rows += [row] * factor
    return torch.stack(rows, dim=2)


EXERCISE = Exercise(
    id="nearest_upsample",
    topic="upsampling",
    title="Each value becomes a block",
    reference=reference.nearest_upsample,
    minutes=4,
    difficulty=1,
    properties=(
        Property("blocks", "each value is repeated factor×factor times, as one block", 1.0, _blocks_case),
        Property(
            "narrow",
            "maps of one row, one column or one value; factor 1",
            0.5,
            _narrow_case,
            each,
            examples=2,
            tried="nearest_upsample for each of these",
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
            "map_repeated",
            "You repeated the whole map like tiles, instead of each value.",
            "x.repeat copies the map; x.repeat_interleave along an axis copies its entries one by one.",
            ("blocks", "narrow"),
            _nearest_tiled,
        ),
        Misconception(
            "rows_only",
            "You repeated the rows and not the columns.",
            "Do the same along axis 3.",
            ("blocks", "narrow", "carries"),
            _nearest_rows_only,
        ),
        Misconception(
            "axes_off_by_one",
            "You repeated along axes 1 and 2: the channels and the rows.",
            "In (N, C, H, W) the rows are axis 2 and the columns axis 3.",
            ("blocks", "narrow", "carries"),
            _nearest_wrong_axes,
        ),
        Misconception(
            "flattened_first",
            "You repeated the flattened values, so the factor² copies of a value lie in one line.",
            "Repeat along axis 2 and along axis 3, each factor times.",
            ("blocks", "narrow"),
            _nearest_flat,
        ),
        Misconception(
            "zeros_between",
            "You put zeros around each value: that is the bed of nails.",
            "Fill the whole block with the value.",
            ("blocks", "narrow"),
            _nearest_nails,
        ),
        Misconception(
            "always_float64",
            "Your result is float64 whatever x was.",
            "Make the result from x, or with x.new_zeros, so that it keeps the dtype.",
            ("carries",),
            in_double(nearest),
        ),
    ),
    right=(
        Variant("integer division of the index", _nearest_index),
        Variant("expand and reshape", _nearest_expand),
        Variant("a loop", _nearest_loop),
    ),
    hints=(
        Hint(
            "The picture repeats itself",
            "You need copies of each value next to it, not copies of the whole map.",
        ),
        Hint(
            "The shape is right, the values are mixed up",
            "Work along one axis at a time: first every row factor times, then every column.",
        ),
        Hint(
            "I don't know how to start", "x.repeat_interleave(factor, dim=2), and then the same with dim=3."
        ),
    ),
    forbidden=(INTERPOLATE, CONV_TRANSPOSE),
)
