"""What every answer of one seed is asked: the cases, drawn once, and what the reference shows on them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from autograder.attempt import Attempt, Conditions, Handle, Trouble
from autograder.exercise import Case, Exercise, Property
from autograder.oracle.explore import entropy, explore
from autograder.oracle.observe import Lost, observed, refused

REFERENCE_SECONDS = 120.0


class Exam:
    """The inputs of an exercise that follow from one seed.

    Each check may draw an exam of its own; answers that sit the same one get the same verdicts as with its seed,
    and what the reference shows is computed once for all of them.

    Args:
        exercise: whose properties draw the cases.
        seed: of the draws; None is a fresh one.
    """

    def __init__(self, exercise: Exercise[Any], seed: int | None = None):
        self.exercise = exercise
        self.seed = secrets.randbits(32) if seed is None else int(seed)
        self._reference = Attempt.local(exercise.reference, exercise.id, seconds=REFERENCE_SECONDS)
        self._cases: dict[tuple[str, int], list[Case]] = {}
        # Held with its case, whose identity is the key.
        self._shown: dict[tuple[str, int], tuple[Case, Any]] = {}

    def entropy(self, prop: Property) -> int:
        """The seed of a property's draws."""
        return entropy(self.seed, prop.name)

    def cases(self, prop: Property, examples: int) -> list[Case]:
        """A property's cases, the simplest first."""
        key = prop.name, examples
        if key not in self._cases:
            drawn: list[Case] = []
            explore(prop.draw, self.entropy(prop), drawn.append, shrink=False, examples=examples)
            self._cases[key] = drawn
        return self._cases[key]

    def expected(self, prop: Property, case: Case) -> Any:
        """What the reference shows on a case. Raises :class:`Lost` where it fails by accident."""
        key = prop.name, id(case)
        if key in self._shown:
            return self._shown[key][1]
        shown = observed(prop.observe, self._reference, case, Conditions(seconds=REFERENCE_SECONDS)).value
        if isinstance(shown, Trouble) and not refused(shown):
            raise Lost(f"the reference fails: {shown}")
        # What a handle stands for is gone with the next question.
        if not _holds_handle(shown) and any(case is drawn for drawn in self._of(prop)):
            self._shown[key] = case, shown
        return shown

    def _of(self, prop: Property) -> list[Case]:
        return [case for (name, _), cases in self._cases.items() if name == prop.name for case in cases]


def _holds_handle(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_handle, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_handle, value))
    return isinstance(value, Handle)
