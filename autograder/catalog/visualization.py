"""Exercises of lecture 03: filters as a picture, activations, the input that maximizes a unit, receptive fields."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Handle, Raised
from autograder.catalog._common import carries, changed_tensors, described, filled, gradients
from autograder.catalog._fields import FIELD, PATCHES
from autograder.catalog._filters import GRID
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from autograder.values import Named, Network
from coursekit import visualization as reference

# -- capture_activations ------------------------------------------------------------------------------------


def _nested(d: Any, *, training: bool = False, inplace: bool = False, broken: bool = False) -> Network:
    """Blocks inside a Sequential, so that paths have dots."""
    k = d.choice([2, 3])
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(2, k, 2), nn.BatchNorm2d(k), nn.ReLU(inplace)),
        nn.Sequential(nn.Conv2d(k, 3, 2), nn.LeakyReLU(0.1, inplace)),
        nn.Conv2d(5 if broken else 3, 2, 1),
    )
    model = filled(d, model, scale=0.5)
    with torch.no_grad():
        model[0][1].running_mean.copy_(d.tensor(k))
        model[0][1].running_var.copy_(d.positive(k))
    return Network.describe(model.train(training))


def _images(d: Any) -> torch.Tensor:
    return d.layout(d.tensor(d.choice([2, 1, 3]), 2, d.choice([4, 3, 5]), d.choice([5, 4, 6])))


def _by_path(d: Any) -> Case:
    layers = d.choice([["0.0", "1.0"], ["2", "0", "1.1"], ["0.2", "2"], ["1", "0.1"]])
    return Case((_nested(d), _images(d), layers))


def _in_place(d: Any) -> Case:
    return Case((_nested(d, inplace=True), _images(d), [d.choice(["1.0", "0.1"])]))


def _called_twice(d: Any) -> Case:
    c, kernel = d.choice([2, 1, 3]), d.choice([2, 1])
    layers = {"inner": nn.Conv2d(c, c, kernel), "last": nn.Conv2d(c, 2, 1)}
    model = Named("twice", {name: Network.describe(filled(d, net)) for name, net in layers.items()})
    return Case((model, d.tensor(d.choice([2, 1]), c, 4, d.choice([5, 4])), ["inner"]))


def _running(d: Any) -> Case:
    return Case((_nested(d, training=True), _images(d), d.choice([["0.2", "2"], ["0.1", "1.0"]])))


def _ran_once(subject: Any, case: Case) -> Any:
    """The activations, and what a batch norm in training mode counted. An answer may run a copy: then it is none."""
    model = subject.build(case.args[0])
    found = subject(model, *case.args[1:])
    if not isinstance(found, dict):
        return found
    runs = int(model.inspect()["buffers"]["0.1.num_batches_tracked"])
    return {"activations": found, "the network ran more than once": runs > 1}


def _unknown(d: Any) -> Case:
    return Case((_nested(d), _images(d), d.choice([["0.7"], ["2", "conv1"], ["3"]])))


def _capture_found(d: Any, *, broken: bool = False) -> Case:
    model = _nested(d, training=True, broken=broken)
    # One module in another mode than the rest: neither train() nor eval() puts that back.
    model = replace(model, training=tuple(path for path in model.training if path != "0.1"))
    extra = {"the network raises": True} if broken else {}
    return Case((model, _images(d), d.choice([["0.0"], ["1", "0.2"]])), {}, extra)


def _with_hooks(subject: Any, described: Network | Named, *paths: str) -> Handle:
    """The network, with a hook of its owner's on some of its modules."""
    model = subject.build(described)
    # It takes whatever it is given and returns None, as a hook does that changes nothing.
    hook = subject.build(Network.describe(nn.Identity())).do("__getattribute__", "__init__")
    for path in paths:
        model.do("get_submodule", path).do("register_forward_hook", hook)
    return model


def _left_behind(subject: Any, case: Case) -> Any:
    """Modes and hooks afterwards, also where the network raised its error."""
    model = _with_hooks(subject, case.args[0], "", "0.0")
    broken = bool(case.extra.get("the network raises"))
    seen = {"the network's error": "raised"} if broken else {}
    try:
        found = subject(model, *case.args[1:])
        if not isinstance(found, dict):
            return found
        if broken:
            seen = {"the network's error": "not raised"}
    except Raised as raised:
        # A stub or a mistake of the learner's own leaves everything as it was, too.
        if not broken or raised.kinds[0] != "RuntimeError":
            raise
    after = model.inspect()
    seen |= {"training flags": after["training"], "hooks": after["hooks"]}
    if broken:
        refusing = subject.build(case.args[0])
        # Which error it is, or that there is none, is another property's business.
        with contextlib.suppress(Raised):
            subject(refusing, case.args[1], [*case.args[2], "0.7"])
        seen["hooks after an unknown path"] = refusing.inspect()["hooks"]
    return seen


def _graph(subject: Any, case: Case) -> Any:
    """Whether gradients can flow from the activations to the network's parameters."""
    model = subject.build(case.args[0])
    seen = subject.vjp(model, *case.args[1:], wrt=[model])
    if not isinstance(seen["value"], dict):
        return seen["value"]
    return "connected" if any(g is not None for g in seen["grads"].values()) else "detached"


def _capture(
    model, x, layers, *, kept="copy", graph=False, what="output", calls="last", mode="found", hooks="finally", unknown="refuse",
    late=None, numpy=False, tree="modules", listed=False, first_image=False,
    runs=1, check="first", cleared=False, too_early=False,
):  # fmt: skip
    """Hooks with a switch for each mistake."""
    modules = dict(model.named_modules() if tree == "modules" else model.named_children())
    missing = [layer for layer in layers if layer not in modules]
    if missing and unknown == "refuse" and check == "first":
        raise ValueError(f"layers: there is no {missing[0]!r} in the network")
    if missing and unknown == "raise":
        raise KeyError(missing[0])
    found: dict[str, Any] = {}
    flags = {m: m.training for m in model.modules()}
    if mode != "found":
        model.eval()

    def hook_for(layer):
        def hook(module, inputs, output):
            name = {None: layer, "layers": layers[-1], "modules": [*modules][-1]}[late]
            if calls == "first" and name in found:
                return
            value = inputs[0] if what == "input" else output
            value = value if graph else value.detach()
            value = value.clone() if kept == "copy" else value
            value = value[0] if first_image else value
            value = value.numpy() if numpy else value
            if calls == "all":
                found.setdefault(name, []).append(value)
            else:
                found[name] = value

        return hook

    handles = []
    for name in layers:
        if name in modules:
            handles.append(modules[name].register_forward_hook(hook_for(name)))
        elif check == "in the loop":
            raise ValueError(f"layers: there is no {name!r} in the network")

    def clear():
        for handle in handles:
            handle.remove()

    if too_early:
        clear()
    try:
        with torch.set_grad_enabled(graph):
            for _ in range(runs):
                model(x)
        if hooks != "left":
            clear()
        if cleared:
            for module in model.modules():
                module._forward_hooks.clear()
    finally:
        if hooks == "finally":
            clear()
        if mode == "trained":
            model.train()
        if mode == "restored":
            for module, flag in flags.items():
                module.training = flag
    return list(found.values()) if listed else found


def _capture_with(**mistakes: Any) -> Any:
    def capture_activations(model, x, layers):
        return _capture(model, x, layers, **mistakes)

    return capture_activations


def _children_in_turn(model, x, layers):
    if any(layer not in dict(model.named_modules()) for layer in layers):
        raise ValueError("layers holds an unknown path")
    found = {}
    with torch.no_grad():
        for name, child in model.named_children():
            x = child(x)
            if name in layers:
                found[name] = x.clone()
    return found


def _own_twin(model, x, layers):
    """Hooks on a copy, which is thrown away."""
    twin, found = copy.deepcopy(model), {}
    names = {module: name for name, module in twin.named_modules()}
    if not set(layers) <= set(names.values()):
        raise ValueError(f"layers must be among {sorted(names.values())}, got {layers}")

    def keep(module, inputs, output):
        found[names[module]] = output.detach().clone()

    for layer in layers:
        twin.get_submodule(layer).register_forward_hook(keep)
    twin(x)
    return found


def _stacked_hooks(model, x, layers):
    """An exit stack takes the hooks off."""
    found = dict.fromkeys(layers)
    with contextlib.ExitStack() as stack, torch.inference_mode():
        for layer in found:
            try:
                module = model.get_submodule(layer)
            except AttributeError:
                raise ValueError(f"layers: unknown path {layer!r}") from None
            hook = functools.partial(lambda name, m, i, o: found.update({name: o.clone()}), layer)
            stack.callback(module.register_forward_hook(hook).remove)
        model(x)
    return found


CAPTURED = ("values", "in_place", "twice", "mode")

CAPTURE = Exercise(
    id="capture_activations",
    topic="visualization",
    title="Looking inside while it runs",
    reference=reference.capture_activations,
    minutes=25,
    difficulty=3,
    properties=(
        Property(
            "values",
            "the output of each layer asked for, under its path in the network",
            1.0,
            _by_path,
            examples=6,
        ),
        Property(
            "in_place",
            "a layer further on that works in place does not change what was captured",
            0.75,
            _in_place,
            examples=4,
        ),
        Property(
            "twice",
            "a layer that is called twice gives the output of its last call",
            0.5,
            _called_twice,
            examples=4,
        ),
        Property(
            "mode",
            "the network runs once, in the mode it is in, training mode too",
            0.5,
            _running,
            _ran_once,
            examples=4,
            tried="the activations, and how many batches the network's batch norm counted",
        ),
        Property(
            "as_found",
            "training flags and hooks are left as they were found",
            0.5,
            _capture_found,
            _left_behind,
            examples=4,
            tried="the network after the call",
        ),
        Property(
            "after_error",
            "training flags and hooks are left so also where the network raises an error or a path is refused",
            0.25,
            lambda d: _capture_found(d, broken=True),
            _left_behind,
            examples=4,
            tried="the network after a call in which its last layer raised an error, and after one with an unknown path",
        ),
        Property(
            "detached",
            "the activations hold no graph: no gradient flows from them into the network",
            0.25,
            _by_path,
            _graph,
            examples=3,
            tried="the gradient of the activations with respect to the network's parameters",
        ),
        Property("refused", "an unknown path is a ValueError", 0.25, _unknown, examples=3),
    ),
    misconceptions=(
        Misconception(
            "no_copy",
            "You kept the layer's own output, and the in-place ReLU behind it wrote over it.",
            "Copy it inside the hook: output.detach().clone(). detach() alone shares the memory.",
            ("in_place",),
            _capture_with(kept="itself"),
        ),
        Misconception(
            "graph_kept",
            "Your activations still hang on the graph, and keep all of its memory alive.",
            "Run the network under torch.no_grad(), or detach() what you keep.",
            ("detached",),
            _capture_with(graph=True),
        ),
        Misconception(
            "late_closure",
            "All your hooks write under the same name: a function made in a loop sees the loop variable's last value.",
            "Bind the name when the hook is made: a default argument, def hook(module, inputs, output, name=name), or a function that makes the hook.",
            ("values", "mode"),
            _capture_with(late="layers"),
        ),
        Misconception(
            "late_closure_over_modules",
            "All your hooks write under the name of the network's last module: a function made in a loop sees the loop variable's last value.",
            "Bind the name when the hook is made: a default argument, def hook(module, inputs, output, name=name), or a function that makes the hook.",
            CAPTURED,
            _capture_with(late="modules"),
        ),
        Misconception(
            "top_level_only",
            "You looked for layers among the children of the network; those inside a block were not found.",
            'model.named_modules() lists all of them, with paths like "0.1".',
            ("values", "in_place", "mode", "as_found", "after_error", "detached"),
            _capture_with(tree="children"),
        ),
        Misconception(
            "inputs_captured",
            "You kept what goes into the layer.",
            "A forward hook gets (module, inputs, output): keep the third.",
            CAPTURED,
            _capture_with(what="input"),
        ),
        Misconception(
            "first_call",
            "You kept the first call of a layer that is called twice.",
            "Let a later call write over an earlier one.",
            ("twice",),
            _capture_with(calls="first"),
        ),
        Misconception(
            "every_call",
            "You collected all calls of a layer in a list.",
            "One tensor a layer: assign to captured[name], and the last call stays.",
            CAPTURED,
            _capture_with(calls="all"),
        ),
        Misconception(
            "children_in_turn",
            "You ran the children one after another, which misses nested layers and any forward that does something else.",
            "Run the network itself, model(x), and let forward hooks on dict(model.named_modules())[path] catch the outputs.",
            ("values", "in_place", "twice", "mode"),
            _children_in_turn,
        ),
        Misconception(
            "removed_too_early",
            "You removed the hooks before the network ran, so nothing was captured.",
            "First register all hooks, then model(x), then remove them, in a finally block.",
            CAPTURED,
            _capture_with(too_early=True),
        ),
        Misconception(
            "run_several_times",
            "You ran the network more than once: in training mode each run moves its running averages.",
            "Register the hooks of all layers first, then call model(x) once.",
            ("mode",),
            _capture_with(runs=2),
        ),
        Misconception(
            "all_hooks_removed",
            "You removed all forward hooks of the network, also those that were there before.",
            "Remove only your own: handle.remove() for each handle that register_forward_hook returned.",
            ("as_found",),
            _capture_with(cleared=True),
        ),
        Misconception(
            "switched_to_eval",
            "You switched the network to eval mode: its batch norm and dropout did something else than asked for.",
            "Leave the mode alone here. The caller decides.",
            ("mode",),
            _capture_with(mode="restored"),
        ),
        Misconception(
            "left_in_eval_mode",
            "You called model.eval() and left it there: the next training step is another one.",
            "Leave the mode alone here. The caller decides.",
            ("mode", "as_found", "after_error"),
            _capture_with(mode="left"),
        ),
        Misconception(
            "hooks_left",
            "Your hooks are still on the network, and will run at every later call.",
            "Keep the handles that register_forward_hook returns, and call handle.remove() on each in a finally block.",
            ("as_found", "after_error"),
            _capture_with(hooks="left"),
        ),
        Misconception(
            "train_afterwards",
            "You switched the network to eval mode and gave all modules one mode afterwards; each has its own flag.",
            "Leave the mode alone here. The caller decides.",
            ("mode", "as_found", "after_error"),
            _capture_with(mode="trained"),
        ),
        Misconception(
            "mode_and_hooks_left",
            "You left the network in eval mode, and your hooks on it.",
            "Leave the mode alone here, and remove the hooks in a finally block: handle.remove() for each handle.",
            ("mode", "as_found", "after_error"),
            _capture_with(mode="left", hooks="left"),
        ),
        Misconception(
            "hooks_left_after_an_error",
            "Your hooks stay on the network where its forward raises.",
            "Remove them in a finally block: try: model(x) finally: for handle in handles: handle.remove().",
            ("after_error",),
            _capture_with(hooks="removed"),
        ),
        Misconception(
            "refused_too_late",
            "You refused an unknown path when hooks were on the layers before it, and left them there.",
            "Look at all paths before you register the first hook, or register them inside the try block.",
            ("after_error",),
            _capture_with(check="in the loop"),
        ),
        Misconception(
            "hooks_left_after_any_error",
            "Your hooks stay on the network where its forward raises, and where a path is refused.",
            "Look at all paths first; then try: model(x) finally: for handle in handles: handle.remove().",
            ("after_error",),
            _capture_with(check="in the loop", hooks="removed"),
        ),
        Misconception(
            "unknown_ignored",
            "You passed over a path that is not in the network; the reader finds out later, or never.",
            "raise ValueError with the path in its message.",
            ("refused",),
            _capture_with(unknown="ignored"),
        ),
        Misconception(
            "bare_key_error",
            "An unknown path let a dictionary or get_submodule raise an error of its own kind.",
            "Look first: if path not in modules: raise ValueError(…).",
            ("refused",),
            _capture_with(unknown="raise"),
        ),
        Misconception(
            "numpy_arrays",
            "You returned numpy arrays.",
            "Keep tensors: their device and dtype carry on.",
            CAPTURED,
            _capture_with(numpy=True),
        ),
        Misconception(
            "a_list",
            "You returned a list.",
            "A dictionary, the layer's path as its key.",
            (*CAPTURED, "as_found", "detached"),
            _capture_with(listed=True),
        ),
        Misconception(
            "first_image_only",
            "You kept the first image of the batch.",
            "The whole output, (N, K, h, w).",
            CAPTURED,
            _capture_with(first_image=True),
        ),
    ),
    right=(
        Variant("hooks, and a finally", _capture_with()),
        Variant("a copy of the network", _own_twin),
        Variant("an exit stack", _stacked_hooks),
    ),
    hints=(
        Hint(
            "I can't get at a layer in the middle",
            "dict(model.named_modules()) has every layer under its path. register_forward_hook(f) on one of them calls f(module, inputs, output) whenever it runs.",
        ),
        Hint(
            "All layers hold the same tensor, or only one is there",
            "A function that is made in a loop sees the loop variable as it is at the end. Give it the path as a default argument, and copy the output: the next layer may write over it.",
        ),
        Hint(
            "I don't know how to put it together",
            "First a ValueError for unknown paths. Then handles = []; for each path a hook that does captured[path] = output.detach().clone(). try: with torch.no_grad(): model(x). finally: handle.remove() for each handle. No train() and no eval().",
        ),
    ),
)


# -- total_variation ----------------------------------------------------------------------------------------


def _one_image(d: Any) -> Case:
    return Case((d.layout(d.tensor(1, 1, d.choice([3, 2, 4]), d.choice([4, 3, 2]))),))


def _image_batch(d: Any) -> Case:
    shape = d.choice([(2, 3, 3, 4), (2, 3, 4, 2), (3, 1, 2, 3), (2, 2, 3, 3)])
    return Case((d.layout(d.tensor(*shape)),))


def _thin(d: Any) -> Case:
    images, rows, columns = d.integer(2, 3), d.choice([4, 2, 5]), d.choice([3, 2, 4])
    extra = {
        "one row": d.tensor(images, 2, 1, columns),
        "one pixel": d.tensor(images, 2, 1, 1),
    }
    return Case((d.tensor(images, 2, rows, 1),), {}, extra)


def _of_thin_ones(subject: Any, case: Case) -> dict[str, Any]:
    return {"one column": subject(*case.args)} | {name: subject(x) for name, x in case.extra.items()}


def _tv_kinds(d: Any) -> Case:
    return Case((d.tensor(2, 3, 3, 4, dtype=d.choice([torch.float32, torch.float64])),))


def _differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]


def _variation(x: torch.Tensor) -> torch.Tensor:
    rows = (x[:, :, 1:] - x[:, :, :-1]).abs().sum()
    return rows + (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().sum()


def _tv_mean(x):
    down, right = _differences(x)
    return down.abs().mean() + right.abs().mean()


def _tv_per_value(x):
    return _variation(x) / x.numel()


def _tv_per_image(x):
    return _variation(x) / len(x)


def _tv_vector(x):
    down, right = _differences(x)
    return down.abs().sum((1, 2, 3)) + right.abs().sum((1, 2, 3))


def _tv_squared(x):
    down, right = _differences(x)
    return (down**2).sum() + (right**2).sum()


def _tv_rooted(x):
    down, right = _differences(x)
    return ((down**2).sum() + (right**2).sum()).sqrt()


def _tv_lengths(x):
    down, right = _differences(x)
    return (down[..., :-1] ** 2 + right[:, :, :-1] ** 2).clamp(min=1e-20).sqrt().sum()


def _tv_signed(x):
    down, right = _differences(x)
    return down.sum() + right.sum()


def _tv_sum_first(x):
    down, right = _differences(x)
    return down.sum().abs() + right.sum().abs()


def _tv_horizontal(x):
    return _differences(x)[1].abs().sum()


def _tv_vertical(x):
    return _differences(x)[0].abs().sum()


def _tv_around(x):
    return sum((x - x.roll(1, axis)).abs().sum() for axis in (2, 3))


def _tv_other_axes(x):
    return x.diff(dim=1).abs().sum() + x.diff(dim=2).abs().sum()


def _tv_channels_for_rows(x):
    return x.diff(dim=1).abs().sum() + x.diff(dim=3).abs().sum()


def _tv_first_image(x):
    return _variation(x[:1])


def _tv_channel_mean(x):
    return _variation(x) / x.shape[1]


def _tv_every_axis(x):
    return sum(x.diff(dim=axis).abs().sum() for axis in range(4))


def _tv_both_ways(x):
    return 2 * _variation(x)


def _tv_half(x):
    return _variation(x) / 2


def _tv_cut(x):
    corner = x[:, :, :-1, :-1]
    return (x[:, :, 1:, :-1] - corner).abs().sum() + (x[:, :, :-1, 1:] - corner).abs().sum()


def _tv_diagonal(x):
    return (x[:, :, 1:, 1:] - x[:, :, :-1, :-1]).abs().sum()


def _tv_number(x):
    return _variation(x).item()


def _tv_cut_off(x):
    return _variation(x.detach())


def _tv_pad(x):
    """The border repeated, so that the differences across it vanish."""
    down = F.pad(x, (0, 0, 0, 1), mode="replicate") - F.pad(x, (0, 0, 1, 0), mode="replicate")
    right = F.pad(x, (0, 1, 0, 0), mode="replicate") - F.pad(x, (1, 0, 0, 0), mode="replicate")
    return down.abs().sum() + right.abs().sum()


def _tv_loop(x):
    """Row by row and column by column."""
    total = x.new_zeros(())
    for i in range(1, x.shape[2]):
        total = total + (x[:, :, i] - x[:, :, i - 1]).abs().sum()
    for j in range(1, x.shape[3]):
        total = total + torch.norm(x[..., j] - x[..., j - 1], p=1)
    return total


TV_NUMBERS = ("differences", "batch", "gradient")

VARIATION = Exercise(
    id="total_variation",
    topic="visualization",
    title="How much neighbors differ",
    reference=reference.total_variation,
    minutes=6,
    difficulty=1,
    properties=(
        Property(
            "differences",
            "the absolute differences of all vertical and horizontal neighbors of one image, summed",
            0.75,
            _one_image,
            examples=6,
        ),
        Property("batch", "one sum over all images and channels", 0.5, _image_batch, examples=6),
        Property(
            "gradient",
            "gradients flow back into the image",
            0.25,
            _image_batch,
            gradients(0),
            examples=4,
            tried="the gradient with respect to x",
        ),
        Property(
            "thin",
            "images of one row, one column or one pixel",
            0.25,
            _thin,
            _of_thin_ones,
            examples=3,
            tried="images of one column, of one row and of one pixel",
        ),
        Property(
            "kinds",
            "a scalar tensor of the dtype of x, and x is not changed",
            0.25,
            _tv_kinds,
            carries,
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "mean_of_differences",
            "You averaged the differences.",
            "Sum them. maximize_activation divides by the number of values itself.",
            (*TV_NUMBERS, "thin"),
            _tv_mean,
        ),
        Misconception(
            "divided_by_values",
            "You divided by the number of values.",
            "Sum only. maximize_activation divides by x.numel() itself.",
            (*TV_NUMBERS, "thin"),
            _tv_per_value,
        ),
        Misconception(
            "mean_over_images",
            "You divided by the number of images.",
            "One sum over everything, images too.",
            ("batch", "gradient", "thin"),
            _tv_per_image,
        ),
        Misconception(
            "one_number_an_image",
            "You returned one number for each image.",
            "One scalar: sum over the images too.",
            ("differences", "batch", "gradient", "thin", "kinds"),
            _tv_vector,
        ),
        Misconception(
            "squared",
            "You squared the differences: one sharp edge then costs more than a soft ramp of the same height.",
            "Take their absolute values, abs().",
            (*TV_NUMBERS, "thin"),
            _tv_squared,
        ),
        Misconception(
            "root_of_squares",
            "You took the root of the sum of squares.",
            "Take the absolute value of each difference, then sum.",
            (*TV_NUMBERS, "thin"),
            _tv_rooted,
        ),
        Misconception(
            "gradient_lengths",
            "You combined the vertical and the horizontal difference of a pixel into a length, √(dy² + dx²).",
            "Here they count separately: the sum of |dy| plus the sum of |dx|.",
            (*TV_NUMBERS, "thin"),
            _tv_lengths,
        ),
        Misconception(
            "signed",
            "You summed the differences with their signs: all but the borders cancel.",
            "abs() each difference first.",
            (*TV_NUMBERS, "thin"),
            _tv_signed,
        ),
        Misconception(
            "absolute_too_late",
            "You took the absolute value of the sums: inside them the differences have canceled already.",
            "First abs(), then sum().",
            (*TV_NUMBERS, "thin"),
            _tv_sum_first,
        ),
        Misconception(
            "horizontal_only",
            "You left the vertical neighbors out.",
            "Add (x[:, :, 1:] − x[:, :, :-1]).abs().sum().",
            (*TV_NUMBERS, "thin"),
            _tv_horizontal,
        ),
        Misconception(
            "vertical_only",
            "You left the horizontal neighbors out.",
            "Add (x[..., 1:] − x[..., :-1]).abs().sum().",
            (*TV_NUMBERS, "thin"),
            _tv_vertical,
        ),
        Misconception(
            "around_the_border",
            "You compared the last row with the first one, as roll does.",
            "Pixels at opposite borders are no neighbors: subtract slices, x[:, :, 1:] − x[:, :, :-1].",
            (*TV_NUMBERS, "thin"),
            _tv_around,
        ),
        Misconception(
            "channels_as_neighbors",
            "You took differences along the channel axis.",
            "Rows are axis 2 and columns axis 3 of (N, C, H, W).",
            (*TV_NUMBERS, "thin"),
            _tv_other_axes,
        ),
        Misconception(
            "channels_for_rows",
            "You took differences along the channel axis for the vertical ones.",
            "Rows are axis 2 of (N, C, H, W): x[:, :, 1:] − x[:, :, :-1].",
            (*TV_NUMBERS, "thin"),
            _tv_channels_for_rows,
        ),
        Misconception(
            "first_image_only",
            "You took the first image only.",
            "One sum over everything, all N images.",
            ("batch", "gradient", "thin"),
            _tv_first_image,
        ),
        Misconception(
            "mean_over_channels",
            "You divided by the number of channels.",
            "One sum over everything, channels too.",
            ("batch", "gradient", "thin"),
            _tv_channel_mean,
        ),
        Misconception(
            "every_axis",
            "You took differences along all four axes.",
            "Images and channels are no neighbors: rows, axis 2, and columns, axis 3, only.",
            ("batch", "gradient", "thin"),
            _tv_every_axis,
        ),
        Misconception(
            "counted_twice",
            "You counted each pair of neighbors twice.",
            "Each pair once: with the right one and the lower one, not with all four.",
            (*TV_NUMBERS, "thin"),
            _tv_both_ways,
        ),
        Misconception(
            "halved",
            "You took half: the mean of the two directions, or half of each pair.",
            "The sum of both, each pair of neighbors once.",
            (*TV_NUMBERS, "thin"),
            _tv_half,
        ),
        Misconception(
            "last_row_and_column_cut",
            "You cut both differences to the same size, and lost pairs in the last row and column.",
            "They need not have the same shape: sum each by itself.",
            (*TV_NUMBERS, "thin"),
            _tv_cut,
        ),
        Misconception(
            "diagonal",
            "You compared diagonal neighbors.",
            "Shift by one row, and separately by one column.",
            (*TV_NUMBERS, "thin"),
            _tv_diagonal,
        ),
        Misconception(
            "python_number",
            "You returned a Python number, through which no gradient flows.",
            "Leave item() and float() away.",
            ("differences", "batch", "gradient", "thin", "kinds"),
            _tv_number,
        ),
        Misconception(
            "gradient_cut",
            "No gradient flows back into x.",
            "Leave detach(), .data and torch.no_grad() away.",
            ("gradient",),
            _tv_cut_off,
        ),
    ),
    right=(
        Variant("slices", _variation),
        Variant("padded borders", _tv_pad),
        Variant("row by row", _tv_loop),
    ),
    hints=(
        Hint(
            "I don't see how to take all differences at once",
            "x[:, :, 1:] are all rows but the first, x[:, :, :-1] all but the last. What is their difference?",
        ),
        Hint(
            "The two differences don't have the same shape",
            "They need not: one has a row less, the other a column less. Sum each by itself, then add.",
        ),
        Hint(
            "My number is too small or too large",
            "abs() before sum(), no mean, each pair once: (x[:, :, 1:] − x[:, :, :-1]).abs().sum() plus the same along the last axis.",
        ),
    ),
)


# -- maximize_activation ------------------------------------------------------------------------------------

# Differences grow from step to step: what rounding, or a small number in the divisor, does to four steps must
# not show.
ASCENT = (1e-3, 1e-3)


def _network(
    d: Any,
    *,
    training: bool = False,
    dropout: bool = False,
    dtype: torch.dtype = torch.float64,
    gain: float = 1.0,
) -> Network:
    channels = d.integer(2, 3)
    layers = [
        nn.Conv2d(3, channels, 3),
        nn.BatchNorm2d(channels),
        nn.Tanh(),
        *([nn.Dropout(0.5)] if dropout else []),
        nn.Conv2d(channels, 2, 2),
    ]
    model = filled(d, nn.Sequential(*layers))
    with torch.no_grad():
        model[0].weight.mul_(gain)
        model[1].running_mean.copy_(d.tensor(channels))
        model[1].running_var.copy_(d.positive(channels))
    return Network.describe(model.to(dtype).train(training))


def _drawn(d: Any, **changes: Any) -> dict[str, Any]:
    size = (d.integer(5, 7), d.integer(5, 8))
    return {
        "model": changes.pop("model", None) or _network(d),
        "layer": changes.pop("layer", "0"),
        "channel": d.integer(0, 1),
        "shape": (changes.pop("images", None) or d.integer(2, 3), 3, *size),
        "steps": d.choice([2, 1, 3, 4]),
        "step_size": d.choice([1.0, 0.25]),
        "generator": d.generator(),
        **changes,
    }


def _start(d: Any) -> Case:
    return Case((), _drawn(d, steps=0, images=d.choice([1, 2])))


def _mean(d: Any) -> Case:
    layer = d.choice(["3", "0", "3", "3"])
    if layer == "0":
        return Case((), _drawn(d))
    # Far from linear, so that the gradients of the images of a batch differ in size.
    model = _network(d, gain=2.0)
    return Case((), _drawn(d, model=model, layer=layer, images=3, step_size=0.25, steps=d.choice([2, 1, 3])))


def _at_position(d: Any) -> Case:
    return Case((), _drawn(d, position=d.choice([(0, 1), (1, 0), (1, 2), (2, 0)]), images=d.choice([2, 1])))


def _with_l2(d: Any) -> Case:
    # Behind a linear layer alone, every second step would lead back to the noise, whatever l2 is.
    return Case((), _drawn(d, layer="3", l2=d.choice([5.0, 20.0]), step_size=1.0, steps=d.choice([3, 2, 4])))


def _with_tv(d: Any) -> Case:
    return Case((), _drawn(d, tv=d.choice([0.5, 2.0]), steps=d.integer(2, 4)))


def _in_training(d: Any) -> Case:
    model = _network(d, training=True, dropout=True, gain=2.0)
    return Case((), _drawn(d, model=model, layer="4", images=3, step_size=0.25, steps=d.choice([2, 1])))


def _linear(d: Any) -> Case:
    channels, classes = d.integer(2, 3), d.choice([3, 2])
    layers = [nn.Conv2d(3, channels, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = filled(d, nn.Sequential(*layers, nn.Linear(channels, classes)).double())
    with torch.no_grad():
        model[0].weight.mul_(0.6)
    # Small weights and few small steps, since a saturated tanh leaves next to no gradient.
    steps = d.choice([2, 1])
    return Case(
        (), _drawn(d, model=Network.describe(model), layer="4", images=3, step_size=0.25, steps=steps)
    )


def _in_place_behind(d: Any) -> Case:
    model = filled(d, nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(inplace=True)).double())
    with torch.no_grad():
        model[0].bias.fill_(-50.0 - d.integer(0, 9))  # behind the ReLU the unit is idle
    return Case((), _drawn(d, model=Network.describe(model), layer="0"))


def _dead(d: Any) -> Case:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.fill_(0.01)
        model[0].bias.fill_(-50.0 - d.integer(0, 9))
    kwargs = _drawn(d, model=Network.describe(model), layer="1")
    return Case((), kwargs, {"faint model": _faint(d, kwargs["shape"], kwargs["channel"])})


def _faint(d: Any, shape: tuple[int, ...], channel: int) -> Network:
    """A network whose gradient is small and not zero, as that of an untrained one may be. It is large beside the
    small numbers that keep a division by zero away."""
    model = filled(d, nn.Sequential(nn.Conv2d(3, 2, 3), nn.Identity()))
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, channel].mean(), x)
    with torch.no_grad():
        model[0].weight.mul_(1e-6 / gradient.square().mean().sqrt())
    return Network.describe(model)


def _where_zero(subject: Any, case: Case) -> dict[str, Any]:
    """The image without a gradient, and whether a small one moves it; how far is another property's business."""
    image = subject(**case.kwargs)
    faint = {**case.kwargs, "model": case.extra["faint model"]}
    before, after = (subject(**{**faint, "steps": steps}) for steps in (0, 1))
    tensors = isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)
    return {"the image": image, "a faint gradient moves it": tensors and not torch.equal(before, after)}


def _found(d: Any) -> Case:
    model = _network(d, training=True, dropout=True)
    # One module in another mode than the rest: neither train() nor eval() puts that back.
    model = replace(model, training=tuple(path for path in model.training if path != "3"))
    return Case((), _drawn(d, model=model, layer="4", steps=d.integer(1, 2)))


def _single(d: Any) -> Case:
    dtype = d.choice([torch.float64, torch.float32])
    return Case((), _drawn(d, model=_network(d, dtype=dtype), steps=1))


def _left(subject: Any, case: Case) -> Any:
    """What is different about the model afterwards; its image is another property's business."""
    described = Named("differentiated", {"network": case.kwargs["model"]})
    model = _with_hooks(subject, described, "", case.kwargs["layer"])
    # Some parameters are frozen and the rest are not: no one flag for all puts that back.
    model.do("get_submodule", "0").do("requires_grad_", False)
    before = model.inspect()
    subject(**{**case.kwargs, "model": model})
    after = model.inspect()
    return {
        "training flags": after["training"],
        "hooks": after["hooks"],
        "parameters with another grad": _listed(
            n for n, g in before["grads"].items() if not _same(g, after["grads"].get(n))
        ),
        "parameters that require a grad": _listed(n for n, flag in after["requires_grad"].items() if flag),
        "changed tensors": _listed(changed_tensors(before, after)),
    }


def _same(before: torch.Tensor | None, after: torch.Tensor | None) -> bool:
    if before is None or after is None:
        return before is after
    return torch.equal(before, after)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _kinds(subject: Any, case: Case) -> Any:
    return described(subject(**case.kwargs))


class _Ascent:
    """Gradient ascent with a switch for each of its mistakes."""

    def __init__(self, **mistakes: Any):
        self.mistakes = mistakes

    def __call__(
        self, model, layer, channel, position=None, shape=(1, 3, 64, 64), steps=64, step_size=1.0, l2=0.0, tv=0.0,
        generator=None,
    ):  # fmt: skip
        wrong = self.mistakes
        p = next(model.parameters())
        kind = {"dtype": p.dtype} if wrong.get("drawn_in_model_dtype") else {}
        own = None if wrong.get("generator_ignored") else generator
        x = torch.randn(shape, generator=own, **kind) * (1.0 if wrong.get("unit_noise") else 0.1)
        x = x.to(p.device) if wrong.get("dtype_kept") else x.to(p)
        flags = {m: m.training for m in model.modules()}
        if not wrong.get("training_mode"):
            model.eval()
        kept = {}
        hook = dict(model.named_modules())[layer].register_forward_hook(
            lambda m, i, o: kept.update(
                out=o if wrong.get("overwritten") else o.detach().clone() if wrong.get("cut") else o.clone()
            )
        )
        l2 = 0.0 if wrong.get("l2_ignored") else -l2 if wrong.get("l2_added") else l2
        tv = 0.0 if wrong.get("tv_ignored") else -tv if wrong.get("tv_added") else tv
        position = None if wrong.get("position_ignored") else position
        past = 0.0
        for _ in range(steps):
            x = x.detach().requires_grad_()
            model(x.to(p.dtype))
            unit = kept["out"][:1, channel] if wrong.get("one_image") else kept["out"][:, channel]
            unit = kept["out"][:, channel, :, :] if wrong.get("maps_only") else unit
            value = unit.sum() if wrong.get("summed") else unit.mean()
            if position is not None:
                row, col = position if not wrong.get("x_before_y") else position[::-1]
                value = unit[:, row, col].mean()
            decay = (x**2).sum() if wrong.get("l2_summed") else (x**2).mean()
            variation = _variation(x) / (1 if wrong.get("tv_summed") else x.numel())
            penalty = l2 * decay + tv * variation
            goal = value + penalty if wrong.get("penalty_added") else value - penalty
            goal = value if wrong.get("cut") == "outright" else goal
            if wrong.get("backward"):
                goal.backward()
                g = x.grad
            else:
                (g,) = torch.autograd.grad(goal, x)
            if wrong.get("accumulated"):
                g = past = past + g
            norm = g.norm() if wrong.get("whole_norm") else (g**2).mean().sqrt() + wrong.get("small", 0)
            if wrong.get("raw_gradient"):
                norm = torch.ones(())
            if wrong.get("mean_absolute"):
                norm = g.abs().mean()
            if wrong.get("per_image"):
                norm = (g**2).mean((1, 2, 3), keepdim=True).sqrt()
            x = x.detach()
            if bool((norm > wrong.get("least", 0)).any()) or wrong.get("zero_divides"):
                step = step_size * g / norm
                x = x - step if wrong.get("descends") else x + step
        if not wrong.get("hook_left"):
            hook.remove()
        if not wrong.get("mode_left"):
            for m, flag in flags.items():
                m.training = flag
        if wrong.get("modes_flattened"):
            model.train(flags[model])
        if wrong.get("all_hooks_removed"):
            for m in model.modules():
                m._forward_hooks.clear()
        if wrong.get("backward") == "wiped":
            model.zero_grad()
        if "requires_grad" in wrong:
            model.requires_grad_(wrong["requires_grad"])
        return x.detach()


def _answer(**mistakes: Any) -> Any:
    ascent = _Ascent(**mistakes)

    def maximize_activation(
        model, layer, channel, position=None, shape=(1, 3, 64, 64), steps=64, step_size=1.0, l2=0.0, tv=0.0,
        generator=None,
    ):  # fmt: skip
        return ascent(model, layer, channel, position, shape, steps, step_size, l2, tv, generator)

    return maximize_activation


def _cut_off(
    model,
    layer,
    channel,
    position=None,
    shape=(1, 3, 64, 64),
    steps=64,
    step_size=1.0,
    l2=0.0,
    tv=0.0,
    generator=None,
):
    """Runs the layers of a Sequential up to the one that is asked for, on a frozen copy."""
    import copy

    twin = copy.deepcopy(model).eval()
    kind = next(twin.parameters())
    upto = twin[: int(layer) + 1]
    noise = torch.randn(*shape, generator=generator).mul(0.1)
    image = nn.Parameter(noise.to(device=kind.device, dtype=kind.dtype))
    for _ in range(steps):
        image.grad = None
        maps = upto(image)
        goal = (
            maps[:, channel].mean() if position is None else maps[:, channel, position[0], position[1]].mean()
        )
        down, right = image.diff(dim=-2).abs().sum(), image.diff(dim=-1).abs().sum()
        goal = goal - l2 * image.square().mean() - tv * (down + right) / image.numel()
        goal.backward()
        with torch.no_grad():
            size = image.grad.square().mean().sqrt()
            if size != 0:
                image += step_size * image.grad / size
    return image.detach()


ASCENDING = ("ascent", "linear", "in_place", "position", "l2", "tv", "eval_mode")

MAXIMIZE = Exercise(
    id="maximize_activation",
    topic="visualization",
    title="The image a unit likes best",
    reference=reference.maximize_activation,
    minutes=40,
    difficulty=4,
    properties=(
        Property(
            "start",
            "steps=0 returns the noise it starts from, 0.1·N(0, 1) from the generator",
            0.5,
            _start,
            examples=4,
        ),
        Property(
            "ascent",
            "each step adds step_size times the gradient over its root mean square, one for the whole batch",
            0.75,
            _mean,
            tolerance=ASCENT,
            examples=6,
        ),
        Property(
            "linear",
            "layer may be a linear one, with one value an image: (N, K)",
            0.25,
            _linear,
            tolerance=ASCENT,
            examples=4,
        ),
        Property(
            "in_place",
            "an in-place layer behind it changes nothing",
            0.25,
            _in_place_behind,
            tolerance=ASCENT,
            examples=3,
        ),
        Property(
            "position",
            "position=(row, column) maximizes one unit of the map",
            0.5,
            _at_position,
            tolerance=ASCENT,
            examples=4,
        ),
        Property(
            "l2",
            "l2 takes the mean square of the image off the objective",
            0.5,
            _with_l2,
            tolerance=ASCENT,
            examples=4,
        ),
        Property(
            "tv",
            "tv takes the total variation per value off the objective",
            0.5,
            _with_tv,
            tolerance=ASCENT,
            examples=4,
        ),
        Property(
            "eval_mode",
            "the model runs in eval mode, also when it is handed over in training mode",
            0.5,
            _in_training,
            tolerance=ASCENT,
            examples=4,
        ),
        Property(
            "zero_gradient",
            "where the gradient is zero the image stays as it is; where it is merely small the image moves",
            0.25,
            _dead,
            _where_zero,
            examples=3,
            tried="the image of a model without gradient, and whether the one of a model with a small gradient moves",
        ),
        Property(
            "as_found",
            "the model's modes, its hooks, its parameters, their grads and which of them need one are left as found",
            0.75,
            _found,
            _left,
            examples=4,
            tried="the model looked at before and after",
        ),
        Property(
            "kinds",
            "the image has the shape asked for and the model's dtype",
            0.25,
            _single,
            _kinds,
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "descends",
            "You went down the gradient.",
            "To maximize, add the step: x + step_size·g / rms(g).",
            ASCENDING,
            _answer(descends=True),
        ),
        Misconception(
            "raw_gradient",
            "You stepped along the raw gradient, whose size differs by orders of magnitude between layers.",
            "Divide it by its root mean square, (g**2).mean().sqrt().",
            ASCENDING,
            _answer(raw_gradient=True),
        ),
        Misconception(
            "whole_norm",
            "You divided by the gradient's norm, so larger images take smaller steps per pixel.",
            "Divide by the root of the mean of its squares, not of their sum.",
            ASCENDING,
            _answer(whole_norm=True),
        ),
        Misconception(
            "mean_absolute",
            "You divided by the mean of the gradient's absolute values.",
            "Divide by its root mean square, (g**2).mean().sqrt().",
            ASCENDING,
            _answer(mean_absolute=True),
        ),
        Misconception(
            "per_image",
            "You gave each image of the batch a root mean square of its own.",
            "One for all: (g**2).mean().sqrt() over all entries of g, the N images together.",
            ("ascent", "linear", "l2", "tv", "eval_mode"),
            _answer(per_image=True),
        ),
        Misconception(
            "gradient_cut",
            "You detached the layer's output, so that no gradient reaches the image.",
            "Keep output.clone() without detach(), and no torch.no_grad(). capture_activations detaches: write a hook here.",
            (*ASCENDING, "zero_gradient"),
            _answer(cut=True),
        ),
        Misconception(
            "gradient_cut_outright",
            "The objective has no graph: the layer's output was detached, or the model ran without gradients.",
            "Keep output.clone() without detach(), and no torch.no_grad(). capture_activations detaches: write a hook here.",
            (*ASCENDING, "zero_gradient", "as_found", "kinds"),
            _answer(cut="outright"),
        ),
        Misconception(
            "gradients_accumulate",
            "backward() adds to x.grad, and you never emptied it: each step goes along the sum of all gradients so far.",
            "Set x.grad = None before each step, or ask for torch.autograd.grad(objective, x).",
            ("ascent", "linear", "l2", "tv", "eval_mode"),
            _answer(accumulated=True),
        ),
        Misconception(
            "one_image",
            "You took the activation of the first image only.",
            "The mean over all images of the batch: output[:, channel].mean().",
            ASCENDING,
            _answer(one_image=True),
        ),
        Misconception(
            "generator_ignored",
            "You drew the starting noise without the generator.",
            "torch.randn(shape, generator=generator).",
            ("start", *ASCENDING, "zero_gradient"),
            _answer(generator_ignored=True),
        ),
        Misconception(
            "unit_noise",
            "You started from N(0, 1).",
            "Multiply the noise by 0.1.",
            ("start", *ASCENDING, "zero_gradient"),
            _answer(unit_noise=True),
        ),
        Misconception(
            "training_mode",
            "You ran the model in training mode: dropout and batch statistics moved the target.",
            "Call model.eval() first, and put the modes back at the end.",
            ("eval_mode", "as_found"),
            _answer(training_mode=True),
        ),
        Misconception(
            "x_before_y",
            "You read position as (x, y).",
            "It is (row, column): unit[:, row, column].",
            ("position",),
            _answer(x_before_y=True),
        ),
        Misconception(
            "overwritten",
            "You kept the layer's own output, and the in-place ReLU behind it wrote over it.",
            "Keep a copy: output.clone(), without detach(), since the gradient has to flow through it.",
            ("in_place",),
            _answer(overwritten=True),
        ),
        Misconception(
            "maps_only",
            "An index in your code does not fit. A linear layer's output, for one, has no rows and columns.",
            "output[:, channel] fits both: (N, h, w) of a map, (N,) of a linear layer.",
            ("linear",),
            _answer(maps_only=True),
        ),
        Misconception(
            "penalty_added",
            "You added the penalties to the objective.",
            "They are subtracted: value − l2·mean(x²) − tv·TV/numel.",
            ("l2", "tv"),
            _answer(penalty_added=True),
        ),
        Misconception(
            "l2_added",
            "You added the l2 penalty to the objective.",
            "It is subtracted: value − l2·mean(x²) − tv·TV/numel.",
            ("l2",),
            _answer(l2_added=True),
        ),
        Misconception(
            "tv_added",
            "You added the tv penalty to the objective.",
            "It is subtracted: value − l2·mean(x²) − tv·TV/numel.",
            ("tv",),
            _answer(tv_added=True),
        ),
        Misconception(
            "l2_ignored",
            "You left the l2 penalty out.",
            "Subtract l2 · mean(x²) from the objective, before you take the gradient.",
            ("l2",),
            _answer(l2_ignored=True),
        ),
        Misconception(
            "tv_ignored",
            "You left the tv penalty out.",
            "Subtract tv · total_variation(x) / x.numel() from the objective, before you take the gradient.",
            ("tv",),
            _answer(tv_ignored=True),
        ),
        Misconception(
            "position_ignored",
            "You left position out, and took the mean of the whole map.",
            "Where position is given, the objective is unit[:, row, column].mean().",
            ("position",),
            _answer(position_ignored=True),
        ),
        Misconception(
            "l2_summed",
            "Your l2 term sums the squares of the image.",
            "It is their mean, so that it does not grow with the image.",
            ("l2",),
            _answer(l2_summed=True),
        ),
        Misconception(
            "tv_summed",
            "Your tv term is the whole total variation.",
            "Divide it by x.numel(), so that it does not grow with the image.",
            ("tv",),
            _answer(tv_summed=True),
        ),
        Misconception(
            "zero_divides",
            "You divided by a gradient of size zero.",
            "Where the gradient is zero take no step.",
            ("zero_gradient",),
            _answer(zero_divides=True),
        ),
        Misconception(
            "small_is_zero",
            "You took no step where the gradient is merely small.",
            "Only a gradient of zero is none: rms > 0. The step has the same size, however small the gradient is.",
            ("zero_gradient",),
            _answer(least=2e-6),
        ),
        Misconception(
            "frozen_left",
            "You froze the model's parameters, and left them so.",
            "Freeze nothing: torch.autograd.grad(objective, x) leaves the parameters alone.",
            ("as_found",),
            _answer(requires_grad=False),
        ),
        Misconception(
            "thawed",
            "You set requires_grad for all parameters at the end, also for those that were frozen before.",
            "Freeze nothing: torch.autograd.grad(objective, x) leaves the parameters alone. Or remember each one's flag.",
            ("as_found",),
            _answer(requires_grad=True),
        ),
        Misconception(
            "all_hooks_removed",
            "You removed all forward hooks of the model, also those that were there before.",
            "Remove only your own: handle.remove() for the handle that register_forward_hook returned.",
            ("as_found",),
            _answer(all_hooks_removed=True),
        ),
        Misconception(
            "modes_flattened",
            "You put one mode back for the whole network; a frozen batch norm, for one, keeps its own.",
            "Remember module.training for each of model.modules(), and put each one back.",
            ("as_found",),
            _answer(modes_flattened=True),
        ),
        Misconception(
            "grads_left",
            "Your backward() left gradients in the model's parameters.",
            "Ask for the image's gradient only: torch.autograd.grad(objective, x).",
            ("as_found",),
            _answer(backward="left"),
        ),
        Misconception(
            "grads_wiped",
            "You wiped the gradients that the parameters held before you came.",
            "Ask for the image's gradient only: torch.autograd.grad(objective, x). Then there is nothing to wipe.",
            ("as_found",),
            _answer(backward="wiped"),
        ),
        Misconception(
            "hook_left",
            "Your forward hook is still on the model.",
            "Call handle.remove() when you are done, in a finally block.",
            ("as_found",),
            _answer(hook_left=True),
        ),
        Misconception(
            "mode_left",
            "You left the model in eval mode.",
            "Remember each module's training flag and put it back.",
            ("as_found",),
            _answer(mode_left=True),
        ),
        Misconception(
            "dtype_kept",
            "Your image stays float32 whatever the model's dtype is.",
            "Draw in float32, then move the noise to the model's dtype and device.",
            ("start", *ASCENDING, "zero_gradient", "kinds"),
            _answer(dtype_kept=True),
        ),
        Misconception(
            "drawn_in_model_dtype",
            "You drew the noise in the model's dtype; other numbers come out of the same generator.",
            "Draw in float32 first, then convert.",
            ("start", *ASCENDING, "zero_gradient"),
            _answer(drawn_in_model_dtype=True),
        ),
    ),
    right=(
        Variant("hooks and autograd.grad", _answer()),
        Variant("a small number in the divisor", _answer(small=1e-8)),
        Variant("a frozen copy, cut off at the layer", _cut_off),
    ),
    hints=(
        Hint(
            "I can't get at the activation",
            "A forward hook on dict(model.named_modules())[layer] catches it; which tensor needs the gradient?",
        ),
        Hint(
            "My image drifts away from the expected one",
            "The gradient is divided by its root mean square, and the noise is drawn in float32.",
        ),
        Hint(
            "I don't know how to put it together",
            "Remember every training flag, then model.eval(). A forward hook keeps output.clone(), inside the hook: behind it an in-place layer writes over the output. Loop: x.requires_grad_(); model(x); objective = mean of channel of what the hook kept, minus l2·(x²).mean(), minus tv·total_variation(x)/x.numel(); (g,) = torch.autograd.grad(objective, x); rms = (g**2).mean().sqrt(); x = x.detach() + step_size·g/rms if rms > 0. In a finally: remove the hook, put every training flag back.",
        ),
    ),
)

EXERCISES = (GRID, CAPTURE, VARIATION, MAXIMIZE, FIELD, PATCHES)
