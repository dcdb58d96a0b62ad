"""The exercise capture_activations of lecture 03: looking inside while it runs."""

import contextlib
import copy
import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from autograder.attempt import Raised, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import as_double, described, draw_statistics, filled
from autograder.catalog.visualization.draws import with_hooks
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
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
    h, w = d.each([(d.choice([4, 3, 5]), d.choice([5, 4, 6])), (4, 12)])
    return d.layout(d.tensor(d.choice([2, 1, 3]), 2, h, w))


def _by_path(d: Draw) -> Case:
    layers = d.choice([["0.0", "1.0"], ["2", "0", "1.1"], ["0.2", "2"], ["1", "0.1"]])
    return Case((_nested(d), _images(d), layers))


def _in_place(d: Draw) -> Case:
    return Case((_nested(d, inplace=True), _images(d), [d.choice(["1.0", "0.1"])]))


def _called_twice(d: Draw) -> Case:
    c, kernel = d.choice([2, 1, 3]), d.choice([2, 1])
    x = d.tensor(d.choice([2, 1]), c, 4, d.choice([5, 6]))
    layers = {"inner": nn.Conv2d(c, c, kernel), "last": nn.Conv2d(c, 2, 1)}
    if d.each([False, True]):
        model = Network.describe(filled(d, nn.Sequential(nn.Conv2d(c, c, kernel), nn.Tanh())))
        return Case((model, x, ["0"]), {}, {"second_path": "2"})
    named = Named("twice", {name: Network.describe(filled(d, net)) for name, net in layers.items()})
    return Case((named, x, ["inner"]))


def _activations(subject: Subject, case: Case) -> Any:
    return _plain(subject(*case.args), case.args[2])


def _last_call(subject: Subject, case: Case) -> Any:
    if "second_path" not in case.extra:
        return _activations(subject, case)
    model = subject.build(case.args[0])
    model.do("add_module", case.extra["second_path"], model.do("get_submodule", "0"))
    return _plain(subject(model, *case.args[1:]), case.args[2])


def _plain(found: Any, layers: list[str]) -> Any:
    """Activations of these layers as float64 tensors: of which kind and dtype they are, and which others
    there are, is another property's business."""
    if not isinstance(found, dict):
        return found
    asked = {k: v for k, v in found.items() if k in layers}
    return {k: as_double(torch.from_numpy(v) if isinstance(v, np.ndarray) else v) for k, v in asked.items()}


def _running(d: Draw) -> Case:
    every = _nested(d, training=True)
    # All in training mode; the batch norm frozen; the batch norm alone in training mode. Then no layers.
    training, layers = d.each(
        [
            (every.training, ["0.2", "2"]),
            (tuple(path for path in every.training if path != "0.1"), ["0.1", "1.0"]),
            (("0.1",), ["0.2"]),
            (every.training, []),
        ]
    )
    return Case((replace(every, training=training), _images(d), layers))


def _ran_once(subject: Subject, case: Case) -> Any:
    """The activations, and what a batch norm in training mode counted: nothing if an answer runs a copy."""
    model = subject.build(case.args[0])
    found = subject(model, *case.args[1:])
    if not isinstance(found, dict):
        return found
    runs = int(model.inspect("buffers")["buffers"]["0.1.num_batches_tracked"])
    return {"activations": _plain(found, case.args[2]), "the network ran more than once": runs > 1}


def _unknown(d: Draw) -> Case:
    return Case((_nested(d), _images(d), d.choice([["0.7"], ["2", "conv1"], ["3"], ["0.0.weight"]])))


def _capture_found(d: Draw, *, broken: bool = False) -> Case:
    model = _nested(d, training=True, broken=broken)
    # One module in another mode than the rest: neither train() nor eval() puts that back.
    model = replace(model, training=tuple(path for path in model.training if path != "0.1"))
    extra = {"the network raises": True} if broken else {}
    return Case((model, _images(d), d.choice([["0.0"], ["1", "0.2"]])), {}, extra)


LEFT = {"training flags": "training", "hooks": "hooks", "requires_grad": "requires_grad"}


def _left_behind(subject: Subject, case: Case) -> Any:
    """Modes and hooks afterwards, also where the network raised its error."""
    model = with_hooks(subject, case.args[0], "", "0.0")
    broken = bool(case.extra.get("the network raises"))
    seen: dict[str, Any] = {"the network's error": "raised"} if broken else {}
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
    seen |= {part: after[name] for part, name in LEFT.items()}
    seen["gradients in parameters"] = any(grad is not None for grad in after["grads"].values())
    if broken:
        refusing = subject.build(case.args[0])
        # Which error it is, or that there is none, is another property's business.
        with contextlib.suppress(Raised):
            subject(refusing, case.args[1], [*case.args[2], "0.7"])
        seen["hooks after an unknown path"] = refusing.inspect()["hooks"]
    return seen


def _graph(subject: Subject, case: Case) -> Any:
    """Whether gradients can flow from the activations to the network's parameters; their kinds and layers."""
    model = subject.build(case.args[0])
    seen = subject.vjp(model, *case.args[1:], wrt=[model])
    found = seen["value"]
    if not isinstance(found, dict):
        return found
    connected = any(g is not None for g in seen["grads"].values())
    kinds = sorted({described(v).partition(" (")[0] for v in found.values()})
    return {
        "graph": "connected" if connected else "detached",
        "activations": ", ".join(kinds) or "none",
        "layers not asked for": sorted(str(k) for k in found if k not in case.args[2]),
    }


CLAIMS = Exercise(
    id="capture_activations",
    topic="visualization",
    title="Looking inside while it runs",
    reference=reference.capture_activations,
    minutes=25,
    difficulty=3,
    properties=claims(
        """
        values (1): the output of each layer asked for, under its path in the network
        in_place (0.75): a layer further on that works in place does not change what was captured
        twice (0.5): a layer that is called twice gives the output of its last call
        tried: networks whose forward calls a layer twice, and networks in which layer "0" stands at
          second_path, too
        mode (0.5): the network runs once, each of its modules in the mode it is in
        tried: the activations, and how many batches the network's batch norm counted
        as_found (0.5): training flags and hooks are left as they were found
        tried: the network after the call
        after_error (0.25): training flags and hooks are left so also where the network raises an error or a
          path is refused
        tried: the network after a call in which its last layer raised an error, and after one with an unknown
          path
        detached (0.25): the activations are tensors of the network's dtype without a graph, of the layers
          asked for and no others
        tried: the gradient of the activations with respect to the network's parameters
        refused (0.25): an unknown path is a ValueError
        """,
        values=on(_by_path, _activations, examples=6),
        in_place=on(_in_place, _activations, examples=4),
        twice=on(_called_twice, _last_call, examples=4),
        mode=on(_running, _ran_once, examples=4),
        as_found=on(_capture_found, _left_behind, examples=4, beside="values"),
        after_error=on(lambda d: _capture_found(d, broken=True), _left_behind, examples=4, beside="values"),
        detached=on(_by_path, _graph, examples=3, beside="values"),
        refused=on(_unknown, examples=4, beside="values"),
    ),
    hints=hints("""
        I can't get at a layer in the middle
        dict(model.named_modules()) has every layer under its path. register_forward_hook(f) on one of them
          calls f(module, inputs, output) whenever it runs.

        All layers hold the same tensor, or only one is there
        A function that is made in a loop sees the loop variable as it is at the end. Give it the path as a
          default argument, and copy the output: the next layer may write over it.

        I don't know how to put it together
        First a ValueError for unknown paths. Then handles = []; for each path a hook that does captured[path]
          = output.detach().clone(). try: with torch.no_grad(): model(x). finally: handle.remove() for each
          handle. No train() and no eval().
        """),
)

answers = Answers(CLAIMS)


@answers.right
def hooked(model, x, layers):
    """hooks, and a finally"""
    modules = dict(model.named_modules())
    unknown = [layer for layer in layers if layer not in modules]
    if unknown:
        raise ValueError(f"layers: there is no {unknown[0]!r} in the network")
    captured, handles = {}, []
    for layer in layers:

        def hook(module, inputs, output, layer=layer):
            captured[layer] = output.detach().clone()

        handles.append(modules[layer].register_forward_hook(hook))
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return captured


answers.edits("""
no_copy: in_place
- output.detach().clone()
+ output.detach()
You kept the layer's own output, and the in-place ReLU behind it wrote over it.
Copy it inside the hook: output.detach().clone(). detach() alone shares the memory.

graph_kept: detached
- output.detach().clone()
+ output.clone()
Your activations still hang on the graph, and keep all of its memory alive.
Run the network under torch.no_grad(), or detach() what you keep.

late_closure: values mode
- hook(module, inputs, output, layer=layer)
+ hook(module, inputs, output)
All your hooks write under the same name: a function made in a loop sees the loop variable's last value.
Bind the name when the hook is made: a default argument, def hook(module, inputs, output, name=name), or a
  function that makes the hook.

late_closure_over_modules: values in_place twice mode detached
- for layer in layers:
+ for layer in modules:
+     if layer not in layers:
+         continue
- hook(module, inputs, output, layer=layer)
+ hook(module, inputs, output)
All your hooks write under the name of the network's last module: a function made in a loop sees the loop
  variable's last value.
Bind the name when the hook is made: a default argument, def hook(module, inputs, output, name=name), or a
  function that makes the hook.

top_level_only: all but twice refused
- model.named_modules()
+ model.named_children()
You looked for layers among the children of the network; those inside a block were not found.
model.named_modules() lists all of them, with paths like "0.1".

inputs_captured: values in_place twice mode
- output.detach().clone()
+ inputs[0].detach().clone()
You kept what goes into the layer.
A forward hook gets (module, inputs, output): keep the third.

first_call: twice
- captured[layer] = output.detach().clone()
+ if layer not in captured:
+     captured[layer] = output.detach().clone()
You kept the first call of a layer that is called twice.
Let a later call write over an earlier one.

every_call: values in_place twice mode detached
- captured[layer] = output.detach().clone()
+ captured.setdefault(layer, []).append(output.detach().clone())
You collected all calls of a layer in a list.
One tensor a layer: assign to captured[name], and the last call stays.

removed_too_early: values in_place twice mode detached
- try:
-     model(x)
- finally:
-     for handle in handles:
-         handle.remove()
+ for handle in handles:
+     handle.remove()
+ model(x)
You removed the hooks before the network ran, so nothing was captured.
First register all hooks, then model(x), then remove them, in a finally block.

run_several_times: mode
- model(x)
+ for _ in layers:
+     model(x)
You ran the network more than once: in training mode each run moves its running averages.
Register the hooks of all layers first, then call model(x) once.

all_hooks_removed: as_found
- model(x)
+ model(x)
+ for module in model.modules():
+     module._forward_hooks.clear()
You removed all forward hooks of the network, also those that were there before.
Remove only your own: handle.remove() for each handle that register_forward_hook returned.

hooks_of_its_layers_cleared: as_found after_error
- for handle in handles:
-     handle.remove()
+ for layer in layers:
+     modules[layer]._forward_hooks.clear()
You took all forward hooks off the layers asked for, also those that were on them before.
Remove only your own: handle.remove() for each handle that register_forward_hook returned.

switched_to_eval: mode
- try:
+ modes = {module: module.training for module in model.modules()}
+ model.eval()
+ try:
- for handle in handles:
+ for module, mode in modes.items():
+     module.training = mode
+ for handle in handles:
You switched the network to eval mode: its batch norm and dropout did something else than asked for.
Leave the mode alone here. The caller decides.

left_in_eval_mode: mode as_found after_error
- model(x)
+ model.eval()
+ model(x)
You called model.eval() and left it there: the next training step is another one.
Leave the mode alone here. The caller decides.

hooks_left: as_found after_error
- handles.append(modules[layer].register_forward_hook(hook))
+ modules[layer].register_forward_hook(hook)
Your hooks are still on the network, and will run at every later call.
Keep the handles that register_forward_hook returns, and call handle.remove() on each in a finally block.

train_afterwards: mode as_found after_error
- model(x)
+ model.eval()
+ model(x)
- for handle in handles:
+ model.train()
+ for handle in handles:
You switched the network to eval mode and gave all modules one mode afterwards; each has its own flag.
Leave the mode alone here. The caller decides.

mode_and_hooks_left: mode as_found after_error
- handles.append(modules[layer].register_forward_hook(hook))
+ modules[layer].register_forward_hook(hook)
- model(x)
+ model.eval()
+ model(x)
You left the network in eval mode, and your hooks on it.
Leave the mode alone here, and remove the hooks in a finally block: handle.remove() for each handle.

hooks_left_after_an_error: after_error
- try:
-     model(x)
- finally:
-     for handle in handles:
-         handle.remove()
+ model(x)
+ for handle in handles:
+     handle.remove()
Your hooks stay on the network where its forward raises.
Remove them in a finally block: try: model(x) finally: for handle in handles: handle.remove().

refused_too_late: after_error
- unknown = [layer for layer in layers if layer not in modules]
- if unknown:
-     raise ValueError(f"layers: there is no {unknown[0]!r} in the network")
...
- for layer in layers:
+ for layer in layers:
+     if layer not in modules:
+         raise ValueError(f"layers: there is no {layer!r} in the network")
You refused an unknown path when hooks were on the layers before it, and left them there.
Look at all paths before you register the first hook, or register them inside the try block.

unknown_ignored: refused
- raise ValueError(f"layers: there is no {unknown[0]!r} in the network")
+ layers = [layer for layer in layers if layer in modules]
You passed over a path that is not in the network; the reader finds out later, or never.
raise ValueError with the path in its message.

bare_key_error: refused
- if layer not in modules]
+ if modules[layer] is None]
An unknown path let a dictionary raise its KeyError.
Look first: if path not in modules: raise ValueError(…).

bare_attribute_error: refused
- if layer not in modules]
+ if model.get_submodule(layer) is None]
An unknown path let get_submodule or getattr raise its AttributeError.
Look first: if path not in dict(model.named_modules()): raise ValueError(…). Or catch it, and raise yours.

every_layer: detached
- for layer in layers:
+ for layer in modules:
You captured layers that nobody asked for.
Register a hook on each of `layers` alone.

always_float32: detached
- output.detach().clone()
+ output.detach().clone().float()
You turned the activations into float32.
Keep the dtype that the layer gives.

numpy_arrays: detached
- output.detach().clone()
+ output.detach().clone().numpy()
You returned numpy arrays.
Keep tensors: their device and dtype carry on.

a_list: all but after_error refused
- return captured
+ return list(captured.values())
You returned a list.
A dictionary, the layer's path as its key.

first_image_only: values in_place twice mode
- output.detach().clone()
+ output[0].detach().clone()
You kept the first image of the batch.
The whole output, (N, K, h, w).
""")


@answers.wrong("after_error")
def hooks_left_after_any_error(model, x, layers):
    """Your hooks stay on the network where its forward raises, and where a path is refused.

    Look at all paths first; then try: model(x) finally: for handle in handles: handle.remove().
    """
    modules = dict(model.named_modules())
    captured, handles = {}, []
    for layer in layers:
        if layer not in modules:
            raise ValueError(f"layers: there is no {layer!r} in the network")

        def hook(module, inputs, output, layer=layer):
            captured[layer] = output.detach().clone()

        handles.append(modules[layer].register_forward_hook(hook))
    model(x)
    for handle in handles:
        handle.remove()
    return captured


@answers.wrong("values in_place twice mode detached")
def children_in_turn(model, x, layers):
    """You ran the children one after another, which misses nested layers and any forward that does something
    else.

    Run the network itself, model(x), and let forward hooks on dict(model.named_modules())[path] catch the
    outputs.
    """
    if any(layer not in dict(model.named_modules()) for layer in layers):
        raise ValueError("layers holds an unknown path")
    found = {}
    with torch.no_grad():
        for name, child in model.named_children():
            x = child(x)
            if name in layers:
                found[name] = x.clone()
    return found


@answers.right
def on_a_copy(model, x, layers):
    """a copy of the network"""
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


@answers.right
def stacked(model, x, layers):
    """an exit stack"""
    found = dict.fromkeys(layers)

    def keep(name, module, inputs, output):
        found[name] = output.clone()

    with contextlib.ExitStack() as stack, torch.inference_mode():
        for layer in found:
            try:
                module = model.get_submodule(layer)
            except AttributeError:
                raise ValueError(f"layers: unknown path {layer!r}") from None
            hook = functools.partial(keep, layer)
            stack.callback(module.register_forward_hook(hook).remove)
        model(x)
    return found


EXERCISE = answers.exercise()
