"""The exercise conv_transpose2d of lecture 05: transposed convolution."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import AUTOGRAD, CONV_TRANSPOSE
from autograder.catalog.observations import gradients
from autograder.catalog.upsampling.draws import SINGLE, carries_by_name, each, numbers, plain, refusals
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import upsampling as reference

CHANNELS = ((2, 3), (3, 2), (1, 2), (2, 2))
SIZES = ((2, 3), (3, 2), (2, 6), (1, 3))
Kernel = Callable[[Draw, int], tuple[int, int]]


def _single(d: Draw, *shape: int) -> torch.Tensor:
    return d.tensor(*shape, dtype=torch.float32)


def _overlapping(d: Draw, stride: int) -> tuple[int, int]:
    return stride + d.integer(1, 2), stride + d.choice([2, 1, 3])


# With these no copy reaches some of the rows or columns.
SMALL: tuple[Kernel, ...] = (
    lambda d, stride: (1, 1),
    lambda d, stride: (stride - 1, stride + 1),
    lambda d, stride: (stride, 1),
)


def _case(
    *,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: bool = False,
    kernel: Kernel = _overlapping,
    bias: bool = False,
    channels: Sequence[tuple[int, int]] = CHANNELS,
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        s, p = d.choice(stride), d.choice(padding)
        cin, cout = d.each(channels)
        x = _single(d, d.choice([2, 1]), cin, *d.choice(SIZES[:3] if p else SIZES))
        weight = _single(d, cin, cout, *kernel(d, s))
        args = (x, weight, _single(d, cout)) if bias else (x, weight)
        kwargs = {} if s == 1 else {"stride": s}
        if p:
            kwargs["padding"] = p
        if output_padding:
            # No more than was cut: what lies beyond is another property's business.
            kwargs["output_padding"] = d.choice([1, min(s - 1, p)])
        return Case(args, kwargs)

    return draw


def _strided(d: Draw) -> Case:
    return _case(stride=(2, 3), kernel=d.each([_overlapping, *SMALL]))(d)


def _with_bias_gradient(subject: Subject, case: Case) -> Any:
    seen = subject.vjp(*case.args, wrt=[2], **case.kwargs)
    return {"result": plain(seen["value"]), "gradients": {"bias": (seen["grads"] or {}).get("2")}}


def _beyond_padding(d: Draw) -> Case:
    def call(stride: int, padding: int, output_padding: int) -> tuple[Any, ...]:
        x, weight = _single(d, 1, 2, 2, 3), _single(d, 2, 1, stride + 1, stride + 2)
        return x, weight, _single(d, 1) + 5, stride, padding, output_padding

    calls = {
        "stride 2, padding 0, output_padding 1": call(2, 0, 1),
        "stride 3, padding 1, output_padding 2": call(3, 1, 2),
    }
    return Case((), {}, calls)


def _refused(d: Draw) -> Case:
    stride = d.integer(1, 2)
    x, weight = _single(d, 1, 2, 3, 3), _single(d, 2, 2, 3, 3)
    calls = {
        f"stride {stride}, output_padding {a}": (x, weight, None, stride, 0, a)
        for a in (stride, stride + 1, stride - 1)
    }
    return Case((), {}, calls)


def _single_and_double(d: Draw) -> Case:
    """Of sizes that let every mistake but one of dtype or memory through."""
    dtype, biased = d.each([torch.float32, torch.float64]), d.each([True, False])
    x, weight, bias = (d.tensor(*shape, dtype=dtype) for shape in ((1, 2, 3, 3), (2, 2, 3, 3), (2,)))
    return Case((d.layout(x), d.layout(weight), *([bias] if biased else [])))


CLAIMS = Exercise(
    id="conv_transpose2d",
    topic="upsampling",
    title="Transposed convolution",
    reference=reference.conv_transpose2d,
    minutes=30,
    difficulty=4,
    properties=claims(
        """
        stride_one (1): stride 1: each value lays down a copy of the kernel, and overlapping products are
          summed
        strided (1): larger strides: s(H−1)+kh rows, s(W−1)+kw columns, also where the stride is larger than
          the kernel
        bias (0.25): bias is added once to every pixel, and a gradient flows back to it
        tried: the result, and the gradient of its inner product with fixed random numbers
        padding (0.5): padding cuts that many rows and columns off at each side
        output_padding (0.5): output_padding adds rows and columns at the bottom and right: less is cut off
          there
        beyond_padding (0.25): an output_padding larger than padding: the rows and columns that no copy
          reaches hold the bias alone
        tried: conv_transpose2d(x, weight, bias, stride, padding, output_padding) for each of these
        refuses (0.25): an output_padding of the stride or more is refused with a ValueError, one of
          stride − 1 is not
        tried: conv_transpose2d(x, weight, bias, stride, padding, output_padding) for each of these
        gradients (1): gradients flow to x and weight
        tried: the gradient of the output's inner product with fixed random numbers
        carries (0.25): the result has the dtype of the arguments, float32 or float64; they may lie in memory
          in any order, and none is modified in place
        """,
        stride_one=on(_case(), numbers, tolerance=SINGLE),
        strided=on(_strided, numbers, tolerance=SINGLE),
        bias=on(_case(bias=True, channels=((2, 2),)), _with_bias_gradient, tolerance=SINGLE),
        padding=on(_case(stride=(2, 3), padding=(1, 2)), numbers, tolerance=SINGLE),
        output_padding=on(
            _case(stride=(2, 3), padding=(1, 2), output_padding=True), numbers, tolerance=SINGLE
        ),
        beyond_padding=on(_beyond_padding, each, examples=2, tolerance=SINGLE),
        refuses=on(_refused, refusals, examples=4, beside="stride_one"),
        gradients=on(_case(stride=(2, 3), bias=True), gradients(0, 1), tolerance=SINGLE),
        carries=on(
            _single_and_double, carries_by_name("x", "weight", "bias"), examples=4, beside="stride_one"
        ),
    ),
    hints=hints("""
        I don't know how large the result is
        Without padding: the last copy begins at row s(H−1) and is kh rows long. Padding cuts 2p of them off,
          output_padding gives a back.

        My values are right where no copies overlap
        Overlapping products are summed. Loop over the kh·kw taps: each adds a whole map, stride pixels apart.

        I don't know how to start
        out of zeros, (N, Cout, s(H−1)+kh+a, s(W−1)+kw+a). For each tap (r, c): out[:, :, r : r+s(H−1)+1 : s,
          c : c+s(W−1)+1 : s] += einsum("nihw,io->nohw", x, weight[:, :, r, c]). Cut p off at each side, then
          add the bias.
        """),
    forbidden=(CONV_TRANSPOSE, AUTOGRAD),
)

answers = Answers(CLAIMS)


@answers.right
def by_pixel(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """pixel by pixel"""
    if output_padding >= stride:
        raise ValueError(f"output_padding must be below the stride, {stride}, got {output_padding}")
    N, _, H, W = x.shape
    _, cout, kh, kw = weight.shape
    height, width = stride * (H - 1) + kh, stride * (W - 1) + kw
    y = x.new_zeros(N, cout, height, width)
    for i in range(H):
        for j in range(W):
            top, left = stride * i, stride * j
            copies = torch.einsum("nc,cdrs->ndrs", x[:, :, i, j], weight)
            y[:, :, top : top + kh, left : left + kw] += copies
    y = F.pad(y, (0, output_padding, 0, output_padding))
    height, width = y.shape[2:]
    y = y[:, :, padding : height - padding, padding : width - padding]
    return y if bias is None else y + bias.view(1, -1, 1, 1)


answers.edits("""
overlap_overwritten: all but refuses carries
- y[:, :, top : top + kh, left : left + kw] += copies
+ y[:, :, top : top + kh, left : left + kw] = copies
Where copies of the kernel overlap, the last one wins.
Add them up: += instead of =.

overlap_averaged: all but refuses carries
- y = x.new_zeros(N, cout, height, width)
+ y = x.new_zeros(N, cout, height, width)
+ counts = x.new_zeros(1, 1, height, width)
- y[:, :, top : top + kh, left : left + kw] += copies
+ y[:, :, top : top + kh, left : left + kw] += copies
+ counts[:, :, top : top + kh, left : left + kw] += 1
- y = F.pad(y, (0, output_padding, 0, output_padding))
+ y = F.pad(y / counts.clamp(min=1), (0, output_padding, 0, output_padding))
Where copies of the kernel overlap, you took their mean.
Overlapping products are summed, and nothing is divided.

weight_as_in_conv2d: all but refuses carries
- _, cout, kh, kw = weight.shape
+ cout, _, kh, kw = weight.shape
- "nc,cdrs->ndrs"
+ "nc,dcrs->ndrs"
You read the weight as (Cout, Cin, kh, kw), as a convolution has it.
Here it is (Cin, Cout, kh, kw): axis 0 belongs to x.

kernel_transposed: all but refuses carries
- _, cout, kh, kw = weight.shape
+ _, cout, kw, kh = weight.shape
- "nc,cdrs->ndrs"
+ "nc,cdrs->ndsr"
You exchanged the kernel's rows and columns.
An input of 1 lays down the kernel as it is: the weight's axis 2 goes down the rows, axis 3 along them.

padding_added: padding output_padding beyond_padding
- y = y[:, :, padding : height - padding, padding : width - padding]
+ y = F.pad(y, (padding, padding, padding, padding))
Your padding makes the result larger.
It undoes the padding of a convolution: cut padding rows and columns off at each side.

x_padded: padding output_padding beyond_padding
- N, _, H, W = x.shape
+ x = F.pad(x, (padding, padding, padding, padding))
+ N, _, H, W = x.shape
...
- y = y[:, :, padding : height - padding, padding : width - padding]
You put zeros around x, as the padding of a convolution does, and your result grew by them.
Here padding is what is cut off: padding rows and columns of the result, at each side.

padding_ignored: padding output_padding beyond_padding
- y = y[:, :, padding : height - padding, padding : width - padding]
You did not use padding.
Cut padding rows and columns off at each of the four sides.

padding_at_one_side: padding output_padding beyond_padding
- padding : height - padding, padding : width - padding
+ : height - 2 * padding, : width - 2 * padding
You cut 2·padding rows and columns off at the bottom and right.
Cut padding of them off at each of the four sides.

padding_at_the_top_only: padding output_padding beyond_padding
- padding : height - padding, padding : width - padding
+ padding:, padding:
You cut padding rows and columns off at the top and left, and none at the bottom and right.
Cut padding of them off at each of the four sides.

nothing_left_without_padding: all but padding output_padding refuses carries
- padding : height - padding, padding : width - padding
+ padding:-padding, padding:-padding
Without padding your result is empty: y[..., p:-p] with p = 0 is y[..., 0:0].
Cut to an end that you have computed: y[..., p : height − p].

output_padding_as_zeros: output_padding beyond_padding
- y = F.pad(y, (0, output_padding, 0, output_padding))
...
- return y if bias is None else y + bias.view(1, -1, 1, 1)
+ y = y if bias is None else y + bias.view(1, -1, 1, 1)
+ return F.pad(y, (0, output_padding, 0, output_padding))
You added zeros at the bottom and right, after cutting.
output_padding cuts less off there: those rows hold products where copies reach, and the bias.

output_padding_ignored: output_padding beyond_padding
- y = F.pad(y, (0, output_padding, 0, output_padding))
You did not use output_padding.
The result has output_padding rows and columns more: make room for them at the bottom and right.

bias_before_output_padding: beyond_padding
- y = F.pad(y, (0, output_padding, 0, output_padding))
+ y = y if bias is None else y + bias.view(1, -1, 1, 1)
+ y = F.pad(y, (0, output_padding, 0, output_padding))
- return y if bias is None else y + bias.view(1, -1, 1, 1)
+ return y
Rows and columns of output_padding that no copy reaches lack the bias in your result.
Make the whole result first, and add the bias at the end: it belongs to every pixel.

no_more_than_was_cut: beyond_padding
- y = F.pad(y, (0, output_padding, 0, output_padding))
+ extra = min(output_padding, padding)
+ y = F.pad(y, (0, extra, 0, extra))
You give back no more rows and columns than padding has cut off.
An output_padding above padding is legal: what no copy reaches is 0, plus the bias.

output_padding_at_both_ends: output_padding beyond_padding
- F.pad(y, (0, output_padding, 0, output_padding))
+ F.pad(y, (output_padding, output_padding, output_padding, output_padding))
You added output_padding rows and columns at each of the four sides.
They belong at the bottom and right alone.

output_padding_at_the_top: output_padding beyond_padding
- F.pad(y, (0, output_padding, 0, output_padding))
+ F.pad(y, (output_padding, 0, output_padding, 0))
You added the extra rows and columns at the top and left.
They belong at the bottom and right.

stride_ignored: all but stride_one bias refuses carries
- height, width = stride * (H - 1) + kh, stride * (W - 1) + kw
+ height, width = H - 1 + kh, W - 1 + kw
- top, left = stride * i, stride * j
+ top, left = i, j
You did not use the stride.
The copy of x[i, j] begins at row stride·i and column stride·j.

bias_ignored: bias beyond_padding
- return y if bias is None else y + bias.view(1, -1, 1, 1)
+ return y
You did not add the bias.
Add bias.view(1, -1, 1, 1) at the end, if it is not None.

bias_in_every_copy: bias beyond_padding
- y[:, :, top : top + kh, left : left + kw] += copies
+ copies = copies if bias is None else copies + bias.view(1, -1, 1, 1)
+ y[:, :, top : top + kh, left : left + kw] += copies
- return y if bias is None else y + bias.view(1, -1, 1, 1)
+ return y
You added the bias to every copy of the kernel, so it piles up where they overlap.
Add it once, at the end.

accepts_any_output_padding: refuses
- if output_padding >= stride:
-     raise ValueError(f"output_padding must be below the stride, {stride}, got {output_padding}")
You accept an output_padding of the stride or more.
Raise a ValueError that names output_padding: so many rows would belong to one more input.

refuses_only_above: refuses
- output_padding >= stride
+ output_padding > stride
You accept an output_padding that is equal to the stride.
So many rows would belong to one more input: refuse from the stride on, with >=.

refused_by_assert: refuses
- if output_padding >= stride:
-     raise ValueError(f"output_padding must be below the stride, {stride}, got {output_padding}")
+ assert output_padding < stride
You refuse a large output_padding with an AssertionError.
Raise a ValueError: that is what callers can expect of a wrong argument, and python -O drops every assert.

cut_from_the_graph: bias gradients
- return y if bias is None else y + bias.view(1, -1, 1, 1)
+ return y.detach() if bias is None else (y + bias.view(1, -1, 1, 1)).detach()
Your result is cut from the graph, so no gradient reaches x, weight or bias.
Leave out detach, .data, .item() and no_grad.

detached: gradients
- x[:, :, i, j], weight)
+ x[:, :, i, j].detach(), weight.detach())
Your products are cut from the graph, so no gradient reaches x and weight.
Leave out detach, .data, .item() and no_grad.

default_dtype: carries
- y = x.new_zeros(N, cout, height, width)
+ y = torch.zeros(N, cout, height, width, device=x.device)
You sum up in float32 whatever the dtype of x.
x.new_zeros(...) makes zeros of the dtype and on the device of x.

always_float64: carries
- y = x.new_zeros(N, cout, height, width)
+ y = torch.zeros(N, cout, height, width, dtype=torch.float64, device=x.device)
Your result is float64 whatever x was.
Make it with x.new_zeros(...), of the dtype and on the device of x.
""")


@answers.right
def by_tap(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """tap by tap"""
    if output_padding >= stride:
        raise ValueError(f"output_padding must be below {stride}, got {output_padding}")
    N, _, H, W = x.shape
    _, cout, kh, kw = weight.shape
    height, width = stride * (H - 1) + kh + output_padding, stride * (W - 1) + kw + output_padding
    out = torch.zeros(N, cout, height, width, dtype=x.dtype, device=x.device)
    for r in range(kh):
        for s in range(kw):
            tap = torch.tensordot(x, weight[:, :, r, s], dims=([1], [0])).movedim(3, 1)
            out[:, :, r : r + stride * (H - 1) + 1 : stride, s : s + stride * (W - 1) + 1 : stride] += tap
    out = out[:, :, padding : height - padding, padding : width - padding]
    return out if bias is None else out + bias[:, None, None]


answers.edits("""
taps_overwritten: all but refuses carries
- += tap
+ = tap
Each tap of the kernel overwrites what earlier taps wrote.
Add them up: += instead of =.
""")


@answers.right
def folded(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """a product and F.fold"""
    if output_padding >= stride:
        raise ValueError("output_padding must be smaller than stride")
    kh, kw = weight.shape[2:]
    H, W = x.shape[2:]
    columns = weight.flatten(1).T @ x.flatten(2)
    full = stride * (H - 1) + kh, stride * (W - 1) + kw
    y = F.fold(columns, full, (kh, kw), stride=stride)
    y = F.pad(y, (-padding, output_padding - padding, -padding, output_padding - padding))
    return y if bias is None else y + bias.reshape(-1, 1, 1)


answers.edits("""
joined_by_view: carries
- weight.flatten(1).T @ x.flatten(2)
+ weight.view(len(weight), -1).T @ x.view(*x.shape[:2], -1)
You used .view to join axes of a tensor, which torch refuses where it does not lie row by row in memory.
Take .reshape or .flatten: they copy where they must.
""")


@answers.right
def by_zeros(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """zero insertion and a convolution"""
    if output_padding >= stride:
        raise ValueError("output_padding must be smaller than stride")
    N, C, H, W = x.shape
    kh, kw = weight.shape[2:]
    spread = x.new_zeros(N, C, stride * H, stride * W)
    spread[..., ::stride, ::stride] = x
    spread = spread[..., : stride * (H - 1) + 1, : stride * (W - 1) + 1]
    top, left = kh - 1 - padding, kw - 1 - padding
    spread = F.pad(spread, (left, left + output_padding, top, top + output_padding))
    return F.conv2d(spread, weight.transpose(0, 1).flip(2, 3), bias)


answers.edits("""
kernel_flipped: all but refuses carries
- weight.transpose(0, 1).flip(2, 3)
+ weight.transpose(0, 1)
Your kernel is laid down rotated by 180°.
An input of 1 lays down the kernel as it is. After zero insertion it is the other way: there the convolution
  needs the flipped kernel.

kernel_taken_as_square: all but refuses carries
- top, left = kh - 1 - padding, kw - 1 - padding
+ top = left = kh - 1 - padding
You used the kernel's height along the width too.
A kernel may have kh≠kw: rows go with kh, columns with kw.

zeros_of_another_dtype: carries
- x.new_zeros(N, C, stride * H, stride * W)
+ torch.zeros(N, C, stride * H, stride * W, device=x.device)
Where x is float64, your zeros have another dtype than weight, and F.conv2d does not mix two: torch.zeros(...)
  makes float32.
x.new_zeros(...) makes zeros of the dtype and on the device of x.

zeros_after_the_last: all but stride_one bias refuses carries
- spread = spread[..., : stride * (H - 1) + 1, : stride * (W - 1) + 1]
Your result is stride − 1 rows and columns too large: a bed of nails ends with zeros that no copy needs.
Insert zeros between the values only: s(H−1)+1 rows before the kernel comes.
""")


EXERCISE = answers.exercise()
