"""The random choices that a case is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch

from autograder.values import Generator

T = TypeVar("T")


class Choose(Protocol):
    """Chooses a whole number from ``low`` to ``high``, both included; ``wanted`` is the one that is due."""

    def __call__(self, low: int, high: int, wanted: int | None = None, /) -> int: ...


class Draw:
    """The random choices of one case: whole numbers, of which the lower end is the simplest, choices among options, of
    which the first is, and tensors. The numbers in a tensor follow from the seed and have two decimals, so that a
    learner can read and retype them.

    Args:
        choose: makes the choices.
        seed: of the tensors.
        number: of the case in its exam; 0 is the simplest one.
    """

    def __init__(self, choose: Choose, seed: int, number: int = 0):
        self._choose = choose
        self._seed = seed
        self._number = number
        self._turns = 1
        self._generator: torch.Generator | None = None

    def integer(self, low: int, high: int) -> int:
        return self._choose(low, high)

    def choice(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def each(self, options: Sequence[T]) -> T:
        """The option whose turn it is: over an exam all come, and with those of other calls in every combination that
        its number of cases has room for."""
        turn = self._number // self._turns % len(options)
        self._turns *= len(options)
        return options[self._choose(0, len(options) - 1, turn)]

    def flag(self) -> bool:
        return bool(self.integer(0, 1))

    @property
    def source(self) -> torch.Generator:
        """The generator behind the tensors of this case, for draws that need their own."""
        if self._generator is None:
            self._generator = torch.Generator().manual_seed((self._seed * 65_537 + self._number) % 2**63)
        return self._generator

    def tensor(
        self, *shape: int, dtype: torch.dtype = torch.float64, scale: float = 1.0, shift: float = 0.0
    ) -> torch.Tensor:
        """Normal numbers times ``scale`` plus ``shift``."""
        numbers = torch.randn(shape, generator=self.source, dtype=torch.float64)
        return ((numbers * 100).round() / 100 * scale + shift).to(dtype)

    def positive(
        self, *shape: int, dtype: torch.dtype = torch.float64, low: float = 0.5, high: float = 2.0
    ) -> torch.Tensor:
        """Uniform numbers between ``low`` and ``high``."""
        numbers = torch.rand(shape, generator=self.source, dtype=torch.float64) * (high - low) + low
        return ((numbers * 100).round() / 100).to(dtype)

    def integers(
        self, *shape: int, low: int = 0, high: int = 9, dtype: torch.dtype = torch.int64
    ) -> torch.Tensor:
        """Whole numbers from ``low`` to ``high``, both included."""
        return torch.randint(low, high + 1, shape, generator=self.source).to(dtype)

    def seed(self) -> int:
        return int(torch.randint(0, 2**31, (), generator=self.source))

    def generator(self) -> Generator:
        """A generator argument, seeded afresh."""
        return Generator(self.seed())

    def layout(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same numbers, perhaps in another memory order, as transposed and channels-last inputs are."""
        order = list(range(tensor.dim()))
        if self.flag():
            order.reverse()
        back = [order.index(axis) for axis in range(tensor.dim())]
        return tensor.permute(order).contiguous().permute(back)
