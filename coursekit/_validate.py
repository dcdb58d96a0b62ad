"""Refusals that name the argument, what it was and what was expected."""

from collections.abc import Sequence

import torch
from torch import Tensor


def refuse(argument: str, expected: str, got: object) -> ValueError:
    """The error to raise when `argument` is not what was `expected`."""
    return ValueError(f"{argument} must be {expected}, got {got}")


def shape_of(x: object) -> str:
    """What a message says of `x`: the shape of a tensor, the type of anything else."""
    return f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def tensor(argument: str, x: object, layouts: Sequence[str]) -> Tensor:
    """`x`, if it is a non-empty tensor laid out as one of `layouts`, for example `"(N, C, H, W)"`."""
    ranks = [layout.count(",") + 1 - layout.endswith(",)") for layout in layouts]
    expected = "a tensor of shape " + " or ".join(layouts)
    if not isinstance(x, Tensor) or x.ndim not in ranks:
        raise refuse(argument, expected, shape_of(x))
    if x.numel() == 0:
        raise refuse(argument, f"{expected} without an empty axis", shape_of(x))
    return x


def floating(argument: str, x: object, layouts: Sequence[str]) -> Tensor:
    """`x`, if it is a non-empty floating-point tensor laid out as one of `layouts`."""
    x = tensor(argument, x, layouts)
    if not x.is_floating_point():
        raise refuse(argument, "a floating-point tensor", x.dtype)
    return x


def integers(argument: str, x: object, layouts: Sequence[str]) -> Tensor:
    """`x`, if it is a non-empty integer or bool tensor laid out as one of `layouts`."""
    x = tensor(argument, x, layouts)
    if x.is_floating_point() or x.is_complex():
        raise refuse(argument, "an integer tensor", x.dtype)
    return x


def vector(argument: str, x: object, length: int) -> Tensor:
    """`x`, if it is a floating-point vector of `length` entries."""
    if not isinstance(x, Tensor) or x.shape != (length,):
        raise refuse(argument, f"a tensor of shape ({length},)", shape_of(x))
    return floating(argument, x, ["(C,)"])


def whole(argument: str, value: object, least: int) -> int:
    """`value`, if it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise refuse(argument, f"an integer of at least {least}", repr(value))
    return value


def number(argument: str, value: object, least: float = 0.0) -> float:
    """`value`, if it is a finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
        raise refuse(argument, f"a finite number of at least {least:g}", repr(value))
    return value


def as_float(x: Tensor) -> Tensor:
    """`x` in its own floating-point dtype, or in float32 where it holds integers."""
    return x if x.is_floating_point() else x.to(torch.float32)
