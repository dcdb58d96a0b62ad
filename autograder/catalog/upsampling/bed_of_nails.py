"""The exercise bed_of_nails of lecture 05: each value becomes a nail."""

import torch
from torch.nn import functional as F

from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import CONV_TRANSPOSE, MAX_UNPOOL
from autograder.catalog.observations import gradients
from autograder.catalog.upsampling.draws import SINGLE, carries_by_name, maps, numbers, single_and_double
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import upsampling as reference


def _nails(d: Draw) -> Case:
    return Case((maps(d), d.choice([3, 2, 4, 1])))


CLAIMS = Exercise(
    id="bed_of_nails",
    topic="upsampling",
    title="Each value becomes a nail",
    reference=reference.bed_of_nails,
    minutes=5,
    difficulty=1,
    properties=claims(
        """
        nails (1): each value at the top left of its factor×factor block, zeros elsewhere; factor 1
          changes nothing
        gradients (0.5): gradients flow back to x
        tried: the gradient of the output's inner product with fixed random numbers
        carries (0.5): float32 stays float32, float64 stays float64, however x lies in memory, and x is not
          modified in place
        """,
        nails=on(_nails, numbers, tolerance=SINGLE),
        gradients=on(_nails, gradients(0), tolerance=SINGLE),
        carries=on(single_and_double, carries_by_name("x", "factor"), examples=4, beside="nails"),
    ),
    hints=hints("""
        I don't know what size to make
        Each value owns factor×factor pixels, the last ones included.

        No gradient arrives
        Write x itself into the zeros, not its numbers.

        I don't know how to start
        out = x.new_zeros(N, C, factor * H, factor * W), then assign x to out[..., ::factor, ::factor].
        """),
    forbidden=(CONV_TRANSPOSE, MAX_UNPOOL),
)

answers = Answers(CLAIMS)


@answers.right
def assigned(x, factor):
    """assigned to every factor-th pixel"""
    N, C, H, W = x.shape
    out = x.new_zeros(N, C, factor * H, factor * W)
    out[..., ::factor, ::factor] = x
    return out


answers.edits("""
bottom_right: nails gradients
- ::factor, ::factor
+ factor - 1 :: factor, factor - 1 :: factor
Your nails stand at the bottom right of their blocks.
Top left is index 0 of each block: out[..., ::factor, ::factor].

one_zero_too_many: nails gradients
- factor * H, factor * W
+ (factor + 1) * H, (factor + 1) * W
- ::factor, ::factor
+ :: factor + 1, :: factor + 1
You put factor zeros between two nails.
From one nail to the next there are factor pixels: factor − 1 zeros between them.

in_the_middle: nails gradients
- ::factor, ::factor
+ factor // 2 :: factor, factor // 2 :: factor
Your nails stand in the middle of their blocks.
Top left is index 0 of each block: out[..., ::factor, ::factor].

last_zeros_missing: all but carries
- factor * H, factor * W
+ factor * (H - 1) + 1, factor * (W - 1) + 1
You put zeros between the values, but none after the last one.
Every value has a whole block, the last one too: the result is (factor·H, factor·W).

all_in_one_corner: nails gradients
- ::factor, ::factor
+ :H, :W
You copied the map into the top left corner as it is.
Spread the values out: factor pixels from one to the next.

value_repeated: nails gradients
- out = x.new_zeros(N, C, factor * H, factor * W)
- out[..., ::factor, ::factor] = x
+ out = x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
You filled each block with its value: that is the nearest neighbor.
Only the top left pixel of the block has the value, the others are 0.

detached: gradients
- out[..., ::factor, ::factor] = x
+ out[..., ::factor, ::factor] = x.detach()
Your result is cut from the graph, so no gradient reaches x.
Leave out detach, .data, .item() and no_grad; writing x into a slice of a new tensor keeps the graph.

default_dtype: carries
- x.new_zeros(N, C, factor * H, factor * W)
+ torch.zeros(N, C, factor * H, factor * W, device=x.device)
Your zeros are float32 whatever x is.
x.new_zeros(...) makes zeros of the dtype and on the device of x.

refused_in_another_order: carries
- out = x.new_zeros(N, C, factor * H, factor * W)
- out[..., ::factor, ::factor] = x
- return out
+ nail = x.new_zeros(1, 1, factor, factor)
+ nail[..., 0, 0] = 1
+ return torch.kron(x, nail)
You joined axes of x as .view does, which torch refuses where x does not lie row by row in memory; torch.kron
  does so inside.
Take .reshape, which copies where it must, or put x in order first: x.contiguous().

always_float64: carries
- return out
+ return out.double()
Your result is float64 whatever x was.
x.new_zeros(...) makes zeros of the dtype and on the device of x.
""")


@answers.right
def masked(x, factor):
    """nearest neighbor times a mask"""
    big = x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    rows = torch.arange(big.shape[2], device=x.device) % factor == 0
    columns = torch.arange(big.shape[3], device=x.device) % factor == 0
    return big * (rows[:, None] & columns)


@answers.right
def stacked(x, factor):
    """stacked with zeros"""
    N, C, H, W = x.shape
    zero = torch.zeros_like(x)
    wide = torch.stack([x] + [zero] * (factor - 1), dim=4).reshape(N, C, H, W * factor)
    zero = torch.zeros_like(wide)
    return torch.stack([wide] + [zero] * (factor - 1), dim=3).reshape(N, C, H * factor, W * factor)


@answers.right
def padded(x, factor):
    """blocks padded with zeros"""
    N, C, H, W = x.shape
    cells = F.pad(x.reshape(N, C, H, 1, W, 1), (0, factor - 1, 0, 0, 0, factor - 1))
    return cells.reshape(N, C, H * factor, W * factor)


EXERCISE = answers.exercise()
