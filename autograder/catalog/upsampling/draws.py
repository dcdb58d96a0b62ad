"""What exercises of lecture 05 share: maps, small networks, pooling, nails and blocks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.observations import described, draw_statistics, filled
from autograder.draw import Draw
from autograder.exercise import Case


def maps(d: Draw) -> torch.Tensor:
    return d.tensor(d.choice([2, 1]), d.choice([2, 1, 3]), d.choice([2, 3, 4]), d.choice([3, 2, 5]))


def each(subject: Subject, case: Case) -> dict[str, Any]:
    """The answers to several calls, whose arguments stand beside the case by label: none is left to chance."""
    return {label: subject(*args) for label, args in case.extra.items()}


def carries_by_name(*names: str) -> Callable[[Subject, Case], dict[str, Any]]:
    """Kind of the answer, and the arguments changed in place by name; the numbers are other properties' business."""

    def observe(subject: Subject, case: Case) -> dict[str, Any]:
        answer, positions = subject.with_changes(*case.args, **case.kwargs)
        changed = [names[int(p)] for p in positions]
        return {"answer": described(answer), "changed in place": ", ".join(changed) or "nothing"}

    return observe


def filled_layers(d: Draw, *layers: nn.Module) -> nn.Sequential:
    return filled(d, nn.Sequential(*layers), scale=0.5)


def pooling_net(d: Draw) -> nn.Sequential:
    c, k = d.choice([2, 1]), d.choice([2, 3])
    return filled_layers(d, nn.Conv2d(c, k, d.choice([2, 3])), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(k, 2, 2))


def striding_net(d: Draw) -> nn.Sequential:
    c, k, stride = d.choice([2, 1]), d.choice([2, 3]), d.choice([2, 3])
    return filled_layers(d, nn.Conv2d(c, k, 3, stride), nn.Tanh(), nn.Conv2d(k, 2, 2))


def normalizing_net(d: Draw) -> nn.Sequential:
    net = filled_layers(
        d, nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2)
    )
    draw_statistics(d, net)
    return net


def pair(value):
    return (value, value) if isinstance(value, int) else value


def reach(net: nn.Sequential) -> tuple[int, int]:
    """Field and total stride of a network without padding whose windows are square."""
    field, jump = 1, 1
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            size, stride, dilation = (pair(v)[0] for v in (layer.kernel_size, layer.stride, layer.dilation))
            field, jump = field + (size - 1) * dilation * jump, jump * stride
    return field, jump


def single_precision(d: Draw) -> Case:
    return Case((d.tensor(2, 2, d.integer(2, 3), d.integer(2, 4), dtype=torch.float32), d.choice([2, 3])))


def distinct(d: Draw, *shape: int) -> torch.Tensor:
    """Positive numbers, no two of which are equal."""
    count = torch.Size(shape).numel()
    return (torch.randperm(count, generator=d.source).double() + 1).reshape(shape) / 10


def pool_size(d: Draw, k: int, *, ragged: bool = False) -> tuple[int, int]:
    """Height and width that differ, in whole windows or a little more."""
    more = (d.integer(1, k - 1), d.integer(1, k - 1)) if ragged else (0, 0)
    size = (2 * k + more[0], d.integer(3, 4) * k + more[1])
    return size if ragged or not d.flag() else size[::-1]
