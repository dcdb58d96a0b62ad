"""The exercise top_patches of lecture 03: the patches a unit likes best."""

from itertools import groupby
from typing import Any

import torch

from autograder.attempt import Subject, kind_of
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.visualization.draws import distinct
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import visualization as reference


def _with_best(d: Draw, rows: int, columns: int, row: int, column: int) -> tuple[torch.Tensor, int]:
    """Maps of one image, and the channel whose best unit stands at (row, column)."""
    activations = distinct(d, 1, d.choice([2, 3]), rows, columns)
    channel = d.integer(0, activations.shape[1] - 1)
    activations[0, channel, row, column] = activations.max() + 1
    # A better unit in every other channel, for whoever looks at all of them.
    for other in range(activations.shape[1]):
        if other != channel:
            activations[0, other, rows - 1 - row, columns - 1 - column] = activations.max() + 1
    return activations, channel


def _seen(
    size: int, jump: int, padding: int, rows: int, columns: int, left_over: tuple[int, int] = (0, 0)
) -> tuple[tuple[int, int, float], tuple[int, ...]]:
    """A field, and the size of an image that makes maps of these sizes and has pixels left over."""
    image = tuple(
        (n - 1) * jump + size - 2 * padding + m for n, m in zip((rows, columns), left_over, strict=True)
    )
    return (size, jump, (size - 1) / 2 - padding), image


def _odd_fields(d: Draw) -> Case:
    side = d.choice([3, 4])
    activations, channel = _with_best(d, side, side, d.integer(1, side - 1), d.integer(0, side - 2))
    field, image = _seen(d.choice([3, 5, 7]), d.choice([2, 3, 4]), 0, side, side)
    return Case((activations, channel, 1, field, image))


def _even_fields(d: Draw) -> Case:
    side = d.choice([3, 4])
    activations, channel = _with_best(d, side, side, d.integer(1, side - 1), d.integer(0, side - 2))
    size, jump = d.choice([4, 2, 6]), d.choice([2, 3])
    field, image = _seen(size, jump, 0, side, side)
    outside, other = _with_best(d, side, side, 0, 0)
    padded, smaller = _seen(size + 2, jump, 1, side, side)
    extra = {"at the border": (outside, other, 1, padded, smaller)}
    return Case((activations, channel, 1, field, image), {}, extra)


def _rectangular(d: Draw) -> Case:
    rows, columns = d.each([(2, 5), (5, 2), (2, 7)])
    # Inside the image also for whoever swaps its sides, which is another property's business.
    row, column = (2, d.integer(0, 1)) if rows > columns else (1, d.choice([2, 0]))
    activations, channel = _with_best(d, rows, columns, row, column)
    return Case((d.layout(activations), channel, 1, *_seen(1, 1, 0, rows, columns)))


def _at_the_border(d: Draw) -> Case:
    """Each side of the image in turn, two of them at once, and a field that is larger than the image."""
    side, size = d.choice([3, 4]), d.choice([5, 7])
    jump, padding, last = d.choice([2, 3]), d.choice([1, 2]), side - 1
    # Wide and high images, whose last column or row no field needs: beyond their longer side, too, end those
    # of two pixels of padding alone.
    wide, high = (0, 1), (1, 0)
    place, longer, padding = d.each(
        [
            ((0, last), high, padding),
            ((last, 0), wide, padding),
            ((0, 1), wide, padding),
            ((1, 0), high, padding),
            ((last, 1), high, 2),
            ((1, last), wide, 2),
            (None, wide, side + 2),
        ]
    )
    if place is None:
        place, size, jump = (1, 1), 2 * side + 5, 2
    activations, channel = _with_best(d, side, side, *place)
    field, image = _seen(size, jump, padding, side, side, longer)
    return Case((activations, channel, 1, field, image))


def _ranked(d: Draw, count: int, k: int, *, tied: bool = False) -> Case:
    """Images whose best units come in no order, the best image with its two best units above all others, or
    beside that of one more image where `tied`: all images must be asked for then."""
    activations = distinct(d, count, 2, 3, 3)
    channel = d.integer(0, 1)
    best = d.integer(1, count - 1)
    top = float(activations.max())
    activations[best, channel, 0, 1], activations[best, channel, 2, 1] = top + 2, top + 3
    # The best unit stands in a map that is low otherwise, so that the mean ranks the images differently.
    activations[best, channel, 1] -= 100
    if tied:
        activations[best - 1, channel, d.integer(0, 2), d.integer(0, 2)] = top + 3
    # The other channel is strongest in one of the other images, for whoever looks at all of them.
    activations[best - 1, 1 - channel, d.integer(0, 2), 0] = top + 4
    # Negative ones are another property's business.
    return Case((activations - activations.min(), channel, k, *_seen(1, 1, 0, 3, 3)))


def _several(d: Draw) -> Case:
    count = d.choice([4, 3, 5])
    k = d.each([2, count, count - 1])
    return _ranked(d, count, k, tied=k == count)


def _few(d: Draw) -> Case:
    count = d.choice([2, 3])
    return _ranked(d, count, count + d.integer(1, 3), tied=d.each([False, True]))


def _ties(d: Draw) -> Case:
    side = d.choice([3, 4])
    activations, channel = _with_best(d, side, side, 0, d.integer(1, side - 1))
    best = activations[0, channel].max()
    activations[0, channel, d.integer(1, side - 1), 0] = best
    if d.flag():
        activations[0, channel, side - 1, side - 1] = best
    return Case((activations, channel, 1, *_seen(1, 1, 0, side, side)))


def _below_zero(d: Draw) -> Case:
    side = d.choice([3, 4])
    activations, channel = _with_best(d, side, side, d.integer(1, side - 1), d.integer(0, side - 1))
    return Case((activations - activations.max() - 1, channel, 1, *_seen(1, 1, 0, side, side)))


def _numbers(subject: Subject, case: Case) -> Any:
    """The boxes as numbers; of which kind those are is another property's business."""
    patches = subject(*case.args)
    if not isinstance(patches, list | tuple):
        return patches
    return [
        tuple(_number(entry) for entry in patch) if isinstance(patch, list | tuple) else patch
        for patch in patches
    ]


def _places(subject: Subject, case: Case) -> Any:
    """Where patches begin: with a field of one pixel that tells the unit. Their ends are told elsewhere."""
    patches = _numbers(subject, case)
    if not isinstance(patches, list):
        return patches
    return [patch[:3] if isinstance(patch, tuple) and len(patch) == 5 else patch for patch in patches]


def _ranking(subject: Subject, case: Case) -> Any:
    """As `_places`; images of the same activation, which may come in any order, are put in that of their
    numbers."""
    patches = _places(subject, case)
    activations, channel = case.args[:2]
    best = activations[:, channel].amax((1, 2)).tolist()

    def numbered(patch: Any) -> bool:
        return (
            isinstance(patch, tuple)
            and bool(patch)
            and isinstance(patch[0], int)
            and 0 <= patch[0] < len(best)
        )

    if not isinstance(patches, list) or not all(map(numbered, patches)):
        return patches
    runs = groupby(patches, key=lambda patch: best[patch[0]])
    return [patch for _, run in runs for patch in sorted(run, key=lambda patch: patch[0])]


def _even_numbers(subject: Subject, case: Case) -> Any:
    """Beside the box, where another one ends that begins before the image. Its beginning is cut off, and is
    another property's business."""
    patches = _numbers(subject, case)
    border = _numbers(subject, Case(case.extra["at the border"]))
    first = border[0] if isinstance(border, list) and border else border
    ends = first[3:] if isinstance(first, tuple) and len(first) == 5 else first
    return {"patches": patches, "bottom and right of the one at the border": ends}


def _kinds(subject: Subject, case: Case) -> list[str]:
    """What kinds of numbers the first patch holds."""
    patches = subject(*case.args)
    first = patches[0] if isinstance(patches, list | tuple) and patches else patches
    return [kind_of(entry) for entry in first] if isinstance(first, list | tuple) else [kind_of(first)]


def _number(entry: Any) -> Any:
    if isinstance(entry, torch.Tensor) and entry.dim() == 0:
        entry = entry.item()
    return int(entry) if isinstance(entry, float) and entry.is_integer() else entry


CLAIMS = Exercise(
    id="top_patches",
    topic="visualization",
    title="The patches a unit likes best",
    reference=reference.top_patches,
    minutes=25,
    difficulty=3,
    properties=claims(
        """
        boxes (0.5): the field of the channel's best unit: (n, top, left, bottom, right), bottom and right
          exclusive
        integers (0.25): the five numbers of a patch are Python integers
        even_fields (0.25): fields of even size, whose center lies between two pixels, also where they begin
          before the image
        tried: two calls, one with a field inside the image, one with a field that begins before it
        rectangular (0.25): maps that are not square
        tried: image, top and left of the patches
        order (0.5): one patch an image, the k images with the highest activations, strongest first
        tried: image, top and left of the patches
        clipped (0.5): boxes end at the image's border
        ties (0.25): among equal units the first in row order
        tried: image, top and left of the patches
        negative (0.25): also where all activations are negative
        tried: image, top and left of the patches
        few_images (0.25): all images where there are fewer than k
        tried: image, top and left of the patches
        """,
        boxes=on(_odd_fields, _numbers, examples=6),
        integers=on(_odd_fields, _kinds, examples=2, beside="boxes"),
        even_fields=on(_even_fields, _even_numbers),
        rectangular=on(_rectangular, _places, examples=6),
        order=on(_several, _ranking),
        clipped=on(_at_the_border, _numbers),
        ties=on(_ties, _places, examples=6),
        negative=on(_below_zero, _places, examples=6),
        few_images=on(_few, _ranking, examples=4),
    ),
    hints=hints("""
        I don't know where a unit's patch lies
        The center of unit (0, 0) is at pixel `start`, in both directions. How far is it to the next unit, and
          how far from a center to the field's first pixel?

        My boxes are off by one, or by a half
        top = start + row · jump − (size − 1) / 2 is a whole number for odd and even sizes. bottom = top +
          size, exclusive. Clip both at the end, not before you add.

        I don't know how to put it together
        For each image n: index = activations[n, channel].argmax(); row, column = divmod(int(index), w). Keep
          (activation, n, row, column), sort by activation, descending, take the first k, and make the boxes
          of those.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def by_image(activations, channel, k, field, image_size):
    """one image after another"""
    size, jump, start = field
    height, width = image_size
    ranking = []
    for n, maps in enumerate(activations[:, channel]):
        unit = int(maps.argmax())
        ranking.append((float(maps.max()), n, unit))
    ranking.sort(key=lambda entry: entry[0], reverse=True)
    patches = []
    for _, n, unit in ranking[:k]:
        row, column = divmod(unit, activations.shape[3])
        half = (size - 1) / 2
        top, left = int(start + row * jump - half), int(start + column * jump - half)
        bottom, right = top + size, left + size
        top, bottom = min(max(top, 0), height), min(max(bottom, 0), height)
        left, right = min(max(left, 0), width), min(max(right, 0), width)
        patches.append((n, top, left, bottom, right))
    return patches


answers.edits("""
center_for_corner: boxes even_fields clipped
- top, left = int(start + row * jump - half), int(start + column * jump - half)
+ top, left = int(start + row * jump), int(start + column * jump)
You began the box at the unit's center.
The center is in the middle of the field: top = center − (size − 1) / 2.

start_ignored: even_fields clipped
- top, left = int(start + row * jump - half), int(start + column * jump - half)
+ top, left = row * jump, column * jump
You left start out: with padding, the first unit's field begins before the image.
The center of unit (row, column) is at start + row · jump; top is (size − 1) / 2 above it.

start_left_out: boxes even_fields clipped
- int(start + row * jump - half), int(start + column * jump - half)
+ int(row * jump - half), int(column * jump - half)
You left start out: the center of the first unit is not at pixel 0.
The center of unit (row, column) is at start + row · jump, and start + column · jump.

height_and_width: boxes even_fields clipped
- (n, top, left, bottom, right)
+ (n, top, left, bottom - top, right - left)
You gave a box's height and width.
Where it ends: (n, top, left, bottom, right), bottom = top + size before clipping.

half_of_an_even_size: even_fields
- half = (size - 1) / 2
+ half = size // 2
You took size // 2 off the center, or rounded start down: half a pixel too much for an even size.
start − (size − 1) / 2 is a whole number, also for even sizes: round nothing before.

rounded_to_zero: even_fields
- half = (size - 1) / 2
+ half = (size - 1) // 2
You took (size − 1) // 2 off and left the half to int(), which rounds towards 0: wrong below 0.
start − (size − 1) / 2 is a whole number, also for even sizes: divide with /, then int() changes nothing.

jump_for_size: boxes even_fields clipped
- half = (size - 1) / 2
+ half = (jump - 1) / 2
- bottom, right = top + size, left + size
+ bottom, right = top + jump, left + jump
Your box is as large as the jump.
A field is `size` pixels wide, however far apart the units are: bottom = top + size.

half_of_the_size: all but integers
- half = (size - 1) / 2
+ half = size / 2
You took size / 2 off the center: half a pixel too much, and int() made a whole one of it.
From the center of a field to the center of its first pixel it is (size − 1) / 2.

jump_ignored: boxes even_fields clipped
- top, left = int(start + row * jump - half), int(start + column * jump - half)
+ top, left = int(start + row - half), int(start + column - half)
You took the unit's row and column for pixels.
Units are jump pixels apart: start + row · jump.

last_pixel_included: boxes even_fields clipped
- bottom, right = top + size, left + size
+ bottom, right = top + size - 1, left + size - 1
Your bottom and right are the last pixels of the field.
They are exclusive, as in a slice: bottom = top + size.

x_before_y: all but integers
- (n, top, left, bottom, right)
+ (n, left, top, right, bottom)
You gave (left, top, right, bottom).
Rows come first: (n, top, left, bottom, right).

floats: integers
- top, left = int(start + row * jump - half), int(start + column * jump - half)
+ top, left = start + row * jump - half, start + column * jump - half
Your coordinates are floats, which cannot slice an image.
They are whole numbers: int(…) each of them.

tensors: integers
- patches.append((n, top, left, bottom, right))
+ patches.append(tuple(torch.tensor([n, top, left, bottom, right])))
Your tuples hold tensors.
int(…) or .item() makes Python integers of them; .tolist() does it for a whole tensor.

divided_by_rows: rectangular
- divmod(unit, activations.shape[3])
+ divmod(unit, activations.shape[2])
You found row and column of a flat index with the map's height.
A row is as long as the map is wide: divmod(index, w).

image_size_swapped: clipped
- height, width = image_size
+ width, height = image_size
You read image_size as (W, H).
height, width = image_size.

not_clipped: clipped
- top, bottom = min(max(top, 0), height), min(max(bottom, 0), height)
- left, right = min(max(left, 0), width), min(max(right, 0), width)
Your boxes reach beyond the image.
min(max(value, 0), H) for top and bottom, the same with W for left and right.

clipped_at_zero_only: clipped
- top, bottom = min(max(top, 0), height), min(max(bottom, 0), height)
- left, right = min(max(left, 0), width), min(max(right, 0), width)
+ top, left = max(top, 0), max(left, 0)
You cut boxes off at 0 and not at the image's other end.
min(…, H) for bottom, min(…, W) for right.

clipped_too_early: even_fields clipped
- bottom, right = top + size, left + size
+ top, left = max(top, 0), max(left, 0)
+ bottom, right = top + size, left + size
You cut top and left off at 0 and then added the size: the box lost its beginning and gained at its end.
First top and bottom = top + size, then clip both.

moved_inside: even_fields clipped
- bottom, right = top + size, left + size
- top, bottom = min(max(top, 0), height), min(max(bottom, 0), height)
- left, right = min(max(left, 0), width), min(max(right, 0), width)
+ top, left = min(max(top, 0), height - size), min(max(left, 0), width - size)
+ bottom, right = top + size, left + size
You moved boxes into the image. The unit does not see what you then show.
Cut them off: a patch at the border is smaller.

several_of_one_image: order few_images
- unit = int(maps.argmax())
- ranking.append((float(maps.max()), n, unit))
+ for unit, value in enumerate(maps.flatten().tolist()):
+     ranking.append((value, n, unit))
You ranked all units of all images, so that one image can fill the list.
First the best unit of each image, then the best images.

weakest_first: order few_images
- , reverse=True
You began with the weakest.
Sort by descending activation.

images_in_their_order: order few_images
- ranking.sort(key=lambda entry: entry[0], reverse=True)
You took the first k images in their own order.
Sort the images by their best unit's activation first.

ranked_by_mean: order few_images
- maps.max()
+ maps.mean()
You ranked the images by the mean of their map.
What counts is the best unit, the maximum.

rank_for_image: order few_images
- for _, n, unit in ranking[:k]:
+ for n, (_, _, unit) in enumerate(ranking[:k]):
Your n is the place in the list.
It is the number of the image, which goes along when you sort.

dictionary_of_activations: order few_images
- ranking = []
+ found = {}
- ranking.append((float(maps.max()), n, unit))
+ found[float(maps.max())] = (n, unit)
- ranking.sort(key=lambda entry: entry[0], reverse=True)
...
- for _, n, unit in ranking[:k]:
+ for value in sorted(found, reverse=True)[:k]:
+     n, unit = found[value]
Of images with exactly the same highest activation you keep only one: a dictionary has one entry a key.
Keep a list of (activation, n, row, column) and sort it: equal images all stay.

looked_up_by_activation: order few_images
- ranking.sort(key=lambda entry: entry[0], reverse=True)
+ values = [value for value, _, _ in ranking]
+ ranking = [ranking[values.index(value)] for value in sorted(values, reverse=True)]
Of images with exactly the same highest activation you give one several times: index finds the first.
Sort the images themselves, (activation, n, row, column), so that the number goes along.

last_of_equals: ties
- unit = int(maps.argmax())
+ best = float("-inf")
+ for place, value in enumerate(maps.flatten().tolist()):
+     if value >= best:
+         best, unit = value, place
You took the last of equal units.
The first: compare with > and not with >=.

absolute_values: negative
- activations[:, channel]
+ activations[:, channel].abs()
You looked for the greatest absolute value: a strongly negative unit is not excited.
The greatest value, with its sign.

topk_of_too_many: few_images
- ranking.sort(key=lambda entry: entry[0], reverse=True)
+ order = activations[:, channel].amax((1, 2)).topk(k).indices
+ ranking = [ranking[n] for n in order.tolist()]
You asked topk for more images than there are.
topk(min(k, N)): then the list is shorter.

column_order: ties
- unit = int(maps.argmax())
+ column, row = divmod(int(maps.T.argmax()), len(maps))
+ unit = row * maps.shape[1] + column
You took the first of equal units column by column.
Row by row: argmax of the map as it is, or rows in the outer loop.

best_begins_at_zero: negative
- unit = int(maps.argmax())
+ best, unit = 0.0, 0
+ for place, value in enumerate(maps.flatten().tolist()):
+     if value > best:
+         best, unit = value, place
Where all activations are negative you take the first unit, as if none were there: a search that begins with
  a best of 0 does so, and clamp(min=0) does.
Begin with the first unit, or with -inf, and leave negative activations as they are.

more_than_there_are: few_images
- for _, n, unit in ranking[:k]:
+ for place in range(k):
+     _, n, unit = ranking[place]
You asked for more images than there are.
min(k, N): then the list is shorter.

all_channels: all but integers
- activations[:, channel]
+ activations.amax(1)
You looked at another channel than `channel`, or at all of them.
activations[:, channel] first.
""")


@answers.right
def sorted_tensors(activations, channel, k, field, image_size):
    """tensors throughout"""
    size, jump, start = field
    height, width = image_size
    flat = activations[:, channel].reshape(len(activations), -1)
    order = torch.argsort(flat.amax(1), descending=True)[:k]
    first = (flat[order] == flat[order].amax(1, keepdim=True)).int().argmax(1)
    columns = activations.shape[3]
    corner = torch.stack([first // columns, first % columns], 1) * jump + round(start - (size - 1) / 2)
    limit = torch.tensor([height, width], device=corner.device)
    boxes = torch.cat([corner.clamp(min=0), torch.minimum(corner + size, limit)], 1)
    return [(int(n), *map(int, box)) for n, box in zip(order, boxes, strict=True)]


@answers.right
def looped(activations, channel, k, field, image_size):
    """plain loops"""
    size, jump, start = field
    ranking = []
    for n, maps in enumerate(activations.tolist()):
        best = None
        for row, line in enumerate(maps[channel]):
            for column, value in enumerate(line):
                if best is None or value > best[0]:
                    best = (value, row, column)
        ranking.append((best, n))
    ranking.sort(reverse=True)
    patches = []
    for (_, row, column), n in ranking[: min(k, len(ranking))]:
        box = []
        for cell, limit in ((row, image_size[0]), (column, image_size[1])):
            center = start + cell * jump
            low, high = center - (size - 1) / 2, center + (size - 1) / 2 + 1
            box.append((max(0, round(low)), min(limit, round(high))))
        (top, bottom), (left, right) = box
        patches.append((n, top, left, bottom, right))
    return patches


EXERCISE = answers.exercise()
