"""Gradients of an answer, and what a call changed in its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from autograder.values import Walk
from autograder.wire import carried


def gradients(
    tensors: Sequence[torch.Tensor], leaves: dict[str, torch.Tensor], seed: int
) -> dict[str, Any] | None:
    """Gradients of ⟨the tensors of an answer, cotangents⟩, drawn from ``seed``; None where the graph was cut."""
    outputs = [t for t in tensors if t.is_floating_point() and t.requires_grad]
    if not outputs:
        return dict.fromkeys(leaves)
    generator = torch.Generator().manual_seed(seed)
    cotangents = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.device, t.dtype) for t in outputs
    ]
    # One number has a gradient without cotangents, which cost an import of sympy, a second at the first check.
    products = ((t * c).sum() for t, c in zip(outputs, cotangents, strict=True))
    inner = sum(products, start=torch.zeros(()))
    grads = torch.autograd.grad(inner, list(leaves.values()), allow_unused=True)
    return {name: None if g is None else g.detach() for name, g in zip(leaves, grads, strict=True)}


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor of an argument, those inside its containers too."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from tensors_in(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from tensors_in(v)
    elif isinstance(value, Walk):
        yield from tensors_in(value.items)


def snapshot(args: Any, kwargs: Any) -> dict[str, Any]:
    """Copies of every tensor and module state among the arguments, by the argument's position or name."""
    found: dict[str, Any] = {}
    for label, value in [*enumerate(args), *kwargs.items()]:
        for number, tensor in enumerate(tensors_in(value)):
            found[f"{label}.{number}"] = (tensor, _copy(tensor))
        if isinstance(value, nn.Module):
            for name, tensor in value.state_dict().items():
                found[f"{label}.{name}"] = (tensor, _copy(tensor))
            for path, m in value.named_modules():
                found[f"{label}.{path}.training"] = (None, m.training)
    return found


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    # An argument may have been made larger than any memory, and is another than it was then without being read.
    return tensor.detach().clone() if carried(tensor) else tensor.detach()


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The arguments, by position or name, that differ between two snapshots."""
    changed = set()
    for label, (tensor, copy) in before.items():
        if tensor is None:
            same = label in after and after[label][1] == copy
        else:
            same = tensor.shape == copy.shape and torch.equal(
                torch.nan_to_num(tensor.detach().double()), torch.nan_to_num(copy.double())
            )
        if not same:
            changed.add(label.split(".")[0])
    return sorted(changed)
