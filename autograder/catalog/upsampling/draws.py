"""What exercises of lecture 05 share: maps, small networks, pooling, nails and blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from autograder.attempt import Raised, Subject
from autograder.catalog.observations import as_double, changed_tensors, draw_statistics, filled
from autograder.draw import Draw
from autograder.exercise import Case

SINGLE = (1e-4, 1e-5)
"""What float32 leaves of numbers. Inputs are float32 where a dtype has a claim of its own: who makes new float32
tensors loses no other."""


def maps(d: Draw) -> torch.Tensor:
    """The sides differ, but for one of the sizes."""
    size = d.each([(2, 3), (4, 2), (2, 6), (3, 3)])
    return d.tensor(d.choice([2, 1]), d.choice([2, 1, 3]), *size, dtype=torch.float32)


def plain(value: Any) -> Any:
    """Numbers without their dtype, of a numpy array too: kinds and dtypes are another property's business."""
    return as_double(torch.from_numpy(value) if isinstance(value, np.ndarray) else value)


def numbers(subject: Subject, case: Case) -> Any:
    return plain(subject(*case.args, **case.kwargs))


def each(subject: Subject, case: Case) -> dict[str, Any]:
    """The answers to several calls, their arguments beside the case by label: none is left to chance."""
    return {label: plain(subject(*args)) for label, args in case.extra.items()}


def refusals(subject: Subject, case: Case) -> dict[str, str]:
    """Which of several calls are refused: what must be, and its neighbors that must not."""
    seen = {}
    for label, args in case.extra.items():
        try:
            subject(*args)
            seen[label] = "accepted"
        except Raised as raised:
            if "NotImplementedError" in raised.kinds:
                raise
            plain_words = {"ValueError": "a ValueError", "AssertionError": "an AssertionError"}
            told = next((words for kind, words in plain_words.items() if kind in raised.kinds), str(raised))
            seen[label] = f"refused with {told}"
    return seen


def carries_by_name(*names: str) -> Callable[[Subject, Case], dict[str, Any]]:
    """The dtype of the answer, and the arguments changed in place by name; shapes, numbers and an argument
    without a name are other properties' business."""

    def observe(subject: Subject, case: Case) -> dict[str, Any]:
        answer, positions = subject.with_changes(*case.args, **case.kwargs)
        changed = filter(None, (names[int(p)] for p in positions))
        return {"result": emptied(answer), "changed in place": ", ".join(changed) or "nothing"}

    return observe


def emptied(value: Any) -> Any:
    """What is left of a result beside numbers and shape: tensors without entries, of the same dtype."""
    if isinstance(value, torch.Tensor):
        return torch.empty(0, dtype=value.dtype)
    if isinstance(value, list | tuple):
        return tuple(map(emptied, value))
    return value


def filled_layers(d: Draw, *layers: nn.Module) -> nn.Sequential:
    return filled(d, nn.Sequential(*layers), scale=0.5)


def pooling_net(d: Draw) -> nn.Sequential:
    c, k = d.choice([2, 1]), d.choice([2, 3])
    return filled_layers(d, nn.Conv2d(c, k, d.choice([2, 3])), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(k, 2, 2))


def striding_net(d: Draw) -> nn.Sequential:
    """The stride is smaller than the kernel, equal to it or larger."""
    c, k, (size, stride) = d.choice([2, 1]), d.choice([2, 3]), d.each([(3, 2), (2, 3), (3, 3)])
    return filled_layers(d, nn.Conv2d(c, k, size, stride), nn.Tanh(), nn.Conv2d(k, 2, 2))


def normalizing_net(d: Draw) -> nn.Sequential:
    net = filled_layers(
        d, nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2)
    )
    draw_statistics(d, net)
    return net


def pair(value):
    return (value, value) if isinstance(value, int) else value


def times(one, other):
    return one[0] * other[0], one[1] * other[1]


def reach(net: nn.Sequential) -> tuple[tuple[int, int], tuple[int, int]]:
    """Field and total stride of a network, of rows and of columns."""
    field, jump = [1, 1], [1, 1]
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            windows = (pair(layer.kernel_size), pair(layer.stride), pair(layer.dilation))
            for axis, (size, stride, dilation) in enumerate(zip(*windows, strict=True)):
                field[axis] += (size - 1) * dilation * jump[axis]
                jump[axis] *= stride
    return (field[0], field[1]), (jump[0], jump[1])


PARTS = ("training", "kinds", "parameters", "buffers", "grads", "requires_grad", "hooks", "config")


def traces(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What a call has left behind in a network, between two looks at its `PARTS`."""
    if before["kinds"] != after["kinds"] or before.get("config") != after.get("config"):
        return "other layers"
    left = []
    for flag, mode in ((True, "training"), (False, "eval")):
        moved = [
            p for p, was in before["training"].items() if was is not flag and after["training"][p] is flag
        ]
        if moved:
            left.append(f"{', '.join('layer ' + p if p else 'net itself' for p in moved)} now in {mode} mode")
    if changed := changed_tensors(before, after):
        left.append(f"{', '.join(changed)} changed")
    left += [f"other {part}" for part in ("hooks", "requires_grad") if before[part] != after[part]]
    if any(grad is not None for grad in after["grads"].values()):
        left.append("gradients in the parameters")
    return "; ".join(left) or "as it was"


def single_and_double(d: Draw) -> Case:
    """In any order of memory, which is no other property's business."""
    dtype = d.each([torch.float32, torch.float64])
    return Case((d.layout(d.tensor(2, 2, d.integer(2, 3), d.integer(2, 4), dtype=dtype)), d.choice([2, 3])))


def distinct(d: Draw, *shape: int) -> torch.Tensor:
    """Positive numbers, no two of which are equal, in float32."""
    count = torch.Size(shape).numel()
    return (torch.randperm(count, generator=d.source).float() + 1).reshape(shape) / 10


SHAPES = ((2, 2, 3), (3, 1, 1), (1, 2, 3), (3, 4, 2), (2, 1, 3))
"""Side of a window, and how many windows lie in a map, down and across."""


def ragged(d: Draw) -> tuple[int, int, int]:
    """Side of a window, and height and width of a map: both, or one, a little more than whole windows."""
    k, (rows, columns) = d.choice([2, 3]), d.choice([(2, 3), (4, 2), (1, 3)])
    (down, across), more = d.each([(1, 1), (0, 1), (1, 0)]), d.integer(1, k - 1)
    return k, rows * k + down * more, columns * k + across * more


def whole(d: Draw, shapes: Sequence[tuple[int, int, int]] = SHAPES) -> tuple[int, int, int]:
    """The same of a map that is made of whole windows."""
    k, rows, columns = d.each(shapes)
    return k, rows * k, columns * k
