"""Exercises of lecture 04: a classifier becomes fully convolutional."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.attempt import kind_of
from autograder.catalog._common import changed_tensors, filled, share_memory
from autograder.catalog._targets import CELL_TO_BOX, INSTANCES
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from autograder.values import Network
from coursekit import convolutionalize as reference

# -- modes --------------------------------------------------------------------------------------------------


def _in_both_modes(subject: Any, case: Case) -> Any:
    """What does not depend on the scores, so that a slip in them costs nothing here."""
    maps, seen = [], {}
    for mode, described in (("eval", case.args[0]), ("training", case.extra["the same in training mode"])):
        network = subject.build(described)
        before = network.inspect()
        maps.append(subject(network, *case.args[1:]))
        after = network.inspect()
        seen[f"after a call in {mode} mode"] = _mode(after)
        seen[f"tensors changed in {mode} mode"] = ", ".join(changed_tensors(before, after)) or "none"
    evaluated, trained = maps
    alike = evaluated.shape == trained.shape and torch.allclose(evaluated.double(), trained.double())
    # A constant is the same in every mode.
    scores = evaluated.is_floating_point() and bool((evaluated != evaluated.flatten()[0]).any())
    return {"the same scores in both modes": alike and scores, **seen}


def _mode(seen: dict[str, Any]) -> str:
    flags = set(seen["training"].values())
    if len(flags) > 1:
        return "some layers in eval mode, others in training mode"
    return "in training mode" if True in flags else "in eval mode"


def _norm(d: Any, k: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(k)
    norm.running_mean.copy_(d.tensor(k))
    norm.running_var.copy_(d.positive(k))
    return norm


def _normalized(d: Any, c: int, k: int) -> list[nn.Module]:
    """Features that show the mode they run in."""
    return [nn.Conv2d(c, k, 2), _norm(d, k), nn.Tanh(), nn.Dropout(0.5)]


def _mode_case(network: nn.Module, *args: Any) -> Case:
    # All in float32: what makes its own float32 tensors is another property's business.
    evaluating = Network.describe(network.float().eval())
    args = tuple(a.float() if isinstance(a, torch.Tensor) else a for a in args)
    return Case((evaluating, *args), {}, {"the same in training mode": Network.describe(network.train())})


# -- linear_to_conv -----------------------------------------------------------------------------------------


WINDOWS = [(2, 3), (3, 2), (1, 2), (3, 1)]


def _dense_case(
    *,
    bias: bool = True,
    default: bool = False,
    larger: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Any:
    def draw(d: Any) -> Case:
        c, (h, w) = d.choice([2, 3, 1]), (1, 1) if default else d.choice(WINDOWS)
        # More outputs than inputs, so that the two numbers changed about show.
        linear = filled(d, nn.Linear(c * h * w, c + d.integer(1, 2), bias=bias)).to(dtype)
        extra = (d.integer(1, 3), d.integer(2, 4)) if larger else (0, 0)
        x = d.tensor(d.choice([1, 2]), c, h + extra[0], w + extra[1], dtype=dtype)
        return Case((Network.describe(linear), c, *([] if default else [(h, w)])), {}, {"x": x})

    return draw


def _convolved(subject: Any, case: Case) -> Any:
    conv = subject(*case.args)
    return conv(case.extra["x"]) if callable(conv) else conv


def _convolved_bare(subject: Any, case: Case) -> Any:
    conv = subject(*case.args)
    if not callable(conv):
        return conv
    return {"linear_to_conv(…)(x)": conv(case.extra["x"]), "parameters": sorted(conv.inspect()["parameters"])}


def _dense_apart(subject: Any, case: Case) -> Any:
    linear = subject.build(case.args[0])
    before = linear.inspect()
    conv = subject(linear, *case.args[1:])
    after = linear.inspect()
    if not callable(conv):
        return conv
    seen = conv.inspect()
    kind, config = seen["config"] or (seen["kinds"].get(""), {})
    return {
        "result": kind,
        **{name: config.get(name) for name in ("in_channels", "out_channels", "kernel_size")},
        "linear": _kept(before, after),
        "weights shared with linear": share_memory(seen, before),
    }


def _kept(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What became of a network that is only to be read."""
    if before["kinds"] != after["kinds"]:
        return "with other layers"
    if changed := changed_tensors(before, after):
        return f"changed: {', '.join(changed)}"
    if before["requires_grad"] != after["requires_grad"]:
        return "with another requires_grad"
    return "unchanged" if before["training"] == after["training"] else "in another mode"


def _dense_kind(subject: Any, case: Case) -> Any:
    conv = subject(*case.args)
    if not callable(conv):
        return conv
    return {name: str(p.dtype).removeprefix("torch.") for name, p in conv.inspect()["parameters"].items()}


def _let_through(subject: Any, case: Case) -> Any:
    """What came of sizes that do not fit, since two answers that refuse nothing need not do the same."""
    conv = subject(*case.args)
    if not callable(conv):
        return conv
    shapes = {name: list(p.shape) for name, p in conv.inspect()["parameters"].items()}
    return {"a convolution with parameters": shapes}


def _misfit(d: Any) -> Case:
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

LINEAR_TO_CONV = Exercise(
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
            _convolved,
            tried="linear_to_conv(linear, in_channels, kernel_size)(x)",
            examples=6,
        ),
        Property(
            "default_window",
            "without kernel_size it is a 1×1 convolution",
            0.5,
            _dense_case(default=True, larger=True),
            _convolved,
            tried="linear_to_conv(linear, in_channels)(x)",
            examples=4,
        ),
        Property(
            "every_position",
            "on a larger map it gives the dense layer's answer for every window that fits, one cell apart",
            0.5,
            _dense_case(larger=True),
            _convolved,
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


# -- convolutionalize ---------------------------------------------------------------------------------------


def _flattening(
    d: Any, *, bias: bool = True, norm: bool = False, dropped: float = 0.5
) -> tuple[nn.Sequential, tuple[int, int, int]]:
    c, k, hidden = d.integer(1, 3), d.integer(2, 3), d.integer(3, 5)
    h, w = d.integer(2, 3), d.integer(2, 4)
    cnn = nn.Sequential(
        nn.Conv2d(c, k, 3, bias=bias),
        *([_norm(d, k)] if norm else []),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(k * h * w, hidden, bias=bias),
        nn.ReLU(),
        nn.Dropout(dropped),
        nn.Linear(hidden, d.integer(2, 4), bias=bias),
    )
    return cnn, (c, 2 * h + 2, 2 * w + 2)


def _nested(d: Any) -> tuple[nn.Sequential, tuple[int, int, int]]:
    cnn, size = _flattening(d)
    layers = list(cnn)
    return nn.Sequential(
        nn.Sequential(*layers[:3]), nn.Sequential(layers[3], nn.Sequential(*layers[4:]))
    ), size


def _averaging(d: Any) -> tuple[nn.Sequential, tuple[int, int, int]]:
    c, k, h = d.integer(1, 2), d.integer(2, 3), d.integer(2, 3)
    cnn = nn.Sequential(
        nn.Conv2d(c, k, 2, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(k, d.integer(2, 3)),
    )
    # Never a square map, so that a square window shows.
    return cnn, (c, 2 * h, 2 * (h + d.integer(1, 2)))


def _with_other_layers(d: Any) -> tuple[nn.Sequential, tuple[int, int, int]]:
    """Batch norm, and a dropout that drops everything, so that its being there is no matter of chance."""
    return _flattening(d, norm=True, dropped=1.0)


def _drawn(
    make: Callable[[Any], tuple[nn.Sequential, tuple[int, int, int]]],
    *,
    larger: bool,
    dtype: torch.dtype = torch.float32,
) -> Any:
    def draw(d: Any) -> Case:
        cnn, (c, h, w) = make(d)
        extra = (2 * d.integer(1, 3), 2 * d.integer(0, 3)) if larger else (0, 0)
        images = d.tensor(
            d.integer(1, 2) if larger else d.integer(2, 4), c, h + extra[0], w + extra[1], dtype=dtype
        )
        cnn = filled(d, cnn).to(images.dtype)
        return Case((Network.describe(cnn), (c, h, w)), {}, {"images": images})

    return draw


def _in_some_mode(d: Any) -> Case:
    # A batch norm, since it takes note of every image that a network sees in training mode.
    cnn, size = _flattening(d, norm=True)
    cnn = filled(d, cnn).float()
    evaluating, training = Network.describe(cnn.eval()), Network.describe(cnn.train())
    return Case((evaluating, size), {}, {"the same in training mode": training})


def _applied(subject: Any, case: Case) -> Any:
    fcn = subject(*case.args)
    return fcn(case.extra["images"]) if callable(fcn) else fcn


def _applied_bare(subject: Any, case: Case) -> Any:
    fcn = subject(*case.args)
    if not callable(fcn):
        return fcn
    names = fcn.inspect()["parameters"]
    scores = fcn(case.extra["images"])
    return {"convolutionalize(…)(images)": scores, "biases": sum(n.endswith("bias") for n in names)}


def _in_either_mode(subject: Any, case: Case) -> Any:
    """The scores in both modes, each one set here: that the mode carries over is another property's business."""
    fcn = subject(*case.args)
    if not callable(fcn):
        return fcn
    seen = {}
    for method, mode in (("eval", "in eval mode"), ("train", "in training mode")):
        fcn.do(method)
        seen[f"scores {mode}"] = fcn(case.extra["images"])
    return seen


def _apart(subject: Any, case: Case) -> Any:
    networks = (case.args[0], case.extra["the same in training mode"])
    return [_apart_from(subject, network, case.args[1]) for network in networks]


def _apart_from(subject: Any, network: Network, input_size: Any) -> Any:
    cnn = subject.build(network)
    before = cnn.inspect()
    fcn = subject(cnn, input_size)
    after = cnn.inspect()
    if not callable(fcn):
        return fcn
    seen = fcn.inspect()
    return {
        "weights shared with the cnn": share_memory(seen, before),
        "the cnn afterwards": _kept(before, after),
        "result's mode": _mode(seen),
        "result": "Sequential" if seen["kinds"].get("") == "Sequential" else seen["kinds"].get(""),
    }


def _dtypes(subject: Any, case: Case) -> Any:
    seen = subject(*case.args).inspect()
    kinds = {str(p.dtype).removeprefix("torch.") for p in seen["parameters"].values()}
    return " and ".join(sorted(kinds))


def _convert(
    cnn: nn.Sequential,
    input_size: tuple[int, int, int],
    *,
    order: str = "channels first",
    bias: bool = True,
    shared: bool = False,
    keep_mode: bool = True,
    keep_adaptive: bool = False,
    pool_stride: int | None = 1,
    pool_square: bool = False,
    flat: bool = True,
) -> nn.Sequential:
    """The conversion with a switch for each of its mistakes."""
    probe = torch.zeros(
        1, *input_size, dtype=next(cnn.parameters()).dtype, device=next(cnn.parameters()).device
    )
    state = {"map": probe}

    def twin(layer: nn.Module) -> nn.Module:
        x = state["map"]
        if isinstance(layer, nn.Flatten):
            return nn.Identity()
        if isinstance(layer, nn.Linear):
            h, w = x.shape[2:]
            weight = layer.weight
            if order == "channels last":
                weight = weight.reshape(-1, h, w, x.shape[1]).permute(0, 3, 1, 2)
            elif order == "transposed":
                weight = weight.reshape(-1, x.shape[1], w, h).transpose(2, 3)
            weight = weight.reshape(layer.out_features, x.shape[1], h, w)
            made = nn.Conv2d(x.shape[1], layer.out_features, (h, w), bias=layer.bias is not None).to(x)
            with torch.no_grad():
                if shared:
                    made.weight.data = weight.data.view_as(made.weight)
                else:
                    made.weight.copy_(weight)
                if layer.bias is not None:
                    made.bias.copy_(layer.bias if bias else torch.zeros_like(layer.bias))
        elif isinstance(layer, nn.AdaptiveAvgPool2d) and not keep_adaptive:
            made = nn.AvgPool2d(x.shape[2] if pool_square else tuple(x.shape[2:]), pool_stride)
        else:
            made = layer if shared else copy.deepcopy(layer)
        with torch.no_grad():
            was = made.training
            answer = made.eval()(x)
            # What stands for the average leaves one cell at input_size, whatever its window.
            state["map"] = answer[..., :1, :1] if isinstance(layer, nn.AdaptiveAvgPool2d) else answer
            made.train(was)
        return made.train(layer.training)

    def walk(sequential: nn.Sequential) -> nn.Sequential:
        layers = [walk(m) if flat and isinstance(m, nn.Sequential) else twin(m) for m in sequential]
        return nn.Sequential(*layers).train(cnn.training and keep_mode)

    return walk(cnn)


def _reordered(cnn, input_size):
    return _convert(cnn, input_size, order="channels last")


def _window_transposed(cnn, input_size):
    return _convert(cnn, input_size, order="transposed")


def _no_bias(cnn, input_size):
    return _convert(cnn, input_size, bias=False)


def _shared(cnn, input_size):
    return _convert(cnn, input_size, shared=True)


def _mode_lost(cnn, input_size):
    return _convert(cnn, input_size, keep_mode=False)


def _adaptive_kept(cnn, input_size):
    return _convert(cnn, input_size, keep_adaptive=True)


def _pool_strides(cnn, input_size):
    return _convert(cnn, input_size, pool_stride=None)


def _pool_square(cnn, input_size):
    return _convert(cnn, input_size, pool_square=True)


def _top_level_only(cnn, input_size):
    return _convert(cnn, input_size, flat=False)


def _padded(cnn, input_size):
    fcn = _convert(cnn, input_size)
    windows = [m for m in fcn.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    # The features' own convolution is the first; an average head has no window to pad.
    for conv in windows[1:]:
        conv.padding = (conv.kernel_size[0] // 2, conv.kernel_size[1] // 2)
    return fcn


def _averaged(cnn, input_size):
    """Ends in a global average: one score vector whatever the image's size."""
    fcn = _convert(cnn, input_size)
    return nn.Sequential(*fcn, nn.AdaptiveAvgPool2d(1)).train(cnn.training)


def _flattened_at_the_end(cnn, input_size):
    fcn = _convert(cnn, input_size)
    return nn.Sequential(*fcn, nn.Flatten()).train(cnn.training)


def _softmaxed(cnn, input_size):
    fcn = _convert(cnn, input_size)
    return nn.Sequential(*fcn, nn.Softmax(1)).train(cnn.training)


def _leaves(cnn, input_size):
    return [m for m in _convert(cnn, input_size).modules() if not isinstance(m, nn.Sequential)]


def _relus_lost(cnn, input_size):
    layers, dense = [], False
    for layer in _leaves(cnn, input_size):
        dense = dense or isinstance(layer, nn.Identity)
        if not (dense and isinstance(layer, nn.ReLU)):
            layers.append(layer)
    return nn.Sequential(*layers).train(cnn.training)


def _dropout_lost(cnn, input_size):
    layers = [m for m in _leaves(cnn, input_size) if not isinstance(m, nn.Dropout)]
    return nn.Sequential(*layers).train(cnn.training)


def _statistics_reset(cnn, input_size):
    fcn = _convert(cnn, input_size)
    for layer in fcn.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    return fcn


def _replaced(cnn: nn.Sequential, input_size: Any, change: Callable[..., nn.Module]) -> nn.Sequential:
    """The right result, with what stands for a dense layer changed by ``change(linear, conv)``."""
    layers = [m for m in cnn.modules() if not isinstance(m, nn.Sequential)]
    twins = [m for m in _convert(cnn, input_size).modules() if not isinstance(m, nn.Sequential)]
    pairs = zip(layers, twins, strict=True)
    fcn = nn.Sequential(*(change(m, twin) if isinstance(m, nn.Linear) else twin for m, twin in pairs))
    fcn.training = cnn.training
    return fcn


def _one_by_one(cnn, input_size):
    def change(linear, conv):
        made = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None).to(
            conv.weight
        )
        with torch.no_grad():
            made.weight.copy_(linear.weight[:, :, None, None])
            if linear.bias is not None:
                made.bias.copy_(linear.bias)
        return made.train(linear.training)

    return _replaced(cnn, input_size, change)


def _new_layers_train(cnn, input_size):
    return _replaced(cnn, input_size, lambda linear, conv: conv.train())


def _new_layers_float32(cnn, input_size):
    return _replaced(cnn, input_size, lambda linear, conv: conv.float())


def _cnn_left_in_eval(cnn, input_size):
    return _convert(cnn.eval(), input_size)


def _cnn_not_put_back(cnn, input_size):
    fcn = _convert(cnn, input_size)
    cnn.eval()
    return fcn


def _flags_forgotten(cnn, input_size):
    modes = {m: m.training for m in cnn.modules()}
    fcn = _replaced(cnn.eval(), input_size, lambda linear, conv: conv.train())
    for module, training in modes.items():
        module.training = training
    fcn.training = cnn.training
    return fcn


def _always_training(cnn, input_size):
    return _convert(cnn, input_size).train()


def _converted_in_place(cnn, input_size):
    for number, layer in enumerate(_convert(cnn, input_size)):
        cnn[number] = layer
    return cnn


def _probed_as_it_is(cnn, input_size):
    with torch.no_grad():
        cnn(next(cnn.parameters()).new_zeros(1, *input_size))
    return _convert(cnn, input_size)


def _bias_of_zeros(cnn, input_size):
    def change(linear, conv):
        if conv.bias is None:
            conv.bias = nn.Parameter(conv.weight.new_zeros(len(conv.weight)))
        return conv

    return _replaced(cnn, input_size, change)


def _average_removed(cnn, input_size):
    fcn = _convert(cnn, input_size)
    return nn.Sequential(*(m for m in fcn if not isinstance(m, nn.AvgPool2d))).train(cnn.training)


def _float32_probe(cnn, input_size):
    device = next(cnn.parameters()).device
    copy.deepcopy(cnn)(torch.zeros(1, *input_size, device=device))
    return _convert(cnn, input_size)


def _bias_required(cnn, input_size):
    if any(m.bias is None for m in cnn.modules() if isinstance(m, nn.Linear)):
        raise AttributeError("'NoneType' object has no attribute 'detach'")
    return _convert(cnn, input_size)


def _copied(cnn, input_size):
    return _convert(cnn, input_size)


def _by_modules(cnn, input_size):
    """Flattened into one list, sizes measured with hooks, weights loaded by load_state_dict."""
    sizes = {}

    def measure(module, inputs, output):
        sizes[module] = inputs[0].shape[1:]

    leaves = [m for m in cnn.modules() if not isinstance(m, nn.Sequential)]
    hooks = [m.register_forward_hook(measure) for m in leaves]
    flags = {m: m.training for m in cnn.modules()}
    kind = next(cnn.parameters())
    with torch.no_grad():
        cnn.eval()(torch.zeros(1, *input_size, dtype=kind.dtype, device=kind.device))
    for hook in hooks:
        hook.remove()
    for m, flag in flags.items():
        m.training = flag
    layers, window = [], None
    for m in leaves:
        if isinstance(m, nn.Flatten):
            window = sizes[m]
            continue
        if isinstance(m, nn.Linear):
            c, h, w = window or (m.in_features, 1, 1)
            made = nn.Conv2d(c, m.out_features, (h, w), bias=m.bias is not None)
            made = made.to(m.weight.device, m.weight.dtype)
            state = {"weight": m.weight.detach().view(-1, c, h, w)}
            if m.bias is not None:
                state["bias"] = m.bias.detach()
            made.load_state_dict(state)
            window = (m.out_features, 1, 1)
        elif isinstance(m, nn.AdaptiveAvgPool2d):
            made = nn.AvgPool2d((sizes[m][1], sizes[m][2]), stride=1)
        else:
            made = copy.deepcopy(m)
        layers.append(made.train(m.training))
    fcn = nn.Sequential(*layers)
    fcn.training = cnn.training
    return fcn


def _property(
    name: str, says: str, points: float, make: Any, *, larger: bool, observe: Any = _applied, tried: str = ""
) -> Property:
    tried = tried or "convolutionalize(cnn, input_size)(images)"
    return Property(name, says, points, _drawn(make, larger=larger), observe, tried=tried, examples=5)


# What a wrong number in a dense layer shows in.
CONVERTED = ("same_scores", "larger_images", "nested", "without_bias", "other_layers")


CONVOLUTIONALIZE = Exercise(
    id="convolutionalize",
    topic="convolutionalize",
    title="From a classifier to a map of classifications",
    reference=reference.convolutionalize,
    minutes=40,
    difficulty=4,
    properties=(
        _property(
            "same_scores",
            "at input_size the output is (N, L, 1, 1) and equals the CNN's scores",
            1.25,
            _flattening,
            larger=False,
        ),
        _property(
            "larger_images",
            "a larger image gives a map, one score vector for every window",
            1.25,
            _flattening,
            larger=True,
        ),
        _property("nested", "Sequentials inside Sequentials", 0.75, _nested, larger=True),
        _property(
            "without_bias",
            "dense layers without bias become convolutions without bias",
            0.5,
            lambda d: _flattening(d, bias=False),
            larger=True,
            observe=_applied_bare,
            tried="convolutionalize(cnn, input_size)(images), and how many biases the network has",
        ),
        _property(
            "average_head",
            "AdaptiveAvgPool2d(1) becomes a fixed window average, so that maps stay dense",
            1.0,
            _averaging,
            larger=True,
        ),
        _property(
            "other_layers",
            "batch norm keeps its running statistics, and dropout still drops in training mode",
            0.5,
            _with_other_layers,
            larger=False,
            observe=_in_either_mode,
            tried="convolutionalize(cnn, input_size).eval()(images), and the same with train()",
        ),
        Property(
            "apart",
            "weights are copies, the CNN stays as it was (weights, batch norm's running statistics, mode), "
            "and the training flag carries over",
            0.5,
            _in_some_mode,
            _apart,
            examples=4,
            tried="the CNN before and after, and the result",
        ),
        Property(
            "dtype",
            "a float64 CNN becomes a float64 network",
            0.25,
            _drawn(_flattening, larger=False, dtype=torch.float64),
            _dtypes,
            examples=3,
            tried="dtypes of the result's parameters",
        ),
    ),
    misconceptions=(
        Misconception(
            "channels_last_order",
            "You reshaped the dense weights as (L, h, w, C), the order of Keras.",
            "torch flattens channels first: weight.view(L, C, h, w).",
            CONVERTED,
            _reordered,
        ),
        Misconception(
            "window_transposed",
            "Height and width of the window have changed places in the weights of your first dense layer.",
            "View the weights as (L, C, h, w), with the map's (h, w) at input_size; there is nothing to transpose.",
            CONVERTED,
            _window_transposed,
        ),
        Misconception(
            "softmax_appended",
            "Your network ends in a softmax.",
            "Leave it out: the result gives scores, as the CNN does.",
            (*CONVERTED, "average_head"),
            _softmaxed,
        ),
        Misconception(
            "relus_lost",
            "You left out the ReLUs between the dense layers.",
            "Only Flatten, Linear and AdaptiveAvgPool2d are replaced: copy every other layer, also behind Flatten.",
            CONVERTED,
            _relus_lost,
        ),
        Misconception(
            "dropout_lost",
            "You left the dropout out, so your network cannot be trained as the CNN was.",
            "Copy it as it is: in eval mode it does nothing, and in training mode it drops.",
            ("other_layers",),
            _dropout_lost,
        ),
        Misconception(
            "statistics_reset",
            "Your batch norm starts with new running statistics.",
            "They belong to what the CNN has learned: deepcopy the layer, or load its whole state_dict().",
            ("other_layers",),
            _statistics_reset,
        ),
        Misconception(
            "biases_dropped",
            "Your convolutions do not carry the dense layers' biases.",
            "Copy linear.bias into conv.bias as it is.",
            ("same_scores", "larger_images", "nested", "average_head", "other_layers"),
            _no_bias,
        ),
        Misconception(
            "window_padded",
            "You padded the convolution that stands for the first dense layer.",
            "A dense layer sees whole windows only: padding is 0.",
            CONVERTED,
            _padded,
        ),
        Misconception(
            "map_averaged",
            "You averaged the map at the end, so every image gives one cell.",
            "Leave the map as it is: each cell is the classification of one window.",
            ("larger_images", "nested", "without_bias", "average_head"),
            _averaged,
        ),
        Misconception(
            "adaptive_pool_kept",
            "You kept the AdaptiveAvgPool2d, which squeezes a map of any size into one cell.",
            "Replace it by an AvgPool2d with the window it has at input_size and stride 1.",
            ("average_head",),
            _adaptive_kept,
        ),
        Misconception(
            "pool_strides",
            "Your window average jumps by its own size.",
            "AvgPool2d's stride defaults to the kernel size: pass stride=1.",
            ("average_head",),
            _pool_strides,
        ),
        Misconception(
            "average_window_square",
            "You took the window of the average for a square.",
            "AvgPool2d((h, w), stride=1), with the map's (h, w) at input_size.",
            ("average_head",),
            _pool_square,
        ),
        Misconception(
            "one_by_one_everywhere",
            "Your first dense layer became a 1×1 convolution, but it reads a whole window.",
            "Its kernel is the map that was flattened: (h, w) at input_size. Only the later ones are 1×1.",
            CONVERTED,
            _one_by_one,
        ),
        Misconception(
            "flattened_at_the_end",
            "You flattened the map at the end.",
            "Leave it (N, L, h, w): the Flatten goes, and nothing takes its place.",
            (*CONVERTED, "average_head"),
            _flattened_at_the_end,
        ),
        Misconception(
            "top_level_only",
            "You looked at the top level only, so dense layers inside a nested Sequential stayed dense.",
            "Recurse into every nn.Sequential.",
            ("nested",),
            _top_level_only,
        ),
        Misconception(
            "average_removed",
            "You removed the average, so each cell of the map sees a small window and not the whole of input_size.",
            "Replace it by an AvgPool2d with the window it has at input_size and stride 1.",
            ("average_head",),
            _average_removed,
        ),
        Misconception(
            "bias_required",
            "You read linear.bias where it is None.",
            "Build the convolution with bias=linear.bias is not None, and copy the bias only then.",
            ("without_bias",),
            _bias_required,
        ),
        Misconception(
            "bias_of_zeros",
            "Your convolutions have a bias of zeros where the dense layers have none: training would move it.",
            "Build them with bias=linear.bias is not None.",
            ("without_bias",),
            _bias_of_zeros,
        ),
        Misconception(
            "weights_shared",
            "The two networks share their weights: training one changes the other.",
            "Copy them: deepcopy the layers, clone or copy_ the dense weights.",
            ("apart",),
            _shared,
        ),
        Misconception(
            "mode_lost",
            "The result is always in eval mode.",
            "Give it the mode of the CNN: fcn.train(cnn.training).",
            ("apart",),
            _mode_lost,
        ),
        Misconception(
            "always_in_training_mode",
            "The result is always in training mode.",
            "Give it the mode of the CNN: fcn.train(cnn.training).",
            ("same_scores", "larger_images", "nested", "without_bias", "apart"),
            _always_training,
        ),
        Misconception(
            "flags_forgotten",
            "Some layers of your result are in eval mode and others in training mode, whatever the mode of the CNN.",
            "Give all of it the mode that the CNN had when it came: fcn.train(was) reaches every layer, fcn.training = was only the outermost.",
            ("apart",),
            _flags_forgotten,
        ),
        Misconception(
            "new_layers_in_training_mode",
            "The layers you built are in training mode, as new layers are, whatever the mode of the CNN.",
            "Give the result the mode of the CNN: fcn.train(cnn.training).",
            ("apart",),
            _new_layers_train,
        ),
        Misconception(
            "cnn_left_in_eval_mode",
            "You left the CNN in eval mode, and gave the result that mode too.",
            "Remember cnn.training before you measure the maps, and set it again in both afterwards.",
            ("apart",),
            _cnn_left_in_eval,
        ),
        Misconception(
            "cnn_not_put_back",
            "You left the CNN in eval mode.",
            "Remember its mode before you measure the maps, and put it back afterwards.",
            ("apart",),
            _cnn_not_put_back,
        ),
        Misconception(
            "converted_in_place",
            "You put the convolutions into the CNN itself, which is no classifier any more.",
            "Build a new nn.Sequential, out of copies.",
            ("apart",),
            _converted_in_place,
        ),
        Misconception(
            "measured_in_training_mode",
            "You measured the maps with the CNN in training mode, so its batch norms took your image into their statistics.",
            "Remember the mode, call cnn.eval(), measure, and put the mode back.",
            ("apart",),
            _probed_as_it_is,
        ),
        Misconception(
            "new_layers_float32",
            "The convolutions you built are float32 whatever the CNN is.",
            "Build them like the dense layer: conv.to(linear.weight).",
            ("dtype",),
            _new_layers_float32,
        ),
        Misconception(
            "float32_probe",
            "The zero image that you send through the CNN is float32 whatever the CNN is.",
            "Take dtype and device of its weights: next(cnn.parameters()).new_zeros(1, *input_size).",
            ("dtype",),
            _float32_probe,
        ),
    ),
    right=(
        Variant("layer by layer with a probe", _copied),
        Variant("one flat list, sizes by hooks", _by_modules),
    ),
    hints=(
        Hint(
            "I don't know where input_size comes in",
            "Only the first dense layer after Flatten needs to know a size. Which size, and how do you find it out?",
        ),
        Hint(
            "The first dense layer doesn't fit",
            "A dense layer is a convolution with the window it was flattened from; those after it are 1×1.",
        ),
        Hint(
            "I don't know how to start",
            "Walk through the layers with a zero image of input_size in hand, of the dtype of the weights (in eval mode, under no_grad; put the CNN's mode back afterwards, and give the result the same mode). Flatten → Identity; Linear → Conv2d(C, out, (h, w)) with weight.view(out, C, h, w); AdaptiveAvgPool2d(1) → AvgPool2d((h, w), 1); everything else → deepcopy.",
        ),
    ),
)

# -- class_heatmaps -----------------------------------------------------------------------------------------


def _heatmap_case(*, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Any:
    def draw(d: Any) -> Case:
        c, k = d.choice([1, 2]), d.choice([2, 3])
        layers = (nn.Conv2d(c, k, 2), nn.Tanh(), nn.Conv2d(k, d.choice([3, 2, 4]), 1))
        fcn = filled(d, nn.Sequential(*layers), scale=1.0)
        with torch.no_grad():
            fcn[-1].weight.mul_(scale)
        images = d.tensor(d.choice([2, 1, 3]), c, d.integer(3, 4), d.integer(4, 6), dtype=dtype)
        return Case((Network.describe(fcn.to(dtype)), images))

    return draw


def _heatmap_modes(d: Any) -> Case:
    c, k = d.choice([1, 2]), d.choice([2, 3])
    fcn = filled(d, nn.Sequential(*_normalized(d, c, k), nn.Conv2d(k, 3, 1)), scale=0.5)
    images = d.tensor(d.choice([2, 3]), c, d.integer(3, 4), d.integer(4, 6))
    return _mode_case(fcn, images)


def _reached(subject: Any, case: Case) -> Any:
    network = subject.build(case.args[0])
    found = subject.vjp(network, *case.args[1:], wrt=[network, 1])
    names = {"1": "images" if case.args[1].ndim == 4 else "image"}
    reached = sorted(names.get(n, n) for n, g in found["grads"].items() if g is not None)
    return {
        "answer": kind_of(found["value"]),
        "gradients that can be computed": ", ".join(reached) or "none",
    }


def _heatmaps(fcn, images, *, of=lambda scores: scores.softmax(1), mode="restored", grad=False):
    """The heatmaps with a switch for each mistake."""
    was = fcn.training
    if mode != "training":
        fcn.eval()
    with torch.set_grad_enabled(grad):
        maps = of(fcn(images))
    if mode == "restored":
        fcn.train(was)
    elif mode == "left in training":
        fcn.train()
    return maps


def _heatmaps_scores(fcn, images):
    return _heatmaps(fcn, images, of=lambda scores: scores)


def _heatmaps_log(fcn, images):
    return _heatmaps(fcn, images, of=lambda scores: scores.log_softmax(1))


def _heatmaps_sigmoid(fcn, images):
    return _heatmaps(fcn, images, of=torch.sigmoid)


def _heatmaps_last_axis(fcn, images):
    return _heatmaps(fcn, images, of=lambda scores: scores.softmax(-1))


def _heatmaps_rows(fcn, images):
    return _heatmaps(fcn, images, of=lambda scores: scores.softmax(2))


def _heatmaps_batch_axis(fcn, images):
    return _heatmaps(fcn, images, of=lambda scores: scores.softmax(0))


def _heatmaps_over_the_map(fcn, images):
    return _heatmaps(fcn, images, of=lambda scores: scores.flatten(2).softmax(2).view_as(scores))


def _heatmaps_over_everything(fcn, images):
    return _heatmaps(fcn, images, of=lambda scores: scores.flatten(1).softmax(1).view_as(scores))


def _heatmaps_min_max(fcn, images):
    def scaled(scores):
        low, high = scores.amin((2, 3), keepdim=True), scores.amax((2, 3), keepdim=True)
        return (scores - low) / (high - low)

    return _heatmaps(fcn, images, of=scaled)


def _heatmaps_shares(fcn, images):
    return _heatmaps(fcn, images, of=lambda scores: scores / scores.sum(1, keepdim=True))


def _heatmaps_winners(fcn, images):
    return _heatmaps(fcn, images, of=lambda scores: scores.argmax(1))


def _heatmaps_overflow(fcn, images):
    def naive(scores):
        return scores.exp() / scores.exp().sum(1, keepdim=True)

    return _heatmaps(fcn, images, of=naive)


def _heatmaps_in_training(fcn, images):
    return _heatmaps(fcn, images, mode="training")


def _heatmaps_left_in_eval(fcn, images):
    return _heatmaps(fcn, images, mode="left")


def _heatmaps_left_in_training(fcn, images):
    return _heatmaps(fcn, images, mode="left in training")


def _heatmaps_with_graph(fcn, images):
    return _heatmaps(fcn, images, grad=True)


def _heatmaps_on_a_copy(fcn, images):
    """On a copy of the network, image by image."""
    twin = copy.deepcopy(fcn).eval()
    with torch.inference_mode():
        scores = torch.cat([twin(image[None]) for image in images])
        return (scores - scores.logsumexp(dim=1, keepdim=True)).exp()


def _heatmaps_cells(fcn, images):
    """Cell by cell, the largest score taken off first."""
    flags = {m: m.training for m in fcn.modules()}
    fcn.eval()
    scores = fcn(images).detach()
    for module, flag in flags.items():
        module.training = flag
    out = torch.empty_like(scores)
    for n in range(scores.shape[0]):
        for i in range(scores.shape[2]):
            for j in range(scores.shape[3]):
                e = (scores[n, :, i, j] - scores[n, :, i, j].max()).exp()
                out[n, :, i, j] = e / e.sum()
    return out


HEATMAPS = Exercise(
    id="class_heatmaps",
    topic="convolutionalize",
    title="A probability for every class in every cell",
    reference=reference.class_heatmaps,
    minutes=8,
    difficulty=2,
    properties=(
        Property(
            "probabilities",
            "in every cell of the map, the probabilities of the classes: the softmax over the class axis",
            1.0,
            _heatmap_case(),
            examples=6,
        ),
        Property(
            "large_scores",
            "scores in the thousands give probabilities too, not NaN",
            0.25,
            _heatmap_case(scale=3000.0, dtype=torch.float32),
            examples=4,
        ),
        Property(
            "mode",
            "the network runs in eval mode, and its mode is left as it was",
            0.5,
            _heatmap_modes,
            _in_both_modes,
            examples=3,
            tried="one network in eval and in training mode, looked at after each call",
        ),
        Property(
            "no_grad",
            "the result keeps no graph: no gradients",
            0.25,
            _heatmap_case(),
            _reached,
            examples=3,
            tried="the gradients of the result's inner product with fixed random numbers",
        ),
    ),
    misconceptions=(
        Misconception(
            "raw_scores",
            "You returned the scores as the network gives them.",
            "Turn them into probabilities: softmax over the class axis, dim=1.",
            ("probabilities", "large_scores"),
            _heatmaps_scores,
        ),
        Misconception(
            "logarithms",
            "You returned the logarithms of the probabilities.",
            "softmax, not log_softmax.",
            ("probabilities", "large_scores"),
            _heatmaps_log,
        ),
        Misconception(
            "sigmoid",
            "You used the sigmoid, so the classes of a cell do not compete, and their values do not sum to 1.",
            "Take the softmax over the class axis.",
            ("probabilities", "large_scores"),
            _heatmaps_sigmoid,
        ),
        Misconception(
            "last_axis",
            "Your softmax runs along each row of the map: dim=-1 is the width here.",
            "The classes are axis 1 of (N, L, h, w): softmax(1).",
            ("probabilities", "large_scores"),
            _heatmaps_last_axis,
        ),
        Misconception(
            "down_the_columns",
            "Your softmax runs down each column of the map: dim=2 is the height here.",
            "The classes are axis 1 of (N, L, h, w): softmax(1).",
            ("probabilities", "large_scores"),
            _heatmaps_rows,
        ),
        Misconception(
            "over_the_batch",
            "Your softmax compares the images of the batch: dim=0.",
            "The classes are axis 1 of (N, L, h, w): softmax(1).",
            ("probabilities", "large_scores"),
            _heatmaps_batch_axis,
        ),
        Misconception(
            "over_the_map",
            "Your softmax runs over all cells, so each class's map sums to 1.",
            "Each cell is a classification of its own: the classes sum to 1 in every cell, softmax(1).",
            ("probabilities", "large_scores"),
            _heatmaps_over_the_map,
        ),
        Misconception(
            "over_cells_and_classes",
            "You flattened each image's scores before the softmax, so all cells and classes share one sum.",
            "Leave the shape as it is: softmax(1) works on the class axis of every cell.",
            ("probabilities", "large_scores"),
            _heatmaps_over_everything,
        ),
        Misconception(
            "stretched",
            "You stretched each map between its smallest and largest score, which makes a picture and no probability.",
            "Take the softmax over the class axis.",
            ("probabilities", "large_scores"),
            _heatmaps_min_max,
        ),
        Misconception(
            "divided_by_the_sum",
            "You divided the scores by their sum, but scores may be negative.",
            "Take the softmax over the class axis: exponentials are positive.",
            ("probabilities", "large_scores"),
            _heatmaps_shares,
        ),
        Misconception(
            "winners_only",
            "You returned the best class of every cell.",
            "Return the probabilities of all classes, (N, L, h, w).",
            ("probabilities", "large_scores", "mode"),
            _heatmaps_winners,
        ),
        Misconception(
            "exponentials_overflow",
            "Your exponentials overflow where scores are large, and ∞/∞ is NaN.",
            "scores.softmax(1) takes the largest score off first; do the same, or call it.",
            ("large_scores",),
            _heatmaps_overflow,
        ),
        Misconception(
            "eval_forgotten",
            "The network ran in the mode you found it in: in training mode, batch norm uses the batch and dropout drops.",
            "Call fcn.eval() before, which reaches every layer, and put the mode back afterwards.",
            ("mode",),
            _heatmaps_in_training,
        ),
        Misconception(
            "left_in_eval_mode",
            "You left the network in eval mode.",
            "Remember fcn.training before, and call fcn.train(was) afterwards.",
            ("mode",),
            _heatmaps_left_in_eval,
        ),
        Misconception(
            "left_in_training_mode",
            "You put the network into training mode at the end, also where it was in eval mode.",
            "Remember fcn.training before, and call fcn.train(was) afterwards.",
            ("mode",),
            _heatmaps_left_in_training,
        ),
        Misconception(
            "graph_kept",
            "Your result keeps the graph of everything that was computed, which costs memory.",
            "Run the network under torch.no_grad().",
            ("no_grad",),
            _heatmaps_with_graph,
        ),
    ),
    right=(
        Variant("a copy of the network, logsumexp", _heatmaps_on_a_copy),
        Variant("cell by cell", _heatmaps_cells),
    ),
    hints=(
        Hint(
            "I don't know what has to sum to 1",
            "Each cell is one classification of its window, with a probability for each class.",
        ),
        Hint(
            "My values sum to 1, but over the wrong things",
            "The scores are (N, L, h, w). Which axis holds the classes?",
        ),
        Hint(
            "I don't know how to start",
            "was = fcn.training; fcn.eval(); under torch.no_grad(): maps = fcn(images).softmax(1); fcn.train(was).",
        ),
    ),
)


# -- sliding_window -----------------------------------------------------------------------------------------


def _patch_classifier(d: Any, c: int, window: int, *features: nn.Module) -> nn.Sequential:
    k = d.choice([2, 3])
    features = features or (nn.Conv2d(c, k, 2), nn.Tanh())
    inputs = features[0].out_channels * (window - 1) ** 2
    return filled(
        d, nn.Sequential(*features, nn.Flatten(), nn.Linear(inputs, d.choice([3, 2, 4]))), scale=0.5
    )


def _window_case(
    cells: list[tuple[int, int]],
    strides: list[int],
    *,
    apart: bool = False,
    leftover: bool = False,
    windows: tuple[int, ...] = (3, 4),
    dtype: torch.dtype = torch.float32,
) -> Any:
    def draw(d: Any) -> Case:
        c, window, (h, w) = d.choice([2, 1]), d.choice(windows), d.choice(cells)
        stride = d.choice(strides) + (window if apart else 0)
        # At least two rows in one direction: half of a single one would be none.
        more = d.choice([(stride - 1, 1), (1, stride - 1)]) if leftover else (0, 0)
        size = (window + stride * (h - 1) + more[0], window + stride * (w - 1) + more[1])
        cnn = _patch_classifier(d, c, window).to(dtype)
        return Case((Network.describe(cnn), d.layout(d.tensor(c, *size, dtype=dtype)), window, stride))

    return draw


def _window_modes(d: Any) -> Case:
    c, window, stride = d.choice([1, 2]), 3, d.choice([2, 1])
    cnn = _patch_classifier(d, c, window, *_normalized(d, c, d.choice([2, 3])))
    image = d.tensor(c, window + stride, window + 2 * stride)
    return _mode_case(cnn, image, window, stride)


def _window_dtype(subject: Any, case: Case) -> Any:
    scores = subject(*case.args)
    return str(scores.dtype) if isinstance(scores, torch.Tensor) else scores


def _slide(
    cnn, image, window, stride, *, count=None, crop=None, of=None, shape=None, mode="restored", dtype=None,
    grad=False,
):  # fmt: skip
    """The windows one by one, with a switch for each mistake."""
    was = cnn.training
    if mode != "training":
        cnn.eval()
    step = stride
    count = count or (lambda size: (size - window) // step + 1)
    crop = crop or (lambda r, c: image[:, r : r + window, c : c + window])
    h, w = count(image.shape[1]), count(image.shape[2])
    with torch.set_grad_enabled(grad):
        crops = [crop(i * step, j * step) for i in range(h) for j in range(w)]
        scores = torch.cat([cnn(x[None]) for x in crops])
    if mode == "restored":
        cnn.train(was)
    elif mode == "left in training":
        cnn.train()
    scores = of(scores) if of else scores
    scores = scores.to(dtype) if dtype else scores
    return shape(scores, h, w) if shape else scores.T.reshape(-1, h, w)


def _slide_softmax(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, of=lambda scores: scores.softmax(1))


def _slide_winners(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, shape=lambda scores, h, w: scores.argmax(1).reshape(h, w))


def _slide_stride_ignored(cnn, image, window, stride):
    return _slide(cnn, image, window, 1)


def _slide_tiles(cnn, image, window, stride):
    return _slide(cnn, image, window, window)


def _slide_last_missing(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, count=lambda size: len(range(0, size - window, stride)))


def _slide_divided(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, count=lambda size: (size - window) // stride)


def _slide_over_the_edge(cnn, image, window, stride):
    padded = nn.functional.pad(image, (0, window + stride, 0, window + stride))
    return _slide(
        cnn, image, window, stride, count=lambda size: -((window - size) // stride) + 1,
        crop=lambda r, c: padded[:, r : r + window, c : c + window],
    )  # fmt: skip


def _slide_moved_back(cnn, image, window, stride):
    bottom, right = image.shape[1] - window, image.shape[2] - window

    def crop(r, c):
        r, c = min(r, bottom), min(c, right)
        return image[:, r : r + window, c : c + window]

    return _slide(cnn, image, window, stride, count=lambda size: -((window - size) // stride) + 1, crop=crop)


def _slide_cut_off(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, count=lambda size: len(range(0, size, stride)))


def _slide_axes_mixed(cnn, image, window, stride):
    crops = image.unfold(1, window, stride).unfold(2, window, stride)
    channels, h, w = crops.shape[:3]
    crops = crops.reshape(h * w, channels, window, window)
    return _slide(cnn, image, window, stride, crop=lambda r, c: crops[r // stride * w + c // stride])


def _slide_unfold_mixed(cnn, image, window, stride):
    crops = nn.functional.unfold(image[None], window, stride=stride)
    crops = crops.reshape(-1, image.shape[0], window, window)
    w = (image.shape[2] - window) // stride + 1
    return _slide(cnn, image, window, stride, crop=lambda r, c: crops[r // stride * w + c // stride])


def _slide_centered(cnn, image, window, stride):
    padded = nn.functional.pad(image, (window // 2,) * 4)
    return _slide(
        cnn, image, window, stride, count=lambda size: -(-size // stride),
        crop=lambda r, c: padded[:, r : r + window, c : c + window],
    )  # fmt: skip


def _slide_map_transposed(cnn, image, window, stride):
    def shape(scores, h, w):
        return scores.T.reshape(-1, h, w).transpose(1, 2)

    return _slide(cnn, image, window, stride, shape=shape)


def _slide_width_first(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, shape=lambda scores, h, w: scores.T.reshape(-1, w, h))


def _slide_laid_out_by_columns(cnn, image, window, stride):
    def shape(scores, h, w):
        return scores.T.reshape(-1, w, h).transpose(1, 2)

    return _slide(cnn, image, window, stride, shape=shape)


def _slide_squeezed(cnn, image, window, stride):
    return _slide(cnn, image, window, stride).squeeze()


def _slide_grid_centered(cnn, image, window, stride):
    top, left = ((size - window) % stride // 2 for size in image.shape[1:])
    return _slide(cnn, image[:, top:, left:], window, stride)


def _slide_with_graph(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, grad=True)


def _slide_columns_first(cnn, image, window, stride):
    def shape(scores, h, w):
        # Windows collected column by column, laid out as if they had come row by row.
        return scores.T.reshape(-1, h, w).transpose(1, 2).reshape(-1, h, w)

    return _slide(cnn, image, window, stride, shape=shape)


def _slide_positions_swapped(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, crop=lambda r, c: image[:, c : c + window, r : r + window])


def _slide_crops_transposed(cnn, image, window, stride):
    def crop(r, c):
        return image[:, r : r + window, c : c + window].transpose(1, 2)

    return _slide(cnn, image, window, stride, crop=crop)


def _slide_not_transposed(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, shape=lambda scores, h, w: scores.reshape(-1, h, w))


def _slide_classes_last(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, shape=lambda scores, h, w: scores.reshape(h, w, -1))


def _slide_batch_axis(cnn, image, window, stride):
    return _slide(cnn, image, window, stride)[None]


def _slide_in_training(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, mode="training")


def _slide_left_in_eval(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, mode="left")


def _slide_left_in_training(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, mode="left in training")


def _slide_float32(cnn, image, window, stride):
    return _slide(cnn, image, window, stride, dtype=torch.float32)


def _slide_unfold(cnn, image, window, stride):
    """All windows as one batch, out of F.unfold."""
    h, w = ((size - window) // stride + 1 for size in image.shape[1:])
    crops = nn.functional.unfold(image[None], window, stride=stride)[0].T
    was = [(m, m.training) for m in cnn.modules()]
    cnn.eval()
    scores = cnn(crops.reshape(-1, image.shape[0], window, window)).detach()
    for m, flag in was:
        m.training = flag
    return scores.T.unflatten(1, (h, w))


def _slide_rows(cnn, image, window, stride):
    """Row after row on a copy of the network."""
    twin = copy.deepcopy(cnn).eval()
    rows = []
    for top in range(0, image.shape[1] - window + 1, stride):
        lefts = range(0, image.shape[2] - window + 1, stride)
        crops = [image[:, top : top + window, left : left + window] for left in lefts]
        rows.append(torch.stack([twin(crop.unsqueeze(0)).detach()[0] for crop in crops], dim=1))
    return torch.stack(rows, dim=1)


SLID = ("scores", "leftover", "sparse")

SLIDING = Exercise(
    id="sliding_window",
    topic="convolutionalize",
    title="The wasteful way: one crop after the other",
    reference=reference.sliding_window,
    minutes=15,
    difficulty=2,
    properties=(
        Property(
            "scores",
            "cell (i, j) holds the scores, no softmax, of the crop whose top left is (i·stride, j·stride)",
            1.5,
            _window_case([(2, 3), (3, 2), (3, 3)], [2, 1, 3]),
            examples=6,
        ),
        Property(
            "leftover",
            "rows and columns that no whole window reaches are left out",
            0.75,
            _window_case([(2, 3), (3, 2)], [3, 4], leftover=True, windows=(5, 6)),
            examples=4,
        ),
        Property(
            "sparse",
            "a single row or column of windows, and strides larger than the window",
            0.75,
            _window_case([(1, 3), (3, 1), (1, 1)], [1, 2], apart=True),
            examples=6,
        ),
        Property(
            "mode",
            "the classifier runs in eval mode, and its mode is left as it was",
            0.5,
            _window_modes,
            _in_both_modes,
            examples=3,
            tried="one classifier in eval and in training mode, looked at after each call",
        ),
        Property(
            "no_grad",
            "the result keeps no graph: no gradients",
            0.25,
            _window_case([(2, 3)], [2, 1]),
            _reached,
            examples=3,
            tried="the gradients of the result's inner product with fixed random numbers",
        ),
        Property(
            "dtype",
            "a float64 classifier gives float64 scores",
            0.25,
            _window_case([(2, 3)], [2, 1], dtype=torch.float64),
            _window_dtype,
            examples=3,
            tried="the dtype of the result",
        ),
    ),
    misconceptions=(
        Misconception(
            "softmax_applied",
            "You returned probabilities.",
            "Return the scores as the classifier gives them: probabilities are class_heatmaps' business.",
            SLID,
            _slide_softmax,
        ),
        Misconception(
            "winners_only",
            "You returned the best class of every window.",
            "Return the scores of all classes, (L, h, w).",
            (*SLID, "mode", "dtype"),
            _slide_winners,
        ),
        Misconception(
            "stride_ignored",
            "Your windows are one pixel apart, whatever the stride.",
            "Window (i, j) begins at row i·stride and column j·stride.",
            SLID,
            _slide_stride_ignored,
        ),
        Misconception(
            "tiles",
            "Your windows are a window apart: they never overlap.",
            "Step by stride, not by window.",
            SLID,
            _slide_tiles,
        ),
        Misconception(
            "last_window_missing",
            "Your last row and column of windows are missing where they end exactly at the border.",
            "The last window begins at H − window, and range leaves its end out: range(0, H − window + 1, stride).",
            ("scores", "sparse"),
            _slide_last_missing,
        ),
        Misconception(
            "one_window_short",
            "Your map is one row and one column short.",
            "h = (H − window) // stride + 1: a single window already makes one cell.",
            SLID,
            _slide_divided,
        ),
        Misconception(
            "over_the_edge",
            "Your last windows hang over the border, filled up with zeros.",
            "Whole windows only: h = (H − window) // stride + 1, rounded down.",
            ("leftover",),
            _slide_over_the_edge,
        ),
        Misconception(
            "cut_off",
            "Your last windows hang over the border, where slicing cuts them off: they are smaller than the classifier's input.",
            "The last window begins at H − window: range(0, H − window + 1, stride).",
            ("scores", "leftover", "mode", "no_grad", "dtype"),
            _slide_cut_off,
        ),
        Misconception(
            "moved_back",
            "You moved the last windows back until they end at the border, so they are not a stride apart.",
            "Leave out what no whole window reaches.",
            ("leftover",),
            _slide_moved_back,
        ),
        Misconception(
            "centered",
            "You padded the image, so that windows are centered on the pixels.",
            "The window of cell (0, 0) begins at pixel (0, 0), without padding.",
            SLID,
            _slide_centered,
        ),
        Misconception(
            "map_transposed",
            "Your map has rows and columns swapped: (L, w, h).",
            "Rows of windows become rows of the map: lay the scores out as (L, h, w).",
            SLID,
            _slide_map_transposed,
        ),
        Misconception(
            "width_before_height",
            "You laid the scores out as (L, w, h).",
            "Windows collected row by row are laid out row by row: (L, h, w).",
            SLID,
            _slide_width_first,
        ),
        Misconception(
            "laid_out_by_columns",
            "You collected the windows row by row, and laid the scores out column by column.",
            "Windows collected row by row are laid out row by row: reshape to (L, h, w), with nothing to transpose.",
            ("scores", "leftover"),
            _slide_laid_out_by_columns,
        ),
        Misconception(
            "axes_squeezed",
            "Where there is one row or one column of windows, your map loses that axis.",
            "Take out the batch axis only, with [0] or squeeze(0): the result is (L, h, w) always.",
            ("sparse",),
            _slide_squeezed,
        ),
        Misconception(
            "grid_centered",
            "You centered the windows in the image, leaving rows out at both ends.",
            "The first window begins at pixel (0, 0); what no whole window reaches is left out at the end.",
            ("leftover",),
            _slide_grid_centered,
        ),
        Misconception(
            "columns_first",
            "You collected the windows column by column, and laid the scores out row by row.",
            "The outer loop runs over the rows, the inner one over the columns.",
            ("scores", "leftover"),
            _slide_columns_first,
        ),
        Misconception(
            "positions_swapped",
            "Rows and columns are exchanged where you cut: in the positions, or in how many there are of each.",
            "An image is (C, H, W), and cell (i, j) is image[:, i·stride : i·stride + window, j·stride : j·stride + window]: the rows come first.",
            (*SLID, "mode", "no_grad", "dtype"),
            _slide_positions_swapped,
        ),
        Misconception(
            "crops_transposed",
            "Your crops are transposed.",
            "Keep (C, rows, columns) in every crop.",
            SLID,
            _slide_crops_transposed,
        ),
        Misconception(
            "unfolded_axes_mixed",
            "You reshaped the unfolded image, (C, h, w, window, window), with the channels in front, so your crops mix channels and places.",
            "Move the windows to the front before the reshape: crops.permute(1, 2, 0, 3, 4).",
            SLID,
            _slide_axes_mixed,
        ),
        Misconception(
            "unfold_not_transposed",
            "You reshaped what F.unfold gives, (1, C·window², windows), with the windows last, so your crops mix all windows.",
            "Transpose first: unfold(…)[0].T.reshape(-1, C, window, window).",
            SLID,
            _slide_unfold_mixed,
        ),
        Misconception(
            "scores_not_transposed",
            "You reshaped (windows, L) to (L, h, w), which mixes the scores of different windows.",
            "Transpose first: scores.T.reshape(L, h, w).",
            SLID,
            _slide_not_transposed,
        ),
        Misconception(
            "classes_last",
            "Your classes are the last axis: (h, w, L).",
            "Channels first: permute to (L, h, w).",
            SLID,
            _slide_classes_last,
        ),
        Misconception(
            "batch_axis_left",
            "Your result has a batch axis.",
            "One image, one map: (L, h, w).",
            SLID,
            _slide_batch_axis,
        ),
        Misconception(
            "eval_forgotten",
            "The classifier ran in the mode you found it in: in training mode, batch norm uses the batch and dropout drops.",
            "Call cnn.eval() before, which reaches every layer, and put the mode back afterwards.",
            ("mode",),
            _slide_in_training,
        ),
        Misconception(
            "left_in_eval_mode",
            "You left the classifier in eval mode.",
            "Remember cnn.training before, and call cnn.train(was) afterwards.",
            ("mode",),
            _slide_left_in_eval,
        ),
        Misconception(
            "left_in_training_mode",
            "You put the classifier into training mode at the end, also where it was in eval mode.",
            "Remember cnn.training before, and call cnn.train(was) afterwards.",
            ("mode",),
            _slide_left_in_training,
        ),
        Misconception(
            "graph_kept",
            "Your result keeps the graph of everything that was computed, which costs memory for every window.",
            "Run the classifier under torch.no_grad().",
            ("no_grad",),
            _slide_with_graph,
        ),
        Misconception(
            "always_float32",
            "Your map is float32 whatever the scores are.",
            "Make it out of the scores, or with scores.new_zeros.",
            ("dtype",),
            _slide_float32,
        ),
    ),
    right=(
        Variant("one batch out of F.unfold", _slide_unfold),
        Variant("row after row, on a copy of the network", _slide_rows),
    ),
    hints=(
        Hint(
            "I don't know how many windows there are",
            "The first begins at row 0, the last at row H − window at the latest. How many steps of stride fit in between?",
        ),
        Hint(
            "The scores are right, but in the wrong cells",
            "Collected row by row, the scores are (h·w, L). The classes have to become the first axis before the windows are laid out as (h, w).",
        ),
        Hint(
            "I don't know how to start",
            "In eval mode without gradients, two loops: for top in range(0, H − window + 1, stride), for left in range(0, W − window + 1, stride): cnn(image[None, :, top : top + window, left : left + window])[0]. Stack them, transpose, reshape to (L, h, w), and put the mode back.",
        ),
    ),
)


EXERCISES = (LINEAR_TO_CONV, CONVOLUTIONALIZE, HEATMAPS, SLIDING, CELL_TO_BOX, INSTANCES)
