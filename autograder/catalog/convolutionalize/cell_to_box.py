"""The exercise cell_to_box of lecture 04: what a cell has seen."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from autograder.attempt import Odd, Subject, kind_of
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import convolutionalize as reference


def _field(size: int, jump: int, first: int) -> tuple[int, int, float]:
    """(size, jump, start) where the first field begins at pixel `first`."""
    return size, jump, first + (size - 1) / 2


def _box_case(sizes: list[int], *, padded: bool = False) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        # The first row and the first column too, one of them at a time.
        cell = (0, d.choice([1, 0])) if padded else d.each([(1, 2), (3, 7), (0, 4), (2, 0)])
        # Square at times: who takes the size of the wrong axis is right there, in every exam.
        height = d.choice(sizes)
        width = d.each([d.choice([s for s in sizes[::-1] if s != height]), height])
        fields = []
        for size in (height, width):
            first = -d.integer(1, 3) if padded else d.choice([1, 2, 0, 3])
            fields.append(_field(size, d.choice([2, 4, 3, 1]), first))
        return Case((*cell, *fields))

    return draw


def _one_box_case(d: Draw) -> Case:
    sizes = [3, 5, 4, 8]
    return _box_case(sizes)(d)


SIDES = ("top", "left", "bottom", "right")


def _sides(subject: Subject, case: Case) -> Any:
    """The four numbers, whole or not and in a tuple or not, which is another property's business."""
    box = subject(*case.args)
    if isinstance(box, dict) and set(box) == set(SIDES):
        box = [box[name] for name in SIDES]
    if isinstance(box, torch.Tensor | np.ndarray) and box.shape == (4,):
        box = box.tolist()
    if not isinstance(box, list | tuple):
        raise Odd(f"expected a tuple (top, left, bottom, right), got a {kind_of(box)}")
    if len(box) != 4:
        raise Odd(f"expected a tuple of four numbers, got {len(box)}")
    if any(isinstance(side, bool) or not isinstance(side, int | float | torch.Tensor) for side in box):
        return box
    return {name: float(side) for name, side in zip(SIDES, box, strict=True)}


def _kinds(subject: Subject, case: Case) -> Any:
    box = subject(*case.args)
    if not isinstance(box, list | tuple):
        raise Odd(f"expected a tuple of four integers, got a {kind_of(box)}")
    return [kind_of(side) for side in box]


CLAIMS = Exercise(
    id="cell_to_box",
    topic="convolutionalize",
    title="What a cell has seen",
    reference=reference.cell_to_box,
    minutes=10,
    difficulty=2,
    properties=claims(
        """
        odd_fields (0.75): the receptive field of a cell: start is the center of the first one, and bottom and
          right are exclusive
        even_fields (0.5): fields of an even number of pixels, whose center lies between two of them
        beyond_the_image (0.5): with padding a field may begin before the image: the box is not clipped
        integers (0.25): four integers in a tuple, no floats and no tensors
        tried: their types
        """,
        odd_fields=on(_box_case([3, 5, 1, 7]), _sides, examples=6),
        even_fields=on(_box_case([4, 2, 8, 6]), _sides, examples=6),
        beyond_the_image=on(_box_case([8, 7, 9, 10], padded=True), _sides, examples=6),
        integers=on(_one_box_case, _kinds, examples=3, beside="odd_fields"),
    ),
    hints=hints("""
        I don't know what start means
        The center of pixel 0 is 0. A field of the pixels 0, 1, 2 has its center at 1, one of the pixels 0, 1
          at 0.5.

        My boxes are off by one
        A field of size pixels reaches from its center (size − 1)/2 pixels to each side. And the box is
          half-open: bottom − top = size.

        I don't know how to start
        size, jump, start = field_y; top = round(start + row·jump − (size − 1)/2); bottom = top + size. The
          same with col and field_x.
        """),
)

answers = Answers(CLAIMS)


def span(cell, field):
    size, jump, start = field
    center = start + cell * jump
    first = math.floor(center - (size - 1) / 2)
    return first, first + size


@answers.right
def by_spans(row, col, field_y, field_x):
    """one axis after the other"""
    top, bottom = span(row, field_y)
    left, right = span(col, field_x)
    return top, left, bottom, right


answers.edits("""
x_before_y: all but integers
- return top, left, bottom, right
+ return left, top, right, bottom
You returned (left, top, right, bottom).
Rows first: (top, left, bottom, right).

top_bottom_left_right: all but integers
- return top, left, bottom, right
+ return top, bottom, left, right
You returned (top, bottom, left, right).
Both corners one after the other: (top, left, bottom, right).

height_and_width: all but integers
- return top, left, bottom, right
+ return top, left, bottom - top, right - left
You returned the height and the width of the box in the last two places.
They are its bottom and right: top + size and left + size.

row_and_column_swapped: all but integers
- span(row, field_y)
+ span(col, field_y)
- span(col, field_x)
+ span(row, field_x)
You took the row for the left side and the column for the top.
row goes with field_y and gives top and bottom; col goes with field_x.

fields_swapped: all but integers
- span(row, field_y)
+ span(row, field_x)
- span(col, field_x)
+ span(col, field_y)
You used field_x for the rows and field_y for the columns.
row goes with field_y and gives top and bottom; col goes with field_x.

one_field_for_both: all but integers
- span(col, field_x)
+ span(col, field_y)
You used field_y for the columns as well.
A window need not be square: col goes with field_x.

right_by_the_size_of_field_y: all but integers
- return top, left, bottom, right
+ return top, left, bottom, left + field_y[0]
Your boxes are as wide as high: right is left plus the size of field_y.
A window need not be square: right is left plus the size of field_x.

bottom_by_the_size_of_field_x: all but integers
- return top, left, bottom, right
+ return top, left, top + field_x[0], right
Your boxes are as high as wide: bottom is top plus the size of field_x.
A window need not be square: bottom is top plus the size of field_y.

sizes_swapped: all but integers
- return top, left, bottom, right
+ return top, left, top + field_x[0], left + field_y[0]
Your boxes have height and width exchanged: you added the size of field_x to top, and that of field_y to left.
The size of field_y goes with the rows, bottom = top + size; that of field_x with the columns.

last_pixel_included: all but integers
- first + size
+ first + size - 1
Your bottom and right are the last pixels of the field.
They are exclusive, one further: bottom = top + size, so that image[top:bottom] is the field.

start_as_a_corner: all but integers
- math.floor(center - (size - 1) / 2)
+ math.floor(center)
You took start for the field's first pixel.
It is the center of the first field: its first pixel lies (size − 1)/2 before it.

start_ignored: all but integers
- center = start + cell * jump
- first = math.floor(center - (size - 1) / 2)
+ first = cell * jump
You did not use start, and let the first field begin at pixel 0.
With padding it begins elsewhere: at start − (size − 1)/2.

jump_ignored: all but integers
- start + cell * jump
+ start + cell
Your fields are one pixel apart, whatever the jump.
The center of cell i lies at start + i·jump.

start_multiplied: all but integers
- start + cell * jump
+ (start + cell) * jump
You multiplied start by the jump as well.
start is in pixels already: the center of cell i lies at start + i·jump.

jump_as_the_size: all but integers
- first + size
+ first + jump
Your boxes are as large as the jump.
The jump says how far apart they are; each is size pixels large, so they overlap.

size_and_jump_swapped: all but integers
- size, jump, start = field
+ jump, size, start = field
You unpacked a field as (jump, size, start).
It is (size, jump, start), as receptive_field returns it.

half_a_pixel_early: all but integers
- center - (size - 1) / 2
+ center - size / 2
You went half the size back from the center, which is half a pixel too far.
From the center of the first pixel to that of the last there are size − 1 pixels: go (size − 1)/2 back.

even_fields_off_by_one: all but odd_fields integers
- math.floor(center - (size - 1) / 2)
+ int(center - size // 2)
Your fields of even size begin one pixel early: you cut the half off their center.
Go back first, then round: start + i·jump − (size − 1)/2 is a whole number.

center_rounded: even_fields beyond_the_image
- center = start + cell * jump
- first = math.floor(center - (size - 1) / 2)
+ center = round(start + cell * jump)
+ first = center - size // 2
You rounded the center to a pixel before you went back: some fields of even size begin one pixel early.
Go back first, then round: start + i·jump − (size − 1)/2 is a whole number.

even_fields_one_larger: all but odd_fields integers
- first = math.floor(center - (size - 1) / 2)
- return first, first + size
+ return int(center - size // 2), int(center + size // 2 + 1)
Your fields of even size are one pixel too large: you took half the size, rounded down, to both sides, and the
  center.
bottom = top + size, with top = start + i·jump − (size − 1)/2.

half_pixels_rounded: all but integers
- first = math.floor(center - (size - 1) / 2)
- return first, first + size
+ return round(center - size / 2), round(center + size / 2)
You rounded halves of a pixel, and round takes them to the even neighbor: 0.5 to 0, but 1.5 to 2.
Go (size − 1)/2 back from the center: nothing is left to round.

radius_on_both_sides: all but integers
- first = math.floor(center - (size - 1) / 2)
- return first, first + size
+ center, radius = int(center), size // 2
+ return center - radius, center + radius
You went the same whole number of pixels to both sides of the center, so an odd field loses a pixel.
A field has size pixels: bottom = top + size.

cut_towards_zero: beyond_the_image
- first = math.floor(center - (size - 1) / 2)
- return first, first + size
+ first = center - (size - 1) // 2
+ return int(first), int(first + size)
Your integers are cut from halves, and int cuts towards 0: where a field begins before the image, that is one
  pixel late.
Leave no halves: start + i·jump − (size − 1)/2, with the division that keeps them, is a whole number.

clipped: beyond_the_image
- return first, first + size
+ return max(0, first), max(0, first + size)
You clipped the box to the image.
Return the whole field; negative numbers say that it begins in the padding.

moved_into_the_image: beyond_the_image
- math.floor(center - (size - 1) / 2)
+ max(0, math.floor(center - (size - 1) / 2))
You moved the box until it begins inside the image.
Return the field where it lies; negative numbers say that it begins in the padding.

floats: integers
- math.floor(center - (size - 1) / 2)
+ center - (size - 1) / 2
Your numbers are floats.
Make them integers: they are whole once (size − 1)/2 is taken off.

tensors: integers
- math.floor(center - (size - 1) / 2)
+ torch.tensor(center - (size - 1) / 2).long()
Your numbers are tensors.
Make them integers, with int(…) or .item().

one_tensor: integers
- return top, left, bottom, right
+ return torch.tensor([top, left, bottom, right])
You returned a tensor.
Return four integers, one after the other: return top, left, bottom, right.

named_sides: integers
- return top, left, bottom, right
+ return {"top": top, "left": left, "bottom": bottom, "right": right}
You returned a dict.
Return four integers, one after the other: return top, left, bottom, right.
""")


@answers.right
def from_edges(row, col, field_y, field_x):
    """from edge to edge"""
    box = []
    for sign in (-1, 1):
        for cell, (size, jump, start) in ((row, field_y), (col, field_x)):
            edge = start + cell * jump + sign * size / 2 + 0.5
            box.append(round(edge))
    return tuple(box)


@answers.right
def stepwise(row, col, field_y, field_x):
    """step by step"""
    begins = []
    for cell, (size, jump, start) in ((row, field_y), (col, field_x)):
        twice = int(2 * start) - size + 1
        for _ in range(cell):
            twice += 2 * jump
        begins.append(twice // 2)
    top, left = begins
    return [top, left, top + field_y[0], left + field_x[0]]


EXERCISE = answers.exercise()
