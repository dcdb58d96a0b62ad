"""The exercise maximize_activation of lecture 03: the image a unit likes best."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.observations import changed_tensors, described, draw_statistics, filled
from autograder.catalog.visualization.draws import summed_differences, with_hooks
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
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
            variation = summed_differences(x) / (1 if wrong.get("tv_summed") else x.numel())
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


def _answer(**mistakes: Any) -> Callable[..., Any]:
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

EXERCISE = Exercise(
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
