"""Observations, and what they are made of, that several topics share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from autograder.attempt import Handle, Raised, Subject, kind_of
from autograder.draw import Draw
from autograder.exercise import Case, Mismatch, Outcome

Module = TypeVar("Module", bound=nn.Module)


def described(value: Any) -> str:
    """What a value is, without its numbers: ``float32 tensor (3, 4)``."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {', '.join(described(v) for v in value)}"
    return kind_of(value)


def as_double(value: Any) -> Any:
    """Numbers without their dtype, which is another property's business."""
    return value.double() if isinstance(value, torch.Tensor) else value


def filled(d: Draw, network: Module, scale: float = 0.3) -> Module:
    """The network in float64 and evaluation mode, its parameters drawn."""
    network = network.double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(d.tensor(*p.shape, scale=scale))
    return network


def draw_statistics(d: Draw, network: nn.Module) -> None:
    """Draw the running statistics of the batch normalizations of a network."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.get_buffer("running_mean").copy_(d.tensor(norm.num_features))
            norm.get_buffer("running_var").copy_(d.positive(norm.num_features))


def changed_tensors(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the parameters and buffers that differ between two looks at a network (`handle.inspect()`)."""
    return sorted(
        name
        for group in ("parameters", "buffers")
        for name, tensor in before[group].items()
        if name not in after[group] or not torch.equal(tensor, after[group][name])
    )


def share_memory(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a tensor of one inspected network lies in the memory of another's."""
    return bool(set(one["storages"].values()) & set(other["storages"].values()))


def parameters_of(network: Handle, *inputs: Any) -> dict[str, torch.Tensor]:
    """The parameters of a network. One that has none is asked about the inputs: so a stub is told from a network
    whose layers are other ones."""
    parameters = network.inspect("parameters")["parameters"]
    if not parameters:
        try:
            network(*inputs)
        except Raised as raised:
            if raised.kinds[0] == "NotImplementedError":
                raise
    return parameters


def carries(subject: Subject, case: Case) -> dict[str, Any]:
    """Kind of the answer and arguments changed in place; the numbers are other properties' business."""
    answer, changed = subject.with_changes(*case.args, **case.kwargs)
    return {"answer": described(answer), "arguments changed in place": [int(c) for c in changed]}


def numbers(subject: Subject, case: Case) -> Any:
    """The answer without its dtype, which is another property's business."""
    return as_double(subject(*case.args, **case.kwargs))


def named(*names: str) -> Callable[[Subject, Case], Any]:
    """The entries of a returned tuple by name, so that feedback can tell which is wrong."""

    def observe(subject: Subject, case: Case) -> Any:
        result = subject(*case.args, **case.kwargs)
        if not isinstance(result, list | tuple) or len(result) != len(names):
            return result
        return dict(zip(names, result, strict=True))

    return observe


def applied(to: str) -> Callable[[Subject, Case], Any]:
    """What a returned network makes of the input that stands beside the case under this name."""

    def observe(subject: Subject, case: Case) -> Any:
        network = subject(*case.args)
        return network(case.extra[to]) if callable(network) else network

    return observe


def component(index: int, of: int) -> Callable[[Subject, Case], Any]:
    """One entry of a returned tuple, so that each can earn its own points."""

    def observe(subject: Subject, case: Case) -> Any:
        result = subject(*case.args, **case.kwargs)
        if not isinstance(result, list | tuple) or len(result) != of:
            return result
        return result[index]

    return observe


def gradients(*wrt: int) -> Callable[[Subject, Case], Any]:
    """Gradients with respect to positional arguments, named as positions."""

    def observe(subject: Subject, case: Case) -> Any:
        return subject.vjp(*case.args, wrt=list(wrt), **case.kwargs)["grads"]

    return observe


def wrong(message: str, code: str, where: str = "") -> Mismatch:
    """What a judge says of values that are wrong."""
    return Mismatch(Outcome.WRONG_VALUES, message, where, code=code)
