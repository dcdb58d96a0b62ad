"""The exercise nearest_upsample of lecture 05: each value becomes a block."""

import torch

from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import CONV_TRANSPOSE, INTERPOLATE
from autograder.catalog.observations import gradients
from autograder.catalog.upsampling.draws import (
    SINGLE,
    carries_by_name,
    each,
    maps,
    numbers,
    single_and_double,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import upsampling as reference


def _blocks_case(d: Draw) -> Case:
    return Case((maps(d), d.choice([2, 3])))


def _narrow_case(d: Draw) -> Case:
    calls = {
        "one row, factor 4": ((1, 2, 1, 3), 4),
        "one column, factor 5": ((2, 1, 3, 1), 5),
        "one value, factor 2": ((1, 1, 1, 1), 2),
        "factor 1": ((1, 1, 5, 4), 1),
    }
    made = {label: (d.tensor(*shape, dtype=torch.float32), f) for label, (shape, f) in calls.items()}
    return Case((), {}, made)


CLAIMS = Exercise(
    id="nearest_upsample",
    topic="upsampling",
    title="Each value becomes a block",
    reference=reference.nearest_upsample,
    minutes=4,
    difficulty=1,
    properties=claims(
        """
        blocks (1): each value is repeated factor×factor times, as one block
        narrow (0.25): maps of one row, one column or one value; factor 1
        tried: nearest_upsample for each of these
        gradients (0.5): gradients flow back to x
        tried: the gradient of the output's inner product with fixed random numbers
        carries (0.25): float32 stays float32, float64 stays float64, however x lies in memory, and x is not
          modified in place
        """,
        blocks=on(_blocks_case, numbers, tolerance=SINGLE),
        narrow=on(_narrow_case, each, examples=2, tolerance=SINGLE),
        gradients=on(_blocks_case, gradients(0), examples=4, tolerance=SINGLE),
        carries=on(single_and_double, carries_by_name("x", "factor"), examples=4, beside="blocks"),
    ),
    hints=hints("""
        The picture repeats itself
        You need copies of each value next to it, not copies of the whole map.

        The shape is right, the values are mixed up
        Work along one axis at a time: first every row factor times, then every column.

        I don't know how to start
        x.repeat_interleave(factor, dim=2), and then the same with dim=3.
        """),
    forbidden=(INTERPOLATE, CONV_TRANSPOSE),
)

answers = Answers(CLAIMS)


@answers.right
def plain(x, factor):
    """one axis, then the other"""
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


answers.edits("""
map_repeated: blocks narrow gradients
- x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
+ x.repeat(1, 1, factor, factor)
You repeated the whole map like tiles, instead of each value.
x.repeat copies the map; x.repeat_interleave along an axis copies its entries one by one.

rows_only: all but carries
- .repeat_interleave(factor, 3)
You repeated the rows and not the columns.
Do the same along axis 3.

columns_only: all but carries
- .repeat_interleave(factor, 2)
You repeated the columns and not the rows.
Do the same along axis 2.

axes_off_by_one: all but carries
- x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
+ x.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
You repeated along axes 1 and 2: the channels and the rows.
In (N, C, H, W) the rows are axis 2 and the columns axis 3.

flattened_first: blocks narrow gradients
- return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
+ N, C, H, W = x.shape
+ return x.repeat_interleave(factor * factor).reshape(N, C, factor * H, factor * W)
You repeated the flattened values, so the factor² copies of a value lie in one line.
Repeat along axis 2 and along axis 3, each factor times.

zeros_between: blocks narrow gradients
- return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
+ N, C, H, W = x.shape
+ out = x.new_zeros(N, C, factor * H, factor * W)
+ out[..., ::factor, ::factor] = x
+ return out
You put zeros around each value: that is the bed of nails.
Fill the whole block with the value.

detached: gradients
- return x.repeat_interleave
+ return x.detach().repeat_interleave
Your result is cut from the graph, so no gradient reaches x.
Leave out detach, .data, .tolist(), numpy and no_grad: what is built from x itself keeps the graph.

refused_in_another_order: carries
- return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
+ return torch.kron(x, x.new_ones(1, 1, factor, factor))
You joined axes of x as .view does, which torch refuses where x does not lie row by row in memory; torch.kron
  does so inside.
Take .reshape, which copies where it must, or put x in order first: x.contiguous().

always_float64: carries
- .repeat_interleave(factor, 3)
+ .repeat_interleave(factor, 3).double()
Your result is float64 whatever x was.
Make the result from x, or with x.new_zeros, so that it keeps the dtype.
""")


@answers.right
def by_index(x, factor):
    """integer division of the index"""
    rows = torch.arange(factor * x.shape[2], device=x.device) // factor
    columns = torch.arange(factor * x.shape[3], device=x.device) // factor
    return x[:, :, rows][:, :, :, columns]


answers.edits("""
ends_aligned: blocks narrow gradients
- torch.arange(factor * x.shape[2], device=x.device) // factor
+ torch.linspace(0, x.shape[2] - 1, factor * x.shape[2], device=x.device).long()
- torch.arange(factor * x.shape[3], device=x.device) // factor
+ torch.linspace(0, x.shape[3] - 1, factor * x.shape[3], device=x.device).long()
You spread the places to read evenly from the first value to the last, and cut them to whole numbers: the last
  row and column come once only.
Row i of the result is row i // factor of x, so that all blocks have one size.
""")


@answers.right
def expanded(x, factor):
    """expand and reshape"""
    N, C, H, W = x.shape
    blocks = x[:, :, :, None, :, None].expand(N, C, H, factor, W, factor)
    return blocks.reshape(N, C, H * factor, W * factor)


@answers.right
def looped(x, factor):
    """a loop"""
    rows = []
    for i in range(x.shape[2]):
        row = torch.cat([x[:, :, i, j : j + 1] for j in range(x.shape[3]) for _ in range(factor)], dim=2)
        rows += [row] * factor
    return torch.stack(rows, dim=2)


EXERCISE = answers.exercise()
