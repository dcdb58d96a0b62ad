"""The exercise max_pool_with_switches of lecture 05: the maximum, and where it stood."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from autograder.catalog.forbidden import MAX_POOL
from autograder.catalog.observations import component, gradients
from autograder.catalog.upsampling.draws import carries_by_name, distinct, pool, pool_size, windows
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import upsampling as reference


def _pool_case(ragged: bool = False, sign: float = 1.0) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        k = d.choice([2, 3])
        x = sign * distinct(d, d.choice([1, 2]), d.choice([2, 1, 3]), *pool_size(d, k, ragged=ragged))
        return Case((x, k))

    return draw


def _pool_ties(d: Draw) -> Case:
    k = d.choice([2, 3])
    x = d.integers(d.choice([1, 2]), 2, *pool_size(d, k), low=1, high=2).double()
    # Every map begins with a window of equal values, so that no draw is without ties.
    x[..., :k, :k] = 2.0
    # In the window beside it the first in row order is not the first in column order.
    x[..., :k, k : 2 * k] = 2.0
    x[..., 0, k] = 1.0
    return Case((x, k))


def _pool_single_precision(d: Draw) -> Case:
    # With a ragged edge, which is easily overwritten.
    return Case((distinct(d, 2, 2, 5, 7).float(), 2))


def _pool_local(x, k):
    return pool(x, k, index=lambda row, column, H, W, k: row % k * k + column % k)


def _pool_cut_width(x, k):
    return pool(x, k, index=lambda row, column, H, W, k: row * (W // k * k) + column)


def _pool_height(x, k):
    return pool(x, k, index=lambda row, column, H, W, k: row * H + column)


def _pool_columns_first(x, k):
    return pool(x, k, index=lambda row, column, H, W, k: column * H + row)


def _pool_whole_batch(x, k):
    y, switches = pool(x, k)
    N, C, H, W = x.shape
    first = torch.arange(N * C, device=x.device).reshape(N, C, 1, 1) * H * W
    return y, switches + first


def _pool_last(x, k):
    return pool(x, k, last=True)


def _pool_from_zero(x, k):
    return pool(x, k, floor=True)


def _pool_clamped(x, k):
    y, switches = pool(x, k)
    return y.clamp(min=0), switches


def _pool_zeros(x, k):
    """Running maxima that start as zeros, and their places too."""
    H, W = x.shape[2:]
    cut = x[..., : H // k * k, : W // k * k]
    number = torch.arange(H * W, device=x.device).reshape(H, W)[: H // k * k, : W // k * k]
    y = torch.zeros_like(cut[..., ::k, ::k])
    switches = torch.zeros_like(y, dtype=torch.int64)
    for r in range(k):
        for s in range(k):
            tap = cut[..., r::k, s::k]
            better = tap > y
            y, switches = torch.where(better, tap, y), torch.where(better, number[r::k, s::k], switches)
    return y, switches


def _pool_columns_win(x, k):
    """Windows read down their columns, so that another one of the equals comes first."""
    y, switches = pool(x.transpose(2, 3), k)
    H = x.shape[2]
    return y.transpose(2, 3), (switches % H * x.shape[3] + switches // H).transpose(2, 3)


def _pool_swapped_inside(x, k):
    cells, h, w = windows(x, k)
    y, best = cells.max(-1)
    rows = torch.arange(h, device=x.device)[:, None] * k + best % k
    columns = torch.arange(w, device=x.device) * k + best // k
    return y, rows * x.shape[3] + columns


def _pool_not_permuted(x, k):
    N, C, H, W = x.shape
    h, w = H // k, W // k
    y, best = x[..., : h * k, : w * k].reshape(N, C, h, w, k * k).max(-1)
    rows = torch.arange(h, device=x.device)[:, None] * k + best // k
    columns = torch.arange(w, device=x.device) * k + best % k
    return y, rows * W + columns


def _pool_floats(x, k):
    y, switches = pool(x, k)
    return y, switches.float()


def _pool_short_integers(x, k):
    y, switches = pool(x, k)
    return y, switches.int()


def _pool_promoted(x, k):
    return pool(x.double(), k)


def _pool_edge_overwritten(x, k):
    y, switches = pool(x, k)
    y = y.clone()
    with torch.no_grad():
        x[..., x.shape[2] // k * k :, :] = float("-inf")
        x[..., x.shape[3] // k * k :] = float("-inf")
    return y, switches


def _pool_detached(x, k):
    return pool(x, k, detach=True)


def _pool_swapped(x, k):
    return pool(x, k, swap=True)


def _pool_ceiling(x, k):
    H, W = x.shape[2:]
    padded = F.pad(x, (0, -W % k, 0, -H % k), value=float("-inf"))
    return pool(padded, k, index=lambda row, column, *_: row * W + column)


def _pool_overlapping(x, k):
    H, W = x.shape[2:]
    cells = x.unfold(2, k, 1).unfold(3, k, 1).flatten(4)
    y, best = cells.max(-1)
    rows = torch.arange(H - k + 1, device=x.device)[:, None] + best // k
    columns = torch.arange(W - k + 1, device=x.device) + best % k
    return y, rows * W + columns


def _pool_scattered(x, k):
    N, C, H, W = x.shape
    h, w = H // k, W // k
    cells = x[..., : h * k, : w * k].reshape(N, C, k, h, k, w).permute(0, 1, 3, 5, 2, 4).flatten(4)
    y, best = cells.max(-1)
    rows = torch.arange(h, device=x.device)[:, None] * k + best // k
    columns = torch.arange(w, device=x.device) * k + best % k
    return y, rows * W + columns


def _pool_loop(x, k):
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


def _pool_unfold(x, k):
    H, W = x.shape[2:]
    number = torch.arange(H * W, device=x.device).reshape(H, W)
    cells = x.unfold(2, k, k).unfold(3, k, k).flatten(4)
    numbers = number.unfold(0, k, k).unfold(1, k, k).flatten(2).expand(cells.shape)
    y = cells.amax(-1)
    # The smallest pixel number among the equals.
    switches = numbers.masked_fill(cells != y[..., None], H * W).amin(-1)
    return cells.gather(-1, cells.argmax(-1, keepdim=True))[..., 0], switches


def _pool_taps(x, k):
    """One tap of the window after the other, kept where it is strictly greater."""
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


INDEXED = ("switches", "ties", "negative", "ragged")

EXERCISE = Exercise(
    id="max_pool_with_switches",
    topic="upsampling",
    title="The maximum, and where it stood",
    reference=reference.max_pool_with_switches,
    minutes=18,
    difficulty=3,
    properties=(
        Property("values", "y holds the maximum of every k×k window", 0.5, _pool_case(), component(0, 2)),
        Property(
            "switches",
            "switches (int64) hold row·W + column of each maximum, counted in the whole map",
            0.5,
            _pool_case(),
            component(1, 2),
        ),
        Property("ties", "among equal values the first in row order wins", 0.5, _pool_ties, component(1, 2)),
        Property("negative", "maps whose values are all negative", 0.25, _pool_case(sign=-1.0)),
        Property("ragged", "rows and columns that fill no window are dropped", 0.5, _pool_case(ragged=True)),
        Property(
            "gradients",
            "where no values are equal, the gradient of y goes to each maximum and nowhere else",
            0.5,
            _pool_case(),
            gradients(0),
            tried="the gradient of y's inner product with fixed random numbers",
        ),
        Property(
            "carries",
            "y of a float32 x is float32, and x is not modified in place",
            0.25,
            _pool_single_precision,
            carries_by_name("x", "k"),
            examples=2,
        ),
    ),
    misconceptions=(
        Misconception(
            "counted_in_the_window",
            "Your switches count inside each window, from 0 to k²−1.",
            "Add the window's own row and column, then count in the whole map: row·W + column.",
            INDEXED,
            _pool_local,
        ),
        Misconception(
            "width_without_the_edge",
            "Your switches count with the width that is left after the ragged edge was dropped.",
            "They are places in x: row·W + column, W the width of x.",
            ("ragged",),
            _pool_cut_width,
        ),
        Misconception(
            "height_for_width",
            "Your switches are row·H + column.",
            "A row of the map is W pixels long: row·W + column.",
            INDEXED,
            _pool_height,
        ),
        Misconception(
            "columns_first",
            "Your switches are column·H + row, counted down the columns.",
            "Count along the rows, as flatten does: row·W + column.",
            INDEXED,
            _pool_columns_first,
        ),
        Misconception(
            "counted_through_the_batch",
            "Your switches go on counting from map to map, through channels and images.",
            "Each map counts from 0: row·W + column.",
            INDEXED,
            _pool_whole_batch,
        ),
        Misconception(
            "last_of_equals",
            "Among equal values you keep the last one.",
            "The first in row order wins: replace the maximum only by something strictly greater.",
            ("ties",),
            _pool_last,
        ),
        Misconception(
            "first_in_column_order",
            "Among equal values you keep the first one down the columns of the window.",
            "Read the window along its rows: after the permute, (…, k, k) has its rows before its columns.",
            ("ties",),
            _pool_columns_win,
        ),
        Misconception(
            "compared_with_zero",
            "Your maximum starts from 0, so negative windows give 0.",
            "Start from the window's first value, or from −∞.",
            ("negative",),
            _pool_from_zero,
        ),
        Misconception(
            "clamped_at_zero",
            "Your maxima are never below 0, so negative windows give 0.",
            "The maximum of a window is one of its values: start from the first of them, or from −∞.",
            ("negative",),
            _pool_clamped,
        ),
        Misconception(
            "started_from_zeros",
            "Your maxima and switches start as zeros, and in negative windows they stay 0.",
            "Start from the window's first value and its place, or from −∞.",
            ("negative",),
            _pool_zeros,
        ),
        Misconception(
            "edge_kept",
            "You pooled the ragged edge too, in windows that are not full.",
            "The result has H // k rows and W // k columns: cut the rest off first.",
            ("ragged", "carries"),
            _pool_ceiling,
        ),
        Misconception(
            "overlapping_windows",
            "Your windows overlap: they move by one pixel.",
            "They move by k, in both directions.",
            ("values", "switches", "ties", "negative", "ragged", "gradients", "carries"),
            _pool_overlapping,
        ),
        Misconception(
            "scattered_windows",
            "Your windows gather pixels that are far apart: reshape splits an axis the other way round.",
            "A row index is i·k + r, the window first: reshape to (N, C, h, k, w, k), and permute.",
            ("values", "switches", "ties", "negative", "ragged", "gradients"),
            _pool_scattered,
        ),
        Misconception(
            "not_permuted",
            "You reshaped to (N, C, h, w, k·k) at once, so a window holds k·k neighbors from one row.",
            "Reshape to (N, C, h, k, w, k) first, permute the two k's to the end, and only then flatten them.",
            ("values", "switches", "ties", "negative", "ragged", "gradients"),
            _pool_not_permuted,
        ),
        Misconception(
            "swapped_within_the_window",
            "You took b % k for the row inside the window and b // k for the column.",
            "A window's entries are numbered along its rows: row b // k, column b % k.",
            INDEXED,
            _pool_swapped_inside,
        ),
        Misconception(
            "switches_as_floats",
            "Your switches are floats.",
            "They are places: keep them int64, as argmax and torch.arange give them.",
            (*INDEXED, "carries"),
            _pool_floats,
        ),
        Misconception(
            "switches_as_int32",
            "Your switches are int32.",
            "Return int64, the type of torch's indices: scatter and gather accept no other.",
            (*INDEXED, "carries"),
            _pool_short_integers,
        ),
        Misconception(
            "always_float64",
            "y is float64 whatever x was.",
            "Take y from x itself, so that it keeps the dtype.",
            ("carries",),
            _pool_promoted,
        ),
        Misconception(
            "edge_overwritten",
            "You overwrote the ragged edge of x.",
            "Leave x as it is: take the slice x[..., :h·k, :w·k].",
            ("carries",),
            _pool_edge_overwritten,
        ),
        Misconception(
            "detached",
            "y is cut from the graph, so no gradient reaches x.",
            "The search for the maximum needs no graph, but y does: gather it from x itself.",
            ("gradients",),
            _pool_detached,
        ),
        Misconception(
            "order_of_results",
            "You returned the switches first.",
            "Return y, then the switches.",
            ("values", "switches", "ties", "negative", "ragged", "carries"),
            _pool_swapped,
        ),
    ),
    right=(
        Variant("five loops", _pool_loop),
        Variant("unfold, the smallest number among the equals", _pool_unfold),
        Variant("one tap after the other", _pool_taps),
    ),
    hints=(
        Hint(
            "I have the maxima, but not their places",
            "Number the pixels with torch.arange(H * W).reshape(H, W) and treat the numbers as you treat x.",
        ),
        Hint(
            "My windows mix rows and columns",
            "After reshape(N, C, h, k, w, k) the two axes of length k are not neighbors: permute them to the end first.",
        ),
        Hint(
            "I don't know how to start",
            "Cut x to (h·k, w·k); reshape to (N, C, h, k, w, k), permute to (N, C, h, w, k, k), flatten the last two; argmax gives b; the row is k·i + b // k, the column k·j + b % k; gather y from the windows with b.",
        ),
    ),
    forbidden=(MAX_POOL,),
)
