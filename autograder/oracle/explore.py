"""Drawing the cases of a property, and smaller ones where one fails."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from autograder.draw import Draw
from autograder.exercise import Case
from autograder.values import Batches, Network

Drawing = Callable[[Draw], Case]


def entropy(seed: int, name: str) -> int:
    """The seed of one part of a check, such as a property."""
    return zlib.crc32(f"{seed}/{name}".encode())


class Choice(NamedTuple):
    """One choice that a drawing made: the lower end is the simplest."""

    low: int
    chosen: int


class Drawn(NamedTuple):
    """A case and how it came about: its number in the exam, and its choices."""

    case: Case
    number: int
    choices: tuple[Choice, ...]


def drawn(draw: Drawing, seed: int, examples: int) -> list[Drawn]:
    """The cases of an exam, the simplest first, which has every choice at its lower end.

    Luck has little to do with the others: of a choice between few values each comes, and of one between many they lie
    evenly from end to end.
    """
    strata = _Strata(seed, examples)
    return [_draw(draw, seed, number, strata.chooser(number)) for number in range(examples)]


def shrink(draw: Drawing, seed: int, found: Drawn, fails: Callable[[Case], bool]) -> Drawn:
    """The case that is left when no choice of a failing one can be made simpler and still fail; ``fails`` may end the search
    by an exception."""
    again = True
    while again:
        again = False
        for place in range(len(found.choices)):
            if place >= len(found.choices):
                break
            low, chosen = found.choices[place]
            for simpler in sorted({low, (low + chosen) // 2, chosen - 1}):
                if not low <= simpler < chosen:
                    continue
                wanted = [c.chosen for c in found.choices]
                wanted[place] = simpler
                candidate = _draw(draw, seed, found.number, _replay(wanted))
                if fails(candidate.case):
                    found, again = candidate, True
                    break
    return found


def _draw(draw: Drawing, seed: int, number: int, choose: Callable[[int, int, int, int | None], int]) -> Drawn:
    made: list[Choice] = []

    def chosen(low: int, high: int, wanted: int | None = None) -> int:
        value = choose(len(made), low, high, wanted)
        made.append(Choice(low, value))
        return value

    case = draw(Draw(chosen, seed, number))
    return Drawn(case, number, tuple(made))


def _replay(wanted: Sequence[int]) -> Callable[[int, int, int, int | None], int]:
    def choose(place: int, low: int, high: int, due: int | None) -> int:
        return min(max(wanted[place], low), high) if place < len(wanted) else low

    return choose


class _Strata:
    """What the cases of an exam choose at each place of a drawing: all values where there are few, else evenly spread."""

    def __init__(self, seed: int, examples: int):
        self._seed = seed
        self._others = examples - 1
        self._tables: dict[tuple[int, int], list[int]] = {}

    def chooser(self, number: int) -> Callable[[int, int, int, int | None], int]:
        def choose(place: int, low: int, high: int, due: int | None) -> int:
            if due is not None:
                return due
            return low if number == 0 else low + self._table(place, high - low + 1)[number - 1]

        return choose

    def _table(self, place: int, values: int) -> list[int]:
        key = place, values
        if key not in self._tables:
            chance = random.Random(f"{self._seed}/{place}/{values}")
            count = self._others
            if values - 1 <= count:
                # The lower end has come already, in the first case.
                rounds = [chance.sample(range(1, values), values - 1)] if values > 1 else []
                while sum(map(len, rounds)) < count:
                    rounds.append(chance.sample(range(values), values))
                table = [value for each in rounds for value in each][:count]
            else:
                table = [int((number + chance.random()) * values / count) for number in range(count)]
                table[-1:] = [values - 1]
            chance.shuffle(table)
            self._tables[key] = table
        return self._tables[key]


def size_of(case: Case) -> int:
    """How much a reader has to take in: numbers of values, and whole numbers by their size."""

    def count(value: Any) -> int:
        match value:
            case torch.Tensor():
                return 8 + value.numel()
            case Batches(items):
                return 8 + sum(count(i) for i in items)
            case Network(_, tensors):
                return 8 + sum(t.numel() for t in tensors.values())
            case Mapping():
                return sum(count(v) for v in value.values())
            case list() | tuple():
                return 1 + sum(count(v) for v in value)
            case int():
                return min(abs(value), 64)
        return 1

    return count(case.args) + count(case.kwargs) + count(case.extra)
