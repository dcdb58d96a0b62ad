"""The exercise max_unpool of lecture 05: back to where it stood."""

from collections.abc import Callable

import torch

from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import MAX_UNPOOL
from autograder.catalog.observations import gradients
from autograder.catalog.upsampling.draws import (
    SHAPES,
    SINGLE,
    carries_by_name,
    distinct,
    numbers,
    ragged,
    whole,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import upsampling as reference


def _case(size: Callable[[Draw], tuple[int, int, int]], sign: float = 1.0) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        k, H, W = size(d)
        # The switches are those of another map, so that each channel has its own.
        x = distinct(d, d.choice([2, 1]), d.choice([2, 3, 1]), H, W)
        switches = reference.max_pool_with_switches(x, k)[1]
        return Case((sign * distinct(d, *switches.shape), switches, (H, W)))

    return draw


def _tall(d: Draw, dtype: torch.dtype = torch.float32) -> Case:
    """Places that lie in the map for those too who divide by its height: what they get is no error."""
    H, W = 6, 4
    inside = torch.arange(H * W).reshape(H, W) % H < W
    switches = reference.max_pool_with_switches(distinct(d, d.choice([2, 1]), 2, H, W) + 100 * inside, 2)[1]
    return Case((distinct(d, *switches.shape).to(dtype), switches, (H, W)))


def _places(d: Draw) -> Case:
    shape = d.each([SHAPES[0], None, *SHAPES[1:]])
    return _tall(d) if shape is None else _case(lambda d: whole(d, [shape]))(d)


def _single_and_double(d: Draw) -> Case:
    y, switches, size = _tall(d, d.each([torch.float32, torch.float64])).args
    if d.flag():
        # Down the columns in memory, both, as where the pooled map was transposed.
        y, switches = (t.transpose(2, 3).contiguous().transpose(2, 3) for t in (y, switches))
    return Case((y, switches, size))


CLAIMS = Exercise(
    id="max_unpool",
    topic="upsampling",
    title="Back to where it stood",
    reference=reference.max_unpool,
    minutes=10,
    difficulty=2,
    properties=claims(
        """
        places (1): each value at its switch, zeros elsewhere; one value a map and k = 1 too
        any_size (0.75): sizes that are no multiple of the pooled map's
        negative (0.5): negative values are put back as well
        gradients (0.5): gradients flow back to y
        tried: the gradient of the output's inner product with fixed random numbers
        carries (0.25): the result has the dtype of y, float32 or float64; y and switches may lie in memory
          in any order, and neither is modified in place
        """,
        places=on(_places, numbers, tolerance=SINGLE),
        any_size=on(_case(ragged), numbers, tolerance=SINGLE),
        negative=on(_case(whole, sign=-1.0), numbers, tolerance=SINGLE),
        gradients=on(_case(whole), gradients(0), tolerance=SINGLE),
        carries=on(_single_and_double, carries_by_name("y", "switches", "size"), examples=4, beside="places"),
    ),
    hints=hints("""
        I don't see how a flat number becomes a pixel
        If you flatten the map's H and W, it is the index.

        It works for one image only
        The switches of an image and channel count in its own map: keep N and C as axes.

        I don't know how to start
        flat = y.new_zeros(N, C, H * W); flat.scatter(2, switches.flatten(2), y.flatten(2)); reshape to (N, C,
          H, W).
        """),
    forbidden=(MAX_UNPOOL,),
)

answers = Answers(CLAIMS)


@answers.right
def scattered(y, switches, size):
    """scattered into flat maps"""
    N, C = y.shape[:2]
    H, W = size
    flat = y.new_zeros(N, C, H * W)
    flat = flat.scatter(2, switches.flatten(2), y.flatten(2))
    return flat.reshape(N, C, H, W)


answers.edits("""
size_guessed: any_size
- return flat.reshape(N, C, H, W)
+ h, w = y.shape[2:]
+ k = H // h
+ return flat[..., : h * k * w * k].reshape(N, C, h * k, w * k)
You made the result a whole number of windows large and did not use size.
The ragged edge that pooling dropped has to come back: the result is (N, C, *size).

size_not_used: any_size
- H, W = size
+ h, w = y.shape[2:]
+ k = size[0] // h
+ H, W = k * h, k * w
You guessed the size as k·h × k·w, which is too small for a map whose edge was dropped.
The size has to be told, since several sizes pool to the same one: the result is (N, C, *size).

columns_first: all but carries
- reshape(N, C, H, W)
+ reshape(N, C, W, H).transpose(2, 3)
You read the switches down the columns: as column·H + row.
A switch is row·W + column: divide by the width, W = size[1].

width_first: places any_size negative
- reshape(N, C, H, W)
+ reshape(N, C, W, H)
Your result is W rows high and H columns wide.
size is (H, W), and so are the last two axes of the result.

one_map_s_switches: all but carries
- flat = y.new_zeros(N, C, H * W)
+ flat = y.new_zeros(N, C, H * W)
+ switches = switches[:1, :1].expand_as(switches)
You used the switches of the first map for all of them.
Each image and each channel has its own maxima: scatter along the last axis of (N, C, H·W).

switches_ignored: all but carries
- flat = y.new_zeros(N, C, H * W)
- flat = flat.scatter(2, switches.flatten(2), y.flatten(2))
- return flat.reshape(N, C, H, W)
+ h, w = y.shape[2:]
+ out = y.new_zeros(N, C, H, W)
+ rows, columns = H // h, W // w
+ out[..., : h * rows : rows, : w * columns : columns] = y
+ return out
You put each value at the top left of its window: that is the bed of nails.
The switch says where in the map the value stood.

all_in_the_first_map: all but carries
- flat = y.new_zeros(N, C, H * W)
- flat = flat.scatter(2, switches.flatten(2), y.flatten(2))
+ flat = y.new_zeros(N * C * H * W)
+ flat = flat.scatter(0, switches.flatten(), y.flatten())
You used the switches as places in the flattened batch, so everything lands in the first map.
A switch counts inside one map: flatten H and W only, flatten(2).

negative_values_lost: negative
- flat.scatter(2, switches.flatten(2), y.flatten(2))
+ flat.scatter_reduce(2, switches.flatten(2), y.flatten(2), "amax")
Negative values became 0: they lost against the zeros around them.
Assign the value (scatter), and don't take the maximum of it and what is there.

detached: gradients
- y.flatten(2)
+ y.detach().flatten(2)
Your result is cut from the graph, so no gradient reaches y.
Leave out detach, .data, .item() and no_grad.

default_dtype: carries
- y.new_zeros(N, C, H * W)
+ torch.zeros(N, C, H * W, device=y.device)
- y.flatten(2)
+ y.flatten(2).float()
Your result is float32 whatever y is.
y.new_zeros(...) makes zeros of the dtype and on the device of y.

zeros_of_another_dtype: carries
- y.new_zeros(N, C, H * W)
+ torch.zeros(N, C, H * W, device=y.device)
Where y is float64, your zeros have another dtype, and scatter mixes no two: torch.zeros(...) makes float32.
y.new_zeros(...) makes zeros of the dtype and on the device of y.

joined_by_view: carries
- y.flatten(2)
+ y.view(N, C, -1)
You used .view to join the rows of a tensor, which torch refuses where it does not lie row by row in memory.
y.flatten(2) and y.reshape(...) do the same, and copy where they have to.

always_float64: carries
- reshape(N, C, H, W)
+ reshape(N, C, H, W).double()
Your result is float64 whatever y was.
y.new_zeros(...) makes zeros of the dtype and on the device of y.
""")


@answers.right
def looped(y, switches, size):
    """four loops and divmod"""
    out = y.new_zeros(*y.shape[:2], *size)
    N, C, h, w = y.shape
    for n in range(N):
        for c in range(C):
            for i in range(h):
                for j in range(w):
                    row, column = divmod(int(switches[n, c, i, j]), size[1])
                    out[n, c, row, column] = y[n, c, i, j]
    return out


@answers.right
def one_hot(y, switches, size):
    """one-hot and einsum"""
    pixel = torch.arange(size[0] * size[1], device=y.device)
    hit = (switches.flatten(2)[..., None] == pixel).to(y.dtype)
    return torch.einsum("ncs,ncsp->ncp", y.flatten(2), hit).reshape(*y.shape[:2], *size)


@answers.right
def indexed(y, switches, size):
    """rows and columns indexed"""
    N, C = y.shape[:2]
    H, W = size
    row, column = switches // W, switches % W
    n = torch.arange(N, device=y.device).view(N, 1, 1, 1)
    c = torch.arange(C, device=y.device).view(1, C, 1, 1)
    out = y.new_zeros(N, C, H, W)
    out[n, c, row, column] = y
    return out


answers.edits("""
zeros_of_another_dtype_indexed: carries
- y.new_zeros(N, C, H, W)
+ torch.zeros(N, C, H, W, device=y.device)
Where y is float64, your zeros have another dtype, and an assignment by index tensors does not mix two:
  torch.zeros(...) makes float32.
y.new_zeros(...) makes zeros of the dtype and on the device of y.

divided_by_the_height: all but carries
- row, column = switches // W, switches % W
+ row, column = switches // H, switches % H
You divided the switches by the map's height.
A switch is row·W + column: divide by the width, W = size[1].

divided_by_the_cut_width: any_size
- row, column = switches // W, switches % W
+ w = y.shape[3]
+ cut = W // w * w
+ row, column = switches // cut, switches % cut
You divided the switches by k·w, the width without the edge that pooling dropped.
A switch counts in the whole map: divide by W = size[1].
""")


EXERCISE = answers.exercise()
