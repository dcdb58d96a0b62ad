"""The exercise unet_output_size of lecture 07: what valid convolutions leave of an image."""

from __future__ import annotations

from autograder.attempt import Raised, Subject
from autograder.catalog.unet.draws import input_side
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import unet as reference


def _size_at_four(d: Draw) -> Case:
    return Case((input_side(d.choice([28, 4, 5, 17, 40]), 4),))


def _size_at_depth(d: Draw) -> Case:
    depth = d.choice([3, 1, 2, 5])
    return Case((input_side(d.integer(4, 30), depth), depth))


def _uneven(d: Draw) -> Case:
    """Between two legal sizes, at several depths: some pooling there meets an odd side."""
    bottom = d.integer(6, 30)
    sizes = [
        (input_side(bottom, depth) + more, depth) for depth in (4, 1, 2, 3, 5) for more in range(1, 2**depth)
    ]
    return Case(extra={"sizes and depths": sizes})


def _nothing_left(d: Draw) -> Case:
    """Even at every pooling, and too small: at depth 1 and 2 the largest of them leaves a map of side 0."""
    lowest = d.integer(-3, 1)
    sizes = [
        (input_side(b, depth), depth)
        for depth in (4, 1, 2, 3)
        for b in range(3 - (depth == 1), lowest - 1, -1)
    ]
    return Case(extra={"sizes and depths": sizes})


def _refusals(subject: Subject, case: Case) -> dict[str, str]:
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


EXERCISE = Exercise(
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
