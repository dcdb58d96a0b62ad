"""What the class as a whole did: how hard each exercise was, which mistakes are shared."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autograder.exercise import Outcome, Verdict
from autograder.report.collect import State, Submission


@dataclass(frozen=True)
class Hardness:
    """How a class did on one exercise; ``share`` is the mean share of its points."""

    exercise: str
    max_points: float
    share: float
    answers: int
    full: int
    not_attempted: int


@dataclass(frozen=True)
class Shared:
    """A misconception and who has it."""

    exercise: str
    name: str
    mistake: str
    students: list[str]


def hardness(submissions: Sequence[Submission]) -> list[Hardness]:
    """Every exercise, in the notebook's order."""
    given: dict[str, list[Verdict]] = {}
    # The longest row first, so that one with a check missing does not shuffle the order.
    for submission in sorted(only_graded(submissions), key=lambda s: -len(s.verdicts)):
        for verdict in submission.verdicts:
            given.setdefault(verdict.exercise, []).append(verdict)
    return [
        Hardness(
            exercise,
            max(v.max_points for v in verdicts),
            statistics.fmean(v.points / v.max_points if v.max_points else 0.0 for v in verdicts),
            len(verdicts),
            sum(v.correct for v in verdicts),
            sum(v.outcome is Outcome.NOT_ATTEMPTED for v in verdicts),
        )
        for exercise, verdicts in given.items()
    ]


def misconceptions(submissions: Sequence[Submission]) -> list[Shared]:
    """The misconceptions of the class, the most common first."""
    found: dict[tuple[str, str], Shared] = {}
    for submission in submissions:
        for v in submission.verdicts:
            for f in v.findings:
                new = Shared(v.exercise, f.name, f.mistake, [])
                found.setdefault((v.exercise, f.name), new).students.append(submission.student)
    return sorted(found.values(), key=lambda m: (-len(m.students), m.exercise, m.name))


def only_graded(submissions: Iterable[Submission]) -> list[Submission]:
    """Those that came as far as a grade."""
    return [s for s in submissions if s.state is State.GRADED]


def hardest_of(exercises: Sequence[Hardness]) -> Hardness | None:
    """The exercise with the smallest share of its points; none where the class has them all."""
    found = min(exercises, key=lambda h: h.share, default=None)
    return found if found is not None and found.share < 1 else None


def median_share(submissions: Sequence[Submission]) -> float | None:
    """Of the shares: two notebooks of one assignment may have different maxima."""
    graded = only_graded(submissions)
    return statistics.median(s.share for s in graded) if graded else None


def percent(share: float) -> str:
    """Never rounded up to 100%."""
    return f"{math.floor(100 * share + 1e-9)}%"


def counted(many: int, one: str, more: str = "") -> str:
    """``1 student``, ``2 students``; ``more`` where the plural is another."""
    return f"{many} {one if many == 1 else more or one + 's'}"
