"""The exercise linear_to_conv of lecture 04: a dense layer is a convolution with a large window."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.convolutionalize.draws import expect_copies, kept, moved_flags, tied_to
from autograder.catalog.observations import filled, share_memory
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import convolutionalize as reference

WINDOWS = [(2, 3), (3, 2), (1, 3), (3, 1), (1, 1)]


def _dense_case(
    *,
    bias: bool = True,
    default: bool = False,
    larger: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        h, w = (1, 1) if default else d.each(WINDOWS)
        c = d.choice([2, 3, 1])
        # Most often more outputs than inputs, so that the two numbers changed about show.
        linear = filled(d, nn.Linear(c * h * w, d.choice([c + 1, c, c + 2, 1]), bias=bias)).to(dtype)
        extra = (d.integer(1, 3), d.choice([2, 0, 4])) if larger else (0, 0)
        x = d.tensor(d.choice([1, 2]), c, h + extra[0], w + extra[1], dtype=dtype)
        return Case((Network.describe(linear), c, *([] if default else [(h, w)])), {}, {"x": x})

    return draw


def _found(d: Draw) -> Case:
    frozen, training = d.each([False, True]), d.each([False, True])
    case = _dense_case()(d)
    linear = Network.describe(case.args[0].build().train(training))
    return Case((linear, *case.args[1:]), {}, {**case.extra, "linear is frozen": frozen})


def _convolved(subject: Subject, case: Case) -> Any:
    conv = subject(*case.args)
    return _answered(conv, case) if callable(conv) else conv


def _answered(conv: Handle, case: Case) -> Any:
    y = conv(case.extra["x"])
    expect_copies(case.args[0], conv, y, _right(case.extra["x"], *case.args))
    return y


# Layers and maps are told apart by identity: of an exam, each is asked about once.
@functools.lru_cache(maxsize=256)
@torch.no_grad()
def _right(x: torch.Tensor, linear: Network, *sizes: Any) -> torch.Tensor:
    layer: Any = linear.build()
    return reference.linear_to_conv(layer, *sizes)(x)


def _convolved_bare(subject: Subject, case: Case) -> Any:
    conv = subject(*case.args)
    if not callable(conv):
        return conv
    y = _answered(conv, case)
    bias = conv.inspect("parameters")["parameters"].get("bias")
    if bias is None or not bias.any():
        return {"bias": "none" if bias is None else "of zeros", "linear_to_conv(…)(x)": y}
    # A bias that was drawn at random says something else each time.
    return {"bias": "of other numbers"}


def _dense_apart(subject: Subject, case: Case) -> Any:
    linear = subject.build(case.args[0])
    frozen = case.extra["linear is frozen"]
    if frozen:
        linear.then("requires_grad_", False)
    before = linear.inspect()
    conv = subject(linear, *case.args[1:])
    after = linear.inspect()
    if not callable(conv):
        return conv
    seen = conv.inspect()
    shared = share_memory(seen, before)
    tied = tied_to(conv, case.extra["x"], linear)
    found: tuple[str, dict[str, Any]] = seen["config"] or (seen["kinds"].get(""), {})
    kind, config = found
    return {
        "result": kind,
        **{name: config.get(name) for name in ("in_channels", "out_channels")},
        "linear": kept(before, after),
        "linear's training flag": moved_flags(before, after),
        "memory shared with linear": shared,
        "gradients of the result that reach linear": "none" if shared else tied,
        # What was frozen may come frozen or not.
        "can be trained": frozen or all(seen["requires_grad"].values()),
    }


def _dense_kind(subject: Subject, case: Case) -> Any:
    conv = subject(*case.args)
    if not callable(conv):
        return conv
    kinds = {str(p.dtype).removeprefix("torch.") for p in conv.inspect("parameters")["parameters"].values()}
    return " and ".join(sorted(kinds))


def _let_through(subject: Subject, case: Case) -> Any:
    """What came of sizes that do not fit, since two answers that refuse nothing need not do the same."""
    conv = subject(*case.args)
    if not callable(conv):
        return conv
    shapes = {name: list(shape) for name, shape in conv.inspect("shapes")["shapes"].items()}
    return {"a convolution with parameters": shapes}


def _misfit(d: Draw) -> Case:
    c, (h, w) = d.choice([2, 3]), d.choice([(2, 3), (3, 2), (2, 2)])
    linear = filled(d, nn.Linear(c * h * w, d.integer(2, 3))).float()
    # The first fits several times over, which a view with -1 takes for more outputs.
    asked = d.choice([(c, (1, 1)), (c, (h, w + 1)), (c + 1, (h, w)), (c, (h + 1, w))])
    return Case((Network.describe(linear), *asked))


CLAIMS = Exercise(
    id="linear_to_conv",
    topic="convolutionalize",
    title="A dense layer is a convolution with a large window",
    reference=reference.linear_to_conv,
    minutes=15,
    difficulty=2,
    properties=claims(
        """
        one_position (1.25): on a window of size kernel_size, the convolution gives what the dense layer gives
          on the flattened window
        tried: linear_to_conv(linear, in_channels, kernel_size)(x)
        default_window (0.5): without kernel_size it is a 1×1 convolution
        tried: linear_to_conv(linear, in_channels)(x)
        every_position (0.5): on a larger map it gives the dense layer's answer for every window that fits,
          one cell apart
        tried: linear_to_conv(linear, in_channels, kernel_size)(x)
        without_bias (0.5): a layer without bias gives a convolution without bias
        tried: linear_to_conv(linear, in_channels, kernel_size)
        refuses (0.5): sizes that do not fit the layer's inputs are refused with a ValueError
        tried: linear_to_conv(linear, in_channels, kernel_size)
        apart (0.5): the result is an nn.Conv2d with these channels and weights of its own, which can be
          trained, and linear stays as it was: its numbers, training flag and requires_grad
        tried: linear before and after, and the result
        dtype (0.25): a float64 layer gives a float64 convolution
        tried: dtypes of the result's parameters
        """,
        one_position=on(_dense_case(), _convolved, examples=6),
        default_window=on(_dense_case(default=True, larger=True), _convolved, examples=4),
        every_position=on(_dense_case(larger=True), _convolved, examples=4),
        without_bias=on(_dense_case(bias=False), _convolved_bare, examples=4),
        refuses=on(_misfit, _let_through, examples=6, beside="one_position"),
        apart=on(_found, _dense_apart, examples=4, beside="one_position"),
        dtype=on(_dense_case(dtype=torch.float64), _dense_kind, examples=4, beside="one_position"),
    ),
    hints=hints("""
        I don't see where the convolution comes in
        A row of linear.weight holds one number for each entry of the flattened window. Put back into the
          window's shape, that row is a filter.

        The shape is right, the values are mixed up
        Flatten runs through the channels first, then through the rows, then along each row. The view of a row
          has to undo that: (in_channels, h, w).

        I don't know how to start
        Refuse where in_channels·h·w ≠ linear.in_features. Build an nn.Conv2d from in_channels to
          linear.out_features with the window (h, w) and bias=linear.bias is not None, and move it to dtype
          and device of linear.weight. Then, under no_grad,
          conv.weight.copy_(linear.weight.view(conv.weight.shape)), and the same with the bias where there is
          one.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def reshaped(linear, in_channels, kernel_size=(1, 1)):
    """the weights reshaped and copied"""
    h, w = kernel_size
    if in_channels * h * w != linear.in_features:
        raise ValueError(f"{in_channels}·{h}·{w} does not give {linear.in_features} inputs")
    outputs = linear.out_features
    weight = linear.weight.detach().reshape(outputs, in_channels, h, w)
    conv = nn.Conv2d(in_channels, outputs, (h, w), bias=linear.bias is not None)
    conv = conv.to(weight)
    with torch.no_grad():
        conv.weight.copy_(weight)
        if linear.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


answers.edits("""
channels_last_order: one_position every_position without_bias
- .reshape(outputs, in_channels, h, w)
+ .reshape(outputs, h, w, in_channels).permute(0, 3, 1, 2)
You reshaped the weights as (out, h, w, C), the order of Keras.
torch flattens channels first: weight.view(out, C, h, w).

width_first: all but default_window refuses apart dtype
- h, w = kernel_size
+ w, h = kernel_size
You read kernel_size as (w, h).
It is (h, w), rows first, as in the shape of a map.

window_transposed: one_position every_position without_bias
- .reshape(outputs, in_channels, h, w)
+ .reshape(outputs, in_channels, w, h).transpose(2, 3)
Your windows are transposed: rows and columns have changed places.
View as (out, C, h, w) at once; there is nothing to transpose.

window_flipped: one_position every_position without_bias
- .reshape(outputs, in_channels, h, w)
+ .reshape(outputs, in_channels, h, w).flip(2, 3)
You flipped the windows.
nn.Conv2d does not flip its kernel: the weights stand as the dense layer has them.

weight_transposed: all but refuses apart dtype
- linear.weight.detach().reshape
+ linear.weight.detach().T.reshape
You transposed the weights before the view, which mixes up inputs and outputs.
linear.weight is (out, in) already: row k is the filter of output k.

square_window: all but default_window refuses
- .reshape(outputs, in_channels, h, w)
+ .reshape(outputs, in_channels, h, h)
- nn.Conv2d(in_channels, outputs, (h, w),
+ nn.Conv2d(in_channels, outputs, h,
You took the window for a square.
kernel_size is (h, w), and both count: view(out, C, h, w).

window_of_one: all but default_window refuses dtype
- .reshape(outputs, in_channels, h, w)
+ .reshape(outputs, linear.in_features, 1, 1)
- nn.Conv2d(in_channels, outputs, (h, w),
+ nn.Conv2d(linear.in_features, outputs, 1,
Your convolution is 1×1 with all inputs of the dense layer as channels, so it cannot read the map.
It reads in_channels channels through a window of kernel_size.

padded: one_position every_position without_bias
- bias=linear.bias is not None)
+ bias=linear.bias is not None, padding="same")
You padded the convolution, so it also answers for windows that hang over the border.
A dense layer sees whole windows only: padding is 0.

stride_of_the_window: every_position
- bias=linear.bias is not None)
+ bias=linear.bias is not None, stride=(h, w))
Your convolution jumps by its own window.
Leave the stride at 1: neighboring windows overlap.

bias_dropped: all but without_bias refuses apart dtype
- bias=linear.bias is not None
+ bias=False
- if linear.bias is not None:
-     conv.bias.copy_(linear.bias)
Your convolution has no bias where the dense layer has one.
Copy linear.bias into conv.bias as it is.

bias_not_copied: all but without_bias refuses apart dtype
- if linear.bias is not None:
-     conv.bias.copy_(linear.bias)
You copied the weights and left the bias at its random start.
Copy linear.bias into conv.bias as well.

bias_invented: without_bias
- , bias=linear.bias is not None
Your convolution has a random bias where the dense layer has none.
Build it with bias=linear.bias is not None.

bias_of_zeros: without_bias
- , bias=linear.bias is not None
...
- if linear.bias is not None:
+ conv.bias.zero_()
+ if linear.bias is not None:
Your convolution has a bias of zeros where the dense layer has none: training would move it.
Build it with bias=linear.bias is not None.

bias_required: without_bias
- , bias=linear.bias is not None
...
- if linear.bias is not None:
-     conv.bias.copy_(linear.bias)
+ conv.bias.copy_(linear.bias.detach())
You copy a bias also where there is none: linear.bias may be None.
Build the convolution with bias=linear.bias is not None, and copy the bias only then.

bias_as_truth: all but without_bias refuses
- bias=linear.bias is not None
+ bias=bool(linear.bias)
- if linear.bias is not None:
+ if linear.bias:
You asked whether linear.bias is true, and a tensor of several values has no answer to that.
Ask whether it is there: linear.bias is not None.

weights_not_copied: all but refuses apart dtype
- with torch.no_grad():
-     conv.weight.copy_(weight)
-     if linear.bias is not None:
-         conv.bias.copy_(linear.bias)
Your convolution holds the random numbers that it was built with, not those of the dense layer.
Copy linear.weight, as (out, C, h, w), and linear.bias into it, under torch.no_grad().

copied_with_gradients: all but refuses
- with torch.no_grad():
-     conv.weight.copy_(weight)
-     if linear.bias is not None:
-         conv.bias.copy_(linear.bias)
+ conv.weight.copy_(weight)
+ if linear.bias is not None:
+     conv.bias.copy_(linear.bias)
You write into a parameter in place while torch records gradients, which it refuses.
Copy under torch.no_grad().

weights_shared: apart
- conv.weight.copy_(weight)
+ conv.weight = nn.Parameter(weight)
The two layers share numbers in memory: training one changes the other.
Neither a view nor an assignment is a copy: clone weights and bias, or copy_ them into the new layer.

tied_to_linear: apart
- weight = linear.weight.detach().reshape
+ weight = linear.weight.reshape
- with torch.no_grad():
-     conv.weight.copy_(weight)
-     if linear.bias is not None:
-         conv.bias.copy_(linear.bias)
+ conv.requires_grad_(False)
+ conv.weight.copy_(weight)
+ if linear.bias is not None:
+     conv.bias.copy_(linear.bias)
The new weights are no parameters of their own but results computed from linear's:
  gradients go on into linear.
Copy under torch.no_grad(), or from linear.weight.detach(), and leave requires_grad as it is.

frozen_copy: apart
- conv.weight.copy_(weight)
+ conv.requires_grad_(False)
+ conv.weight.copy_(weight)
You switched requires_grad off in the convolution, so it cannot be trained.
Leave it as it is: under torch.no_grad() parameters can be written all the same.

linear_frozen: apart
- weight = linear.weight.detach()
+ linear.requires_grad_(False)
+ weight = linear.weight
You switched requires_grad off in the layer that you were given, so it can no longer be trained.
Copy under torch.no_grad(), or from linear.weight.detach(): then nothing of linear has to change.

channels_swapped: apart
- nn.Conv2d(in_channels, outputs,
+ nn.Conv2d(outputs, in_channels,
- conv.weight.copy_(weight)
+ conv.weight = nn.Parameter(weight.clone())
- conv.bias.copy_(linear.bias)
+ conv.bias = nn.Parameter(linear.bias.clone())
You built nn.Conv2d(out, in, …): its weights are right only because you replaced them.
nn.Conv2d takes the channels that it reads first: nn.Conv2d(in_channels, linear.out_features, …).

always_float32: dtype
- conv.to(weight)
+ conv.to(weight.device)
Your convolution is float32 whatever the dense layer is.
Build it with dtype=linear.weight.dtype and device=linear.weight.device, or call conv.to(linear.weight).

refusal_left_to_torch: refuses
- if in_channels * h * w != linear.in_features:
-     raise ValueError(f"{in_channels}·{h}·{w} does not give {linear.in_features} inputs")
Sizes that do not fit fail somewhere inside torch, with a message about shapes.
Compare in_channels·h·w with linear.in_features first, and raise a ValueError that names both.

refusal_left_to_the_copy: refuses
- if in_channels * h * w != linear.in_features:
-     raise ValueError(f"{in_channels}·{h}·{w} does not give {linear.in_features} inputs")
...
- .reshape(outputs, in_channels, h, w)
+ .reshape(-1, in_channels, h, w)
Sizes that do not fit fail somewhere inside torch, with a message about shapes.
Compare in_channels·h·w with linear.in_features first, and raise a ValueError that names both.

fitting_sizes_refused: all but default_window refuses
- if in_channels * h * w != linear.in_features:
+ if h != w or in_channels * h * w != linear.in_features:
You refuse sizes that fit.
They fit where in_channels·h·w is linear.in_features; the window need not be a square.

outputs_left_open: refuses
- if in_channels * h * w != linear.in_features:
-     raise ValueError(f"{in_channels}·{h}·{w} does not give {linear.in_features} inputs")
- outputs = linear.out_features
- weight = linear.weight.detach().reshape(outputs, in_channels, h, w)
+ weight = linear.weight.detach().reshape(-1, in_channels, h, w)
+ outputs = len(weight)
- conv.bias.copy_(linear.bias)
+ conv.bias = nn.Parameter(linear.bias.clone())
Where the sizes do not fit, your view with -1 invents other outputs.
Compare in_channels·h·w with linear.in_features first, and raise a ValueError that names both.

refused_by_assert: refuses
- if in_channels * h * w != linear.in_features:
-     raise ValueError(f"{in_channels}·{h}·{w} does not give {linear.in_features} inputs")
+ assert in_channels * h * w == linear.in_features
You refuse with an assert, which is an AssertionError, and nothing at all under python -O.
raise ValueError(…), with the numbers in the message.
""")


@answers.right
def loaded(linear, in_channels, kernel_size=(1, 1)):
    """the state dict, reshaped and loaded"""
    window = torch.Size([in_channels, *kernel_size])
    if window.numel() != linear.in_features:
        raise ValueError(f"linear must have {window.numel()} inputs, got {linear.in_features}")
    conv = nn.Conv2d(*window[:1], linear.out_features, tuple(window[1:]), bias="bias" in linear.state_dict())
    state = {name: t.unflatten(1, window) if t.ndim == 2 else t for name, t in linear.state_dict().items()}
    conv.to(linear.weight.device, linear.weight.dtype).load_state_dict(state)
    return conv


@answers.right
def probed(linear, in_channels, kernel_size=(1, 1)):
    """weight by weight, from what the layer answers"""
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


EXERCISE = answers.exercise()
