"""Exercises of lecture 03: the input that maximizes a unit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autograder.catalog._common import changed_tensors, described, filled
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from autograder.values import Network
from coursekit import visualization as reference

# Differences grow from step to step: what rounding does to five steps must not show.
ASCENT = (1e-4, 1e-6)


def _network(
    d: Any, *, training: bool = False, dropout: bool = False, dtype: torch.dtype = torch.float64
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
        model[1].running_mean.copy_(d.tensor(channels))
        model[1].running_var.copy_(d.positive(channels))
    return Network.describe(model.to(dtype).train(training))


def _drawn(d: Any, **changes: Any) -> dict[str, Any]:
    size = (d.integer(5, 7), d.integer(5, 8))
    return {
        "model": changes.pop("model", None) or _network(d),
        "layer": changes.pop("layer", "0"),
        "channel": d.integer(0, 1),
        "shape": (d.integer(1, 2), 3, *size),
        "steps": d.integer(1, 4),
        "step_size": d.choice([1.0, 0.25]),
        "generator": d.generator(),
        **changes,
    }


def _start(d: Any) -> Case:
    return Case((), _drawn(d, steps=0))


def _mean(d: Any) -> Case:
    return Case((), _drawn(d, layer=d.choice(["0", "3"])))


def _at_position(d: Any) -> Case:
    return Case((), _drawn(d, position=d.choice([(0, 1), (1, 0), (1, 2), (2, 0)])))


def _with_l2(d: Any) -> Case:
    return Case((), _drawn(d, l2=d.choice([5.0, 20.0]), step_size=1.0, steps=d.integer(2, 4)))


def _with_tv(d: Any) -> Case:
    return Case((), _drawn(d, tv=d.choice([0.5, 2.0]), steps=d.integer(2, 4)))


def _in_training(d: Any) -> Case:
    return Case(
        (), _drawn(d, model=_network(d, training=True, dropout=True), layer="4", steps=d.integer(1, 2))
    )


def _dead(d: Any) -> Case:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.fill_(0.01)
        model[0].bias.fill_(-50.0 - d.integer(0, 9))
    return Case((), _drawn(d, model=Network.describe(model), layer="1"))


def _found(d: Any) -> Case:
    model = _network(d, training=True, dropout=True)
    # One module in another mode than the rest: neither train() nor eval() puts that back.
    model = replace(model, training=tuple(path for path in model.training if path != "3"))
    return Case((), _drawn(d, model=model, layer="4", steps=d.integer(1, 2)))


def _single(d: Any) -> Case:
    dtype = d.choice([torch.float32, torch.float64])
    return Case((), _drawn(d, model=_network(d, dtype=dtype), steps=1))


def _left(subject: Any, case: Case) -> Any:
    """What is different about the model afterwards; its image is another property's business."""
    model = subject.build(case.kwargs["model"])
    before = model.inspect()
    subject(**{**case.kwargs, "model": model})
    after = model.inspect()
    return {
        "training flags": after["training"],
        "hooks": after["hooks"],
        "parameters with a grad": sorted(n for n, g in after["grads"].items() if g is not None),
        "parameters that require a grad": sorted(n for n, flag in after["requires_grad"].items() if flag),
        "changed tensors": changed_tensors(before, after),
    }


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
        hook = dict(model.named_modules())[layer].register_forward_hook(lambda m, i, o: kept.update(out=o))
        for _ in range(steps):
            x = x.detach().requires_grad_()
            model(x.to(p.dtype))
            unit = kept["out"][:, channel]
            value = unit.sum() if wrong.get("summed") else unit.mean()
            if position is not None:
                row, col = position if not wrong.get("x_before_y") else position[::-1]
                value = unit[:, row, col].mean()
            decay = (x**2).sum() if wrong.get("l2_summed") else (x**2).mean()
            variation = _variation(x) / (1 if wrong.get("tv_summed") else x.numel())
            penalty = l2 * decay + tv * variation
            goal = value + penalty if wrong.get("penalty_added") else value - penalty
            if wrong.get("grads_left"):
                model.zero_grad()
                goal.backward()
                g = x.grad
            else:
                (g,) = torch.autograd.grad(goal, x)
            norm = g.norm() if wrong.get("whole_norm") else (g**2).mean().sqrt()
            if wrong.get("raw_gradient"):
                norm = torch.ones(())
            x = x.detach()
            if norm > 0 or wrong.get("zero_divides"):
                step = step_size * g / norm
                x = x - step if wrong.get("descends") else x + step
        if not wrong.get("hook_left"):
            hook.remove()
        if not wrong.get("mode_left"):
            for m, flag in flags.items():
                m.training = flag
        if wrong.get("frozen_left"):
            for q in model.parameters():
                q.requires_grad_(False)
        return x.detach()


def _variation(x: torch.Tensor) -> torch.Tensor:
    rows = (x[:, :, 1:] - x[:, :, :-1]).abs().sum()
    return rows + (x[:, :, :, 1:] - x[:, :, :, :-1]).abs().sum()


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
            "each step adds step_size times the gradient over its root mean square",
            1.25,
            _mean,
            tolerance=ASCENT,
            examples=5,
        ),
        Property(
            "position",
            "position=(row, col) maximizes one unit of the map",
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
            "zero_gradient", "where the gradient is zero the image stays as it is", 0.25, _dead, examples=3
        ),
        Property(
            "as_found",
            "the model's modes, parameters, their grads and its hooks are left as they were found",
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
            ("ascent", "position", "l2", "tv", "eval_mode"),
            _answer(descends=True),
        ),
        Misconception(
            "raw_gradient",
            "You stepped along the raw gradient, whose size differs by orders of magnitude between layers.",
            "Divide it by its root mean square, (g**2).mean().sqrt().",
            ("ascent", "position", "l2", "tv", "eval_mode"),
            _answer(raw_gradient=True),
        ),
        Misconception(
            "whole_norm",
            "You divided by the gradient's norm, so larger images take smaller steps per pixel.",
            "Divide by the root of the mean of its squares, not of their sum.",
            ("ascent", "position", "l2", "tv", "eval_mode"),
            _answer(whole_norm=True),
        ),
        Misconception(
            "generator_ignored",
            "You drew the starting noise without the generator.",
            "torch.randn(shape, generator=generator).",
            ("start", "ascent", "position", "l2", "tv", "eval_mode", "zero_gradient"),
            _answer(generator_ignored=True),
        ),
        Misconception(
            "unit_noise",
            "You started from N(0, 1).",
            "Multiply the noise by 0.1.",
            ("start", "ascent", "position", "l2", "tv", "eval_mode", "zero_gradient"),
            _answer(unit_noise=True),
        ),
        Misconception(
            "training_mode",
            "You ran the model in the mode it came in: dropout and batch statistics moved the target.",
            "Call model.eval() first, and put the modes back at the end.",
            ("eval_mode", "as_found"),
            _answer(training_mode=True),
        ),
        Misconception(
            "x_before_y",
            "You read position as (x, y).",
            "It is (row, col): unit[:, row, col].",
            ("position",),
            _answer(x_before_y=True),
        ),
        Misconception(
            "penalty_added",
            "You added the penalties to the objective.",
            "They are subtracted: value − l2·mean(x²) − tv·TV/numel.",
            ("l2", "tv"),
            _answer(penalty_added=True),
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
            "grads_left",
            "Your backward() left gradients in the model's parameters.",
            "Ask for the image's gradient only: torch.autograd.grad(objective, x).",
            ("as_found",),
            _answer(grads_left=True),
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
            ("start", "ascent", "position", "l2", "tv", "eval_mode", "zero_gradient", "kinds"),
            _answer(dtype_kept=True),
        ),
        Misconception(
            "drawn_in_model_dtype",
            "You drew the noise in the model's dtype; other numbers come out of the same generator.",
            "Draw in float32 first, then convert.",
            ("start", "ascent", "position", "l2", "tv", "eval_mode", "zero_gradient"),
            _answer(drawn_in_model_dtype=True),
        ),
    ),
    right=(
        Variant("hooks and autograd.grad", _answer()),
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
            "Loop: x.requires_grad_(); model(x); objective from the hooked output; (g,) = torch.autograd.grad(objective, x); rms = (g**2).mean().sqrt(); x = x.detach() + step_size·g/rms if rms > 0. In a finally: remove the hook, put every training flag back.",
        ),
    ),
)

EXERCISES = (MAXIMIZE,)
