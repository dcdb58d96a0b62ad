"""The exercise capture_activations of lecture 03: looking inside while it runs."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autograder.attempt import Raised, Subject
from autograder.catalog.observations import draw_statistics, filled
from autograder.catalog.visualization.draws import with_hooks
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from autograder.values import Named, Network
from coursekit import visualization as reference


def _nested(d: Draw, *, training: bool = False, inplace: bool = False, broken: bool = False) -> Network:
    """Blocks inside a Sequential, so that paths have dots."""
    k = d.choice([2, 3])
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(2, k, 2), nn.BatchNorm2d(k), nn.ReLU(inplace)),
        nn.Sequential(nn.Conv2d(k, 3, 2), nn.LeakyReLU(0.1, inplace)),
        nn.Conv2d(5 if broken else 3, 2, 1),
    )
    model = filled(d, model, scale=0.5)
    draw_statistics(d, model)
    return Network.describe(model.train(training))


def _images(d: Draw) -> torch.Tensor:
    return d.layout(d.tensor(d.choice([2, 1, 3]), 2, d.choice([4, 3, 5]), d.choice([5, 4, 6])))


def _by_path(d: Draw) -> Case:
    layers = d.choice([["0.0", "1.0"], ["2", "0", "1.1"], ["0.2", "2"], ["1", "0.1"]])
    return Case((_nested(d), _images(d), layers))


def _in_place(d: Draw) -> Case:
    return Case((_nested(d, inplace=True), _images(d), [d.choice(["1.0", "0.1"])]))


def _called_twice(d: Draw) -> Case:
    c, kernel = d.choice([2, 1, 3]), d.choice([2, 1])
    layers = {"inner": nn.Conv2d(c, c, kernel), "last": nn.Conv2d(c, 2, 1)}
    model = Named("twice", {name: Network.describe(filled(d, net)) for name, net in layers.items()})
    return Case((model, d.tensor(d.choice([2, 1]), c, 4, d.choice([5, 4])), ["inner"]))


def _running(d: Draw) -> Case:
    return Case((_nested(d, training=True), _images(d), d.choice([["0.2", "2"], ["0.1", "1.0"]])))


def _ran_once(subject: Subject, case: Case) -> Any:
    """The activations, and what a batch norm in training mode counted. An answer may run a copy: then it is none."""
    model = subject.build(case.args[0])
    found = subject(model, *case.args[1:])
    if not isinstance(found, dict):
        return found
    runs = int(model.inspect()["buffers"]["0.1.num_batches_tracked"])
    return {"activations": found, "the network ran more than once": runs > 1}


def _unknown(d: Draw) -> Case:
    return Case((_nested(d), _images(d), d.choice([["0.7"], ["2", "conv1"], ["3"]])))


def _capture_found(d: Draw, *, broken: bool = False) -> Case:
    model = _nested(d, training=True, broken=broken)
    # One module in another mode than the rest: neither train() nor eval() puts that back.
    model = replace(model, training=tuple(path for path in model.training if path != "0.1"))
    extra = {"the network raises": True} if broken else {}
    return Case((model, _images(d), d.choice([["0.0"], ["1", "0.2"]])), {}, extra)


def _left_behind(subject: Subject, case: Case) -> Any:
    """Modes and hooks afterwards, also where the network raised its error."""
    model = with_hooks(subject, case.args[0], "", "0.0")
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


def _graph(subject: Subject, case: Case) -> Any:
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
    found = {}
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


def _capture_with(**mistakes: Any) -> Callable[..., Any]:
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

EXERCISE = Exercise(
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
