"""The exercise maximize_activation of lecture 03: the image a unit likes best."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import described, numbers
from autograder.catalog.visualization.draws import (
    alike_but_for_size,
    an_ascent,
    left_at_an_error,
    left_behind,
    same_ways,
    small_network,
    steps_alone,
    unrounded,
    where_zero,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import visualization as reference

# Differences grow from step to step: what rounding, or a small number in the divisor, does to four steps must
# not show.
ASCENT = (1e-3, 1e-3)


def _start(d: Draw) -> Case:
    # Drawn in float64, the noise would be another one.
    model = small_network(d, dtype=torch.float64)
    return Case((), an_ascent(d, model=model, steps=0, images=d.choice([1, 2])))


def _uphill(d: Draw) -> Case:
    model = small_network(d, linear=True)
    return Case((), _one_step(d, model=model, layer=d.each(["0", "3"]), images=d.choice([2, 1, 3])))


def _one_step(d: Draw, **changes: Any) -> dict[str, Any]:
    return an_ascent(d, steps=1, **changes)


def _mean(d: Draw) -> Case:
    layer = d.choice(["3", "0", "3", "3"])
    if layer == "0":
        return Case((), an_ascent(d, model=small_network(d, loud=True)))
    # Far from linear, so that the gradients of the images of a batch differ in size.
    model = small_network(d, gain=2.0, loud=True)
    steps = d.choice([2, 1, 3])
    return Case((), an_ascent(d, model=model, layer=layer, images=3, step_size=0.25, steps=steps))


def _at_position(d: Draw) -> Case:
    """Corners of the map among them."""
    size, position = d.each([((5, 8), (0, 1)), ((7, 5), (4, 0)), ((4, 12), (1, 9)), ((5, 8), (0, 0))])
    return Case((), _one_step(d, size=size, position=position, images=d.choice([2, 1])))


def _with_l2(d: Draw) -> Case:
    return Case((), _one_step(d, l2=d.choice([12.0, 30.0])))


def _with_tv(d: Draw) -> Case:
    return Case((), _one_step(d, tv=d.choice([1.0, 2.5])))


def _with_everything(d: Draw) -> Case:
    # Whoever reads a position as (x, y) has lost it elsewhere.
    size, position = d.each([((5, 8), (1, 1)), ((7, 5), None), ((4, 12), (0, 0))])
    more = {"position": position, "l2": d.choice([12.0, 6.0]), "tv": d.choice([1.0, 2.0])}
    return Case((), _one_step(d, size=size, images=d.choice([2, 3]), **more))


def _in_training(d: Draw) -> Case:
    model = small_network(d, linear=True, training=True, dropout=True)
    return Case((), _one_step(d, model=model, layer="4", images=3))


def _linear(d: Draw) -> Case:
    channels, classes = d.integer(2, 3), d.choice([3, 2])
    layers = [nn.Conv2d(3, channels, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    model = Network.describe(unrounded(d, nn.Sequential(*layers)))
    return Case((), _one_step(d, model=model, layer="3"))


def _in_place_behind(d: Draw) -> Case:
    model = unrounded(d, nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(inplace=True)))
    with torch.no_grad():
        model[0].get_parameter("bias").fill_(-50.0 - d.integer(0, 9))  # behind the ReLU the unit is idle
    return Case((), _one_step(d, model=Network.describe(model), layer="0"))


def _dead(d: Draw) -> Case:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    with torch.no_grad():
        model[0].get_parameter("weight").fill_(0.01)
        model[0].get_parameter("bias").fill_(-50.0 - d.integer(0, 9))
    kwargs = an_ascent(d, model=Network.describe(model), layer="1")
    # Small as the gradient of an untrained network may be, and large beside the numbers that keep a division
    # by zero away.
    faint, strong = alike_but_for_size(d, kwargs["shape"], kwargs["channel"], 4e-7, 1.0)
    return Case((), kwargs, {"faint model": faint, "strong model": strong})


def _found(d: Draw, *, broken: bool = False) -> Case:
    model = small_network(d, training=True, dropout=True, broken=broken)
    # One module in another mode than the rest: neither train() nor eval() puts that back.
    model = replace(model, training=tuple(path for path in model.training if path != "3"))
    return Case((), an_ascent(d, model=model, layer="4", steps=d.integer(1, 2)))


def _single(d: Draw) -> Case:
    dtype, given = d.each([torch.float64, torch.float32]), d.each([True, False])
    arguments = an_ascent(d, model=small_network(d, dtype=dtype), steps=1)
    return Case((), arguments if given else {**arguments, "generator": None})


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
        start (0.25): steps=0 returns the noise it starts from, 0.1·N(0, 1) from the generator
        direction (0.25): a step goes along the gradient of the channel's mean over the map and all images of
          the batch
        tried: which values the first step moves one way, the other way and not at all
        ascent (0.75): each step adds step_size times the gradient over its root mean square, one for the
          whole batch
        linear (0.25): layer may be a linear one, with one value an image: (N, K)
        tried: which values the first step moves one way, the other way and not at all
        in_place (0.25): an in-place layer behind it changes nothing
        tried: which values the first step moves one way, the other way and not at all
        position (0.5): position=(row, column) maximizes one unit of the map
        tried: which values the first step moves one way, the other way and not at all
        l2 (0.5): l2 takes the mean square of the image off the objective
        tried: which values the first step moves one way, the other way and not at all
        tv (0.5): tv takes the total variation per value off the objective
        tried: which values the first step moves one way, the other way and not at all
        together (0.25): l2 and tv at once, also with a position
        tried: which values the first step moves one way, the other way and not at all
        eval_mode (0.25): the model runs in eval mode, also when it is handed over in training mode
        tried: which values the first step moves one way, the other way and not at all
        zero_gradient (0.25): where the gradient is zero the image stays as it is; where it is merely small
          the step is as long as any other
        tried: what is added to the image of a model without gradient, and the first step for one with a
          small gradient beside that for one with a large gradient
        as_found (0.5): the model's modes, its hooks, its parameters, their grads and which of them need one
          are left as found
        tried: the model looked at before and after
        after_error (0.25): modes and hooks are left so also where the model raises an error
        tried: the model after a call in which its last layer raised an error
        kinds (0.25): the image has the shape asked for and the model's dtype, also where no generator is
          given
        """,
        start=on(_start, numbers, examples=4),
        direction=on(_uphill, steps_alone, same_ways, examples=4),
        ascent=on(_mean, numbers, tolerance=ASCENT, examples=6),
        linear=on(_linear, steps_alone, same_ways, examples=4),
        in_place=on(_in_place_behind, steps_alone, same_ways, examples=3),
        position=on(_at_position, steps_alone, same_ways, examples=4),
        l2=on(_with_l2, steps_alone, same_ways, examples=4),
        tv=on(_with_tv, steps_alone, same_ways, examples=4),
        together=on(_with_everything, steps_alone, same_ways, examples=3),
        eval_mode=on(_in_training, steps_alone, same_ways, examples=4),
        zero_gradient=on(_dead, where_zero, examples=3, beside="direction"),
        as_found=on(_found, left_behind, examples=4, beside="direction"),
        after_error=on(lambda d: _found(d, broken=True), left_at_an_error, examples=3, beside="direction"),
        kinds=on(_single, _kinds, examples=4, beside="direction"),
    ),
    hints=hints("""
        I can't get at the activation
        A forward hook on dict(model.named_modules())[layer] catches it; which tensor needs the gradient?

        My image drifts away from the expected one
        The gradient is divided by its root mean square, √mean(g²), which is not its standard deviation. And
          the noise is drawn in float32.

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

    def gradient(x):
        model(x)
        unit = kept["output"][:, channel]
        if position is not None:
            row, column = position
            unit = unit[:, row, column]
        value = unit.mean()
        variation = x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()
        objective = value - l2 * (x**2).mean() - tv * variation / x.numel()
        (g,) = torch.autograd.grad(objective, x)
        return g

    hook = dict(model.named_modules())[layer].register_forward_hook(keep)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        for _ in range(steps):
            g = gradient(x.requires_grad_())
            rms = (g**2).mean().sqrt()
            x = x.detach()
            if rms > 0:
                x = x + step_size * g / rms
    finally:
        hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return x.detach()


answers.edits("""
descends: ascent
- x + step_size
+ x - step_size
You went down the gradient: what you return excites the unit less and less.
To maximize, add the step: x + step_size·g / rms(g).

raw_gradient: ascent zero_gradient
- step_size * g / rms
+ step_size * g
You stepped along the raw gradient, whose size differs by orders of magnitude between layers.
Divide it by its root mean square, (g**2).mean().sqrt().

whole_norm: ascent
- (g**2).mean().sqrt()
+ g.norm()
You divided by the gradient's norm, so larger images take smaller steps per pixel.
Divide by the root of the mean of its squares, not of their sum.

mean_absolute: ascent
- (g**2).mean().sqrt()
+ g.abs().mean()
You divided by the mean of the gradient's absolute values.
Divide by its root mean square, (g**2).mean().sqrt().

standard_deviation: ascent
- (g**2).mean().sqrt()
+ g.std()
You divided by the gradient's standard deviation, which leaves its mean out.
Divide by its root mean square: (g**2).mean().sqrt(), with no mean taken off.

signs_alone: ascent
- step_size * g / rms
+ step_size * g.sign()
You moved each value by the same amount, by the sign of its gradient alone.
Values with a larger gradient move farther: g / rms, with the root mean square of all of g.

adam: ascent
- kept = {}
+ kept = {}
+ mean = square = 0
- for _ in range(steps):
+ for step in range(1, steps + 1):
- rms = (g**2).mean().sqrt()
- x = x.detach()
- if rms > 0:
-     x = x + step_size * g / rms
+ mean = 0.9 * mean + 0.1 * g
+ square = 0.999 * square + 0.001 * g**2
+ scale = (square / (1 - 0.999**step)).sqrt() + 1e-8
+ x = x.detach() + step_size * mean / (1 - 0.9**step) / scale
Your steps are those of Adam, which scales each value by its own past gradients.
Step by hand, without torch.optim: x + step_size · g / rms(g), with one rms for all of g.

small_number_added: zero_gradient
- step_size * g / rms
+ step_size * g / (rms + 1e-5)
You added a number to the root mean square that is not small beside a faint gradient: steps get shorter there.
Add nothing, and take no step where rms is 0; or add no more than 1e-8.

small_is_zero: zero_gradient
- rms > 0
+ rms > 1e-6
You took no step where the gradient is merely small.
Only a gradient of zero is none: rms > 0. The step has the same size, however small the gradient is.

zero_divides: zero_gradient
- if rms > 0:
-     x = x + step_size * g / rms
+ x = x + step_size * g / rms
You divided by a gradient of size zero.
Where the gradient is zero take no step.

per_image: ascent
- (g**2).mean().sqrt()
+ (g**2).mean((1, 2, 3), keepdim=True).sqrt()
- if rms > 0:
+ if (rms > 0).any():
You gave each image of the batch a root mean square of its own.
One for all: (g**2).mean().sqrt() over all entries of g, the N images together.

gradients_accumulate: ascent
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

clamped: all but start zero_gradient as_found after_error kinds
- x = x + step_size * g / rms
+ x = (x + step_size * g / rms).clamp(0, 1)
You cut the image to 0 … 1 after each step; it begins around 0, and may go anywhere.
Leave clamp out: whoever shows the image brings it into range.

gradient_cut: all but start as_found after_error kinds
- output.clone()
+ output.detach().clone()
No gradient of the unit reaches the image: the layer's output was detached on the way, or something else kept.
Keep output.clone() without detach(), and no torch.no_grad(). capture_activations detaches: write a hook here.

gradient_cut_outright: all but start after_error
- output.clone()
+ output.detach().clone()
- value - l2 * (x**2).mean() - tv * variation / x.numel()
+ value
The objective has no graph: the layer's output was detached, or the model ran without gradients.
Keep output.clone() without detach(), and no torch.no_grad(). capture_activations detaches: write a hook here.

one_image: all but start zero_gradient as_found after_error kinds
- kept["output"][:, channel]
+ kept["output"][:1, channel]
You took the activation of the first image only.
The mean over all images of the batch: output[:, channel].mean().

all_channels: all but start zero_gradient as_found after_error kinds
- kept["output"][:, channel]
+ kept["output"].mean(1)
You took the mean over all channels of the layer.
One channel counts: output[:, channel].

strongest_place: all but start zero_gradient as_found after_error kinds
- unit.mean()
+ unit.max()
You took the largest value of the channel, in the map and in the batch.
Its mean: output[:, channel].mean().

summed: l2 tv together
- unit.mean()
+ unit.sum()
You added the channel's values up, so that the penalties count for less in a large map.
Take their mean, over the map and over the images.

generator_ignored: start ascent l2 tv together
- torch.randn(shape, generator=generator)
+ torch.randn(shape)
You drew the starting noise without the generator.
torch.randn(shape, generator=generator).

unit_noise: start ascent l2 together
- 0.1 * torch.randn
+ torch.randn
You started from N(0, 1).
Multiply the noise by 0.1.

uniform_noise: start ascent l2 tv together
- torch.randn
+ torch.rand
You drew uniform noise.
torch.randn draws normal numbers.

drawn_in_model_dtype: start
- torch.randn(shape, generator=generator)
+ torch.randn(shape, generator=generator, dtype=like.dtype)
You drew the noise in the model's dtype; other numbers come out of the same generator.
Draw in float32 first, then convert.

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

penalty_added: l2 tv together
- value - l2 * (x**2).mean() - tv * variation / x.numel()
+ value + l2 * (x**2).mean() + tv * variation / x.numel()
You added the penalties to the objective.
They are subtracted: value − l2·mean(x²) − tv·TV/numel.

penalties_left_out: l2 tv together
- value - l2 * (x**2).mean() - tv * variation / x.numel()
+ value
You left both penalties out.
Subtract them from the objective, before you take the gradient: l2 · mean(x²) and tv · TV / numel.

penalties_summed: l2 tv together
- (x**2).mean() - tv * variation / x.numel()
+ (x**2).sum() - tv * variation
Both your penalties grow with the image: sums, where means are asked for.
l2 · (x**2).mean(), and tv · total_variation(x) / x.numel().

l2_added: l2 together
- value - l2
+ value + l2
You added the l2 penalty to the objective.
It is subtracted: value − l2·mean(x²) − tv·TV/numel.

tv_added: tv together
- mean() - tv
+ mean() + tv
You added the tv penalty to the objective.
It is subtracted: value − l2·mean(x²) − tv·TV/numel.

l2_ignored: l2 together
- value - l2 * (x**2).mean()
+ value
You left the l2 penalty out.
Subtract l2 · mean(x²) from the objective, before you take the gradient.

tv_ignored: tv together
- (x**2).mean() - tv * variation / x.numel()
+ (x**2).mean()
You left the tv penalty out.
Subtract tv · total_variation(x) / x.numel() from the objective, before you take the gradient.

position_ignored: position together
- if position is not None:
-     row, column = position
-     unit = unit[:, row, column]
You left position out, and took the mean of the whole map.
Where position is given, the objective is unit[:, row, column].mean().

one_image_at_a_position: position together
- unit[:, row, column]
+ unit[:1, row, column]
Where position is given you took the activation of the first image only.
The mean over all images of the batch there, too: output[:, channel, row, column].mean().

l2_summed: l2 together
- (x**2).mean()
+ (x**2).sum()
Your l2 term sums the squares of the image.
It is their mean, so that it does not grow with the image.

l2_halved: l2 together
- value - l2
+ value - l2 / 2
You halved l2.
Subtract l2 · mean(x²) itself, without the ½ that some write so that it cancels in the gradient.

tv_summed: tv together
- variation / x.numel()
+ variation
Your tv term is the whole total variation.
Divide it by x.numel(), so that it does not grow with the image.

tv_squared: tv together
- x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()
+ (x.diff(dim=2) ** 2).sum() + (x.diff(dim=3) ** 2).sum()
Your tv term squares the differences of neighbors.
It is the sum of their absolute values, as total_variation has it, divided by x.numel().

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

all_hooks_removed: as_found after_error
- hook.remove()
+ for module in model.modules():
+     module._forward_hooks.clear()
You removed all forward hooks of the model, also those that were there before.
Remove only your own: handle.remove() for the handle that register_forward_hook returned.

modes_flattened: as_found after_error
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
- hook.remove()
+ hook.remove()
+ model.zero_grad()
You wiped the gradients that the parameters held before you came.
Ask for the image's gradient only: torch.autograd.grad(objective, x). Then there is nothing to wipe.

hook_left: as_found after_error
- hook.remove()
Your forward hook is still on the model.
Call handle.remove() when you are done, in a finally block.

mode_left: as_found after_error
- modes = {module: module.training for module in model.modules()}
...
- for module, mode in modes.items():
-     module.training = mode
You left the model in eval mode.
Remember each module's training flag and put it back.

left_at_an_error: after_error
- try:
-     for _ in range(steps):
-         g = gradient(x.requires_grad_())
-         rms = (g**2).mean().sqrt()
-         x = x.detach()
-         if rms > 0:
-             x = x + step_size * g / rms
- finally:
-     hook.remove()
-     for module, mode in modes.items():
-         module.training = mode
+ for _ in range(steps):
+     g = gradient(x.requires_grad_())
+     rms = (g**2).mean().sqrt()
+     x = x.detach()
+     if rms > 0:
+         x = x + step_size * g / rms
+ hook.remove()
+ for module, mode in modes.items():
+     module.training = mode
Where the model raises an error, your hook stays on it, and it stays in eval mode.
Put the loop into a try block; remove the hook and put the modes back in its finally block.

never_converted: kinds
- noise.to(like)
+ noise.to(like.device)
Your image is float32 whatever the model's dtype is, and a float64 model cannot take it.
Draw in float32, then move the noise to the model's dtype and device: noise.to(next(model.parameters())).

dtype_kept: kinds
- noise.to(like)
+ noise.to(like.device)
- model(x)
+ model(x.to(like.dtype))
Your image stays float32 whatever the model's dtype is.
Draw in float32, then move the noise to the model's dtype and device.

generator_needed: kinds
- torch.randn(shape, generator=generator)
+ torch.randn(shape, generator=generator, device=generator.device)
Your code asks the generator for something also where it is None, which is the default.
device = "cpu" if generator is None else generator.device.
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
    modes = [(module, module.training) for module in model.modules()]
    outputs = []
    module = model.get_submodule(layer)
    try:
        with module.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone())):
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
    finally:
        for module, mode in modes:
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
