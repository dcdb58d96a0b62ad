"""What every answer of one seed is asked: the cases, drawn once, and what the reference shows on them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from autograder.attempt import Attempt, Conditions, Handle, Odd, Seen, Stumbled, TimedOut, Trouble
from autograder.draw import Draw
from autograder.exercise import Case, Claim, Exercise, Misconception, Property, Training
from autograder.oracle.explore import drawn, entropy
from autograder.oracle.observe import Fault, Lost, observed, observed_of_learner, refused

REFERENCE_SECONDS = 120.0
CALL_SECONDS = 1.0
"""Of processor time, that an answer may use up for each call that the exam makes of it."""


class Exam:
    """The inputs of an exercise that follow from one seed.

    Each check may draw an exam of its own; answers that sit the same one get the same verdicts as with its seed,
    and what the reference and the misconceptions show is computed once for all of them.

    Args:
        exercise: whose properties draw the cases.
        seed: of the draws; None is a fresh one.
        cases: what was drawn from that seed before, by the property's name; drawn when it is asked for otherwise.
    """

    def __init__(
        self,
        exercise: Exercise[Any],
        seed: int | None = None,
        cases: Mapping[str, Sequence[Case]] | None = None,
    ):
        self.exercise = exercise
        self.seed = secrets.randbits(32) if seed is None else int(seed)
        self._reference = Attempt.local(exercise.reference, exercise.id, seconds=REFERENCE_SECONDS)
        self._cases = {name: list(given) for name, given in (cases or {}).items()}
        # Kept for cases of this exam only: their identities are keys, and theirs are alive.
        self._shown: dict[tuple[str, str, int, int], Any] = {}
        self._forms: dict[tuple[str, int], tuple[str, ...]] = {}
        self._own = {id(case) for given in self._cases.values() for case in given}

    def entropy(self, prop: Claim) -> int:
        """The seed of a property's draws."""
        return entropy(self.seed, prop.name)

    def cases(self, prop: Property) -> list[Case]:
        """A property's cases, the simplest first."""
        return self._drawn(prop, prop.draw, prop.examples)

    def training(self) -> Case:
        """The one case of an exercise that trains."""
        assert isinstance(self.exercise, Training)
        (case,) = self._drawn(self.exercise.properties[0], self.exercise.draw, 1)
        return case

    def every(self) -> dict[str, list[Case]]:
        """All cases, by the name of the property that draws them; a training's by that of the first."""
        if isinstance(self.exercise, Training):
            return {self.exercise.properties[0].name: [self.training()]}
        return {prop.name: self.cases(prop) for prop in self.exercise.properties}

    def _drawn(self, claim: Claim, draw: Callable[[Draw], Case], examples: int) -> list[Case]:
        if claim.name not in self._cases:
            cases = [one.case for one in drawn(draw, self.entropy(claim), examples)]
            self._cases[claim.name] = cases
            self._own.update(map(id, cases))
        return self._cases[claim.name]

    def expected(self, prop: Property, case: Case) -> Any:
        """What the reference shows on a case. Raises :class:`Lost` where it fails by accident."""

        def shown() -> Any:
            seen = self._of_reference(prop, case)
            value = seen.value
            if id(case) in self._own:
                self._forms[prop.name, id(case)] = seen.forms
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
        if (prop.name, id(case)) not in self._forms:
            forms = self._of_reference(prop, case).forms
            if id(case) not in self._own:
                return forms
            self._forms[prop.name, id(case)] = forms
        return self._forms[prop.name, id(case)]

    @cached_property
    def seconds(self) -> float:
        """How much processor time an answer may use up: the exercise's, and more where the exam calls it so often that an
        honest answer which is slow would be cut short."""
        if isinstance(self.exercise, Training):
            return self.exercise.seconds
        calls = sum(
            len(self.forms(prop, case)) for prop in self.exercise.properties for case in self.cases(prop)
        )
        return max(self.exercise.seconds, CALL_SECONDS * calls)

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
