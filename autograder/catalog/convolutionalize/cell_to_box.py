"""The exercise cell_to_box of lecture 04: what a cell has seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from autograder.attempt import Odd, Subject, kind_of
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import convolutionalize as reference


def _field(size: int, jump: int, first: int) -> tuple[int, int, float]:
    """(size, jump, start) where the first field begins at pixel `first`."""
    return size, jump, first + (size - 1) / 2


def _box_case(sizes: list[int], *, padded: bool = False) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        fields = []
        for size in (d.choice(sizes), d.choice(sizes[::-1])):
            first = -d.integer(1, 3) if padded else d.choice([1, 2, 0, 3])
            fields.append(_field(size, d.choice([2, 4, 3, 1]), first))
        cell = (0, d.choice([1, 0])) if padded else (d.integer(1, 5), d.integer(2, 9))
        return Case((*cell, *fields))

    return draw


def _one_box_case(d: Draw) -> Case:
    sizes = [3, 5, 4, 8]
    return _box_case(sizes)(d)


def _sides(subject: Subject, case: Case) -> Any:
    """The four numbers, whole or not, which is another property's business."""
    box = subject(*case.args)
    if not isinstance(box, list | tuple):
        raise Odd(f"expected a tuple (top, left, bottom, right), got a {kind_of(box)}")
    if len(box) != 4:
        raise Odd(f"expected a tuple of four numbers, got {len(box)}")
    if any(isinstance(side, bool) or not isinstance(side, int | float | torch.Tensor) for side in box):
        return box
    return {name: float(side) for name, side in zip(("top", "left", "bottom", "right"), box, strict=True)}


def _kinds(subject: Subject, case: Case) -> Any:
    box = subject(*case.args)
    if not isinstance(box, list | tuple):
        raise Odd(f"expected a tuple of four integers, got a {kind_of(box)}")
    return [kind_of(side) for side in box]


def _box(row, col, field_y, field_x, *, first=None, last=None, order=lambda *sides: sides):
    """The box with a switch for each mistake."""
    sides = []
    for cell, (size, jump, start) in ((row, field_y), (col, field_x)):
        begin = first(cell, size, jump, start) if first else start + cell * jump - (size - 1) / 2
        end = last(begin, size, jump) if last else begin + size
        sides.append((begin, end))
    (top, bottom), (left, right) = sides
    return order(*(math.floor(side) for side in (top, left, bottom, right)))


def _box_floats(row, col, field_y, field_x):
    sides = []
    for cell, (size, jump, start) in ((row, field_y), (col, field_x)):
        sides.append(start + cell * jump - (size - 1) / 2)
    return sides[0], sides[1], sides[0] + field_y[0], sides[1] + field_x[0]


def _box_xy(row, col, field_y, field_x):
    return _box(row, col, field_y, field_x, order=lambda top, left, bottom, right: (left, top, right, bottom))


def _box_top_bottom(row, col, field_y, field_x):
    return _box(row, col, field_y, field_x, order=lambda top, left, bottom, right: (top, bottom, left, right))


def _box_height_width(row, col, field_y, field_x):
    return _box(
        row,
        col,
        field_y,
        field_x,
        order=lambda top, left, bottom, right: (top, left, bottom - top, right - left),
    )


def _box_cells_swapped(row, col, field_y, field_x):
    return _box(col, row, field_y, field_x)


def _box_fields_swapped(row, col, field_y, field_x):
    return _box(row, col, field_x, field_y)


def _box_one_field(row, col, field_y, field_x):
    return _box(row, col, field_y, field_y)


def _box_inclusive(row, col, field_y, field_x):
    return _box(row, col, field_y, field_x, last=lambda begin, size, jump: begin + size - 1)


def _box_from_start(row, col, field_y, field_x):
    return _box(
        row, col, field_y, field_x, first=lambda cell, size, jump, start: math.floor(start + cell * jump)
    )


def _box_without_start(row, col, field_y, field_x):
    return _box(row, col, field_y, field_x, first=lambda cell, size, jump, start: cell * jump)


def _box_without_jump(row, col, field_y, field_x):
    return _box(
        row, col, field_y, field_x, first=lambda cell, size, jump, start: start + cell - (size - 1) / 2
    )


def _box_size_and_jump(row, col, field_y, field_x):
    swapped = [(jump, size, start) for size, jump, start in (field_y, field_x)]
    return _box(row, col, *swapped)


def _box_towards_zero(row, col, field_y, field_x):
    sides = []
    for cell, (size, jump, start) in ((row, field_y), (col, field_x)):
        begin = start + cell * jump - (size - 1) // 2
        sides.append((int(begin), int(begin + size)))
    (top, bottom), (left, right) = sides
    return top, left, bottom, right


def _box_size_of_jump(row, col, field_y, field_x):
    return _box(row, col, field_y, field_x, last=lambda begin, size, jump: begin + jump)


def _box_start_jumps(row, col, field_y, field_x):
    return _box(
        row, col, field_y, field_x,
        first=lambda cell, size, jump, start: math.floor((start + cell) * jump - (size - 1) / 2),
    )  # fmt: skip


def _box_half_size(row, col, field_y, field_x):
    return _box(
        row, col, field_y, field_x, first=lambda cell, size, jump, start: int(start + cell * jump - size // 2)
    )


def _box_one_larger(row, col, field_y, field_x):
    sides = []
    for cell, (size, jump, start) in ((row, field_y), (col, field_x)):
        center = start + cell * jump
        sides.append((int(center - size // 2), int(center + size // 2 + 1)))
    (top, bottom), (left, right) = sides
    return top, left, bottom, right


def _box_rounded(row, col, field_y, field_x):
    sides = []
    for cell, (size, jump, start) in ((row, field_y), (col, field_x)):
        center = start + cell * jump
        sides.append((round(center - size / 2), round(center + size / 2)))
    (top, bottom), (left, right) = sides
    return top, left, bottom, right


def _box_full_size(row, col, field_y, field_x):
    return _box(
        row, col, field_y, field_x,
        first=lambda cell, size, jump, start: math.floor(start + cell * jump - size / 2),
    )  # fmt: skip


def _box_twice_the_radius(row, col, field_y, field_x):
    return _box(
        row, col, field_y, field_x,
        first=lambda cell, size, jump, start: int(start + cell * jump) - size // 2,
        last=lambda begin, size, jump: begin + 2 * (size // 2),
    )  # fmt: skip


def _box_clipped(row, col, field_y, field_x):
    return tuple(max(0, side) for side in _box(row, col, field_y, field_x))


def _box_moved(row, col, field_y, field_x):
    return _box(
        row, col, field_y, field_x, first=lambda cell, size, jump, start: max(0, start + cell * jump - (size - 1) / 2)
    )  # fmt: skip


def _box_tensor(row, col, field_y, field_x):
    return torch.tensor(_box(row, col, field_y, field_x))


def _box_dict(row, col, field_y, field_x):
    return dict(zip(("top", "left", "bottom", "right"), _box(row, col, field_y, field_x), strict=True))


def _box_edges(row, col, field_y, field_x):
    """From the center of the first and last pixel to their outer edges."""
    box = []
    for sign in (-1, 1):
        for cell, (size, jump, start) in ((row, field_y), (col, field_x)):
            edge = start + cell * jump + sign * size / 2 + 0.5
            box.append(round(edge))
    return tuple(box)


def _box_stepwise(row, col, field_y, field_x):
    """Step by step from the first cell, in halves of a pixel."""
    begins = []
    for cell, (size, jump, start) in ((row, field_y), (col, field_x)):
        twice = int(2 * start) - size + 1
        for _ in range(cell):
            twice += 2 * jump
        begins.append(twice // 2)
    top, left = begins
    return [top, left, top + field_y[0], left + field_x[0]]


BOXES = ("odd_fields", "even_fields", "beyond_the_image")

EXERCISE = Exercise(
    id="cell_to_box",
    topic="convolutionalize",
    title="What a cell has seen",
    reference=reference.cell_to_box,
    minutes=10,
    difficulty=2,
    properties=(
        Property(
            "odd_fields",
            "the receptive field of a cell: start is the center of the first one, and bottom and right are exclusive",
            0.75,
            _box_case([3, 5, 1, 7]),
            _sides,
            examples=6,
        ),
        Property(
            "even_fields",
            "fields of an even number of pixels, whose center lies between two of them",
            0.5,
            _box_case([2, 4, 8, 6]),
            _sides,
            examples=6,
        ),
        Property(
            "beyond_the_image",
            "with padding a field may begin before the image: the box is not clipped",
            0.5,
            _box_case([8, 7, 9, 10], padded=True),
            _sides,
            examples=6,
        ),
        Property(
            "integers",
            "four integers in a tuple, no floats and no tensors",
            0.25,
            _one_box_case,
            _kinds,
            examples=3,
            tried="their types",
        ),
    ),
    misconceptions=(
        Misconception(
            "x_before_y",
            "You returned (left, top, right, bottom).",
            "Rows first: (top, left, bottom, right).",
            BOXES,
            _box_xy,
        ),
        Misconception(
            "top_bottom_left_right",
            "You returned (top, bottom, left, right).",
            "Both corners one after the other: (top, left, bottom, right).",
            BOXES,
            _box_top_bottom,
        ),
        Misconception(
            "height_and_width",
            "You returned the height and the width of the box in the last two places.",
            "They are its bottom and right: top + size and left + size.",
            BOXES,
            _box_height_width,
        ),
        Misconception(
            "row_and_column_swapped",
            "You took the row for the left side and the column for the top.",
            "row goes with field_y and gives top and bottom; col goes with field_x.",
            BOXES,
            _box_cells_swapped,
        ),
        Misconception(
            "fields_swapped",
            "You used field_x for the rows and field_y for the columns.",
            "row goes with field_y and gives top and bottom; col goes with field_x.",
            BOXES,
            _box_fields_swapped,
        ),
        Misconception(
            "one_field_for_both",
            "You used field_y for the columns as well.",
            "A window need not be square: col goes with field_x.",
            BOXES,
            _box_one_field,
        ),
        Misconception(
            "last_pixel_included",
            "Your bottom and right are the last pixels of the field.",
            "They are exclusive, one further: bottom = top + size, so that image[top:bottom] is the field.",
            BOXES,
            _box_inclusive,
        ),
        Misconception(
            "start_as_a_corner",
            "You took start for the field's first pixel.",
            "It is the center of the first field: its first pixel lies (size − 1)/2 before it.",
            BOXES,
            _box_from_start,
        ),
        Misconception(
            "start_ignored",
            "You did not use start, and let the first field begin at pixel 0.",
            "With padding it begins elsewhere: at start − (size − 1)/2.",
            BOXES,
            _box_without_start,
        ),
        Misconception(
            "jump_ignored",
            "Your fields are one pixel apart, whatever the jump.",
            "The center of cell i lies at start + i·jump.",
            BOXES,
            _box_without_jump,
        ),
        Misconception(
            "start_multiplied",
            "You multiplied start by the jump as well.",
            "start is in pixels already: the center of cell i lies at start + i·jump.",
            BOXES,
            _box_start_jumps,
        ),
        Misconception(
            "jump_as_the_size",
            "Your boxes are as large as the jump.",
            "The jump says how far apart they are; each is size pixels large, so they overlap.",
            BOXES,
            _box_size_of_jump,
        ),
        Misconception(
            "size_and_jump_swapped",
            "You unpacked a field as (jump, size, start).",
            "It is (size, jump, start), as receptive_field returns it.",
            BOXES,
            _box_size_and_jump,
        ),
        Misconception(
            "half_a_pixel_early",
            "You went half the size back from the center, which is half a pixel too far.",
            "From the center of the first pixel to that of the last there are size − 1 pixels: go (size − 1)/2 back.",
            BOXES,
            _box_full_size,
        ),
        Misconception(
            "even_fields_off_by_one",
            "Your fields of even size begin one pixel early: you cut the half off their center.",
            "Go back first, then round: start + i·jump − (size − 1)/2 is a whole number.",
            ("even_fields", "beyond_the_image"),
            _box_half_size,
        ),
        Misconception(
            "even_fields_one_larger",
            "Your fields of even size are one pixel too large: you took half the size, rounded down, to both sides, and the center.",
            "bottom = top + size, with top = start + i·jump − (size − 1)/2.",
            ("even_fields", "beyond_the_image"),
            _box_one_larger,
        ),
        Misconception(
            "half_pixels_rounded",
            "You rounded halves of a pixel, and round takes them to the even neighbor: 0.5 to 0, but 1.5 to 2.",
            "Go (size − 1)/2 back from the center: nothing is left to round.",
            BOXES,
            _box_rounded,
        ),
        Misconception(
            "radius_on_both_sides",
            "You went the same whole number of pixels to both sides of the center, so an odd field loses a pixel.",
            "A field has size pixels: bottom = top + size.",
            BOXES,
            _box_twice_the_radius,
        ),
        Misconception(
            "cut_towards_zero",
            "Your integers are cut from halves, and int cuts towards 0: where a field begins before the image, that is one pixel late.",
            "Leave no halves: start + i·jump − (size − 1)/2, with the division that keeps them, is a whole number.",
            ("beyond_the_image",),
            _box_towards_zero,
        ),
        Misconception(
            "clipped",
            "You clipped the box to the image.",
            "Return the whole field; negative numbers say that it begins in the padding.",
            ("beyond_the_image",),
            _box_clipped,
        ),
        Misconception(
            "moved_into_the_image",
            "You moved the box until it begins inside the image.",
            "Return the field where it lies; negative numbers say that it begins in the padding.",
            ("beyond_the_image",),
            _box_moved,
        ),
        Misconception(
            "floats",
            "Your numbers are floats.",
            "Make them integers: they are whole once (size − 1)/2 is taken off.",
            ("integers",),
            _box_floats,
        ),
        Misconception(
            "one_tensor",
            "You returned a tensor.",
            "Return four integers, one after the other: return top, left, bottom, right.",
            (*BOXES, "integers"),
            _box_tensor,
        ),
        Misconception(
            "named_sides",
            "You returned a dict.",
            "Return four integers, one after the other: return top, left, bottom, right.",
            (*BOXES, "integers"),
            _box_dict,
        ),
    ),
    right=(
        Variant("from edge to edge", _box_edges),
        Variant("step by step", _box_stepwise),
    ),
    hints=(
        Hint(
            "I don't know what start means",
            "The center of pixel 0 is 0. A field of the pixels 0, 1, 2 has its center at 1, one of the pixels 0, 1 at 0.5.",
        ),
        Hint(
            "My boxes are off by one",
            "A field of size pixels reaches from its center (size − 1)/2 pixels to each side. And the box is half-open: bottom − top = size.",
        ),
        Hint(
            "I don't know how to start",
            "size, jump, start = field_y; top = round(start + row·jump − (size − 1)/2); bottom = top + size. The same with col and field_x.",
        ),
    ),
)
