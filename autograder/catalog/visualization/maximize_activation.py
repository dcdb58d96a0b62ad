"""The exercise maximize_activation of lecture 03: the image a unit likes best."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import changed_tensors, described, draw_statistics, filled
from autograder.catalog.visualization.draws import with_hooks
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Named, Network
from coursekit import visualization as reference

# Differences grow from step to step: what rounding, or a small number in the divisor, does to four steps must
# not show.
ASCENT = (1e-3, 1e-3)


def _network(
    d: Draw,
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
        model[0].get_parameter("weight").mul_(gain)
    draw_statistics(d, model)
    return Network.describe(model.to(dtype).train(training))


def _drawn(d: Draw, **changes: Any) -> dict[str, Any]:
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


def _start(d: Draw) -> Case:
    return Case((), _drawn(d, steps=0, images=d.choice([1, 2])))


def _mean(d: Draw) -> Case:
    layer = d.choice(["3", "0", "3", "3"])
    if layer == "0":
        return Case((), _drawn(d))
    # Far from linear, so that the gradients of the images of a batch differ in size.
    model = _network(d, gain=2.0)
    return Case((), _drawn(d, model=model, layer=layer, images=3, step_size=0.25, steps=d.choice([2, 1, 3])))


def _at_position(d: Draw) -> Case:
    return Case((), _drawn(d, position=d.choice([(0, 1), (1, 0), (1, 2), (2, 0)]), images=d.choice([2, 1])))


def _with_l2(d: Draw) -> Case:
    # Behind a linear layer alone, every second step would lead back to the noise, whatever l2 is.
    return Case((), _drawn(d, layer="3", l2=d.choice([5.0, 20.0]), step_size=1.0, steps=d.choice([3, 2, 4])))


def _with_tv(d: Draw) -> Case:
    return Case((), _drawn(d, tv=d.choice([0.5, 2.0]), steps=d.integer(2, 4)))


def _in_training(d: Draw) -> Case:
    model = _network(d, training=True, dropout=True, gain=2.0)
    return Case((), _drawn(d, model=model, layer="4", images=3, step_size=0.25, steps=d.choice([2, 1])))


def _linear(d: Draw) -> Case:
    channels, classes = d.integer(2, 3), d.choice([3, 2])
    layers = [nn.Conv2d(3, channels, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = filled(d, nn.Sequential(*layers, nn.Linear(channels, classes)).double())
    with torch.no_grad():
        model[0].get_parameter("weight").mul_(0.6)
    # Small weights and few small steps, since a saturated tanh leaves next to no gradient.
    steps = d.choice([2, 1])
    return Case(
        (), _drawn(d, model=Network.describe(model), layer="4", images=3, step_size=0.25, steps=steps)
    )


def _in_place_behind(d: Draw) -> Case:
    model = filled(d, nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(inplace=True)).double())
    with torch.no_grad():
        model[0].get_parameter("bias").fill_(-50.0 - d.integer(0, 9))  # behind the ReLU the unit is idle
    return Case((), _drawn(d, model=Network.describe(model), layer="0"))


def _dead(d: Draw) -> Case:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).double()
    with torch.no_grad():
        model[0].get_parameter("weight").fill_(0.01)
        model[0].get_parameter("bias").fill_(-50.0 - d.integer(0, 9))
    kwargs = _drawn(d, model=Network.describe(model), layer="1")
    return Case((), kwargs, {"faint model": _faint(d, kwargs["shape"], kwargs["channel"])})


def _faint(d: Draw, shape: tuple[int, ...], channel: int) -> Network:
    """A network whose gradient is small and not zero, as that of an untrained one may be. It is large beside the
    small numbers that keep a division by zero away."""
    model = filled(d, nn.Sequential(nn.Conv2d(3, 2, 3), nn.Identity()))
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, channel].mean(), x)
    with torch.no_grad():
        model[0].get_parameter("weight").mul_(1e-6 / gradient.square().mean().sqrt())
    return Network.describe(model)


def _where_zero(subject: Subject, case: Case) -> dict[str, Any]:
    """The image without a gradient, and whether a small one moves it; how far is another property's business."""
    image = subject(**case.kwargs)
    faint = {**case.kwargs, "model": case.extra["faint model"]}
    before, after = (subject(**{**faint, "steps": steps}) for steps in (0, 1))
    tensors = isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)
    return {"the image": image, "a faint gradient moves it": tensors and not torch.equal(before, after)}


def _found(d: Draw) -> Case:
    model = _network(d, training=True, dropout=True)
    # One module in another mode than the rest: neither train() nor eval() puts that back.
    model = replace(model, training=tuple(path for path in model.training if path != "3"))
    return Case((), _drawn(d, model=model, layer="4", steps=d.integer(1, 2)))


def _single(d: Draw) -> Case:
    dtype = d.choice([torch.float64, torch.float32])
    return Case((), _drawn(d, model=_network(d, dtype=dtype), steps=1))


def _left(subject: Subject, case: Case) -> Any:
    """What is different about the model afterwards; its image is another property's business."""
    described = Named("differentiated", {"network": case.kwargs["model"]})
    model = with_hooks(subject, described, "", case.kwargs["layer"])
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


def _kinds(subject: Subject, case: Case) -> Any:
    return described(subject(**case.kwargs))


CLAIMS = Exercise(
    id="maximize_activation",
    topic="visualization",
    title="The image a unit likes best",
    reference=reference.maximize_activation,
    minutes=40,
    difficulty=4,
    properties=claims(
        """
        start (0.5): steps=0 returns the noise it starts from, 0.1·N(0, 1) from the generator
        ascent (0.75): each step adds step_size times the gradient over its root mean square, one for the
          whole batch
        linear (0.25): layer may be a linear one, with one value an image: (N, K)
        in_place (0.25): an in-place layer behind it changes nothing
        position (0.5): position=(row, column) maximizes one unit of the map
        l2 (0.5): l2 takes the mean square of the image off the objective
        tv (0.5): tv takes the total variation per value off the objective
        eval_mode (0.5): the model runs in eval mode, also when it is handed over in training mode
        zero_gradient (0.25): where the gradient is zero the image stays as it is; where it is merely small
          the image moves
        tried: the image of a model without gradient, and whether the one of a model with a small gradient
          moves
        as_found (0.75): the model's modes, its hooks, its parameters, their grads and which of them need one
          are left as found
        tried: the model looked at before and after
        kinds (0.25): the image has the shape asked for and the model's dtype
        """,
        start=on(_start, examples=4),
        ascent=on(_mean, tolerance=ASCENT, examples=6),
        linear=on(_linear, tolerance=ASCENT, examples=4),
        in_place=on(_in_place_behind, tolerance=ASCENT, examples=3),
        position=on(_at_position, tolerance=ASCENT, examples=4),
        l2=on(_with_l2, tolerance=ASCENT, examples=4),
        tv=on(_with_tv, tolerance=ASCENT, examples=4),
        eval_mode=on(_in_training, tolerance=ASCENT, examples=4),
        zero_gradient=on(_dead, _where_zero, examples=3, beside="ascent"),
        as_found=on(_found, _left, examples=4, beside="ascent"),
        kinds=on(_single, _kinds, examples=4, beside="ascent"),
    ),
    hints=hints("""
        I can't get at the activation
        A forward hook on dict(model.named_modules())[layer] catches it; which tensor needs the gradient?

        My image drifts away from the expected one
        The gradient is divided by its root mean square, and the noise is drawn in float32.

        I don't know how to put it together
        Remember every training flag, then model.eval(). A forward hook keeps output.clone(), inside the hook:
          behind it an in-place layer writes over the output. Loop: x.requires_grad_(); model(x); objective =
          mean of channel of what the hook kept, minus l2·(x²).mean(), minus tv·total_variation(x)/x.numel();
          (g,) = torch.autograd.grad(objective, x); rms = (g**2).mean().sqrt(); x = x.detach() +
          step_size·g/rms if rms > 0. In a finally: remove the hook, put every training flag back.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def hooked(
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
    """hooks and autograd.grad"""
    like = next(model.parameters())
    noise = 0.1 * torch.randn(shape, generator=generator)
    x = noise.to(like)
    kept = {}

    def keep(module, inputs, output):
        kept["output"] = output.clone()

    hook = dict(model.named_modules())[layer].register_forward_hook(keep)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for _ in range(steps):
        x.requires_grad_()
        model(x)
        unit = kept["output"][:, channel]
        if position is not None:
            row, column = position
            unit = unit[:, row, column]
        value = unit.mean()
        variation = x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()
        objective = value - l2 * (x**2).mean() - tv * variation / x.numel()
        (g,) = torch.autograd.grad(objective, x)
        rms = (g**2).mean().sqrt()
        x = x.detach()
        if rms > 0:
            x = x + step_size * g / rms
    hook.remove()
    for module, mode in modes.items():
        module.training = mode
    return x.detach()


answers.edits("""
descends: all but start zero_gradient as_found kinds
- x + step_size
+ x - step_size
You went down the gradient.
To maximize, add the step: x + step_size·g / rms(g).

raw_gradient: all but start zero_gradient as_found kinds
- step_size * g / rms
+ step_size * g
You stepped along the raw gradient, whose size differs by orders of magnitude between layers.
Divide it by its root mean square, (g**2).mean().sqrt().

whole_norm: all but start zero_gradient as_found kinds
- (g**2).mean().sqrt()
+ g.norm()
You divided by the gradient's norm, so larger images take smaller steps per pixel.
Divide by the root of the mean of its squares, not of their sum.

mean_absolute: all but start zero_gradient as_found kinds
- (g**2).mean().sqrt()
+ g.abs().mean()
You divided by the mean of the gradient's absolute values.
Divide by its root mean square, (g**2).mean().sqrt().

per_image: ascent linear l2 tv eval_mode
- (g**2).mean().sqrt()
+ (g**2).mean((1, 2, 3), keepdim=True).sqrt()
- if rms > 0:
+ if (rms > 0).any():
You gave each image of the batch a root mean square of its own.
One for all: (g**2).mean().sqrt() over all entries of g, the N images together.

gradient_cut: all but start as_found kinds
- output.clone()
+ output.detach().clone()
You detached the layer's output, so that no gradient reaches the image.
Keep output.clone() without detach(), and no torch.no_grad(). capture_activations detaches: write a hook here.

gradient_cut_outright: all but start
- output.clone()
+ output.detach().clone()
- objective = value - l2 * (x**2).mean() - tv * variation / x.numel()
+ objective = value
The objective has no graph: the layer's output was detached, or the model ran without gradients.
Keep output.clone() without detach(), and no torch.no_grad(). capture_activations detaches: write a hook here.

gradients_accumulate: ascent linear l2 tv eval_mode
- (g,) = torch.autograd.grad(objective, x)
+ objective.backward(inputs=[x])
+ g = x.grad
- x = x.detach()
- if rms > 0:
-     x = x + step_size * g / rms
+ if rms > 0:
+     x.data += step_size * g / rms
backward() adds to x.grad, and you never emptied it: each step goes along the sum of all gradients so far.
Set x.grad = None before each step, or ask for torch.autograd.grad(objective, x).

one_image: all but start zero_gradient as_found kinds
- kept["output"][:, channel]
+ kept["output"][:1, channel]
You took the activation of the first image only.
The mean over all images of the batch: output[:, channel].mean().

generator_ignored: all but as_found kinds
- torch.randn(shape, generator=generator)
+ torch.randn(shape)
You drew the starting noise without the generator.
torch.randn(shape, generator=generator).

unit_noise: all but as_found kinds
- 0.1 * torch.randn
+ torch.randn
You started from N(0, 1).
Multiply the noise by 0.1.

training_mode: eval_mode as_found
- model.eval()
You ran the model in training mode: dropout and batch statistics moved the target.
Call model.eval() first, and put the modes back at the end.

x_before_y: position
- row, column = position
+ column, row = position
You read position as (x, y).
It is (row, column): unit[:, row, column].

overwritten: in_place
- output.clone()
+ output
You kept the layer's own output, and the in-place ReLU behind it wrote over it.
Keep a copy: output.clone(), without detach(), since the gradient has to flow through it.

maps_only: linear
- [:, channel]
+ [:, channel, :, :]
An index in your code does not fit. A linear layer's output, for one, has no rows and columns.
output[:, channel] fits both: (N, h, w) of a map, (N,) of a linear layer.

penalty_added: l2 tv
- value - l2 * (x**2).mean() - tv * variation / x.numel()
+ value + l2 * (x**2).mean() + tv * variation / x.numel()
You added the penalties to the objective.
They are subtracted: value − l2·mean(x²) − tv·TV/numel.

l2_added: l2
- value - l2
+ value + l2
You added the l2 penalty to the objective.
It is subtracted: value − l2·mean(x²) − tv·TV/numel.

tv_added: tv
- mean() - tv
+ mean() + tv
You added the tv penalty to the objective.
It is subtracted: value − l2·mean(x²) − tv·TV/numel.

l2_ignored: l2
- value - l2 * (x**2).mean()
+ value
You left the l2 penalty out.
Subtract l2 · mean(x²) from the objective, before you take the gradient.

tv_ignored: tv
- (x**2).mean() - tv * variation / x.numel()
+ (x**2).mean()
You left the tv penalty out.
Subtract tv · total_variation(x) / x.numel() from the objective, before you take the gradient.

position_ignored: position
- if position is not None:
-     row, column = position
-     unit = unit[:, row, column]
You left position out, and took the mean of the whole map.
Where position is given, the objective is unit[:, row, column].mean().

l2_summed: l2
- (x**2).mean()
+ (x**2).sum()
Your l2 term sums the squares of the image.
It is their mean, so that it does not grow with the image.

tv_summed: tv
- variation / x.numel()
+ variation
Your tv term is the whole total variation.
Divide it by x.numel(), so that it does not grow with the image.

zero_divides: zero_gradient
- if rms > 0:
-     x = x + step_size * g / rms
+ x = x + step_size * g / rms
You divided by a gradient of size zero.
Where the gradient is zero take no step.

small_is_zero: zero_gradient
- rms > 0
+ rms > 2e-6
You took no step where the gradient is merely small.
Only a gradient of zero is none: rms > 0. The step has the same size, however small the gradient is.

frozen_left: as_found
- model.eval()
+ model.eval().requires_grad_(False)
You froze the model's parameters, and left them so.
Freeze nothing: torch.autograd.grad(objective, x) leaves the parameters alone.

thawed: as_found
- model.eval()
+ model.eval().requires_grad_(False)
- hook.remove()
+ hook.remove()
+ model.requires_grad_(True)
You set requires_grad for all parameters at the end, also for those that were frozen before.
Freeze nothing: torch.autograd.grad(objective, x) leaves the parameters alone. Or remember each one's flag.

all_hooks_removed: as_found
- hook.remove()
+ for module in model.modules():
+     module._forward_hooks.clear()
You removed all forward hooks of the model, also those that were there before.
Remove only your own: handle.remove() for the handle that register_forward_hook returned.

modes_flattened: as_found
- modes = {module: module.training for module in model.modules()}
+ mode = model.training
- for module, mode in modes.items():
-     module.training = mode
+ model.train(mode)
You put one mode back for the whole network; a frozen batch norm, for one, keeps its own.
Remember module.training for each of model.modules(), and put each one back.

grads_left: as_found
- (g,) = torch.autograd.grad(objective, x)
+ objective.backward()
+ g = x.grad
Your backward() left gradients in the model's parameters.
Ask for the image's gradient only: torch.autograd.grad(objective, x).

grads_wiped: as_found
- (g,) = torch.autograd.grad(objective, x)
+ objective.backward()
+ g = x.grad
- hook.remove()
+ hook.remove()
+ model.zero_grad()
You wiped the gradients that the parameters held before you came.
Ask for the image's gradient only: torch.autograd.grad(objective, x). Then there is nothing to wipe.

hook_left: as_found
- hook.remove()
Your forward hook is still on the model.
Call handle.remove() when you are done, in a finally block.

mode_left: as_found
- modes = {module: module.training for module in model.modules()}
...
- for module, mode in modes.items():
-     module.training = mode
You left the model in eval mode.
Remember each module's training flag and put it back.

dtype_kept: all but as_found
- noise.to(like)
+ noise.to(like.device)
- model(x)
+ model(x.to(like.dtype))
Your image stays float32 whatever the model's dtype is.
Draw in float32, then move the noise to the model's dtype and device.

drawn_in_model_dtype: all but as_found kinds
- torch.randn(shape, generator=generator)
+ torch.randn(shape, generator=generator, dtype=like.dtype)
You drew the noise in the model's dtype; other numbers come out of the same generator.
Draw in float32 first, then convert.
""")


@answers.right
def never_zero(
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
    """a small number in the divisor"""
    like = next(model.parameters())
    x = torch.randn(shape, generator=generator).mul(0.1).to(like)
    modules = dict(model.named_modules())
    modes = [module.training for module in modules.values()]
    outputs = []
    hook = modules[layer].register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    model.eval()
    for _ in range(steps):
        x.requires_grad_()
        model(x)
        unit = outputs.pop()[:, channel]
        value = unit.mean() if position is None else unit[:, position[0], position[1]].mean()
        rows = (x[:, :, 1:] - x[:, :, :-1]).abs().sum()
        columns = (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().sum()
        value = value - l2 * (x**2).mean() - tv * (rows + columns) / x.numel()
        (g,) = torch.autograd.grad(value, x)
        x = x.detach() + step_size * g / ((g**2).mean().sqrt() + 1e-8)
    hook.remove()
    for module, mode in zip(modules.values(), modes, strict=True):
        module.training = mode
    return x


@answers.right
def cut_off(
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
    """a frozen copy, cut off at the layer"""
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


EXERCISE = answers.exercise()
