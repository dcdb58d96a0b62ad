"""What a property sees of an answer, and what it says of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from autograder.attempt import Attempt, Conditions, Gone, Odd, Raised, Seen, Stumbled, Subject, Trouble
from autograder.exercise import Case, Mismatch, Outcome, Property
from autograder.oracle.compare import compare, with_article

Observation = Callable[[Subject, Case], Any]


class Lost(BaseException):
    """The far side is gone, after so many ``seconds`` of the learner's time.

    Not an Exception, which a search would take for a failing input and replay.
    """

    def __init__(self, why: str, seconds: float = 0.0):
        super().__init__(why)
        self.seconds = seconds


class Fault(BaseException):
    """An observation or a judge of the catalogue failed at an answer that it should have coped with: nobody's answer is
    wrong for that. Not an Exception, for the same reason as :class:`Lost`."""

    @classmethod
    def of(cls, error: BaseException | None) -> Fault:
        return cls(f"{type(error).__name__}: {error}")


def observed(observe: Observation, attempt: Attempt, case: Case, conditions: Conditions) -> Seen:
    """What an observation sees; the learner's exceptions are seen too."""
    try:
        return attempt.ask(observe, case, conditions)
    except Gone as gone:
        raise Lost(str(gone), gone.seconds) from gone


def observed_of_learner(
    observe: Observation,
    attempt: Attempt,
    case: Case,
    conditions: Conditions,
    forms: Callable[[], tuple[str, ...]] = lambda: (),
) -> Seen:
    """The same, where an observation may stumble over an answer of another kind than it was written for.

    ``forms`` are those of the reference's answers: where the learner's are the same, raises :class:`Fault`.
    """
    try:
        return observed(observe, attempt, case, conditions)
    except Stumbled as stumbled:
        own = stumbled.seen.forms
        if own and own == forms()[: len(own)]:
            raise Fault.of(stumbled.__cause__) from stumbled
        kind = with_article(stumbled.seen.kind)
        return replace(stumbled.seen, value=Odd(f"the answer is of another kind than expected: {kind}"))


def refused(trouble: Trouble) -> bool:
    """Whether the reference refused its input on purpose. What fails by accident may fail the same way for
    every answer, and would then count as right."""
    return isinstance(trouble, Raised) and trouble.line.startswith("raise ")


def judged(prop: Property, case: Case, expected: Any, got: Any) -> Mismatch | None:
    """What a property says of an answer beside the reference's."""
    if prop.judge is None or isinstance(expected, Trouble) or isinstance(got, Trouble):
        return compare(expected, got, prop.tolerance)
    try:
        return prop.judge(case, expected, got)
    except Exception as error:
        # A judge is written for answers of the right kind; others are told apart from the reference's.
        other = compare(expected, got, prop.tolerance)
        if other is None or other.outcome is not Outcome.WRONG_KIND:
            raise Fault.of(error) from error
        return other
