"""All that was seen of one claim, as values side by side, for those who say what is wrong with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from autograder.exercise import Case
from autograder.oracle.compare import compare, tolerance_of
from autograder.oracle.examine import Look

Asked = Callable[[Case], Any]
"""What the reference shows on a case."""
FEW = 3
"""So many different numbers tell one relation from another."""


@dataclass(frozen=True)
class Pair:
    """Two tensors in float64, one expected and one that came in its place."""

    expected: torch.Tensor
    got: torch.Tensor
    tolerance: tuple[float, float]

    @property
    def alike(self) -> bool:
        """Whether both have one shape."""
        return self.expected.shape == self.got.shape

    def is_now(self, other: torch.Tensor) -> bool:
        """Whether what came is that."""
        return self.got.shape == other.shape and torch.allclose(
            self.got, other, *self.tolerance, equal_nan=True
        )

    @cached_property
    def off(self) -> torch.Tensor:
        return ~torch.isclose(self.got, self.expected, *self.tolerance, equal_nan=True)

    @property
    def telling(self) -> bool:
        """Whether it has different numbers enough to tell one relation from another."""
        return len(self.expected.unique()) >= FEW


@dataclass(frozen=True)
class Recorded:
    """All that was seen of one claim.

    Attributes:
        looks: every input that was tried.
        tolerance: the claim's own, or None.
        signature: of the exercise's reference.
        ask: what the reference shows on another case.
        compared: whether the answer must show what the reference shows, and is not judged in another way.
        differentiated: whether the claim is one about gradients.
    """

    looks: Sequence[Look]
    tolerance: tuple[float, float] | None
    signature: inspect.Signature
    ask: Asked
    compared: bool = True
    differentiated: bool = True

    @cached_property
    def failed(self) -> list[Look]:
        return [look for look in self.looks if look.mismatch is not None]

    @cached_property
    def passed(self) -> list[Look]:
        return [look for look in self.looks if look.mismatch is None]

    @cached_property
    def pairs(self) -> list[Pair]:
        """What differs on the inputs that failed; none where one of them shows something else than numbers."""
        found: list[Pair] = []
        for look in self.failed:
            own = list(differing(look.expected, look.got, self.tolerance))
            if not own or None in own:
                return []
            found += [pair for pair in own if pair is not None]
        return found

    @cached_property
    def alike(self) -> list[Pair]:
        """The same, where shapes are right everywhere."""
        return self.pairs if all(pair.alike for pair in self.pairs) else []


def leaves(expected: Any, got: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every value of two observations of one form, with its place; the whole where their forms differ."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping) and list(expected) == list(got):
        for key in expected:
            yield from leaves(expected[key], got[key], f"{path}.{key}" if path else str(key))
    elif isinstance(expected, list | tuple) and isinstance(got, list | tuple) and len(expected) == len(got):
        for number, (e, g) in enumerate(zip(expected, got, strict=True)):
            yield from leaves(e, g, f"{path}[{number}]")
    else:
        yield path, expected, got


def differing(expected: Any, got: Any, tolerance: tuple[float, float] | None) -> Iterator[Pair | None]:
    """A pair for each leaf that differs, None for one that differs in something else than numbers."""
    for _, e, g in leaves(expected, got):
        one, other = numbers(e), numbers(g)
        if one is None or other is None:
            if not equal(e, g):
                yield None
            continue
        pair = Pair(
            one, other, tolerance_of(e.dtype if isinstance(e, torch.Tensor) else torch.float64, tolerance)
        )
        if not pair.is_now(one):
            yield pair


def equal(one: Any, other: Any) -> bool:
    try:
        return compare(one, other) is None
    except TypeError:
        return False


def numbers(value: Any) -> torch.Tensor | None:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, torch.Tensor):
        return None if value.is_complex() else value.double()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    return None


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.double(), other.double(), 1e-5, 1e-7, equal_nan=True
    )


def arguments(case: Case, signature: inspect.Signature) -> Mapping[str, Any]:
    try:
        return signature.bind_partial(*case.args, **case.kwargs).arguments
    except TypeError:
        return {}
