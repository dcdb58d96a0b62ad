"""Exercises of lecture 07 that build the network: output size, skips, two convolutions, the whole.

Nobody is told what to call the layers of a network. Parameters of one shape therefore get the same numbers, so
that any names and any order of construction give the same function, and gradients are summed by shape.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Raised
from autograder.catalog._common import as_double, carries, described, gradients, parameters_of
from autograder.exercise import Case, Exercise, Hint, Misconception, Mismatch, Outcome, Property, Variant
from coursekit import unet as reference

# Networks of other layer types add in another order.
LOOSE = (1e-6, 1e-6)
NOTHING = torch.zeros(())


def _numbers(subject: Any, case: Case) -> Any:
    return as_double(subject(*case.args, **case.kwargs))


# -- unet_output_size ---------------------------------------------------------------------------------------


def _side(bottom: int, depth: int) -> int:
    """The input whose lowest map, after its two convolutions, has this side."""
    side = bottom + 4
    for _ in range(depth):
        side = 2 * side + 4
    return side


def _size_at_four(d: Any) -> Case:
    return Case((_side(d.choice([28, 4, 5, 17, 40]), 4),))


def _size_at_depth(d: Any) -> Case:
    depth = d.choice([3, 1, 2, 5])
    return Case((_side(d.integer(4, 30), depth), depth))


def _uneven(d: Any) -> Case:
    """Between two legal sizes, at several depths: some pooling there meets an odd side."""
    bottom = d.integer(6, 30)
    sizes = [(_side(bottom, depth) + more, depth) for depth in (4, 1, 2, 3, 5) for more in range(1, 2**depth)]
    return Case(extra={"sizes and depths": sizes})


def _nothing_left(d: Any) -> Case:
    """Even at every pooling, and too small: at depth 1 and 2 the largest of them leaves a map of side 0."""
    lowest = d.integer(-3, 1)
    sizes = [
        (_side(b, depth), depth) for depth in (4, 1, 2, 3) for b in range(3 - (depth == 1), lowest - 1, -1)
    ]
    return Case(extra={"sizes and depths": sizes})


def _refusals(subject: Any, case: Case) -> dict[str, str]:
    found = {}
    for size, depth in case.extra["sizes and depths"]:
        try:
            answer = f"accepted: {subject(size, depth)}"
        except Raised as raised:
            if "ValueError" not in raised.kinds:
                raise
            answer = "refused with a ValueError"
        found[f"size {size}, depth {depth}"] = answer
    return found


def _sized(
    size, depth, *, conv=4, bottom=None, up=None, first_only=False, check=True, left=True, division=None
):
    """Down and up again, with a switch for each mistake."""
    side = size
    for level in range(depth):
        side -= conv
        if check and side % 2 and not (first_only and level):
            raise ValueError(f"size must be even at every pooling, got {size}")
        side = division(side) if division else side // 2
    side -= conv if bottom is None else bottom
    for _ in range(depth):
        side = 2 * side - (conv if up is None else up)
    if left and side < 1:
        raise ValueError(f"size must leave a pixel, got {size}")
    return side


def _size_one_conv(size, depth=4):
    return _sized(size, depth, conv=2)


def _size_padded(size, depth=4):
    return _sized(size, depth, conv=0)


def _size_no_bottom(size, depth=4):
    return _sized(size, depth, bottom=0)


def _size_bare_way_up(size, depth=4):
    return _sized(size, depth, up=0)


def _size_down_only(size, depth=4):
    side = size
    for _ in range(depth):
        side -= 4
        if side % 2:
            raise ValueError(f"size must be even at every pooling, got {size}")
        side //= 2
    if side < 5:
        raise ValueError(f"size must leave a pixel, got {size}")
    return side - 4


def _size_four(size, depth=4):
    return _sized(size, 4)


def _size_one_less(size, depth=4):
    return _sized(size, depth - 1)


def _size_rounded(size, depth=4):
    return _sized(size, depth, check=False)


def _size_first_pooling(size, depth=4):
    return _sized(size, depth, first_only=True)


def _size_divisible(size, depth=4):
    if size % 2**depth:
        raise ValueError(f"size must be divisible by {2**depth}, got {size}")
    return _sized(size, depth, check=False)


def _size_empty(size, depth=4):
    return _sized(size, depth, left=False)


def _size_zero(size, depth=4):
    side = _sized(size, depth, left=False)
    if side < 0:
        raise ValueError(f"size must leave a pixel, got {size}")
    return side


def _size_bottom_only(size, depth=4):
    side = size
    for _ in range(depth):
        side -= 4
        if side % 2:
            raise ValueError(f"size must be even at every pooling, got {size}")
        side //= 2
    if side <= 4:
        raise ValueError(f"size must leave a pixel at the bottom, got {size}")
    return _sized(size, depth, left=False)


def _size_float(size, depth=4):
    return _sized(size, depth, division=lambda side: side / 2)


def _size_asserted(size, depth=4):
    side = size
    for _ in range(depth):
        side -= 4
        assert side % 2 == 0, "odd side"
        side //= 2
    side -= 4
    for _ in range(depth):
        side = 2 * side - 4
    assert side > 0, "nothing left"
    return side


def _size_formula(size, depth=4):
    """Everything at once: 2^d times the lowest map, minus what the way up costs."""
    factor = 2**depth
    rest = size - 4 * (2 * factor - 1)
    if rest % factor:
        raise ValueError(f"size must be even at every pooling, got {size}")
    out = rest - 4 * (factor - 1)
    if out < 1:
        raise ValueError(f"size must leave a pixel, got {size}")
    return out


def _size_recursive(size, depth=4):
    """What a level does around everything below it."""
    if size < 5:
        raise ValueError(f"size is too small: {size} pixels reach a level")
    below = size - 4
    if depth > 0:
        if below % 2 != 0:
            raise ValueError(f"{below} pixels cannot be halved")
        below = 2 * _size_recursive(below // 2, depth - 1) - 4
    if below <= 0:
        raise ValueError("size is too small: nothing is left")
    return below


SIZE = Exercise(
    id="unet_output_size",
    topic="unet",
    title="What valid convolutions leave of an image",
    reference=reference.unet_output_size,
    minutes=12,
    difficulty=2,
    properties=(
        Property("depth_four", "sizes at depth 4: 572 → 388", 1.0, _size_at_four, examples=5),
        Property("other_depths", "sizes at any depth", 0.75, _size_at_depth, examples=6),
        Property(
            "uneven",
            "a size that some pooling does not divide evenly is refused with a ValueError",
            0.75,
            _uneven,
            _refusals,
            examples=3,
            tried="sizes between two legal ones, at depths 1 to 5",
        ),
        Property(
            "nothing_left",
            "a size that leaves nothing is refused with a ValueError",
            0.5,
            _nothing_left,
            _refusals,
            examples=3,
            tried="sizes that are even at every pooling and too small, at depths 1 to 4",
        ),
    ),
    misconceptions=(
        Misconception(
            "one_convolution_a_level",
            "You took 2 pixels off at each level: that is one convolution.",
            "A level has two 3×3 convolutions without padding, and each costs a pixel on either side: 4 in all.",
            ("depth_four", "other_depths", "uneven", "nothing_left"),
            _size_one_conv,
        ),
        Misconception(
            "padded_convolutions",
            "Your convolutions cost no pixels, as if they were padded.",
            "The U-Net's are valid: every pair takes 4 pixels off.",
            ("depth_four", "other_depths", "uneven", "nothing_left"),
            _size_padded,
        ),
        Misconception(
            "bottom_forgotten",
            "You left out the two convolutions between the last pooling and the first upsampling.",
            "The lowest level has a pair of convolutions too: 4 pixels less there.",
            ("depth_four", "other_depths", "nothing_left"),
            _size_no_bottom,
        ),
        Misconception(
            "way_up_bare",
            "On the way up you only double.",
            "After every upsampling two valid convolutions follow: side = 2·side − 4.",
            ("depth_four", "other_depths", "nothing_left"),
            _size_bare_way_up,
        ),
        Misconception(
            "way_down_only",
            "You stopped at the lowest level.",
            "Go up again, as often as you went down: side = 2·side − 4.",
            ("depth_four", "other_depths", "nothing_left"),
            _size_down_only,
        ),
        Misconception(
            "depth_ignored",
            "You always pool four times, whatever depth says.",
            "Loop depth times down and depth times up.",
            ("other_depths", "uneven"),
            _size_four,
        ),
        Misconception(
            "one_level_short",
            "You pool once too seldom.",
            "depth counts the poolings: there are depth + 1 levels, the lowest included.",
            ("depth_four", "other_depths", "uneven", "nothing_left"),
            _size_one_less,
        ),
        Misconception(
            "odd_sizes_rounded",
            "You accept odd sizes and round them down.",
            "Raise a ValueError where a pooling meets an odd side: the rows it drops would shift the skips.",
            ("uneven",),
            _size_rounded,
        ),
        Misconception(
            "first_pooling_only",
            "You look for an odd side before the first pooling only.",
            "Look before each: 574 is fine at the first pooling and odd at the second.",
            ("uneven",),
            _size_first_pooling,
        ),
        Misconception(
            "divisible_by_the_stride",
            "You ask for a size that 2^depth divides, and so refuse 572.",
            "The convolutions take pixels off before each pooling: the side must be even there, not at the start.",
            ("depth_four", "other_depths", "uneven"),
            _size_divisible,
        ),
        Misconception(
            "nothing_is_an_answer",
            "You return sizes of 0 and less.",
            "Raise a ValueError where less than one pixel is left.",
            ("nothing_left",),
            _size_empty,
        ),
        Misconception(
            "zero_is_a_size",
            "You return 0: a map without pixels.",
            "Refuse that too: at least one pixel must be left.",
            ("nothing_left",),
            _size_zero,
        ),
        Misconception(
            "bottom_checked_only",
            "You look whether a pixel is left at the lowest level only.",
            "The way up takes pixels off as well: check the result.",
            ("nothing_left",),
            _size_bottom_only,
        ),
        Misconception(
            "asserted",
            "You refuse with an assert, which raises an AssertionError.",
            "Raise a ValueError that names the size: asserts are for what cannot happen, and python -O drops them.",
            ("uneven", "nothing_left"),
            _size_asserted,
        ),
        Misconception(
            "float_returned",
            "You return a float.",
            "A number of pixels is an int: halve with //.",
            ("depth_four", "other_depths"),
            _size_float,
        ),
    ),
    right=(Variant("one formula", _size_formula), Variant("level within level", _size_recursive)),
    hints=(
        Hint(
            "My number is close to 388 but not 388",
            "Write down the side after each step: 572, 570, 568, then 284. Which steps have no number in your loop?",
        ),
        Hint(
            "Which sizes are to be refused?",
            "Two things can go wrong: a pooling meets an odd side, at any level, or the result has no pixel left.",
        ),
        Hint(
            "I don't know how to put it together",
            "depth times: side −= 4, refuse an odd one, side //= 2. At the bottom: side −= 4. depth times: side = 2·side − 4. Refuse a result below 1.",
        ),
    ),
)


# -- crop_and_concat ----------------------------------------------------------------------------------------


def _skip_case(extra_rows: Any, extra_columns: Any) -> Any:
    def draw(d: Any) -> Case:
        n, c, c_up = d.choice([2, 1]), d.choice([1, 2, 3]), d.choice([2, 1, 3])
        h, w = d.choice([2, 1, 3]), d.choice([3, 2, 5])
        rows, columns = d.choice(extra_rows), d.choice(extra_columns)
        if d.flag():
            rows, columns = columns, rows
        skip = d.layout(d.tensor(n, c, h + rows, w + columns))
        return Case((skip, d.tensor(n, c_up, h, w)))

    return draw


def _up_too_large(d: Any) -> Case:
    """Larger along one side, or along both: every way a crop could be negative."""
    h, w = d.integer(3, 6), d.integer(3, 6)
    more = [(d.integer(1, 2), 0), (0, d.integer(1, 2)), (2, 3), (1, -1), (-2, 2)]
    ups = [d.tensor(1, 2, h + rows, w + columns) for rows, columns in more]
    return Case(extra={"skip": d.tensor(1, 2, h, w), "ups": ups})


def _refuses_ups(subject: Any, case: Case) -> dict[str, str]:
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


def _skip_kinds(d: Any) -> Case:
    dtype = d.choice([torch.float64, torch.float32])
    args = (d.tensor(2, 2, 8, 5, dtype=dtype), d.tensor(2, 1, 4, 3, dtype=dtype))
    return Case(tuple(d.layout(a) for a in args))


def _fits(skip, up):
    if skip.shape[2] < up.shape[2] or skip.shape[3] < up.shape[3]:
        raise ValueError(f"up must be no larger than skip, got {tuple(up.shape)} and {tuple(skip.shape)}")


def _cut(skip, up, start):
    _fits(skip, up)
    h, w = up.shape[2:]
    top, left = start(skip.shape[2] - h), start(skip.shape[3] - w)
    return skip[:, :, top : top + h, left : left + w]


def _floor(difference):
    return difference // 2


def _skip_up_first(skip, up):
    return torch.cat([up, _cut(skip, up, _floor)], 1)


def _skip_corner(skip, up):
    return torch.cat([_cut(skip, up, lambda difference: 0), up], 1)


def _skip_extra_top(skip, up):
    return torch.cat([_cut(skip, up, lambda difference: (difference + 1) // 2), up], 1)


def _skip_rounded(skip, up):
    return torch.cat([_cut(skip, up, lambda difference: round(difference / 2)), up], 1)


def _skip_both_sides(skip, up):
    _fits(skip, up)
    top, left = (skip.shape[2] - up.shape[2]) // 2, (skip.shape[3] - up.shape[3]) // 2
    return torch.cat([skip[:, :, top : skip.shape[2] - top, left : skip.shape[3] - left], up], 1)


def _skip_minus_zero(skip, up):
    _fits(skip, up)
    rows, columns = skip.shape[2] - up.shape[2], skip.shape[3] - up.shape[3]
    top, left = rows // 2, columns // 2
    return torch.cat([skip[:, :, top : top - rows, left : left - columns], up], 1)


def _skip_square(skip, up):
    _fits(skip, up)
    h, w = up.shape[2:]
    start = (skip.shape[2] - h) // 2
    return torch.cat([skip[:, :, start : start + h, start : start + w], up], 1)


def _skip_resized(skip, up):
    _fits(skip, up)
    return torch.cat([F.interpolate(skip, size=up.shape[2:], mode="bilinear"), up], 1)


def _skip_padded(skip, up):
    _fits(skip, up)
    rows, columns = skip.shape[2] - up.shape[2], skip.shape[3] - up.shape[3]
    top, left = rows // 2, columns // 2
    return torch.cat([skip, F.pad(up, (left, columns - left, top, rows - top))], 1)


def _skip_stacked(skip, up):
    return torch.cat([_cut(skip, up, _floor), up], 0)


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
    return torch.cat([_cut(skip, up, _floor).detach(), up], 1)


def _skip_default_dtype(skip, up):
    cropped = _cut(skip, up, _floor)
    joined = torch.zeros(len(up), cropped.shape[1] + up.shape[1], *up.shape[2:], device=up.device)
    joined[:, : cropped.shape[1]] = cropped
    joined[:, cropped.shape[1] :] = up
    return joined


def _skip_narrowed(skip, up):
    for axis in (2, 3):
        if skip.size(axis) < up.size(axis):
            raise ValueError(f"up must be no larger than skip along axis {axis}")
        skip = skip.narrow(axis, (skip.size(axis) - up.size(axis)) // 2, up.size(axis))
    return torch.concatenate((skip, up), dim=1)


def _skip_negative_padding(skip, up):
    rows, columns = skip.shape[-2] - up.shape[-2], skip.shape[-1] - up.shape[-1]
    if min(rows, columns) < 0:
        raise ValueError("up must not be larger than skip")
    top, left = rows // 2, columns // 2
    return torch.cat([F.pad(skip, (-left, left - columns, -top, top - rows)), up], dim=1)


def _skip_indexed(skip, up):
    _fits(skip, up)
    n, c, big_h, big_w = skip.shape
    h, w = up.shape[2:]
    rows = torch.arange(h, device=skip.device) + (big_h - h) // 2
    columns = torch.arange(w, device=skip.device) + (big_w - w) // 2
    joined = skip.new_empty(n, c + up.shape[1], h, w)
    joined[:, :c] = skip[:, :, rows[:, None], columns]
    joined[:, c:] = up
    return joined


CROP = Exercise(
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
            _numbers,
            tolerance=LOOSE,
        ),
        Property(
            "odd",
            "where the difference is odd, the extra row or column is cropped at the bottom or right",
            0.5,
            _skip_case([1, 5], [3, 7]),
            _numbers,
            tolerance=LOOSE,
        ),
        Property(
            "same_size",
            "nothing is cropped along a side that fits already",
            0.25,
            _skip_case([0], [2, 0]),
            _numbers,
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
            _skip_up_first,
        ),
        Misconception(
            "corner_cropped",
            "You kept the top left corner of skip.",
            "Keep its middle: begin at (H − h) // 2 and (W − w) // 2.",
            ("joined", "odd", "same_size", "gradients"),
            _skip_corner,
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
        Variant("narrow, one axis after the other", _skip_narrowed),
        Variant("padding by negative numbers", _skip_negative_padding),
        Variant("indices into an empty result", _skip_indexed),
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


# -- networks whose layers have any names -------------------------------------------------------------------


def _values(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers that follow from the shape: weights that keep the signal's size, biases that keep units alive."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {shape}".encode()))
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
    return numbers * math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.3 * numbers.abs()


def _filled(subject: Any, case: Case) -> Any:
    network = subject(*case.args, **case.kwargs)
    network.do("double")
    network.do("eval")
    shapes = {name: tuple(p.shape) for name, p in network.inspect()["parameters"].items()}
    values = {name: _values(case.extra["seed"], shape) for name, shape in shapes.items()}
    # Not strict: what else an answer keeps in its state shows in its output.
    network.do("load_state_dict", values, strict=False)
    return network


def _applied(subject: Any, case: Case) -> Any:
    return _filled(subject, case)(case.extra["x"])


def _applied_gradients(subject: Any, case: Case) -> Any:
    network = _filled(subject, case)
    grads = network.vjp(case.extra["x"], wrt=[0, network])["grads"]
    summed: dict[str, Any] = {"x": grads.pop("0")}
    for grad in grads.values():
        if grad is not None:
            name = f"parameters of shape {tuple(grad.shape)}"
            summed[name] = summed.get(name, 0) + grad
    return summed


def _shapes(subject: Any, case: Case) -> dict[str, int]:
    """How many parameters there are of each shape."""
    network = subject(*case.args, **case.kwargs)
    counts: dict[str, int] = {}
    for p in parameters_of(network, NOTHING).values():
        name = f"{'biases' if p.dim() == 1 else 'weights'} of shape {tuple(p.shape)}"
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _runs(subject: Any, case: Case) -> str:
    return described(subject(*case.args, **case.kwargs)(case.extra["x"]))


# -- DoubleConv ---------------------------------------------------------------------------------------------


def _double_case(d: Any) -> Case:
    c, k = d.choice([(2, 3), (3, 2), (1, 4)])
    x = d.tensor(d.choice([2, 1]), c, d.integer(5, 9), d.integer(6, 10))
    return Case((c, k), {}, {"x": x, "seed": d.seed()})


def _double_float32(d: Any) -> Case:
    c, k = d.choice([(2, 3), (3, 2), (1, 4)])
    return Case((c, k), {}, {"x": d.tensor(2, c, d.integer(5, 9), d.integer(6, 10), dtype=torch.float32)})


def _double_wide(d: Any) -> Case:
    # At three times as many, all deviations that a mistake gives lie apart.
    c = d.integer(8, 10)
    return Case((c, 3 * c))


def _double_made(subject: Any, case: Case) -> dict[str, int | str]:
    return {**_shapes(subject, case), "output": _runs(subject, case)}


def _double_applied(subject: Any, case: Case) -> dict[str, Any]:
    """In both modes, which a block without further layers does not tell apart."""
    network = _filled(subject, case)
    seen = {"in eval mode": network(case.extra["x"])}
    network.do("train")
    return {**seen, "in training mode": network(case.extra["x"])}


def _double_drawn(subject: Any, case: Case) -> dict[str, torch.Tensor]:
    return parameters_of(subject(*case.args), NOTHING)


def _judge_drawn(case: Case, expected: Any, got: Any) -> Mismatch | None:
    inputs, outputs = case.args
    for which, c in (("first", inputs), ("second", outputs)):
        weight = next((p for p in got.values() if tuple(p.shape) == (outputs, c, 3, 3)), None)
        if weight is None:
            return Mismatch(
                Outcome.WRONG_KIND,
                f"there is no {which} convolution with weights ({outputs}, {c}, 3, 3)",
                code="shape",
            )
        right, std = math.sqrt(2 / (9 * c)), float(weight.std())
        # Hundreds of numbers: right answers come within 12 % in all but one of 10⁹ cases.
        if abs(std / right - 1) < 0.2 and abs(float(weight.mean())) < 0.3 * right:
            continue
        if abs(float(weight.mean())) >= 0.3 * right:
            message = (
                f"the weights of the {which} convolution have mean {float(weight.mean()):.3f}, expected 0"
            )
            return Mismatch(Outcome.WRONG_VALUES, message, "weights", code="weights: mean")
        known = {
            "first fan in": math.sqrt(2 / (9 * inputs)),
            "default": math.sqrt(1 / (27 * c)),
            "variance": right**2,
            "no kernel": math.sqrt(2 / c),
            "fan out": math.sqrt(2 / (9 * outputs)),
            "half": math.sqrt(1 / (9 * c)),
            "both fans": math.sqrt(2 / (9 * (c + outputs))),
            "standard": 1.0,
            "zero": 0.0,
        }
        code = min(known, key=lambda name: abs(std - known[name]))
        if abs(std - known[code]) > 0.12 * known[code] + 1e-9:
            code = "other"
        return Mismatch(
            Outcome.WRONG_VALUES,
            f"the weights of the {which} convolution have standard deviation {std:.3f}, expected "
            f"√(2 / (9·{c})) = {right:.3f}",
            "weights",
            f"{right:.3f}",
            f"{std:.3f}",
            f"weights: {code}",
        )
    if any(p.dim() == 1 and bool(p.any()) for p in got.values()):
        return Mismatch(Outcome.WRONG_VALUES, "biases are not 0", "biases", code="biases")
    return None


class _Double(nn.Module):
    """Two convolutions with a seam at each step, where the misconceptions put their mistake."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.make(in_channels, out_channels)
        for conv in [m for m in self.modules() if isinstance(m, nn.Conv2d)]:
            self.draw(conv)

    def make(self, in_channels, out_channels):
        self.one = nn.Conv2d(in_channels, out_channels, 3)
        self.two = nn.Conv2d(out_channels, out_channels, 3)

    def draw(self, conv):
        nn.init.normal_(conv.weight, 0.0, self.std(conv))
        nn.init.zeros_(conv.bias)

    def std(self, conv):
        return math.sqrt(2 / (9 * conv.in_channels))

    def forward(self, x):
        return F.relu(self.two(F.relu(self.one(x))))


class _DoublePadded(_Double):
    def make(self, in_channels, out_channels):
        self.one = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.two = nn.Conv2d(out_channels, out_channels, 3, padding=1)


class _DoubleNoLastReLU(_Double):
    def forward(self, x):
        return self.two(F.relu(self.one(x)))


class _DoubleNoMiddleReLU(_Double):
    def forward(self, x):
        return F.relu(self.two(self.one(x)))


class _DoubleSameTwice(_Double):
    def make(self, in_channels, out_channels):
        self.one = nn.Conv2d(in_channels, in_channels, 3)
        self.two = nn.Conv2d(in_channels, out_channels, 3)


class _DoubleSingle(_Double):
    def make(self, in_channels, out_channels):
        self.one = nn.Conv2d(in_channels, out_channels, 3)

    def forward(self, x):
        return F.relu(self.one(x))


class _DoubleNormalized(_Double):
    def make(self, in_channels, out_channels):
        super().make(in_channels, out_channels)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out_channels) for _ in range(2)])

    def forward(self, x):
        return self.norms[1](self.two(self.norms[0](self.one(x)).relu())).relu()


class _DoubleNoBias(_Double):
    def make(self, in_channels, out_channels):
        self.one = nn.Conv2d(in_channels, out_channels, 3, bias=False)
        self.two = nn.Conv2d(out_channels, out_channels, 3, bias=False)

    def draw(self, conv):
        nn.init.normal_(conv.weight, 0.0, self.std(conv))


class _DoubleFirstFan(_Double):
    def draw(self, conv):
        nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / (9 * self.one.in_channels)))
        nn.init.zeros_(conv.bias)


class _DoubleDefault(_Double):
    def draw(self, conv):
        pass


class _DoubleBiasDefault(_Double):
    def draw(self, conv):
        nn.init.normal_(conv.weight, 0.0, self.std(conv))


class _DoubleVariance(_Double):
    def std(self, conv):
        return 2 / (9 * conv.in_channels)


class _DoubleChannelsOnly(_Double):
    def std(self, conv):
        return math.sqrt(2 / conv.in_channels)


class _DoubleFanOut(_Double):
    def std(self, conv):
        return math.sqrt(2 / (9 * conv.out_channels))


class _DoubleOneOverFan(_Double):
    def std(self, conv):
        return math.sqrt(1 / (9 * conv.in_channels))


class _DoubleXavier(_Double):
    def draw(self, conv):
        nn.init.xavier_normal_(conv.weight)
        nn.init.zeros_(conv.bias)


class _DoublePositive(_Double):
    def draw(self, conv):
        super().draw(conv)
        with torch.no_grad():
            conv.weight.abs_()


class _DoubleDropout(_Double):
    def forward(self, x):
        return F.relu(self.two(F.dropout(F.relu(self.one(x)), 0.5, self.training)))


class _DoubleDetached(_Double):
    def forward(self, x):
        return F.relu(self.two(F.relu(self.one(x)).detach()))


class _DoubleSequential(nn.Sequential):
    """A Sequential that draws by torch's own initialization for ReLU."""

    def __init__(self, in_channels, out_channels):
        first = nn.Conv2d(in_channels, out_channels, kernel_size=3)
        second = nn.Conv2d(out_channels, out_channels, kernel_size=3)
        super().__init__(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))
        for conv in (first, second):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            conv.bias.data.fill_(0)


class _DoubleParameters(nn.Module):
    """Parameters and F.conv2d, the second convolution made first."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        for name, c in (("b", out_channels), ("a", in_channels)):
            weight = torch.randn(out_channels, c, 3, 3) * (2 / (c * 3 * 3)) ** 0.5
            self.register_parameter(f"weight_{name}", nn.Parameter(weight))
            self.register_parameter(f"bias_{name}", nn.Parameter(torch.zeros(out_channels)))

    def forward(self, x):
        x = F.conv2d(x, self.weight_a, self.bias_a).clamp(min=0)
        return F.conv2d(x, self.weight_b, self.bias_b).clamp(min=0)


DOUBLE = Exercise(
    id="DoubleConv",
    topic="unet",
    title="Two valid convolutions and their first weights",
    reference=reference.DoubleConv,
    minutes=12,
    difficulty=2,
    properties=(
        Property(
            "made",
            "two 3×3 convolutions with biases, in → out → out channels; 4 rows and 4 columns less",
            0.5,
            _double_float32,
            _double_made,
            examples=4,
            tried="a new block: its parameters by shape, and one call",
        ),
        Property(
            "output",
            "convolution, ReLU, convolution, ReLU, in either mode",
            0.5,
            _double_case,
            _double_applied,
            tolerance=LOOSE,
            tried="double(), every parameter filled with numbers drawn for its shape, a call after eval() and one after train()",
        ),
        Property(
            "drawn",
            "weights are drawn with standard deviation √(2 / fan_in), biases are 0",
            0.5,
            _double_wide,
            _double_drawn,
            judge=_judge_drawn,
            examples=3,
            tried="the parameters of a new block",
        ),
        Property(
            "gradients",
            "gradients reach the input and every parameter",
            0.5,
            _double_case,
            _applied_gradients,
            tolerance=LOOSE,
            examples=4,
            tried="as for the output, then the gradients, summed over parameters of one shape",
        ),
    ),
    misconceptions=(
        Misconception(
            "padded",
            "Your convolutions are padded: the output is as large as the input.",
            "Leave padding at 0: each convolution takes a pixel off every side.",
            ("made", "output", "gradients"),
            _DoublePadded,
        ),
        Misconception(
            "last_relu_missing",
            "There is no ReLU after the second convolution.",
            "Each of the two convolutions is followed by a ReLU.",
            ("output", "gradients"),
            _DoubleNoLastReLU,
        ),
        Misconception(
            "middle_relu_missing",
            "There is no ReLU between the convolutions, so together they are one linear 5×5 convolution.",
            "Each of the two convolutions is followed by a ReLU.",
            ("output", "gradients"),
            _DoubleNoMiddleReLU,
        ),
        Misconception(
            "channels_change_late",
            "Your first convolution keeps in_channels.",
            "The first goes from in_channels to out_channels, the second from out_channels to out_channels.",
            ("made", "output", "drawn", "gradients"),
            _DoubleSameTwice,
        ),
        Misconception(
            "one_convolution",
            "There is one convolution.",
            "Two of them, each followed by a ReLU.",
            ("made", "output", "drawn", "gradients"),
            _DoubleSingle,
        ),
        Misconception(
            "batch_normalization_added",
            "You added batch normalization.",
            "The block is convolution, ReLU, convolution, ReLU; this network has none.",
            ("made", "output", "drawn", "gradients"),
            _DoubleNormalized,
        ),
        Misconception(
            "dropout_added",
            "You added dropout between the convolutions.",
            "A block is two convolutions, each with its ReLU, and nothing else.",
            ("output",),
            _DoubleDropout,
        ),
        Misconception(
            "weights_all_positive",
            "Your weights do not have mean 0.",
            "Draw them from a normal distribution around 0: nn.init.normal_(conv.weight, std=...).",
            ("drawn",),
            _DoublePositive,
        ),
        Misconception(
            "no_biases",
            "Your convolutions have no biases.",
            "Leave bias=True and set them to 0 at the start: training moves them.",
            ("made", "output", "gradients"),
            _DoubleNoBias,
        ),
        Misconception(
            "default_weights",
            "Your weights are as torch draws them: uniform, with a sixth of the variance that is asked for.",
            "Draw them anew in __init__: nn.init.normal_(conv.weight, std=√(2 / fan_in)), and set the biases to 0.",
            ("drawn",),
            _DoubleDefault,
        ),
        Misconception(
            "default_biases",
            "Your weights are right, your biases are as torch draws them.",
            "nn.init.zeros_(conv.bias).",
            ("drawn",),
            _DoubleBiasDefault,
        ),
        Misconception(
            "variance_for_deviation",
            "Your standard deviation is 2 / fan_in: that is the variance.",
            "Take its root: √(2 / fan_in).",
            ("drawn",),
            _DoubleVariance,
        ),
        Misconception(
            "kernel_forgotten",
            "Your fan_in counts channels only.",
            "A unit reads 3×3 pixels of every input channel: fan_in = 9 · in_channels.",
            ("drawn",),
            _DoubleChannelsOnly,
        ),
        Misconception(
            "fan_out",
            "You divided by the number of outgoing connections, 9 · out_channels.",
            "fan_in counts what a unit reads: 9 · in_channels.",
            ("drawn",),
            _DoubleFanOut,
        ),
        Misconception(
            "first_fan_in_twice",
            "Both convolutions have the standard deviation of the first one.",
            "Each has its own fan_in: the second reads out_channels channels, 9 · out_channels numbers.",
            ("drawn",),
            _DoubleFirstFan,
        ),
        Misconception(
            "relu_not_reckoned_with",
            "Your standard deviation is √(1 / fan_in): half of the variance is missing.",
            "The ReLU cuts off half of the signal; the 2 in √(2 / fan_in) makes up for it.",
            ("drawn",),
            _DoubleOneOverFan,
        ),
        Misconception(
            "xavier",
            "Your standard deviation is Xavier's, √(2 / (fan_in + fan_out)).",
            "For ReLU networks it is √(2 / fan_in): nn.init.kaiming_normal_ or normal_ with that std.",
            ("drawn",),
            _DoubleXavier,
        ),
        Misconception(
            "cut_from_the_graph",
            "The graph is cut between the convolutions: the first one learns nothing.",
            "Leave out detach(), .data and no_grad() in forward.",
            ("gradients",),
            _DoubleDetached,
        ),
    ),
    right=(
        Variant("a Sequential, kaiming_normal_", _DoubleSequential),
        Variant("parameters and F.conv2d", _DoubleParameters),
    ),
    hints=(
        Hint(
            "My output has the wrong size",
            "A 3×3 convolution without padding loses one pixel on each side. How many do two lose?",
        ),
        Hint(
            "My weights have the wrong spread",
            "What does one unit of the first convolution read? Count the numbers: that is fan_in. The second reads another count.",
        ),
        Hint(
            "I don't know how to put it together",
            "In __init__: self.conv1 = nn.Conv2d(in_channels, out_channels, 3), self.conv2 = nn.Conv2d(out_channels, out_channels, 3); for each nn.init.normal_(conv.weight, std=(2 / (9 · conv.in_channels)) ** 0.5) and nn.init.zeros_(conv.bias). In forward a ReLU after each.",
        ),
    ),
)


# -- UNet ---------------------------------------------------------------------------------------------------


def _net_input(d: Any, depths: list[int], *, base: int = 3, classes: int = 4) -> Case:
    """in_channels is told apart from the network's own numbers of channels."""
    depth = d.choice(depths)
    h, w = (_side(d.integer(4, 7 if depth == 1 else 5), depth) for _ in range(2))
    n = d.choice([1, 2]) if depth < 3 else 1
    config = {"base": base, "depth": depth}
    return Case((2, classes), config, {"x": d.tensor(n, 2, h, w), "seed": d.seed()})


def _net_sizes(d: Any) -> Case:
    depth = d.choice([2, 3, 1])
    h, w = (_side(d.integer(4, 6 if depth < 3 else 4), depth) for _ in range(2))
    n = d.choice([2, 1]) if depth < 3 else 1
    x = d.tensor(n, d.choice([1, 3]), h, w + 2**depth, dtype=torch.float32)
    return Case((x.shape[1], d.choice([2, 5])), {"base": d.choice([2, 1]), "depth": depth}, {"x": x})


def _net_configuration(d: Any) -> Case:
    return Case((d.choice([1, 3]), d.integer(2, 4)), {"base": d.integer(2, 3), "depth": d.choice([4, 2, 1])})


class _Net(nn.Module):
    """The network with a seam at each step, where the misconceptions put their mistake."""

    block: Any = _Double
    first_out = False

    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__()
        widths = self.widths(base, depth)
        down = [self.block(a, b) for a, b in zip([in_channels, *widths[:-1]], widths, strict=True)]
        ups = [self.upsampling(a, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)]
        outs = [self.expanding(a, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)]
        self.down, self.ups, self.outs = self.kept(down), self.kept(ups), self.kept(outs)
        self.top = self.last(widths[0], num_classes)

    def kept(self, layers):
        return nn.ModuleList(layers)

    def widths(self, base, depth):
        return [base * 2**level for level in range(depth + 1)]

    def upsampling(self, below, here):
        return nn.ConvTranspose2d(below, here, 2, stride=2)

    def expanding(self, below, here):
        return self.block(2 * here, here)

    def last(self, base, num_classes):
        return nn.Conv2d(base, num_classes, 1)

    def pool(self, x):
        return F.max_pool2d(x, 2)

    def join(self, skip, up):
        return _skip_indexed(skip, up)

    def forward(self, x):
        skips = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for up, block in zip(self.ups, self.outs, strict=True):
            x = block(self.join(skips.pop(0 if self.first_out else -1), up(x)))
        return self.top(x)


class _NetPadded(_Net):
    block = _DoublePadded


class _NetNormalized(_Net):
    block = _DoubleNormalized


class _NetSingle(_Net):
    block = _DoubleSingle


class _NetInterpolated(_Net):
    def upsampling(self, below, here):
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(below, here, 1))


class _NetNotHalved(_Net):
    def upsampling(self, below, here):
        return nn.ConvTranspose2d(below, below, 2, stride=2)

    def expanding(self, below, here):
        return self.block(below + here, here)


class _NetSummed(_Net):
    def expanding(self, below, here):
        return self.block(here, here)

    def join(self, skip, up):
        return _cut(skip, up, _floor) + up


class _NetNoSkips(_Net):
    def expanding(self, below, here):
        return self.block(here, here)

    def join(self, skip, up):
        return up


class _NetConstantWidth(_Net):
    def widths(self, base, depth):
        return [base] * (depth + 1)


class _NetShallow(_Net):
    def widths(self, base, depth):
        return [base * 2**level for level in range(depth)]


class _NetDeep(_Net):
    def widths(self, base, depth):
        return [base * 2**level for level in range(depth + 2)]


class _NetUpFirst(_Net):
    def join(self, skip, up):
        return _skip_up_first(skip, up)


class _NetCorner(_Net):
    def join(self, skip, up):
        return _skip_corner(skip, up)


class _NetFirstOut(_Net):
    first_out = True


class _NetUpsFromTheTop(_Net):
    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__(in_channels, num_classes, base, depth)
        self.ups, self.outs = self.ups[::-1], self.outs[::-1]


class _NetEnlarged(_Net):
    def forward(self, x):
        return F.interpolate(super().forward(x), size=x.shape[2:], mode="bilinear", align_corners=False)


class _NetAverage(_Net):
    def pool(self, x):
        return F.avg_pool2d(x, 2)


class _NetPooledSkips(_Net):
    def forward(self, x):
        skips = []
        for block in self.down[:-1]:
            x = self.pool(block(x))
            skips.append(x)
        x = self.down[-1](x)
        for up, block in zip(self.ups, self.outs, strict=True):
            x = block(self.join(skips.pop(), up(x)))
        return self.top(x)


class _NetReLUUp(_Net):
    def join(self, skip, up):
        return _skip_indexed(skip, up.relu())


class _NetReLUTop(_Net):
    def forward(self, x):
        return super().forward(x).relu()


class _NetSoftmax(_Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


class _NetWideTop(_Net):
    def last(self, base, num_classes):
        return nn.Conv2d(base, num_classes, 3)


class _NetPlainLists(_Net):
    def kept(self, layers):
        return layers


class _NetDetachedSkips(_Net):
    def join(self, skip, up):
        return _skip_indexed(skip.detach(), up)


class _NetCutOff(_Net):
    def forward(self, x):
        with torch.no_grad():
            features = self.down[0](x)
        skips = [features]
        for block in self.down[1:]:
            skips.append(block(self.pool(skips[-1])))
        x = skips.pop()
        for up, block in zip(self.ups, self.outs, strict=True):
            x = block(self.join(skips.pop(), up(x)))
        return self.top(x)


class _Level(nn.Module):
    """A level and everything below it."""

    def __init__(self, inputs, width, depth):
        super().__init__()
        self.before = _DoubleSequential(inputs, width)
        self.below = _Level(width, 2 * width, depth - 1) if depth else None
        if depth:
            self.up = nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2)
            self.after = _DoubleSequential(2 * width, width)

    def forward(self, x):
        here = self.before(x)
        if self.below is None:
            return here
        up = self.up(self.below(nn.functional.max_pool2d(here, kernel_size=2)))
        return self.after(_skip_narrowed(here, up))


class _NetRecursive(nn.Module):
    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__()
        self.head = nn.Conv2d(base, num_classes, kernel_size=1)
        self.body = _Level(in_channels, base, depth)

    def forward(self, x):
        return self.head(self.body(x))


class _NetByName(nn.Module):
    """Layers set one by one under names, pooled by a view, joined by negative padding."""

    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__()
        self.depth = depth
        c = base
        self.add_module("enc0", _DoubleParameters(in_channels, c))
        for level in range(1, depth + 1):
            self.add_module(f"enc{level}", _DoubleParameters(c, 2 * c))
            c *= 2
        for level in reversed(range(depth)):
            self.add_module(f"up{level}", nn.ConvTranspose2d(c, c // 2, 2, 2))
            self.add_module(f"dec{level}", _DoubleParameters(c, c // 2))
            c //= 2
        self.out = nn.Conv2d(c, num_classes, 1)

    def forward(self, x):
        kept = {}
        for level in range(self.depth + 1):
            x = getattr(self, f"enc{level}")(x)
            if level < self.depth:
                kept[level] = x
                x = x.unflatten(3, (-1, 2)).amax(4).unflatten(2, (-1, 2)).amax(3)
        for level in range(self.depth - 1, -1, -1):
            x = getattr(self, f"up{level}")(x)
            x = getattr(self, f"dec{level}")(_skip_negative_padding(kept[level], x))
        return self.out(x)


COMPUTED = ("one_level", "deeper", "gradients")

UNET = Exercise(
    id="UNet",
    topic="unet",
    title="Down, up, and across",
    reference=reference.UNet,
    minutes=30,
    difficulty=4,
    properties=(
        Property(
            "layers",
            "channels double on the way down and halve on the way up; 23 convolutions at depth 4, all with biases",
            1.0,
            _net_configuration,
            _shapes,
            examples=2,
            tried="the parameters of a new network, counted by shape",
        ),
        Property(
            "sizes",
            "any legal size, square or not, gives a map of the size of unet_output_size",
            1.0,
            _net_sizes,
            _runs,
            examples=2,
            tried="a new network, one call",
        ),
        Property(
            "one_level",
            "the map of a network with one pooling, its weights given",
            1.5,
            lambda d: _net_input(d, [1]),
            _applied,
            tolerance=LOOSE,
            examples=3,
            tried="double(), eval(), every parameter filled with numbers drawn for its shape, one call",
        ),
        Property(
            "deeper",
            "the map of a network with two poolings, its weights given",
            1.5,
            lambda d: _net_input(d, [2], base=2),
            _applied,
            tolerance=LOOSE,
            examples=2,
            tried="double(), eval(), every parameter filled with numbers drawn for its shape, one call",
        ),
        Property(
            "gradients",
            "gradients reach the input and every parameter, through the skips too",
            1.0,
            lambda d: _net_input(d, [2], base=2),
            _applied_gradients,
            tolerance=LOOSE,
            examples=2,
            tried="as for the map, then the gradients, summed over parameters of one shape",
        ),
    ),
    # Those that fail most come first: a diagnosis has two seconds, and networks take long.
    misconceptions=(
        Misconception(
            "one_pooling_short",
            "Your network pools once too seldom: depth counts its levels.",
            "depth counts the poolings; the lowest level comes on top of them.",
            ("layers", "sizes", *COMPUTED),
            _NetShallow,
        ),
        Misconception(
            "one_pooling_too_many",
            "Your network pools once too often.",
            "depth poolings, with a block before each and one at the bottom: depth + 1 levels.",
            ("layers", "sizes", *COMPUTED),
            _NetDeep,
        ),
        Misconception(
            "one_convolution_a_level",
            "Each of your levels has one convolution.",
            "Two a level on both paths and two at the bottom: use DoubleConv.",
            ("layers", "sizes", *COMPUTED),
            _NetSingle,
        ),
        Misconception(
            "top_three_by_three",
            "Your top convolution is 3×3.",
            "It is 1×1: it maps the base channels of a pixel to its scores and costs no border.",
            ("layers", "sizes", *COMPUTED),
            _NetWideTop,
        ),
        Misconception(
            "padded",
            "Your convolutions are padded: the map is as large as the image.",
            "Leave padding at 0. The map is smaller than the image, and each of its pixels has seen only real ones.",
            ("sizes", *COMPUTED),
            _NetPadded,
        ),
        Misconception(
            "skips_after_pooling",
            "You kept the skips after pooling.",
            "Keep what a level computed before it is pooled: the skip carries what pooling throws away.",
            ("sizes", *COMPUTED),
            _NetPooledSkips,
        ),
        Misconception(
            "skips_added",
            "You added the skips, as the FCN does.",
            "Concatenate: the expanding convolutions take 2·c channels and learn how to weigh both.",
            ("layers", *COMPUTED),
            _NetSummed,
        ),
        Misconception(
            "skips_missing",
            "There are no skips.",
            "Keep the map before each pooling, and put it beside the upsampled one of its level.",
            ("layers", *COMPUTED),
            _NetNoSkips,
        ),
        Misconception(
            "interpolated",
            "You upsample by interpolation.",
            "Use nn.ConvTranspose2d(2·c, c, kernel_size=2, stride=2), which learns its weights.",
            ("layers", *COMPUTED),
            _NetInterpolated,
        ),
        Misconception(
            "upsampling_keeps_channels",
            "Your upsampling keeps the number of channels.",
            "It halves them: nn.ConvTranspose2d(2·c, c, ...), so that the skip and it have c each.",
            ("layers", *COMPUTED),
            _NetNotHalved,
        ),
        Misconception(
            "channels_never_double",
            "Every level has base channels.",
            "They double with every pooling: base · 2^level.",
            ("layers", *COMPUTED),
            _NetConstantWidth,
        ),
        Misconception(
            "batch_normalization_added",
            "You added batch normalization.",
            "This network has none: convolution, ReLU, convolution, ReLU.",
            ("layers", *COMPUTED),
            _NetNormalized,
        ),
        Misconception(
            "enlarged_to_the_image",
            "You enlarged the map to the size of the image.",
            "Return it as it is: it answers for the middle of the image, and the labels are cropped to that.",
            ("sizes", *COMPUTED),
            _NetEnlarged,
        ),
        Misconception(
            "plain_lists",
            "You keep layers in a plain list: the network does not know their parameters, and no optimizer will.",
            "Use nn.ModuleList.",
            ("layers", *COMPUTED),
            _NetPlainLists,
        ),
        Misconception(
            "up_first",
            "You put the upsampled channels in front of the skip's.",
            "torch.cat([skip, up], dim=1).",
            COMPUTED,
            _NetUpFirst,
        ),
        Misconception(
            "corner_cropped",
            "You cropped the skips at their corner, so the two halves of the channels do not lie on each other.",
            "Crop the middle, as crop_and_concat does.",
            COMPUTED,
            _NetCorner,
        ),
        Misconception(
            "first_skip_first",
            "Your expanding path begins with the first skip.",
            "It begins with the last one: skips.pop().",
            ("sizes", "deeper", "gradients"),
            _NetFirstOut,
        ),
        Misconception(
            "expanding_path_upside_down",
            "Your expanding path begins with the layers of the top level.",
            "After the bottom comes the level with the most channels: make these layers from deep to shallow.",
            ("sizes", "deeper", "gradients"),
            _NetUpsFromTheTop,
        ),
        Misconception(
            "average_pooling",
            "You pool by averages.",
            "F.max_pool2d(x, 2).",
            COMPUTED,
            _NetAverage,
        ),
        Misconception(
            "relu_after_upsampling",
            "There is a ReLU after your transposed convolutions.",
            "Only the 3×3 convolutions are followed by one.",
            COMPUTED,
            _NetReLUUp,
        ),
        Misconception(
            "relu_on_top",
            "There is a ReLU on top, so no score is negative.",
            "The 1×1 convolution comes last: its output are logits.",
            COMPUTED,
            _NetReLUTop,
        ),
        Misconception(
            "softmax_on_top",
            "You return probabilities.",
            "Return the logits of the 1×1 convolution: the loss takes the softmax.",
            COMPUTED,
            _NetSoftmax,
        ),
        Misconception(
            "skips_detached",
            "No gradient flows through the skips.",
            "Leave out detach() and .data: the contracting path learns through them.",
            ("gradients",),
            _NetDetachedSkips,
        ),
        Misconception(
            "first_level_cut_off",
            "No gradient reaches the first level.",
            "Leave out no_grad(), detach() and .data in forward.",
            ("gradients",),
            _NetCutOff,
        ),
    ),
    right=(
        Variant("level within level", _NetRecursive),
        Variant("layers by name, pooling by a view", _NetByName),
    ),
    hints=(
        Hint(
            "The numbers of channels do not fit",
            "Write down for every step how many channels come in and go out. An expanding block takes c from the skip and c from below.",
        ),
        Hint(
            "crop_and_concat refuses my sizes",
            "Which skip belongs to the first upsampling? And is it the map before or after its pooling?",
        ),
        Hint(
            "I don't know how to put it together",
            "Down: for each of depth blocks x = block(x), skips.append(x), x = F.max_pool2d(x, 2). With c = base·2^(depth−1), the channels of the last of them, the bottom block is DoubleConv(c, 2·c). Up: for each c from there down to base nn.ConvTranspose2d(2·c, c, 2, stride=2) and DoubleConv(2·c, c) x = block(crop_and_concat(skips.pop(), up(x))). Last nn.Conv2d(base, num_classes, 1). Layers in nn.ModuleList.",
        ),
    ),
)
