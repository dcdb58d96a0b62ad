"""The exercise conv_transpose2d of lecture 05: transposed convolution."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import AUTOGRAD, CONV_TRANSPOSE
from autograder.catalog.observations import gradients
from autograder.catalog.upsampling.draws import carries_by_name, each
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import upsampling as reference


def _case(
    *,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Callable[[Draw, int], int] | None = None,
    bias: bool = False,
    dtype: torch.dtype = torch.float64,
    channels: Sequence[tuple[int, int]] = ((2, 3), (3, 2), (1, 2), (2, 2)),
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        s, p = d.choice(stride), d.choice(padding)
        cin, cout = d.choice(channels)
        # Larger than the stride, so that copies overlap.
        kh, kw = s + d.integer(1, 2), s + d.choice([2, 1, 3])
        x = d.tensor(d.choice([2, 1]), cin, d.integer(2, 3), d.choice([3, 2, 4]), dtype=dtype)
        weight = d.tensor(cin, cout, kh, kw, dtype=dtype)
        args = (x, weight, d.tensor(cout, dtype=dtype)) if bias else (x, weight)
        kwargs = {} if s == 1 else {"stride": s}
        if p:
            kwargs["padding"] = p
        if output_padding is not None:
            kwargs["output_padding"] = output_padding(d, s)
        return Case(args, kwargs)

    return draw


def _beyond_padding(d: Draw) -> Case:
    def call(stride: int, padding: int, output_padding: int) -> tuple[Any, ...]:
        x, weight = d.tensor(1, 2, 2, 3), d.tensor(2, 1, stride + 1, stride + 2)
        return x, weight, d.tensor(1) + 5, stride, padding, output_padding

    calls = {
        "stride 2, padding 0, output_padding 1": call(2, 0, 1),
        "stride 3, padding 1, output_padding 2": call(3, 1, 2),
    }
    return Case((), {}, calls)


def _refused(d: Draw) -> Case:
    stride = d.integer(1, 2)
    x, weight = d.tensor(1, 2, 2, 3), d.tensor(2, 1, 3, 3)
    return Case((x, weight), {"stride": stride, "output_padding": stride + d.integer(0, 1)})


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
        strided (1): larger strides: s(H−1)+kh rows, s(W−1)+kw columns
        bias (0.25): bias is added once to every pixel
        padding (0.5): padding cuts that many rows and columns off at each side
        output_padding (0.5): output_padding adds rows and columns at the bottom and right: less is cut off
          there
        beyond_padding (0.25): an output_padding larger than padding: the rows and columns that no copy
          reaches hold the bias alone
        tried: conv_transpose2d(x, weight, bias, stride, padding, output_padding) for each of these
        refuses (0.25): an output_padding of the stride or more is refused with a ValueError
        gradients (1): gradients flow to x, weight and bias
        tried: the gradient of the output's inner product with fixed random numbers
        carries (0.25): float32 stays float32, and no argument is modified in place
        """,
        stride_one=on(_case()),
        strided=on(_case(stride=(2, 3))),
        bias=on(_case(bias=True, channels=((2, 2),))),
        padding=on(_case(stride=(2, 3), padding=(1,))),
        output_padding=on(_case(stride=(2, 3), padding=(1,), output_padding=lambda d, s: 1)),
        beyond_padding=on(_beyond_padding, each, examples=2),
        refuses=on(_refused, examples=4, beside="stride_one"),
        gradients=on(_case(stride=(2, 3), bias=True), gradients(0, 1, 2)),
        carries=on(
            _case(stride=(1,), bias=True, dtype=torch.float32),
            carries_by_name("x", "weight", "bias"),
            examples=4,
            beside="stride_one",
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

weight_as_in_conv2d: all but refuses
- _, cout, kh, kw = weight.shape
+ cout, _, kh, kw = weight.shape
- "nc,cdrs->ndrs"
+ "nc,dcrs->ndrs"
You read the weight as (Cout, Cin, kh, kw), as a convolution has it.
Here it is (Cin, Cout, kh, kw): axis 0 belongs to x.

kernel_transposed: all but refuses
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

nothing_left_without_padding: all but padding output_padding refuses
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

bias_ignored: bias beyond_padding gradients
- return y if bias is None else y + bias.view(1, -1, 1, 1)
+ return y
You did not add the bias.
Add bias.view(1, -1, 1, 1) at the end, if it is not None.

bias_in_every_copy: bias beyond_padding gradients
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

detached: gradients
- x[:, :, i, j], weight)
+ x[:, :, i, j].detach(), weight.detach())
Your result is cut from the graph, so no gradient reaches x and weight.
Leave out detach, .data, .item() and no_grad.

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

kernel_taken_as_square: all but refuses
- top, left = kh - 1 - padding, kw - 1 - padding
+ top = left = kh - 1 - padding
You used the kernel's height along the width too.
A kernel may have kh≠kw: rows go with kh, columns with kw.

zeros_after_the_last: all but stride_one bias refuses carries
- spread = spread[..., : stride * (H - 1) + 1, : stride * (W - 1) + 1]
Your result is stride − 1 rows and columns too large: a bed of nails ends with zeros that no copy needs.
Insert zeros between the values only: s(H−1)+1 rows before the kernel comes.
""")


EXERCISE = answers.exercise()
