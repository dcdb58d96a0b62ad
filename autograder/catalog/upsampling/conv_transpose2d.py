"""The exercise conv_transpose2d of lecture 05: transposed convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from autograder.catalog.forbidden import AUTOGRAD, CONV_TRANSPOSE
from autograder.catalog.observations import gradients
from autograder.catalog.upsampling.draws import carries_by_name, each, nails
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import upsampling as reference


def _transposed_case(
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


def _lay(x, weight, stride, *, add=True):
    """Every value lays down its copy of the kernel."""
    N, _, H, W = x.shape
    kh, kw = weight.shape[2:]
    out = x.new_zeros(N, weight.shape[1], stride * (H - 1) + kh, stride * (W - 1) + kw)
    for i in range(H):
        for j in range(W):
            copies = torch.einsum("nc,cdrs->ndrs", x[:, :, i, j], weight)
            rows, columns = slice(stride * i, stride * i + kh), slice(stride * j, stride * j + kw)
            out = out.clone()
            out[:, :, rows, columns] = copies + (out[:, :, rows, columns] if add else 0)
    return out


def _crop(y, padding, output_padding):
    H, W = y.shape[2:]
    y = F.pad(y, (0, output_padding, 0, output_padding))
    return y[..., padding : H - padding + output_padding, padding : W - padding + output_padding]


def _with_bias(y, bias):
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def _allowed(stride, output_padding):
    if output_padding >= stride:
        raise ValueError(f"output_padding must be below the stride, {stride}, got {output_padding}")


def _transposed_overwritten(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, stride, add=False), padding, output_padding), bias)


def _transposed_taps_overwritten(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    H, W = x.shape[2:]
    kh, kw = weight.shape[2:]
    y = x.new_zeros(len(x), weight.shape[1], stride * (H - 1) + kh, stride * (W - 1) + kw)
    for r in range(kh):
        for c in range(kw):
            rows = slice(r, r + stride * (H - 1) + 1, stride)
            columns = slice(c, c + stride * (W - 1) + 1, stride)
            y[:, :, rows, columns] = torch.einsum("nihw,io->nohw", x, weight[:, :, r, c])
    return _with_bias(_crop(y, padding, output_padding), bias)


def _transposed_kernel_transposed(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight.transpose(2, 3), stride), padding, output_padding), bias)


def _transposed_minus_zero(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = F.pad(_lay(x, weight, stride), (0, output_padding, 0, output_padding))
    return _with_bias(y[..., padding:-padding, padding:-padding], bias)


def _transposed_cut_once(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = F.pad(_lay(x, weight, stride), (0, output_padding, 0, output_padding))
    return _with_bias(y[..., padding:, padding:], bias)


def _transposed_extra_ignored(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, stride), padding, 0), bias)


def _transposed_extra_without_bias(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _crop(_with_bias(_lay(x, weight, stride), bias), padding, output_padding)


def _transposed_extra_bounded(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, stride), padding, min(output_padding, padding)), bias)


def _transposed_flipped(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight.flip(2, 3), stride), padding, output_padding), bias)


def _transposed_conv_axes(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    if weight.shape[1] != x.shape[1]:
        raise RuntimeError(f"expected {weight.shape[1]} input channels, got {x.shape[1]}")
    return _with_bias(_crop(_lay(x, weight.transpose(0, 1), stride), padding, output_padding), bias)


def _transposed_padded(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(
        F.pad(
            _lay(x, weight, stride), (padding, padding + output_padding, padding, padding + output_padding)
        ),
        bias,
    )


def _transposed_padding_ignored(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, stride), 0, output_padding), bias)


def _transposed_square(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    spread = nails(x, stride)[..., : stride * (x.shape[2] - 1) + 1, : stride * (x.shape[3] - 1) + 1]
    border = weight.shape[2] - 1 - padding
    spread = F.pad(spread, (border, border + output_padding, border, border + output_padding))
    return F.conv2d(spread, weight.transpose(0, 1).flip(2, 3), bias)


def _transposed_one_side(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = _crop(_lay(x, weight, stride), 0, output_padding)
    return _with_bias(y[..., : y.shape[2] - 2 * padding, : y.shape[3] - 2 * padding], bias)


def _transposed_extra_zeros(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = _with_bias(_crop(_lay(x, weight, stride), padding, 0), bias)
    return F.pad(y, (0, output_padding, 0, output_padding))


def _transposed_extra_top(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = F.pad(_lay(x, weight, stride), (output_padding, 0, output_padding, 0))
    return _with_bias(_crop(y, padding, 0), bias)


def _transposed_stride_ignored(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, 1), padding, output_padding), bias)


def _transposed_last_zeros(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = _lay(x, weight, stride)
    return _with_bias(_crop(F.pad(y, (0, stride - 1, 0, stride - 1)), padding, output_padding), bias)


def _transposed_no_bias(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _crop(_lay(x, weight, stride), padding, output_padding)


def _transposed_bias_each(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = _lay(x, weight, stride)
    if bias is not None:
        ones = torch.ones_like(weight[:1, :1]).expand(1, len(bias), -1, -1)
        y = y + _lay(torch.ones_like(x[:, :1]), ones * bias.view(1, -1, 1, 1), stride)
    return _crop(y, padding, output_padding)


def _transposed_accepting(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    return _with_bias(_crop(_lay(x, weight, stride), padding, output_padding), bias)


def _transposed_detached(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    y = _crop(_lay(x.detach(), weight.detach(), stride), padding, output_padding)
    return _with_bias(y, bias)


def _transposed_promoted(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    return _transposed_pixels(x, weight, bias, stride, padding, output_padding).double()


def _transposed_pixels(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    _allowed(stride, output_padding)
    return _with_bias(_crop(_lay(x, weight, stride), padding, output_padding), bias)


def _transposed_taps(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """A loop over the kernel: each tap adds a strided map."""
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


def _transposed_fold(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """Columns of products, folded together."""
    if output_padding >= stride:
        raise ValueError("output_padding must be smaller than stride")
    kh, kw = weight.shape[2:]
    H, W = x.shape[2:]
    columns = weight.flatten(1).T @ x.flatten(2)
    full = stride * (H - 1) + kh, stride * (W - 1) + kw
    y = F.fold(columns, full, (kh, kw), stride=stride)
    y = F.pad(y, (-padding, output_padding - padding, -padding, output_padding - padding))
    return y if bias is None else y + bias.reshape(-1, 1, 1)


def _transposed_zeros(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    """Zero insertion, then a convolution with the flipped kernel."""
    if output_padding >= stride:
        raise ValueError("output_padding must be smaller than stride")
    kh, kw = weight.shape[2:]
    spread = nails(x, stride)[..., : stride * (x.shape[2] - 1) + 1, : stride * (x.shape[3] - 1) + 1]
    top, left = kh - 1 - padding, kw - 1 - padding
    spread = F.pad(spread, (left, left + output_padding, top, top + output_padding))
    return F.conv2d(spread, weight.transpose(0, 1).flip(2, 3), bias)


def _transposed_refused(d: Draw) -> Case:
    stride = d.integer(1, 2)
    x, weight = d.tensor(1, 2, 2, 3), d.tensor(2, 1, 3, 3)
    return Case((x, weight), {"stride": stride, "output_padding": stride + d.integer(0, 1)})


SUMS = ("stride_one", "strided", "bias", "padding", "output_padding", "beyond_padding", "gradients")
STRIDED = ("strided", "padding", "output_padding", "beyond_padding", "gradients")
PADDED = ("padding", "output_padding", "beyond_padding")

EXERCISE = Exercise(
    id="conv_transpose2d",
    topic="upsampling",
    title="Transposed convolution",
    reference=reference.conv_transpose2d,
    minutes=30,
    difficulty=4,
    properties=(
        Property(
            "stride_one",
            "stride 1: each value lays down a copy of the kernel, and overlapping products are summed",
            1.0,
            _transposed_case(),
        ),
        Property(
            "strided",
            "larger strides: s(H−1)+kh rows, s(W−1)+kw columns",
            1.0,
            _transposed_case(stride=(2, 3)),
        ),
        Property(
            "bias",
            "bias is added once to every pixel",
            0.25,
            # As many channels in as out, so that a mix-up of the two shows in the values.
            _transposed_case(bias=True, channels=((2, 2),)),
        ),
        Property(
            "padding",
            "padding cuts that many rows and columns off at each side",
            0.5,
            _transposed_case(stride=(2, 3), padding=(1,)),
        ),
        Property(
            "output_padding",
            "output_padding adds rows and columns at the bottom and right: less is cut off there",
            0.5,
            _transposed_case(stride=(2, 3), padding=(1,), output_padding=lambda d, s: 1),
        ),
        Property(
            "beyond_padding",
            "an output_padding larger than padding: the rows and columns that no copy reaches hold the bias alone",
            0.25,
            _beyond_padding,
            each,
            examples=2,
            tried="conv_transpose2d(x, weight, bias, stride, padding, output_padding) for each of these",
        ),
        Property(
            "refuses",
            "an output_padding of the stride or more is refused with a ValueError",
            0.25,
            _transposed_refused,
            examples=4,
        ),
        Property(
            "gradients",
            "gradients flow to x, weight and bias",
            1.0,
            _transposed_case(stride=(2, 3), bias=True),
            gradients(0, 1, 2),
            tried="the gradient of the output's inner product with fixed random numbers",
        ),
        Property(
            "carries",
            "float32 stays float32, and no argument is modified in place",
            0.25,
            _transposed_case(stride=(1,), bias=True, dtype=torch.float32),
            carries_by_name("x", "weight", "bias"),
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "overlap_overwritten",
            "Where copies of the kernel overlap, the last one wins.",
            "Add them up: += instead of =.",
            SUMS,
            _transposed_overwritten,
        ),
        Misconception(
            "taps_overwritten",
            "Each tap of the kernel overwrites what earlier taps wrote.",
            "Add them up: += instead of =.",
            SUMS,
            _transposed_taps_overwritten,
        ),
        Misconception(
            "kernel_flipped",
            "Your kernel is laid down rotated by 180°.",
            "An input of 1 lays down the kernel as it is. After zero insertion it is the other way: there the "
            "convolution needs the flipped kernel.",
            SUMS,
            _transposed_flipped,
        ),
        Misconception(
            "weight_as_in_conv2d",
            "You read the weight as (Cout, Cin, kh, kw), as a convolution has it.",
            "Here it is (Cin, Cout, kh, kw): axis 0 belongs to x.",
            (*SUMS, "carries"),
            _transposed_conv_axes,
        ),
        Misconception(
            "kernel_transposed",
            "You exchanged the kernel's rows and columns.",
            "An input of 1 lays down the kernel as it is: the weight's axis 2 goes down the rows, axis 3 along them.",
            (*SUMS, "carries"),
            _transposed_kernel_transposed,
        ),
        Misconception(
            "padding_added",
            "Your padding makes the result larger.",
            "It undoes the padding of a convolution: cut padding rows and columns off at each side.",
            PADDED,
            _transposed_padded,
        ),
        Misconception(
            "padding_ignored",
            "You did not use padding.",
            "Cut padding rows and columns off at each of the four sides.",
            PADDED,
            _transposed_padding_ignored,
        ),
        Misconception(
            "kernel_taken_as_square",
            "You used the kernel's height along the width too.",
            "A kernel may have kh≠kw: rows go with kh, columns with kw.",
            (*SUMS, "carries"),
            _transposed_square,
        ),
        Misconception(
            "padding_at_one_side",
            "You cut 2·padding rows and columns off at the bottom and right.",
            "Cut padding of them off at each of the four sides.",
            PADDED,
            _transposed_one_side,
        ),
        Misconception(
            "padding_at_the_top_only",
            "You cut padding rows and columns off at the top and left, and none at the bottom and right.",
            "Cut padding of them off at each of the four sides.",
            PADDED,
            _transposed_cut_once,
        ),
        Misconception(
            "nothing_left_without_padding",
            "Without padding your result is empty: y[..., p:-p] with p = 0 is y[..., 0:0].",
            "Cut to an end that you have computed: y[..., p : height − p].",
            ("stride_one", "strided", "bias", "beyond_padding", "gradients", "carries"),
            _transposed_minus_zero,
        ),
        Misconception(
            "output_padding_as_zeros",
            "You added zeros at the bottom and right, after cutting.",
            "output_padding cuts less off there: those rows hold products where copies reach, and the bias.",
            ("output_padding", "beyond_padding"),
            _transposed_extra_zeros,
        ),
        Misconception(
            "output_padding_ignored",
            "You did not use output_padding.",
            "The result has output_padding rows and columns more: make room for them at the bottom and right.",
            ("output_padding", "beyond_padding"),
            _transposed_extra_ignored,
        ),
        Misconception(
            "bias_before_output_padding",
            "Rows and columns of output_padding that no copy reaches lack the bias in your result.",
            "Make the whole result first, and add the bias at the end: it belongs to every pixel.",
            ("beyond_padding",),
            _transposed_extra_without_bias,
        ),
        Misconception(
            "no_more_than_was_cut",
            "You give back no more rows and columns than padding has cut off.",
            "An output_padding above padding is legal: what no copy reaches is 0, plus the bias.",
            ("beyond_padding",),
            _transposed_extra_bounded,
        ),
        Misconception(
            "output_padding_at_the_top",
            "You added the extra rows and columns at the top and left.",
            "They belong at the bottom and right.",
            ("output_padding", "beyond_padding"),
            _transposed_extra_top,
        ),
        Misconception(
            "stride_ignored",
            "You did not use the stride.",
            "The copy of x[i, j] begins at row stride·i and column stride·j.",
            STRIDED,
            _transposed_stride_ignored,
        ),
        Misconception(
            "zeros_after_the_last",
            "Your result is stride − 1 rows and columns too large: a bed of nails ends with zeros that no copy needs.",
            "Insert zeros between the values only: s(H−1)+1 rows before the kernel comes.",
            STRIDED,
            _transposed_last_zeros,
        ),
        Misconception(
            "bias_ignored",
            "You did not add the bias.",
            "Add bias.view(1, -1, 1, 1) at the end, if it is not None.",
            ("bias", "beyond_padding", "gradients"),
            _transposed_no_bias,
        ),
        Misconception(
            "bias_in_every_copy",
            "You added the bias to every copy of the kernel, so it piles up where they overlap.",
            "Add it once, at the end.",
            ("bias", "beyond_padding", "gradients"),
            _transposed_bias_each,
        ),
        Misconception(
            "accepts_any_output_padding",
            "You accept an output_padding of the stride or more.",
            "Raise a ValueError that names output_padding: so many rows would belong to one more input.",
            ("refuses",),
            _transposed_accepting,
        ),
        Misconception(
            "detached",
            "Your result is cut from the graph, so no gradient reaches x and weight.",
            "Leave out detach, .data, .item() and no_grad.",
            ("gradients",),
            _transposed_detached,
        ),
        Misconception(
            "always_float64",
            "Your result is float64 whatever x was.",
            "Make it with x.new_zeros(...), of the dtype and on the device of x.",
            ("carries",),
            _transposed_promoted,
        ),
    ),
    right=(
        Variant("pixel by pixel", _transposed_pixels),
        Variant("tap by tap", _transposed_taps),
        Variant("a product and F.fold", _transposed_fold),
        Variant("zero insertion and a convolution", _transposed_zeros),
    ),
    hints=(
        Hint(
            "I don't know how large the result is",
            "Without padding: the last copy begins at row s(H−1) and is kh rows long. Padding cuts 2p of them off, output_padding gives a back.",
        ),
        Hint(
            "My values are right where no copies overlap",
            "Overlapping products are summed. Loop over the kh·kw taps: each adds a whole map, stride pixels apart.",
        ),
        Hint(
            "I don't know how to start",
            'out of zeros, (N, Cout, s(H−1)+kh+a, s(W−1)+kw+a). For each tap (r, c): out[:, :, r : r+s(H−1)+1 : s, c : c+s(W−1)+1 : s] += einsum("nihw,io->nohw", x, weight[:, :, r, c]). Cut p off at each side, then add the bias.',
        ),
    ),
    forbidden=(CONV_TRANSPOSE, AUTOGRAD),
)
