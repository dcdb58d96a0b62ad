"""Exercises of lecture 04: a classifier becomes fully convolutional."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.catalog._common import changed_tensors, filled, share_memory
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from autograder.values import Network
from coursekit import convolutionalize as reference


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
        linear = filled(d, nn.Linear(c * h * w, d.integer(2, 4), bias=bias)).to(dtype)
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
    return {
        "result": seen["kinds"].get(""),
        "linear unchanged": not changed_tensors(before, after),
        "weights shared with linear": share_memory(seen, before),
    }


def _dense_kind(subject: Any, case: Case) -> Any:
    conv = subject(*case.args)
    if not callable(conv):
        return conv
    return {name: str(p.dtype).removeprefix("torch.") for name, p in conv.inspect()["parameters"].items()}


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


def _dense_padded(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, padding="same")


def _dense_strided(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, stride=kernel_size)


def _dense_shared(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, shared=True)


def _dense_float32(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, convert=False)


def _dense_unchecked(linear, in_channels, kernel_size=(1, 1)):
    return _to_conv(linear, in_channels, kernel_size, check=False)


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
            examples=6,
        ),
        Property(
            "apart",
            "the result is an nn.Conv2d with weights of its own, and linear stays as it was",
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
            DENSE_NUMBERS,
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
            "window_of_one",
            "Your convolution is 1×1 with all inputs of the dense layer as channels, so it cannot read the map.",
            "It reads in_channels channels through a window of kernel_size.",
            DENSE_NUMBERS,
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
            "weights_shared",
            "The two layers share their weights: training one changes the other.",
            "A view is not a copy: clone the weights, or copy_ them into the new layer.",
            ("apart",),
            _dense_shared,
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
            "Refuse where in_channels·h·w ≠ linear.in_features. conv = nn.Conv2d(in_channels, linear.out_features, (h, w), bias=linear.bias is not None).to(linear.weight); then, under no_grad, conv.weight.copy_(linear.weight.view(conv.weight.shape)), and the same with the bias where there is one.",
        ),
    ),
)


# -- convolutionalize ---------------------------------------------------------------------------------------


def _flattening(d: Any, *, bias: bool = True) -> tuple[nn.Sequential, tuple[int, int, int]]:
    c, k, hidden = d.integer(1, 3), d.integer(2, 3), d.integer(2, 4)
    h, w = d.integer(2, 3), d.integer(2, 4)
    cnn = nn.Sequential(
        nn.Conv2d(c, k, 3, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(k * h * w, hidden, bias=bias),
        nn.ReLU(),
        nn.Dropout(0.5),
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
    c, k = d.integer(1, 2), d.integer(2, 3)
    cnn = nn.Sequential(
        nn.Conv2d(c, k, 2, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(k, d.integer(2, 3)),
    )
    return cnn, (c, 2 * d.integer(2, 3), 2 * d.integer(2, 4))


def _drawn(make: Callable[[Any], tuple[nn.Sequential, tuple[int, int, int]]], *, larger: bool) -> Any:
    def draw(d: Any) -> Case:
        cnn, (c, h, w) = make(d)
        extra = (2 * d.integer(1, 3), 2 * d.integer(0, 3)) if larger else (0, 0)
        images = d.tensor(d.integer(1, 2), c, h + extra[0], w + extra[1])
        return Case((Network.describe(filled(d, cnn)), (c, h, w)), {}, {"images": images})

    return draw


def _in_some_mode(d: Any) -> Case:
    cnn, size = _flattening(d)
    cnn = filled(d, cnn)
    evaluating, training = Network.describe(cnn.eval()), Network.describe(cnn.train())
    return Case((evaluating, size), {}, {"the same in training mode": training})


def _applied(subject: Any, case: Case) -> Any:
    fcn = subject(*case.args)
    return fcn(case.extra["images"]) if callable(fcn) else fcn


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
        "cnn unchanged": before["kinds"] == after["kinds"]
        and before["training"] == after["training"]
        and not changed_tensors(before, after),
        "training flags in use": sorted(set(seen["training"].values())),
        "result": "Sequential" if seen["kinds"].get("") == "Sequential" else seen["kinds"].get(""),
    }


def _convert(
    cnn: nn.Sequential,
    input_size: tuple[int, int, int],
    *,
    reorder: Callable[[torch.Tensor], torch.Tensor] | None = None,
    bias: bool = True,
    shared: bool = False,
    keep_mode: bool = True,
    keep_adaptive: bool = False,
    pool_stride: int | None = 1,
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
            weight = weight.reshape(-1, h, w, x.shape[1]).permute(0, 3, 1, 2) if reorder else weight
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
            made = nn.AvgPool2d(tuple(x.shape[2:]), pool_stride)
        else:
            made = layer if shared else copy.deepcopy(layer)
        with torch.no_grad():
            was = made.training
            state["map"] = made.eval()(x)
            made.train(was)
        return made.train(layer.training)

    def walk(sequential: nn.Sequential) -> nn.Sequential:
        layers = [walk(m) if flat and isinstance(m, nn.Sequential) else twin(m) for m in sequential]
        return nn.Sequential(*layers).train(cnn.training and keep_mode)

    return walk(cnn)


def _reordered(cnn, input_size):
    return _convert(cnn, input_size, reorder=lambda w: w)


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


def _property(name: str, says: str, points: float, make: Any, *, larger: bool, examples: int = 5) -> Property:
    tried = "convolutionalize(cnn, input_size)(images)"
    return Property(name, says, points, _drawn(make, larger=larger), _applied, tried=tried, examples=examples)


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
            1.5,
            _flattening,
            larger=False,
        ),
        _property(
            "larger_images",
            "a larger image gives a map, one score vector for every window",
            1.5,
            _flattening,
            larger=True,
        ),
        _property("nested", "Sequentials inside Sequentials", 0.75, _nested, larger=True),
        _property(
            "without_bias",
            "dense layers without bias",
            0.5,
            lambda d: _flattening(d, bias=False),
            larger=True,
        ),
        _property(
            "average_head",
            "AdaptiveAvgPool2d(1) becomes a fixed window average, so that maps stay dense",
            1.0,
            _averaging,
            larger=True,
        ),
        Property(
            "apart",
            "weights are copies, the CNN stays as it was, and the training flag carries over",
            0.75,
            _in_some_mode,
            _apart,
            examples=4,
            tried="the CNN before and after, and the result",
        ),
    ),
    misconceptions=(
        Misconception(
            "channels_last_order",
            "You reshaped the dense weights as (L, h, w, C), the order of Keras.",
            "torch flattens channels first: weight.view(L, C, h, w).",
            ("same_scores", "larger_images", "nested", "without_bias"),
            _reordered,
        ),
        Misconception(
            "biases_dropped",
            "Your convolutions do not carry the dense layers' biases.",
            "Copy linear.bias into conv.bias as it is.",
            ("same_scores", "larger_images", "nested", "average_head"),
            _no_bias,
        ),
        Misconception(
            "window_padded",
            "You padded the convolution that stands for the first dense layer.",
            "A dense layer sees whole windows only: padding is 0.",
            ("same_scores", "larger_images", "nested", "without_bias"),
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
            "top_level_only",
            "You looked at the top level only, so dense layers inside a nested Sequential stayed dense.",
            "Recurse into every nn.Sequential.",
            ("nested",),
            _top_level_only,
        ),
        Misconception(
            "bias_required",
            "You read linear.bias where it is None.",
            "Build the convolution with bias=linear.bias is not None, and copy the bias only then.",
            ("without_bias",),
            _bias_required,
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
            "Walk through the layers with a zero image of input_size in hand (eval, no_grad). Flatten → Identity; Linear → Conv2d(C, out, (h, w)) with weight.view(out, C, h, w); AdaptiveAvgPool2d(1) → AvgPool2d((h, w), 1); everything else → deepcopy.",
        ),
    ),
)

EXERCISES = (LINEAR_TO_CONV, CONVOLUTIONALIZE)
