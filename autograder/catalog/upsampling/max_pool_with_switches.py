"""The exercise max_pool_with_switches of lecture 05: the maximum, and where it stood."""

from collections.abc import Callable
from typing import Any

import torch

from autograder.attempt import Odd, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import MAX_POOL
from autograder.catalog.observations import as_double, described, gradients
from autograder.catalog.upsampling.draws import SINGLE, carries_by_name, distinct, ragged, whole
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import upsampling as reference


def _case(size: Callable[[Draw], tuple[int, int, int]], sign: float = 1.0) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        k, H, W = size(d)
        return Case((sign * distinct(d, d.choice([2, 1]), d.choice([2, 1, 3]), H, W), k))

    return draw


def _ties(d: Draw) -> Case:
    k, H, W = whole(d, ((2, 2, 3), (3, 2, 3), (2, 4, 2), (3, 1, 2)))
    x = d.integers(d.choice([1, 2]), 2, H, W, low=1, high=2).float()
    # Every map begins with a window of equal values, so that no draw is without ties.
    x[..., :k, :k] = 2.0
    # In the window beside it the first in row order is not the first in column order.
    x[..., :k, k : 2 * k] = 2.0
    x[..., 0, k] = 1.0
    return Case((x, k))


def _single_and_double(d: Draw) -> Case:
    # With a ragged edge, which is easily overwritten.
    dtype = d.each([torch.float32, torch.float64])
    return Case((d.layout(distinct(d, 2, 2, 5, 7).to(dtype)), 2))


def _numbers(*wanted: str) -> Callable[[Subject, Case], Any]:
    """Of y and the switches, each found by its kind: dtypes and the order are another property's business."""

    def observe(subject: Subject, case: Case) -> Any:
        result = subject(*case.args)
        parts = result if isinstance(result, list | tuple) else (result,)
        if len(parts) > 2 or not all(isinstance(part, torch.Tensor) for part in parts):
            raise Odd(f"two tensors are asked for, y and the switches, not {described(result)}")
        if len(parts) == 2 and parts[1].is_floating_point() and not parts[0].is_floating_point():
            parts = parts[::-1]
        if len(parts) == 1 and "switches" in wanted:
            raise Odd("the switches are missing: return y, switches")
        found = dict(zip(("y", "switches"), map(as_double, parts), strict=False))
        return {name: found[name] for name in wanted}

    return observe


CLAIMS = Exercise(
    id="max_pool_with_switches",
    topic="upsampling",
    title="The maximum, and where it stood",
    reference=reference.max_pool_with_switches,
    minutes=18,
    difficulty=3,
    properties=claims(
        """
        values (0.5): y holds the maximum of every k×k window, for k = 1 and for one window as large as the
          map too
        switches (0.5): switches hold row·W + column of each maximum, counted in the whole map
        ties (0.5): among equal values the first in row order wins
        negative (0.25): maps whose values are all negative
        ragged (0.5): rows and columns that fill no window are dropped, both or one of the two
        gradients (0.5): where no values are equal, the gradient of y goes to each maximum and nowhere else
        tried: the gradient of y's inner product with fixed random numbers
        carries (0.25): y comes first and has the dtype of x, float32 or float64; switches are int64; x may
          lie in memory in any order and is not modified in place
        """,
        values=on(_case(whole), _numbers("y"), tolerance=SINGLE),
        switches=on(_case(whole), _numbers("switches")),
        ties=on(_ties, _numbers("switches")),
        negative=on(_case(whole, sign=-1.0), _numbers("y", "switches"), tolerance=SINGLE),
        ragged=on(_case(ragged), _numbers("y", "switches"), tolerance=SINGLE),
        gradients=on(_case(whole), gradients(0), tolerance=SINGLE),
        carries=on(_single_and_double, carries_by_name("x", "k"), examples=4, beside="values"),
    ),
    hints=hints("""
        I have the maxima, but not their places
        Number the pixels with torch.arange(H * W).reshape(H, W) and treat the numbers as you treat x.

        My windows mix rows and columns
        After reshape(N, C, h, k, w, k) the two axes of length k are not neighbors: permute them to the end
          first.

        I don't know how to start
        Cut x to (h·k, w·k); reshape to (N, C, h, k, w, k), permute to (N, C, h, w, k, k), flatten the last
          two; argmax gives b; the row is k·i + b // k, the column k·j + b % k; gather y from the windows with
          b.
        """),
    forbidden=(MAX_POOL,),
)

answers = Answers(CLAIMS)


@answers.right
def in_windows(x, k):
    """windows by reshape and permute, argmax, gather"""
    N, C, H, W = x.shape
    h, w = H // k, W // k
    cells = x[..., : h * k, : w * k].reshape(N, C, h, k, w, k)
    cells = cells.permute(0, 1, 2, 4, 3, 5).flatten(4)
    b = cells.argmax(-1)
    y = cells.gather(-1, b[..., None])[..., 0]
    r, s = b // k, b % k
    row = torch.arange(h, device=x.device)[:, None] * k + r
    column = torch.arange(w, device=x.device) * k + s
    return y, row * W + column


answers.edits("""
counted_in_the_window: switches ties negative ragged
- return y, row * W + column
+ return y, b
Your switches count inside each window, from 0 to k²−1.
Add the window's own row and column, then count in the whole map: row·W + column.

width_without_the_edge: ragged
- row * W + column
+ row * (w * k) + column
Your switches count with the width that is left after the ragged edge was dropped.
They are places in x: row·W + column, W the width of x.

height_for_width: switches ties negative ragged
- row * W + column
+ row * H + column
Your switches are row·H + column.
A row of the map is W pixels long: row·W + column.

columns_first: switches ties negative ragged
- row * W + column
+ column * H + row
Your switches are column·H + row, counted down the columns.
Count along the rows, as flatten does: row·W + column.

counted_through_the_batch: switches ties negative ragged
- return y, row * W + column
+ number = torch.arange(N * C, device=x.device).reshape(N, C, 1, 1)
+ return y, number * H * W + row * W + column
Your switches go on counting from map to map, through channels and images.
Each map counts from 0: row·W + column.

counted_through_the_channels: switches ties negative ragged
- return y, row * W + column
+ channel = torch.arange(C, device=x.device).reshape(1, C, 1, 1)
+ return y, (row * W + column) * C + channel
Your switches are (row·W + column)·C + channel, as TensorFlow counts them.
A switch counts within one map, without its channel: row·W + column.

first_in_column_order: ties
- permute(0, 1, 2, 4, 3, 5)
+ permute(0, 1, 2, 4, 5, 3)
- r, s = b // k, b % k
+ r, s = b % k, b // k
Among equal values you keep the first one down the columns of the window.
Read the window along its rows: after the permute, (…, k, k) has its rows before its columns.

clamped_at_zero: negative
- return y, row * W + column
+ return y.clamp(min=0), row * W + column
Your maxima are never below 0, so negative windows give 0.
The maximum of a window is one of its values: start from the first of them, or from −∞.

edge_kept: ragged
- h, w = H // k, W // k
- cells = x[..., : h * k, : w * k].reshape(N, C, h, k, w, k)
+ h, w = -(-H // k), -(-W // k)
+ padded = x.new_full((N, C, h * k, w * k), float("-inf"))
+ padded[..., :H, :W] = x
+ cells = padded.reshape(N, C, h, k, w, k)
You pooled the ragged edge too, in windows that are not full.
The result has H // k rows and W // k columns: cut the rest off first.

scattered_windows: all but carries
- reshape(N, C, h, k, w, k)
+ reshape(N, C, k, h, k, w)
- permute(0, 1, 2, 4, 3, 5)
+ permute(0, 1, 3, 5, 2, 4)
Your windows gather pixels that are far apart: reshape splits an axis the other way round.
A row index is i·k + r, the window first: reshape to (N, C, h, k, w, k), and permute.

not_permuted: all but carries
- reshape(N, C, h, k, w, k)
+ reshape(N, C, h, w, k * k)
- cells = cells.permute(0, 1, 2, 4, 3, 5).flatten(4)
You reshaped to (N, C, h, w, k·k) at once, so a window holds k·k neighbors from one row.
Reshape to (N, C, h, k, w, k) first, permute the two k's to the end, and only then flatten them.

swapped_within_the_window: switches ties negative ragged
- r, s = b // k, b % k
+ r, s = b % k, b // k
You took b % k for the row inside the window and b // k for the column.
A window's entries are numbered along its rows: row b // k, column b % k.

switches_as_floats: carries
- return y, row * W + column
+ return y, (row * W + column).float()
Your switches are floats.
They are places: keep them int64, as argmax and torch.arange give them.

switches_in_the_dtype_of_x: carries
- return y, row * W + column
+ return y, (row * W + column).to(x.dtype)
Your switches have the dtype of x.
They are places: keep them int64, as argmax and torch.arange give them.

switches_as_int32: carries
- return y, row * W + column
+ return y, (row * W + column).int()
Your switches are int32.
Return int64, the type of torch's indices: scatter and gather accept no other.

always_float64: carries
- return y, row * W + column
+ return y.double(), row * W + column
y is float64 whatever x was.
Take y from x itself, so that it keeps the dtype.

edge_overwritten: carries
- h, w = H // k, W // k
+ h, w = H // k, W // k
+ with torch.no_grad():
+     x[..., h * k :, :] = float("-inf")
+     x[..., w * k :] = float("-inf")
You overwrote the ragged edge of x.
Leave x as it is: take the slice x[..., :h·k, :w·k].

detached: gradients
- x[..., : h * k, : w * k]
+ x.detach()[..., : h * k, : w * k]
y is cut from the graph, so no gradient reaches x.
The search for the maximum needs no graph, but y does: gather it from x itself.

order_of_results: carries
- return y, row * W + column
+ return row * W + column, y
You returned the switches first.
Return y, then the switches.

joined_by_view: carries
- N, C, H, W = x.shape
+ N, C, H, W = x.shape
+ x = x.view(N * C, H, W).view(N, C, H, W)
You used .view to join axes of a tensor, which torch refuses where it does not lie row by row in memory.
.reshape does the same, and copies where it has to.
""")


@answers.right
def looped(x, k):
    """five loops"""
    N, C, H, W = x.shape
    values, places = [], []
    for n in range(N):
        for c in range(C):
            for i in range(0, H - k + 1, k):
                for j in range(0, W - k + 1, k):
                    row, column = i, j
                    for r in range(i, i + k):
                        for s in range(j, j + k):
                            if x[n, c, r, s] > x[n, c, row, column]:
                                row, column = r, s
                    values.append(x[n, c, row, column])
                    places.append(row * W + column)
    shape = (N, C, H // k, W // k)
    return torch.stack(values).reshape(shape), torch.tensor(places, device=x.device).reshape(shape)


@answers.right
def unfolded(x, k):
    """unfold, the smallest number among the equals"""
    H, W = x.shape[2:]
    number = torch.arange(H * W, device=x.device).reshape(H, W)
    cells = x.unfold(2, k, k).unfold(3, k, k).flatten(4)
    numbers = number.unfold(0, k, k).unfold(1, k, k).flatten(2).expand(cells.shape)
    y = cells.amax(-1)
    switches = numbers.masked_fill(cells != y[..., None], H * W).amin(-1)
    return cells.gather(-1, cells.argmax(-1, keepdim=True))[..., 0], switches


answers.edits("""
overlapping_windows: all but carries
- x.unfold(2, k, k).unfold(3, k, k)
+ x.unfold(2, k, 1).unfold(3, k, 1)
- number.unfold(0, k, k).unfold(1, k, k)
+ number.unfold(0, k, 1).unfold(1, k, 1)
Your windows overlap: they move by one pixel.
They move by k, in both directions.
""")


@answers.right
def taken_by_tap(x, k):
    """one tap after the other"""
    N, C, H, W = x.shape
    x = x[..., : H // k * k, : W // k * k]
    number = torch.arange(H * W, device=x.device).reshape(H, W)[: H // k * k, : W // k * k]
    y, switches = x[..., ::k, ::k], number[::k, ::k].expand(N, C, -1, -1)
    for r in range(k):
        for s in range(k):
            tap = x[..., r::k, s::k]
            better = tap > y
            y, switches = torch.where(better, tap, y), torch.where(better, number[r::k, s::k], switches)
    return y, switches


answers.edits("""
last_of_equals: ties
- better = tap > y
+ better = tap >= y
Among equal values you keep the last one.
The first in row order wins: replace the maximum only by something strictly greater.

compared_with_zero: negative
- y, switches = x[..., ::k, ::k], number[::k, ::k].expand(N, C, -1, -1)
+ y, switches = torch.zeros_like(x[..., ::k, ::k]), number[::k, ::k].expand(N, C, -1, -1)
Your maximum starts from 0, so negative windows give 0.
Start from the window's first value, or from −∞.

started_from_zeros: negative
- y, switches = x[..., ::k, ::k], number[::k, ::k].expand(N, C, -1, -1)
+ y = torch.zeros_like(x[..., ::k, ::k])
+ switches = torch.zeros_like(y, dtype=torch.int64)
Your maxima and switches start as zeros, and in negative windows they stay 0.
Start from the window's first value and its place, or from −∞.
""")


EXERCISE = answers.exercise()
