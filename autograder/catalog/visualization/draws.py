"""What exercises of lecture 03 share: networks, numbers without ties, hooks of a network's owner."""

import math
import zlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Raised, Subject
from autograder.catalog.observations import changed_tensors, draw_statistics, filled, wrong
from autograder.draw import Draw
from autograder.exercise import Case, Mismatch
from autograder.values import Named, Network

NEXT_TO_NOTHING = 1e-5
"""Beside the largest value that a step adds."""


def with_hooks(subject: Subject, described: Network | Named, *paths: str) -> Handle:
    """The network, with a hook of its owner's on some of its modules."""
    model = subject.build(described)
    # It takes whatever it is given and returns None, as a hook does that changes nothing.
    hook = subject.build(Network.describe(nn.Identity())).do("__getattribute__", "__init__")
    for path in paths:
        model.do("get_submodule", path).do("register_forward_hook", hook)
    return model


def distinct(d: Draw, *shape: int) -> torch.Tensor:
    """Numbers of both signs, no two of them equal."""
    count = math.prod(shape)
    order = torch.randperm(count, generator=d.source).view(shape).double()
    return (order - count // 3) / 4


def unrounded(d: Draw, network: nn.Sequential) -> nn.Sequential:
    """The network in float32, as learners' own are, and evaluation mode, its parameters drawn. Those of two
    decimals cancel exactly now and then, and rounding alone would decide which way a value moves."""
    network = filled(d, network)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.rand(p.shape, generator=d.source, dtype=torch.float64), alpha=0.01)
    return network.float()


def small_network(
    d: Draw,
    *,
    linear: bool = False,
    training: bool = False,
    dropout: bool = False,
    broken: bool = False,
    dtype: torch.dtype = torch.float32,
    gain: float = 1.0,
    loud: bool = False,
) -> Network:
    """Two convolutions with a batch norm between them. A linear one has the same gradient in every image,
    whatever the noise; of a broken one the last layer raises; beside the gradients of a loud one 1e-5 is next
    to nothing."""
    channels = d.integer(2, 3)
    layers = [
        nn.Conv2d(3, channels, 3),
        nn.BatchNorm2d(channels),
        nn.Identity() if linear else nn.Tanh(),
        *([nn.Dropout(0.5)] if dropout else []),
        nn.Conv2d(channels, 2, 2),
        *([nn.Conv2d(5, 2, 1)] if broken else []),
    ]
    model = unrounded(d, nn.Sequential(*layers))
    with torch.no_grad():
        # Not of mean zero, so that a gradient's root mean square is not its standard deviation.
        model[0].get_parameter("weight").add_(0.1).mul_(gain)
        if loud:
            for number in (0, len(layers) - 1):
                model[number].get_parameter("weight").mul_(30)
            model[1].get_parameter("weight").div_(30)
    draw_statistics(d, model)
    return Network.describe(model.to(dtype).train(training))


def an_ascent(d: Draw, **changes: Any) -> dict[str, Any]:
    """Arguments of maximize_activation; images are never square, and one in three is far wider than high."""
    size = changes.pop("size", None) or d.choice([(5, 8), (7, 5), (4, 12)])
    return {
        "model": changes.pop("model", None) or small_network(d),
        "layer": changes.pop("layer", "0"),
        "channel": d.integer(0, 1),
        "shape": (changes.pop("images", None) or d.integer(2, 3), 3, *size),
        "steps": d.choice([2, 1, 3, 4]),
        "step_size": d.choice([1.0, 0.25]),
        "generator": d.generator(),
        **changes,
    }


# -- what maximize_activation looks at -----------------------------------------------------------------------


def alike_but_for_size(d: Draw, shape: tuple[int, ...], channel: int, *sizes: float) -> list[Network]:
    """Networks whose gradients are of these sizes, and alike otherwise."""
    model = unrounded(d, nn.Sequential(nn.Conv2d(3, 2, 3), nn.Identity()))
    x = torch.zeros(shape, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, channel].mean(), x)
    weight = model[0].get_parameter("weight").detach().clone()
    made = []
    for size in sizes:
        with torch.no_grad():
            model[0].get_parameter("weight").copy_(weight * size / gradient.square().mean().sqrt())
        made.append(Network.describe(model))
    return made


def _added(subject: Subject, **kwargs: Any) -> Any:
    """What the steps add to the noise, which is another property's business."""
    before, after = (subject(**{**kwargs, "steps": steps}) for steps in (0, kwargs["steps"]))
    tensors = isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor)
    return after.double() - before.double() if tensors and after.shape == before.shape else after


def same_ways(case: Case, expected: torch.Tensor, got: torch.Tensor) -> Mismatch | None:
    """Whether a step goes along the same line, as far as signs tell. How far, and whether up or down, is
    another property's business."""
    if got.shape != expected.shape:
        raise ValueError("no image of the shape asked for")
    # Where next to nothing is to be added, rounding may decide.
    told = (expected == 0) | (expected.abs() > NEXT_TO_NOTHING * expected.abs().max())
    right, ways = (_ways(step.where(told, 0)) for step in (expected, got))
    if torch.equal(right, ways):
        return None
    message = f"{int((right != ways).sum())} of {got.numel()} values move another way than they must"
    if not ways.any():
        message = "no value of the image moves"
    elif (ways == 2).any():
        message = "after the step the image is NaN"
    return wrong(message, f"{zlib.crc32(ways.numpy().tobytes())}")


def _ways(step: torch.Tensor) -> torch.Tensor:
    """1 where a value goes the way of the first that moves, -1 the other, 0 nowhere, 2 where it is NaN."""
    plain = step.nan_to_num()
    ways = plain.sign().where(plain.abs() > NEXT_TO_NOTHING / 10 * plain.abs().max(), 0)
    first = next(iter(ways[ways != 0]), torch.tensor(1.0))
    return (ways * first).masked_fill(step.isnan(), 2).to(torch.int8).contiguous()


def _length(step: Any, other: Any) -> str:
    """How long a step is beside another one, roughly."""
    if not (
        isinstance(step, torch.Tensor) and isinstance(other, torch.Tensor) and step.any() and other.any()
    ):
        return "none"
    ratio = float(step.norm() / other.norm())
    return "shorter" if ratio < 0.7 else "longer" if ratio > 1.5 else "as long as any other"


def steps_alone(subject: Subject, case: Case) -> Any:
    return _added(subject, **case.kwargs)


def where_zero(subject: Subject, case: Case) -> dict[str, Any]:
    faint, strong = (
        _added(subject, **{**case.kwargs, "model": case.extra[model], "steps": 1})
        for model in ("faint model", "strong model")
    )
    return {
        "added to the image": _added(subject, **case.kwargs),
        "a step along a small gradient": _length(faint, strong),
    }


def left_behind(subject: Subject, case: Case) -> Any:
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


def left_at_an_error(subject: Subject, case: Case) -> Any:
    model = with_hooks(subject, case.kwargs["model"], "", case.kwargs["layer"])
    try:
        subject(**{**case.kwargs, "model": model})
    except Raised as raised:
        # A stub or a mistake of the learner's own leaves everything as it was, too.
        if raised.kinds[0] != "RuntimeError":
            raise
    after = model.inspect("training", "hooks")
    return {"training flags": after["training"], "hooks": after["hooks"]}


def _same(before: torch.Tensor | None, after: torch.Tensor | None) -> bool:
    if before is None or after is None:
        return before is after
    return torch.equal(before, after)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
