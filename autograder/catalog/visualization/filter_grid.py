"""The exercise filter_grid of lecture 03: the filters of a first layer as a picture."""

from typing import Any

import torch
from torch.nn import functional as F

from autograder.attempt import Raised, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import numbers
from autograder.catalog.visualization.draws import distinct
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Forbidden
from coursekit import visualization as reference

MAKE_GRID = Forbidden("torchvision.utils.make_grid", ("torchvision.utils.make_grid",))


def _filters(d: Draw, count: int, channels: int = 3, size: tuple[int, int] = (3, 3)) -> torch.Tensor:
    """Filters that differ in scale, some of them far from zero, some without a positive weight."""
    scale = d.positive(count, 1, 1, 1, low=0.2, high=3.0)
    return d.layout(d.tensor(count, channels, *size) * scale + d.choice([0.0, -20.0, 100.0]))


def _stretched(d: Draw, count: int, channels: int = 3, size: tuple[int, int] = (3, 3)) -> torch.Tensor:
    """Filters that are stretched already, channel by channel: how is another property's business."""
    weight = distinct(d, count, channels, *size)
    low, high = weight.amin((2, 3), keepdim=True), weight.amax((2, 3), keepdim=True)
    return d.layout((weight - low) / (high - low))


def _one_row(d: Draw) -> Case:
    columns = d.choice([2, 3, 4])
    side = d.choice([3, 2, 5])
    return Case((_filters(d, columns, size=(side, side)),), {"columns": columns, "padding": 0})


def _full_rows(d: Draw) -> Case:
    rows, columns, padding = d.each([(2, 3, 2), (3, 2, 1), (2, 4, 3), (3, 1, 2), (2, 3, 0)])
    weight = _stretched(d, rows * columns, size=d.choice([(2, 3), (4, 2), (1, 3)]))
    return Case((weight,), {"columns": columns, "padding": padding})


def _missing(d: Draw) -> Case:
    """Fewer filters than fit in the rows; in every third case fewer than columns, and the defaults."""
    rows, columns = d.each([(1, 3), (2, 4), (1, 8), (3, 2), (2, 3)])
    weight = _stretched(d, rows * columns - d.integer(1, columns - 1), size=(3, 1))
    return Case((weight,), {} if columns == 8 else {"columns": columns, "padding": d.choice([2, 1, 0])})


def _gray(d: Draw) -> Case:
    columns = d.choice([2, 3, 1])
    return Case((_stretched(d, columns, channels=1, size=(3, 2)),), {"columns": columns, "padding": 0})


def _flat_filter(d: Draw) -> Case:
    columns = d.choice([2, 3])
    weight = _filters(d, columns).clone()
    flat = d.integer(0, columns - 1)
    weight[flat] = d.choice([0.25, 0.0, -2.0, 7.0])
    # A faint filter beside it is not constant, however small its range.
    weight[(flat + 1) % columns] = d.tensor(*weight.shape[1:], scale=1e-4)
    return Case((weight,), {"columns": columns, "padding": 0})


def _other_channels(d: Draw) -> Case:
    return Case((_filters(d, 2, channels=d.each([2, 4, 6])),), {"columns": 2})


def _grid_kinds(d: Draw) -> Case:
    dtype = d.each([torch.float64, torch.float32])
    return Case((_filters(d, 2).to(dtype),), {"columns": 2, "padding": 0})


def _first_row(subject: Subject, case: Case) -> Any:
    """The first row of filters, so that a wrong number of rows costs nothing here."""
    picture = numbers(subject, case)
    return picture[:, : case.args[0].shape[2]] if isinstance(picture, torch.Tensor) else picture


def _grid_dtype(subject: Subject, case: Case) -> dict[str, Any]:
    picture, changed = subject.with_changes(*case.args, **case.kwargs)
    dtype = str(picture.dtype).removeprefix("torch.") if isinstance(picture, torch.Tensor) else "none"
    try:
        (gradient,) = subject.vjp(*case.args, wrt=[0], **case.kwargs)["grads"].values()
    except Raised:
        # What works in place on the weights raises here, and was seen already.
        gradient = None
    return {
        "dtype": dtype,
        "arguments changed in place": [int(c) for c in changed],
        "the picture has a graph": gradient is not None,
    }


# A picture in float32 is as good; which dtype it has is asked for once.
PICTURE = (1e-3, 1e-4)

CLAIMS = Exercise(
    id="filter_grid",
    topic="visualization",
    title="The first layer as a picture",
    reference=reference.filter_grid,
    minutes=18,
    difficulty=2,
    properties=claims(
        """
        scaled (0.75): each filter is stretched on its own: its least weight becomes 0, its greatest 1
        tried: the first row of the picture
        layout (0.75): filters stand row by row, with `padding` pixels of 1 around and between them
        missing (0.5): the picture is `columns` filters wide also where there are fewer, and missing ones are
          1
        gray (0.25): filters with one channel are repeated to three
        tried: the first row of the picture
        constant (0.25): a constant filter is 0.5, and a faint one is not: it is stretched like any other
        tried: the first row of the picture
        refused (0.25): another number of channels is a ValueError
        kinds (0.25): the dtype of the weights carries over, the picture has no graph, and the weights are not
          changed
        tried: the dtype and the graph of the picture, and the weights afterwards
        """,
        scaled=on(_one_row, _first_row, tolerance=PICTURE, examples=6),
        layout=on(_full_rows, numbers, tolerance=PICTURE, examples=6),
        missing=on(_missing, numbers, tolerance=PICTURE, examples=6),
        gray=on(_gray, _first_row, tolerance=PICTURE, examples=4),
        constant=on(_flat_filter, _first_row, tolerance=PICTURE, examples=4),
        refused=on(_other_channels, examples=3, beside="layout"),
        kinds=on(_grid_kinds, _grid_dtype, examples=4, beside="layout"),
    ),
    hints=hints("""
        My filters look gray, or too colorful
        Which numbers share one minimum and one maximum? All of one filter: its channels, rows and columns; no
          others.

        My picture has the wrong size
        There is one line more than there are rows of filters: H = rows · (h + padding) + padding with rows =
          ⌈K / columns⌉. The width follows from `columns`, not from K.

        I don't know how to start
        picture = torch.ones(3, H, W). For filter k: row, column = divmod(k, columns); top = padding + row ·
          (h + padding), left likewise; picture[:, top:top+h, left:left+w] = the scaled filter (0.5 where its
          maximum is its minimum).
        """),
    forbidden=(MAKE_GRID,),
)

answers = Answers(CLAIMS)


@answers.right
def canvas(weight, columns=8, padding=1):
    """a canvas, tile by tile"""
    count, channels, h, w = weight.shape
    if channels not in (1, 3):
        raise ValueError(f"weight must have 1 or 3 channels, got {channels}")
    weight = weight.detach()
    axes = (1, 2, 3)
    low, high = weight.amin(axes, keepdim=True), weight.amax(axes, keepdim=True)
    tiles = torch.where(high > low, (weight - low) / (high - low), 0.5)
    rows = (count + columns - 1) // columns
    down, right = h + padding, w + padding
    picture = weight.new_ones(3, rows * down + padding, columns * right + padding)
    for k, tile in enumerate(tiles):
        row, column = divmod(k, columns)
        top, left = padding + row * down, padding + column * right
        picture[:, top : top + h, left : left + w] = tile
    return picture


answers.edits("""
scaled_together: scaled constant
- axes = (1, 2, 3)
+ axes = (0, 1, 2, 3)
You took the least and greatest weight of all filters together, so weak filters look like flat gray.
Each filter has its own: weight.amin((1, 2, 3), keepdim=True), and amax likewise.

channels_scaled_apart: scaled constant
- axes = (1, 2, 3)
+ axes = (2, 3)
You stretched each color channel on its own, which changes the filter's colors.
One minimum and one maximum for all three channels of a filter.

divided_by_maximum: scaled constant
- torch.where(high > low, (weight - low) / (high - low), 0.5)
+ weight / high
You divided by the greatest weight; the least one must become 0 too.
(f − min f) / (max f − min f).

clamped: scaled constant
- torch.where(high > low, (weight - low) / (high - low), 0.5)
+ weight.clamp(0, 1)
You cut the weights off at 0 and 1. Weights are of any size and sign.
Stretch them: (f − min f) / (max f − min f).

zero_is_gray: all but refused kinds
- (weight - low) / (high - low)
+ 0.5 + weight / (2 * weight.abs().amax(axes, keepdim=True))
You scaled by the greatest absolute weight, so that 0 is gray and the full range is seldom used.
Here the least weight is 0 and the greatest is 1: (f − min f) / (max f − min f).

zero_is_gray_and_constants_scaled: all but refused kinds
- torch.where(high > low, (weight - low) / (high - low), 0.5)
+ 0.5 + weight / (2 * weight.abs().amax(axes, keepdim=True))
You scaled all filters, constant ones too, by the greatest absolute weight, so that 0 is gray.
A constant filter is 0.5; of any other the least weight is 0, the greatest 1: (f − min f) / (max f − min f).

standardized: all but refused kinds
- torch.where(high > low, (weight - low) / (high - low), 0.5)
+ (0.5 + (weight - weight.mean(axes, keepdim=True)) / (4 * weight.std(axes, keepdim=True))).clamp(0, 1)
You scaled by mean and standard deviation, so that the extremes of a filter are cut off, or never reached.
Its least weight becomes 0 and its greatest 1: (f − min f) / (max f − min f).

constant_divides_by_zero: constant
- torch.where(high > low, (weight - low) / (high - low), 0.5)
+ (weight - low) / (high - low)
You divided 0 by 0 where all weights of a filter are equal.
Where max f = min f the filter is 0.5: torch.where, or an if.

constant_is_black: constant
- torch.where(high > low, (weight - low) / (high - low), 0.5)
+ (weight - low) / (high - low + 1e-12)
Your constant filter came out as 0.
A small number in the denominator avoids the division by zero, but there is nothing to tell apart: make it
  0.5.

number_in_the_divisor: constant
- torch.where(high > low, (weight - low) / (high - low), 0.5)
+ (weight - low) / (high - low + 1e-5)
Your constant filter came out as 0, and a faint one does not reach 1: you added a number to the range.
Divide by max f − min f itself, and make a filter whose range is 0 a case of its own: 0.5.

faint_is_constant: constant
- high > low
+ high - low > 1e-3
You drew a filter of small weights as constant gray.
Only a filter without any range is 0.5: compare with max f > min f, not with a threshold.

black_lines: layout missing
- weight.new_ones
+ weight.new_zeros
Your lines and missing cells are 0.
Begin with ones: torch.ones(3, H, W).

black_cells: missing
- for k, tile in enumerate(tiles):
+ tiles = torch.cat([tiles, tiles.new_zeros(rows * columns - count, channels, h, w)])
+ for k, tile in enumerate(tiles):
The cells without a filter are 0.
Missing filters are 1, as the lines are.

column_by_column: layout missing
- row, column = divmod(k, columns)
+ column, row = divmod(k, rows)
You filled the picture column by column.
Filter k stands in row k // columns and column k % columns.

columns_are_rows: all but refused kinds
- rows = (count + columns - 1) // columns
+ columns = (count + columns - 1) // columns
+ rows = (count + columns - 1) // columns
You made `columns` rows.
`columns` filters stand side by side; the rows follow, ⌈K / columns⌉ of them.

narrow_picture: missing
- columns * right + padding
+ min(count, columns) * right + padding
Your picture shrinks where there are fewer filters than columns.
It is always columns · (w + padding) + padding wide.

no_outer_lines: layout missing
- rows * down + padding, columns * right + padding
+ rows * down - padding, columns * right - padding
- padding + row * down, padding + column * right
+ row * down, column * right
You left the lines around the picture out.
H = rows · (h + padding) + padding: one line more than there are rows. The first filter begins at (padding,
  padding).

padding_ignored: all but refused kinds
- down, right = h + padding, w + padding
+ padding = 1
+ down, right = h + padding, w + padding
Your lines are 1 pixel wide, whatever `padding` is.
Put `padding` into all sizes and places, as in H = rows · (h + padding) + padding. It may be 0.

double_lines: layout missing
- down, right = h + padding, w + padding
+ down, right = h + 2 * padding, w + 2 * padding
- rows * down + padding, columns * right + padding
+ rows * down, columns * right
Your lines between filters are twice as thick as those around.
Two neighbors share one line of `padding` pixels: from filter to filter it is h + padding.

last_row_lost: missing
- rows = (count + columns - 1) // columns
+ rows = count // columns
- enumerate(tiles)
+ enumerate(tiles[: rows * columns])
You rounded the number of rows down and lost the filters of the last one.
Round up: (K + columns − 1) // columns.

row_too_many: layout
- rows = (count + columns - 1) // columns
+ rows = count // columns + 1
You added a row where the last one is full.
K // columns + 1 is one too many where K divides by columns. Round up: (K + columns − 1) // columns.

float32_canvas: kinds
- weight.new_ones
+ torch.ones
Your picture is float32 whatever the weights are: torch.ones takes the default dtype.
torch.ones(…, dtype=weight.dtype, device=weight.device), or weight.new_ones(…).

graph_kept: kinds
- weight = weight.detach()
Your picture hangs on the graph of the weights: it requires a gradient, and cannot be shown as it is.
Begin with weight = weight.detach().

gray_stays_gray: gray
- picture = weight.new_ones(3, rows * down + padding, columns * right + padding)
+ picture = weight.new_ones(channels, rows * down + padding, columns * right + padding)
Filters of one channel gave a picture of one channel.
Repeat them: tile.expand(3, h, w). The picture always has three channels.

channels_last: all but refused kinds
- return picture
+ return picture.permute(1, 2, 0)
You returned (H, W, 3), as matplotlib wants it.
The course's pictures are (3, H, W); figures.grid turns them.

any_channels: refused
- raise ValueError(f"weight must have 1 or 3 channels, got {channels}")
+ weight = weight.mean(1, keepdim=True)
You drew filters that are neither gray nor color.
raise ValueError where C is not 1 or 3: a picture of 64 channels would be an invention.

weights_changed: kinds
- tiles = torch.where(high > low, (weight - low) / (high - low), 0.5)
+ weight -= low
+ tiles = torch.where(high > low, weight / (high - low), 0.5)
You changed the network's weights while drawing them.
Write weight = weight - low, not weight -= low.
""")


@answers.right
def strips(weight, columns=8, padding=1):
    """strips glued together"""
    channels, h, w = weight.shape[1:]
    if channels != 1 and channels != 3:
        raise ValueError("weight: 1 or 3 channels")
    weight, tiles = weight.detach(), []
    for f in weight:
        f = f - f.min()
        f = f / f.max() if f.max() > 0 else f + 0.5
        tiles.append(torch.cat([f] * 3) if channels == 1 else f)
    while len(tiles) % columns:
        tiles.append(weight.new_ones(3, h, w))
    bands = [weight.new_ones(3, padding, columns * (w + padding) + padding)]
    for begin in range(0, len(tiles), columns):
        strip = [weight.new_ones(3, h, padding)]
        for tile in tiles[begin : begin + columns]:
            strip += [tile, weight.new_ones(3, h, padding)]
        bands += [torch.cat(strip, 2), weight.new_ones(3, padding, columns * (w + padding) + padding)]
    return torch.cat(bands, 1)


@answers.right
def permuted(weight, columns=8, padding=1):
    """padded tiles, permuted"""
    count, channels, h, w = weight.shape
    if channels not in (1, 3):
        raise ValueError(f"weight must have 1 or 3 channels, got {channels}")
    flat = weight.detach().reshape(count, -1)
    low, span = flat.min(1, keepdim=True).values, flat.max(1, keepdim=True).values
    span = span - low
    flat = torch.where(span == 0, torch.full_like(flat, 0.5), (flat - low) / span.where(span != 0, 1))
    tiles = flat.view(count, channels, h, w).repeat(1, 3 // channels, 1, 1)
    rows = (count + columns - 1) // columns
    tiles = torch.cat([tiles, tiles.new_ones(rows * columns - count, 3, h, w)])
    tiles = F.pad(tiles, (padding, 0, padding, 0), value=1.0).view(rows, columns, 3, h + padding, w + padding)
    picture = tiles.permute(2, 0, 3, 1, 4).reshape(3, rows * (h + padding), columns * (w + padding))
    return F.pad(picture, (0, padding, 0, padding), value=1.0)


EXERCISE = answers.exercise()
