"""The name of a mistake: the wrong answer of the catalogue that does what this one did."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from autograder.attempt import Conditions, Odd, Raised, Trouble
from autograder.exercise import Misconception, Training
from autograder.oracle.compare import compare
from autograder.oracle.exam import Exam
from autograder.oracle.examine import Evidence
from autograder.oracle.observe import Fault, judged, refused
from autograder.values import Foreign

DIAGNOSIS_SECONDS = 2.0


def diagnose(exam: Exam, evidence: Sequence[Evidence]) -> Misconception | None:
    """The misconception that the answer shows, or None."""
    failed = [found for found in evidence if found.failed]
    if isinstance(exam.exercise, Training):
        return _by_symptom(exam.exercise, failed)
    return _by_behavior(exam, failed)


def _by_symptom(exercise: Training, failed: Sequence[Evidence]) -> Misconception | None:
    codes = {found.smallest.mismatch.code for found in failed if found.smallest is not None}
    return next((m for m in exercise.misconceptions if m.name in codes), None)


def _by_behavior(exam: Exam, evidence: Sequence[Evidence]) -> Misconception | None:
    """The misconception that fails nothing the answer passes, and on every recorded failing input of some
    property gives what the answer gave."""
    failed = {found.claim.name: found for found in evidence}
    # Of this process, so that a busy machine diagnoses as well as an idle one.
    deadline = time.process_time() + DIAGNOSIS_SECONDS
    ranked = []
    for number, misconception in enumerate(exam.exercise.misconceptions):
        if not set(misconception.fails) <= set(failed) or time.process_time() > deadline:
            continue
        explained = [
            name for name in misconception.fails if _explains(exam, misconception, failed[name], deadline)
        ]
        if explained:
            whole = len(explained) == len(failed) == len(misconception.fails)
            ranked.append((not whole, -len(explained), number, misconception))
    return min(ranked)[3] if ranked else None


class Slip(NamedTuple):
    """A mistake that can be made in any exercise."""

    name: str
    mistake: str
    repair: str


DEFAULT_DTYPE = Slip(
    "default_dtype",
    "Your result is float32, whatever dtype the input has.",
    "torch.zeros(…), torch.ones(…) and torch.tensor(…) make float32: pass dtype=x.dtype and device=x.device, or use "
    "x.new_zeros(…) or torch.zeros_like(x).",
)


def slip(evidence: Sequence[Evidence]) -> Slip | None:
    """The slip that shows somewhere, for an answer whose mistake has no name in the catalogue."""
    found = {(f.smallest.mismatch.code, f.smallest.mismatch.got) for f in evidence if f.smallest is not None}
    return DEFAULT_DTYPE if ("dtype", "float32") in found else None


def _explains(exam: Exam, misconception: Misconception, evidence: Evidence, deadline: float) -> bool:
    prop = exam.exercise.property(evidence.claim.name)
    for failure in [*evidence.failures, evidence.smallest]:
        if failure is None or time.process_time() > deadline:
            return failure is None
        # The same global random numbers, so that an ignored generator shows the same way.
        conditions = Conditions(seed=failure.seed, seconds=DIAGNOSIS_SECONDS)
        shown = exam.mistaken(misconception, prop, failure.case, conditions)
        if prop.judge is not None:
            try:
                mismatch = judged(prop, failure.case, failure.expected, shown)
            except Fault:
                return False
            if mismatch is None or mismatch.code != failure.mismatch.code:
                return False
        elif isinstance(failure.got, Raised) and isinstance(shown, Raised):
            if not alike(failure.got, shown):
                return False
        elif isinstance(failure.got, Odd) and isinstance(shown, Odd):
            if str(failure.got) != str(shown):
                return False
        elif (
            isinstance(failure.got, Trouble)
            or isinstance(shown, Trouble)
            or not _agree(shown, failure.got, prop.tolerance)
        ):
            return False
    return True


def alike(one: Raised, other: Raised) -> bool:
    """Whether two errors say the same. torch raises one class for nearly everything, and a lookup for every
    missing key: there the words count too, numbers left out, unless one of the two was raised on purpose."""
    if one.kinds[0] != other.kinds[0]:
        return False
    if refused(one) or refused(other) or one.kinds[0] not in ("RuntimeError", "KeyError"):
        return True
    return _unnumbered(one) == _unnumbered(other)


def _unnumbered(raised: Raised) -> str:
    return re.sub(r"-?\d+(, -?\d+)*", "#", raised.message)


def _agree(one: Any, other: Any, tolerance: tuple[float, float] | None) -> bool:
    try:
        return compare(one, other, tolerance) is None
    except TypeError:
        return isinstance(one, Foreign) and isinstance(other, Foreign) and one.kind == other.kind
