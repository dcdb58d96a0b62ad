"""The exercise crop_and_concat of lecture 07: the skip, cropped to the middle and put in front."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from autograder.attempt import Raised, Subject
from autograder.catalog.observations import carries, described, gradients, numbers
from autograder.catalog.unet.draws import (
    LOOSE,
    cut,
    fits,
    floor,
    skip_corner,
    skip_indexed,
    skip_narrowed,
    skip_negative_padding,
    skip_up_first,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import unet as reference


def _skip_case(extra_rows: Sequence[int], extra_columns: Sequence[int]) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        n, c, c_up = d.choice([2, 1]), d.choice([1, 2, 3]), d.choice([2, 1, 3])
        h, w = d.choice([2, 1, 3]), d.choice([3, 2, 5])
        rows, columns = d.choice(extra_rows), d.choice(extra_columns)
        if d.flag():
            rows, columns = columns, rows
        skip = d.layout(d.tensor(n, c, h + rows, w + columns))
        return Case((skip, d.tensor(n, c_up, h, w)))

    return draw


def _up_too_large(d: Draw) -> Case:
    """Larger along one side, or along both: every way a crop could be negative."""
    h, w = d.integer(3, 6), d.integer(3, 6)
    more = [(d.integer(1, 2), 0), (0, d.integer(1, 2)), (2, 3), (1, -1), (-2, 2)]
    ups = [d.tensor(1, 2, h + rows, w + columns) for rows, columns in more]
    return Case(extra={"skip": d.tensor(1, 2, h, w), "ups": ups})


def _refuses_ups(subject: Subject, case: Case) -> dict[str, str]:
    skip = case.extra["skip"]
    found = {}
    for up in case.extra["ups"]:
        try:
            answer = f"accepted: {described(subject(skip, up))}"
        except Raised as raised:
            if "NotImplementedError" in raised.kinds:
                raise
            kind = "ValueError" if "ValueError" in raised.kinds else raised.kinds[0]
            answer = f"refused with a {kind}"
        found[f"skip {tuple(skip.shape[2:])}, up {tuple(up.shape[2:])}"] = answer
    return found


def _skip_kinds(d: Draw) -> Case:
    dtype = d.choice([torch.float64, torch.float32])
    args = (d.tensor(2, 2, 8, 5, dtype=dtype), d.tensor(2, 1, 4, 3, dtype=dtype))
    return Case(tuple(d.layout(a) for a in args))


def _skip_extra_top(skip, up):
    return torch.cat([cut(skip, up, lambda difference: (difference + 1) // 2), up], 1)


def _skip_rounded(skip, up):
    return torch.cat([cut(skip, up, lambda difference: round(difference / 2)), up], 1)


def _skip_both_sides(skip, up):
    fits(skip, up)
    top, left = (skip.shape[2] - up.shape[2]) // 2, (skip.shape[3] - up.shape[3]) // 2
    return torch.cat([skip[:, :, top : skip.shape[2] - top, left : skip.shape[3] - left], up], 1)


def _skip_minus_zero(skip, up):
    fits(skip, up)
    rows, columns = skip.shape[2] - up.shape[2], skip.shape[3] - up.shape[3]
    top, left = rows // 2, columns // 2
    return torch.cat([skip[:, :, top : top - rows, left : left - columns], up], 1)


def _skip_square(skip, up):
    fits(skip, up)
    h, w = up.shape[2:]
    start = (skip.shape[2] - h) // 2
    return torch.cat([skip[:, :, start : start + h, start : start + w], up], 1)


def _skip_resized(skip, up):
    fits(skip, up)
    return torch.cat([F.interpolate(skip, size=up.shape[2:], mode="bilinear"), up], 1)


def _skip_padded(skip, up):
    fits(skip, up)
    rows, columns = skip.shape[2] - up.shape[2], skip.shape[3] - up.shape[3]
    top, left = rows // 2, columns // 2
    return torch.cat([skip, F.pad(up, (left, columns - left, top, rows - top))], 1)


def _skip_stacked(skip, up):
    return torch.cat([cut(skip, up, floor), up], 0)


def _skip_unrefused(skip, up):
    h, w = up.shape[2:]
    top, left = (skip.shape[2] - h) // 2, (skip.shape[3] - w) // 2
    return torch.cat([skip[:, :, top : top + h, left : left + w], up], 1)


def _skip_up_padded_in(skip, up):
    """F.pad crops where it is given negative numbers, and pads with zeros where skip is the smaller one."""
    rows, columns = up.shape[2] - skip.shape[2], up.shape[3] - skip.shape[3]
    top, left = -(-rows // 2), -(-columns // 2)
    return torch.cat([F.pad(skip, (left, columns - left, top, rows - top)), up], 1)


def _skip_rows_only_refused(skip, up):
    if skip.shape[2] < up.shape[2]:
        raise ValueError(f"up must be no larger than skip, got {up.shape[2]} rows")
    return _skip_unrefused(skip, up)


def _skip_refused_if_both(skip, up):
    if skip.shape[2] < up.shape[2] and skip.shape[3] < up.shape[3]:
        raise ValueError(f"up must be no larger than skip, got {tuple(up.shape[2:])}")
    return _skip_unrefused(skip, up)


def _skip_detached(skip, up):
    return torch.cat([cut(skip, up, floor).detach(), up], 1)


def _skip_default_dtype(skip, up):
    cropped = cut(skip, up, floor)
    joined = torch.zeros(len(up), cropped.shape[1] + up.shape[1], *up.shape[2:], device=up.device)
    joined[:, : cropped.shape[1]] = cropped
    joined[:, cropped.shape[1] :] = up
    return joined


EXERCISE = Exercise(
    id="crop_and_concat",
    topic="unet",
    title="The skip, cropped to the middle and put in front",
    reference=reference.crop_and_concat,
    minutes=10,
    difficulty=2,
    properties=(
        Property(
            "joined",
            "the middle of skip, its channels before those of up",
            0.5,
            _skip_case([2, 4], [4, 6]),
            numbers,
            tolerance=LOOSE,
        ),
        Property(
            "odd",
            "where the difference is odd, the extra row or column is cropped at the bottom or right",
            0.5,
            _skip_case([1, 5], [3, 7]),
            numbers,
            tolerance=LOOSE,
        ),
        Property(
            "same_size",
            "nothing is cropped along a side that fits already",
            0.25,
            _skip_case([0], [2, 0]),
            numbers,
            tolerance=LOOSE,
        ),
        Property(
            "refuses_larger_up",
            "an up that is larger than skip, along either side, is refused with a ValueError",
            0.25,
            _up_too_large,
            _refuses_ups,
            examples=3,
        ),
        Property(
            "gradients",
            "gradients reach both inputs",
            0.25,
            _skip_case([2, 4], [4, 6]),
            gradients(0, 1),
            tolerance=LOOSE,
            examples=4,
        ),
        Property("carries", "the dtype is kept and the inputs are not modified", 0.25, _skip_kinds, carries),
    ),
    misconceptions=(
        Misconception(
            "up_first",
            "You put the channels of up in front.",
            "Skip first: torch.cat([skip, up], dim=1).",
            ("joined", "odd", "same_size", "gradients"),
            skip_up_first,
        ),
        Misconception(
            "corner_cropped",
            "You kept the top left corner of skip.",
            "Keep its middle: begin at (H − h) // 2 and (W − w) // 2.",
            ("joined", "odd", "same_size", "gradients"),
            skip_corner,
        ),
        Misconception(
            "extra_at_the_top",
            "Where the difference is odd you cropped the extra row or column at the top or left.",
            "Round the start down: (H − h) // 2.",
            ("odd",),
            _skip_extra_top,
        ),
        Misconception(
            "rounded_to_even",
            "Your start is rounded: Python's round takes halves to the even number, so 1.5 becomes 2.",
            "Round down: (H − h) // 2.",
            ("odd",),
            _skip_rounded,
        ),
        Misconception(
            "same_from_both_sides",
            "You crop the same number of rows from both sides, which leaves one too many where the difference is odd.",
            "Begin at (H − h) // 2 and take h rows from there: [top : top + h].",
            ("odd",),
            _skip_both_sides,
        ),
        Misconception(
            "empty_slice",
            "Where nothing is to be cropped your slice [0 : -0] is empty.",
            "Say where the crop ends instead of how far from the end: [top : top + h].",
            ("same_size",),
            _skip_minus_zero,
        ),
        Misconception(
            "square_only",
            "You crop columns by the rows' difference.",
            "Rows and columns each have their own: (H − h) // 2 and (W − w) // 2.",
            ("joined", "odd", "same_size", "gradients"),
            _skip_square,
        ),
        Misconception(
            "skip_resized",
            "You shrank the skip instead of cropping it.",
            "Features must stay where they are: cut the middle out, pixel for pixel.",
            ("joined", "odd", "same_size", "gradients"),
            _skip_resized,
        ),
        Misconception(
            "up_padded",
            "You padded up to the size of skip.",
            "Crop skip to the size of up: the padded border would be made up.",
            ("joined", "odd", "same_size", "gradients", "carries"),
            _skip_padded,
        ),
        Misconception(
            "stacked_as_images",
            "You joined along the first axis, as if these were more images.",
            "Join channels: torch.cat([skip, up], dim=1).",
            ("joined", "odd", "same_size", "gradients", "carries"),
            _skip_stacked,
        ),
        Misconception(
            "larger_up_not_refused",
            "You leave an up that is larger than skip to torch: a negative start counts from the end.",
            "Compare the sizes first and raise a ValueError that names up.",
            ("refuses_larger_up",),
            _skip_unrefused,
        ),
        Misconception(
            "larger_up_filled",
            "Where up is larger than skip you fill skip up with zeros.",
            "Raise a ValueError there: in a U-Net of valid convolutions it is a mistake in the sizes.",
            ("refuses_larger_up",),
            _skip_up_padded_in,
        ),
        Misconception(
            "refused_if_both",
            "You refuse an up that is larger along both sides, and let one pass that is larger along one.",
            "Either is too much: or, not and.",
            ("refuses_larger_up",),
            _skip_refused_if_both,
        ),
        Misconception(
            "only_rows_compared",
            "You compare the numbers of rows only.",
            "Compare the columns too before you crop.",
            ("refuses_larger_up",),
            _skip_rows_only_refused,
        ),
        Misconception(
            "skip_detached",
            "No gradient reaches skip.",
            "Leave out detach(), .data and no_grad(): the contracting path learns through the skips as well.",
            ("gradients",),
            _skip_detached,
        ),
        Misconception(
            "default_dtype",
            "Your result is float32 whatever came in.",
            "torch.cat keeps the dtype; where you allocate, take it from an input: skip.new_zeros(...).",
            ("carries",),
            _skip_default_dtype,
        ),
    ),
    right=(
        Variant("narrow, one axis after the other", skip_narrowed),
        Variant("padding by negative numbers", skip_negative_padding),
        Variant("indices into an empty result", skip_indexed),
    ),
    hints=(
        Hint(
            "The result is shifted against the skip",
            "How many rows are too many, and how many of them lie above the middle?",
        ),
        Hint(
            "It fails for some sizes only",
            "Try a difference of 0 and a difference of 3 by hand. Which rows does your slice keep?",
        ),
        Hint(
            "I don't know how to put it together",
            "h, w = up.shape[2:]; top, left = (H − h) // 2, (W − w) // 2, a ValueError if either is negative; torch.cat([skip[:, :, top : top + h, left : left + w], up], dim=1).",
        ),
    ),
)
