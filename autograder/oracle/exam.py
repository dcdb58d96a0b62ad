"""What every answer of one seed is asked: the cases, drawn once, and what the reference shows on them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from autograder.attempt import Attempt, Conditions, Handle, Odd, Seen, Stumbled, TimedOut, Trouble
from autograder.exercise import Case, Exercise, Misconception, Property
from autograder.oracle.explore import entropy, explore
from autograder.oracle.observe import Fault, Lost, observed, observed_of_learner, refused

REFERENCE_SECONDS = 120.0


class Exam:
    """The inputs of an exercise that follow from one seed.

    Each check may draw an exam of its own; answers that sit the same one get the same verdicts as with its seed,
    and what the reference and the misconceptions show is computed once for all of them.

    Args:
        exercise: whose properties draw the cases.
        seed: of the draws; None is a fresh one.
    """

    def __init__(self, exercise: Exercise[Any], seed: int | None = None):
        self.exercise = exercise
        self.seed = secrets.randbits(32) if seed is None else int(seed)
        self._reference = Attempt.local(exercise.reference, exercise.id, seconds=REFERENCE_SECONDS)
        self._cases: dict[tuple[str, int], list[Case]] = {}
        # Kept for cases of this exam only: their identities are keys, and theirs are alive.
        self._shown: dict[tuple[str, str, int, int], Any] = {}
        self._own: set[int] = set()

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
            self._own.update(map(id, drawn))
        return self._cases[key]

    def expected(self, prop: Property, case: Case) -> Any:
        """What the reference shows on a case. Raises :class:`Lost` where it fails by accident."""

        def shown() -> Any:
            value = self._of_reference(prop, case).value
            if isinstance(value, Trouble) and not refused(value):
                raise Lost(f"the reference fails: {value}")
            return value

        return self._kept(("", prop.name, id(case), 0), shown)

    def shown(self, prop: Property, case: Case) -> Any:
        """What the reference shows on any case; a :class:`Trouble` where it cannot cope with that."""
        try:
            return self._of_reference(prop, case).value
        except (Fault, Lost) as why:
            return Odd(str(why))

    def forms(self, prop: Property, case: Case) -> tuple[str, ...]:
        """Of which forms the reference's answers to a case are, call by call."""
        return self._of_reference(prop, case).forms

    def _of_reference(self, prop: Property, case: Case) -> Seen:
        try:
            return observed(prop.observe, self._reference, case, Conditions(seconds=REFERENCE_SECONDS))
        except Stumbled as stumbled:
            raise Fault.of(stumbled.__cause__) from stumbled

    def mistaken(self, wrong: Misconception, prop: Property, case: Case, conditions: Conditions) -> Any:
        """What a misconception shows on a case, under such conditions."""

        def shown() -> Any:
            attempt = Attempt.local(wrong.answer, self.exercise.id, seconds=conditions.seconds)
            return observed_of_learner(prop.observe, attempt, case, conditions).value

        return self._kept((wrong.name, prop.name, id(case), conditions.seed), shown)

    def _kept(self, key: tuple[str, str, int, int], show: Callable[[], Any]) -> Any:
        if key in self._shown:
            return self._shown[key]
        value = show()
        # What a handle stands for is gone with the next question, and an answer may have more time then.
        if key[2] in self._own and not _holds_handle(value) and not isinstance(value, TimedOut):
            self._shown[key] = value
        return value


def _holds_handle(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_handle, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_handle, value))
    return isinstance(value, Handle)
