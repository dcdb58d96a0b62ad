"""The exercise linear_to_conv of lecture 04: a dense layer is a convolution with a large window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.convolutionalize.draws import kept
from autograder.catalog.observations import applied, filled, share_memory
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from autograder.values import Network
from coursekit import convolutionalize as reference

WINDOWS = [(2, 3), (3, 2), (1, 2), (3, 1)]


def _dense_case(
    *,
    bias: bool = True,
    default: bool = False,
    larger: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        c, (h, w) = d.choice([2, 3, 1]), (1, 1) if default else d.choice(WINDOWS)
        # More outputs than inputs, so that the two numbers changed about show.
        linear = filled(d, nn.Linear(c * h * w, c + d.integer(1, 2), bias=bias)).to(dtype)
        extra = (d.integer(1, 3), d.integer(2, 4)) if larger else (0, 0)
        x = d.tensor(d.choice([1, 2]), c, h + extra[0], w + extra[1], dtype=dtype)
        return Case((Network.describe(linear), c, *([] if default else [(h, w)])), {}, {"x": x})

    return draw


def _convolved_bare(subject: Subject, case: Case) -> Any:
    conv = subject(*case.args)
    if not callable(conv):
        return conv
    return {"linear_to_conv(…)(x)": conv(case.extra["x"]), "parameters": sorted(conv.inspect()["parameters"])}


def _dense_apart(subject: Subject, case: Case) -> Any:
    linear = subject.build(case.args[0])
    before = linear.inspect()
    conv = subject(linear, *case.args[1:])
    after = linear.inspect()
    if not callable(conv):
        return conv
    seen = conv.inspect()
    found: tuple[str, dict[str, Any]] = seen["config"] or (seen["kinds"].get(""), {})
    kind, config = found
    return {
        "result": kind,
        **{name: config.get(name) for name in ("in_channels", "out_channels", "kernel_size")},
        "linear": kept(before, after),
        "weights shared with linear": share_memory(seen, before),
    }


def _dense_kind(subject: Subject, case: Case) -> Any:
    conv = subject(*case.args)
    if not callable(conv):
        return conv
    return {name: str(p.dtype).removeprefix("torch.") for name, p in conv.inspect()["parameters"].items()}


def _let_through(subject: Subject, case: Case) -> Any:
    """What came of sizes that do not fit, since two answers that refuse nothing need not do the same."""
    conv = subject(*case.args)
    if not callable(conv):
        return conv
    shapes = {name: list(p.shape) for name, p in conv.inspect()["parameters"].items()}
    return {"a convolution with parameters": shapes}


def _misfit(d: Draw) -> Case:
    c, (h, w) = d.choice([2, 3]), d.choice([(2, 3), (3, 2), (2, 2)])
    linear = filled(d, nn.Linear(c * h * w, d.integer(2, 3))).float()
    # The first fits several times over, which a view with -1 takes for more outputs.
    asked = d.choice([(c, (1, 1)), (c, (h, w + 1)), (c + 1, (h, w)), (c, (h + 1, w))])
    return Case((Network.describe(linear), *asked))


def _to_conv(
    linear, in_channels, kernel_size=(1, 1), *, check=True, arrange=None, window=None, bias="copied", convert=True,
    shared=False, **geometry,
):  # fmt: skip
    """The conversion with a switch for each of its mistakes."""
    h, w = window or kernel_size
    if check and in_channels * h * w != linear.in_features:
        raise ValueError(f"in_channels and kernel_size must give {linear.in_features} inputs")
    weight = linear.weight.detach()
    weight = arrange(weight) if arrange else weight.view(linear.out_features, in_channels, h, w)
    if bias == "copied":
        bias = "dropped" if linear.bias is None else "copied"
    conv = nn.Conv2d(in_channels, linear.out_features, (h, w), bias=bias != "dropped", **geometry)
    conv = conv.to(weight) if convert else conv.to(weight.device)
    with torch.no_grad():
        if shared:
            conv.weight = nn.Parameter(weight)
        else:
            conv.weight.copy_(weight)
        if bias in ("copied", "random where it is None") and linear.bias is not None:
            conv.bias.copy_(linear.bias)
        elif bias == "zeros where it is None":
            conv.bias.copy_(torch.zeros_like(conv.bias) if linear.bias is None else linear.bias)
    return conv


def _dense_channels_last(linear, in_channels, kernel_size=(1, 1)):
    shape = (linear.out_features, *kernel_size, in_channels)
    return _to_conv(
        linear, in_channels, kernel_size, arrange=lambda weight: weight.reshape(shape).permute(0, 3, 1, 2)
    )


def _dense_width_first(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, window=kernel_size[::-1])


def _dense_window_transposed(linear, in_channels, kernel_size=(1, 1)):
    h, w = kernel_size
    shape = (linear.out_features, in_channels, w, h)
    return _to_conv(
        linear, in_channels, kernel_size, arrange=lambda weight: weight.reshape(shape).transpose(2, 3)
    )


def _dense_flipped(linear, in_channels, kernel_size=(1, 1)):
    shape = (linear.out_features, in_channels, *kernel_size)
    return _to_conv(linear, in_channels, kernel_size, arrange=lambda weight: weight.view(shape).flip(2, 3))


def _dense_weight_transposed(linear, in_channels, kernel_size=(1, 1)):
    shape = (linear.out_features, in_channels, *kernel_size)
    return _to_conv(linear, in_channels, kernel_size, arrange=lambda weight: weight.T.reshape(shape))


def _dense_square(linear, in_channels, kernel_size=(1, 1)):
    if in_channels * kernel_size[0] * kernel_size[1] != linear.in_features:
        raise ValueError("in_channels and kernel_size do not fit")
    return _to_conv(linear, in_channels, kernel_size, check=False, window=(kernel_size[0], kernel_size[0]))


def _dense_all_channels(linear, in_channels, kernel_size=(1, 1)):
    if in_channels * kernel_size[0] * kernel_size[1] != linear.in_features:
        raise ValueError("in_channels and kernel_size do not fit")
    return _to_conv(linear, linear.in_features)


def _dense_bias_dropped(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, bias="dropped")


def _dense_bias_not_copied(linear, in_channels, kernel_size=(1, 1)):
    bias = "dropped" if linear.bias is None else "random"
    return _to_conv(linear, in_channels, kernel_size, bias=bias)


def _dense_bias_invented(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, bias="random where it is None")


def _dense_bias_of_zeros(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, bias="zeros where it is None")


def _dense_bias_required(linear, in_channels, kernel_size=(1, 1)):
    conv = _to_conv(linear, in_channels, kernel_size)
    conv.bias = nn.Parameter(linear.bias.detach().clone())
    return conv


def _dense_bias_as_truth(linear, in_channels, kernel_size=(1, 1)):
    if in_channels * kernel_size[0] * kernel_size[1] != linear.in_features:
        raise ValueError("in_channels and kernel_size do not fit")
    return _to_conv(linear, in_channels, kernel_size, bias="copied" if linear.bias else "dropped")


def _dense_padded(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, padding="same")


def _dense_strided(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, stride=kernel_size)


def _dense_channels_swapped(linear, in_channels, kernel_size=(1, 1)):
    right = _to_conv(linear, in_channels, kernel_size)
    conv = nn.Conv2d(linear.out_features, in_channels, kernel_size, bias=linear.bias is not None)
    conv.weight, conv.bias = right.weight, right.bias
    return conv


def _dense_shared(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, shared=True)


def _dense_float32(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, convert=False)


def _dense_unchecked(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, check=False)


def _dense_unchecked_copy(linear, in_channels, kernel_size=(1, 1)):
    conv = nn.Conv2d(in_channels, linear.out_features, kernel_size, bias=linear.bias is not None)
    conv = conv.to(linear.weight)
    with torch.no_grad():
        conv.weight.copy_(linear.weight.reshape(-1, in_channels, *kernel_size))
        if linear.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


def _dense_freezes(linear, in_channels, kernel_size=(1, 1)):
    conv = _to_conv(linear, in_channels, kernel_size)
    linear.requires_grad_(False)
    return conv


def _dense_any_outputs(linear, in_channels, kernel_size=(1, 1)):
    weight = linear.weight.detach().clone().reshape(-1, in_channels, *kernel_size)
    conv = nn.Conv2d(in_channels, len(weight), kernel_size, bias=linear.bias is not None).to(weight)
    conv.weight = nn.Parameter(weight)
    if linear.bias is not None:
        conv.bias = nn.Parameter(linear.bias.detach().clone())
    return conv


def _dense_asserted(linear, in_channels, kernel_size=(1, 1)):
    assert in_channels * kernel_size[0] * kernel_size[1] == linear.in_features
    return _to_conv(linear, in_channels, kernel_size)


def _dense_strict(linear, in_channels, kernel_size=(1, 1)):
    h, w = kernel_size
    if h != w or in_channels * h * w != linear.in_features:
        raise ValueError("kernel_size does not fit")
    return _to_conv(linear, in_channels, kernel_size)


def _dense_loaded(linear, in_channels, kernel_size=(1, 1)):
    """The state dict reshaped and loaded."""
    window = torch.Size([in_channels, *kernel_size])
    if window.numel() != linear.in_features:
        raise ValueError(f"linear must have {window.numel()} inputs, got {linear.in_features}")
    conv = nn.Conv2d(*window[:1], linear.out_features, tuple(window[1:]), bias="bias" in linear.state_dict())
    state = {name: t.unflatten(1, window) if t.ndim == 2 else t for name, t in linear.state_dict().items()}
    conv.to(linear.weight.device, linear.weight.dtype).load_state_dict(state)
    return conv


def _dense_probed(linear, in_channels, kernel_size=(1, 1)):
    """Each weight is what the layer answers to a window with a single 1; channels last in memory."""
    h, w = kernel_size
    if in_channels * h * w != linear.in_features:
        raise ValueError("kernel_size does not fit")
    nothing = linear.weight.new_zeros(in_channels, h, w)
    conv = nn.Conv2d(in_channels, linear.out_features, (h, w), bias=linear.bias is not None).to(nothing)
    conv = conv.to(memory_format=torch.channels_last)
    with torch.no_grad():
        at_rest = linear(nothing.flatten())
        for c in range(in_channels):
            for i in range(h):
                for j in range(w):
                    window = nothing.clone()
                    window[c, i, j] = 1
                    conv.weight[:, c, i, j] = linear(window.flatten()) - at_rest
        if linear.bias is not None:
            conv.bias.copy_(at_rest)
    return conv


DENSE_NUMBERS = ("one_position", "every_position", "without_bias")

EXERCISE = Exercise(
    id="linear_to_conv",
    topic="convolutionalize",
    title="A dense layer is a convolution with a large window",
    reference=reference.linear_to_conv,
    minutes=15,
    difficulty=2,
    properties=(
        Property(
            "one_position",
            "on a window of size kernel_size, the convolution gives what the dense layer gives on the flattened window",
            1.25,
            _dense_case(),
            applied("x"),
            tried="linear_to_conv(linear, in_channels, kernel_size)(x)",
            examples=6,
        ),
        Property(
            "default_window",
            "without kernel_size it is a 1×1 convolution",
            0.5,
            _dense_case(default=True, larger=True),
            applied("x"),
            tried="linear_to_conv(linear, in_channels)(x)",
            examples=4,
        ),
        Property(
            "every_position",
            "on a larger map it gives the dense layer's answer for every window that fits, one cell apart",
            0.5,
            _dense_case(larger=True),
            applied("x"),
            tried="linear_to_conv(linear, in_channels, kernel_size)(x)",
            examples=4,
        ),
        Property(
            "without_bias",
            "a layer without bias gives a convolution without bias",
            0.5,
            _dense_case(bias=False),
            _convolved_bare,
            tried="linear_to_conv(linear, in_channels, kernel_size)",
            examples=4,
        ),
        Property(
            "refuses",
            "sizes that do not fit the layer's inputs are refused with a ValueError",
            0.5,
            _misfit,
            _let_through,
            tried="linear_to_conv(linear, in_channels, kernel_size)",
            examples=6,
        ),
        Property(
            "apart",
            "the result is an nn.Conv2d with these channels and weights of its own, and linear stays as it was: its numbers, mode and requires_grad",
            0.5,
            _dense_case(),
            _dense_apart,
            tried="linear before and after, and the result",
            examples=4,
        ),
        Property(
            "dtype",
            "a float64 layer gives a float64 convolution",
            0.25,
            _dense_case(dtype=torch.float64),
            _dense_kind,
            tried="dtypes of the result's parameters",
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "channels_last_order",
            "You reshaped the weights as (out, h, w, C), the order of Keras.",
            "torch flattens channels first: weight.view(out, C, h, w).",
            DENSE_NUMBERS,
            _dense_channels_last,
        ),
        Misconception(
            "width_first",
            "You read kernel_size as (w, h).",
            "It is (h, w), rows first, as in the shape of a map.",
            (*DENSE_NUMBERS, "apart"),
            _dense_width_first,
        ),
        Misconception(
            "window_transposed",
            "Your windows are transposed: rows and columns have changed places.",
            "View as (out, C, h, w) at once; there is nothing to transpose.",
            DENSE_NUMBERS,
            _dense_window_transposed,
        ),
        Misconception(
            "window_flipped",
            "You flipped the windows.",
            "nn.Conv2d does not flip its kernel: the weights stand as the dense layer has them.",
            DENSE_NUMBERS,
            _dense_flipped,
        ),
        Misconception(
            "weight_transposed",
            "You transposed the weights before the view, which mixes up inputs and outputs.",
            "linear.weight is (out, in) already: row k is the filter of output k.",
            (*DENSE_NUMBERS, "default_window"),
            _dense_weight_transposed,
        ),
        Misconception(
            "square_window",
            "You took the window for a square.",
            "kernel_size is (h, w), and both count: view(out, C, h, w).",
            (*DENSE_NUMBERS, "apart", "dtype"),
            _dense_square,
        ),
        Misconception(
            "window_of_one",
            "Your convolution is 1×1 with all inputs of the dense layer as channels, so it cannot read the map.",
            "It reads in_channels channels through a window of kernel_size.",
            (*DENSE_NUMBERS, "apart"),
            _dense_all_channels,
        ),
        Misconception(
            "padded",
            "You padded the convolution, so it also answers for windows that hang over the border.",
            "A dense layer sees whole windows only: padding is 0.",
            DENSE_NUMBERS,
            _dense_padded,
        ),
        Misconception(
            "stride_of_the_window",
            "Your convolution jumps by its own window.",
            "Leave the stride at 1: neighboring windows overlap.",
            ("every_position",),
            _dense_strided,
        ),
        Misconception(
            "bias_dropped",
            "Your convolution has no bias where the dense layer has one.",
            "Copy linear.bias into conv.bias as it is.",
            ("one_position", "default_window", "every_position", "dtype"),
            _dense_bias_dropped,
        ),
        Misconception(
            "bias_not_copied",
            "You copied the weights and left the bias at its random start.",
            "Copy linear.bias into conv.bias as well.",
            ("one_position", "default_window", "every_position"),
            _dense_bias_not_copied,
        ),
        Misconception(
            "bias_invented",
            "Your convolution has a random bias where the dense layer has none.",
            "Build it with bias=linear.bias is not None.",
            ("without_bias",),
            _dense_bias_invented,
        ),
        Misconception(
            "bias_of_zeros",
            "Your convolution has a bias of zeros where the dense layer has none: training would move it.",
            "Build it with bias=linear.bias is not None.",
            ("without_bias",),
            _dense_bias_of_zeros,
        ),
        Misconception(
            "bias_required",
            "You read linear.bias where it is None.",
            "Build the convolution with bias=linear.bias is not None, and copy the bias only then.",
            ("without_bias",),
            _dense_bias_required,
        ),
        Misconception(
            "bias_as_truth",
            "You asked whether linear.bias is true, and a tensor of several values has no answer to that.",
            "Ask whether it is there: linear.bias is not None.",
            ("one_position", "default_window", "every_position", "apart", "dtype"),
            _dense_bias_as_truth,
        ),
        Misconception(
            "weights_shared",
            "The two layers share their weights: training one changes the other.",
            "A view is not a copy: clone the weights, or copy_ them into the new layer.",
            ("apart",),
            _dense_shared,
        ),
        Misconception(
            "linear_frozen",
            "You switched requires_grad off in the layer that you were given, so it can no longer be trained.",
            "Copy under torch.no_grad(), or from linear.weight.detach(): then nothing of linear has to change.",
            ("apart",),
            _dense_freezes,
        ),
        Misconception(
            "channels_swapped",
            "You built nn.Conv2d(out, in, …): its weights are right only because you replaced them.",
            "nn.Conv2d takes the channels that it reads first: nn.Conv2d(in_channels, linear.out_features, …).",
            ("apart",),
            _dense_channels_swapped,
        ),
        Misconception(
            "always_float32",
            "Your convolution is float32 whatever the dense layer is.",
            "Build it with dtype=linear.weight.dtype and device=linear.weight.device, or call conv.to(linear.weight).",
            ("dtype",),
            _dense_float32,
        ),
        Misconception(
            "refusal_left_to_torch",
            "Sizes that do not fit fail somewhere inside torch, with a message about shapes.",
            "Compare in_channels·h·w with linear.in_features first, and raise a ValueError that names both.",
            ("refuses",),
            _dense_unchecked,
        ),
        Misconception(
            "refusal_left_to_the_copy",
            "Sizes that do not fit fail somewhere inside torch, with a message about shapes.",
            "Compare in_channels·h·w with linear.in_features first, and raise a ValueError that names both.",
            ("refuses",),
            _dense_unchecked_copy,
        ),
        Misconception(
            "fitting_sizes_refused",
            "You refuse sizes that fit.",
            "They fit where in_channels·h·w is linear.in_features; the window need not be a square.",
            (*DENSE_NUMBERS, "apart", "dtype"),
            _dense_strict,
        ),
        Misconception(
            "outputs_left_open",
            "Where the sizes do not fit, your view with -1 invents other outputs.",
            "Compare in_channels·h·w with linear.in_features first, and raise a ValueError that names both.",
            ("refuses",),
            _dense_any_outputs,
        ),
        Misconception(
            "refused_by_assert",
            "You refuse with an assert, which says nothing about the sizes and is gone under python -O.",
            "raise ValueError(…), with the numbers in the message.",
            ("refuses",),
            _dense_asserted,
        ),
    ),
    right=(
        Variant("the state dict, reshaped and loaded", _dense_loaded),
        Variant("weight by weight, from what the layer answers", _dense_probed),
    ),
    hints=(
        Hint(
            "I don't see where the convolution comes in",
            "A row of linear.weight holds one number for each entry of the flattened window. Put back into the window's shape, that row is a filter.",
        ),
        Hint(
            "The shape is right, the values are mixed up",
            "Flatten runs through the channels first, then through the rows, then along each row. The view of a row has to undo that: (in_channels, h, w).",
        ),
        Hint(
            "I don't know how to start",
            "Refuse where in_channels·h·w ≠ linear.in_features. Build an nn.Conv2d from in_channels to linear.out_features with the window (h, w) and bias=linear.bias is not None, and move it to dtype and device of linear.weight. Then, under no_grad, conv.weight.copy_(linear.weight.view(conv.weight.shape)), and the same with the bias where there is one.",
        ),
    ),
)
