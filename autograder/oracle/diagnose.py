"""The name of a mistake: the wrong answer of the catalogue that does what this one did."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Sequence
from typing import Any

import torch

from autograder.attempt import Conditions, Odd, Raised, Trouble
from autograder.exercise import Finding, Misconception, Property, Training
from autograder.oracle.compare import compare
from autograder.oracle.exam import Exam
from autograder.oracle.examine import Evidence, Failure, Look
from autograder.oracle.observe import Fault, judged, refused
from autograder.values import Foreign

DIAGNOSIS_SECONDS = 2.0
SINGLE = (1e-3, 1e-4)


def diagnose(exam: Exam, evidence: Sequence[Evidence]) -> tuple[Finding, ...]:
    """The mistakes that the answer shows, the one that explains most claims first; none explains a claim twice."""
    failed = [found for found in evidence if found.failed]
    if isinstance(exam.exercise, Training):
        named = _by_symptom(exam.exercise, failed)
    else:
        named = _by_behavior(exam, failed)
    return (*named, *_slips(failed, {claim for finding in named for claim in finding.claims}))


def _by_symptom(exercise: Training, failed: Sequence[Evidence]) -> list[Finding]:
    codes = {found.claim.name: found.smallest.mismatch.code for found in failed if found.smallest is not None}
    found = []
    for m in exercise.misconceptions:
        if claims := tuple(name for name, code in codes.items() if code == m.name):
            found.append(Finding(m.name, m.mistake, m.repair, claims))
    return found


def _by_behavior(exam: Exam, failed: Sequence[Evidence]) -> list[Finding]:
    """The misconceptions that fail nothing the answer passes, and on every recorded input of every claim they fail
    show what the answer shows."""
    by_name = {found.claim.name: found for found in failed}
    # Of this process, so that a busy machine diagnoses as well as an idle one.
    deadline = time.process_time() + DIAGNOSIS_SECONDS
    left = set(by_name)
    named: list[Finding] = []
    numbered = enumerate(exam.exercise.misconceptions)
    for _, m in sorted(numbered, key=lambda pair: (-len(pair[1].fails), pair[0])):
        if (
            set(m.fails) <= left
            and time.process_time() < deadline
            and all(_explains(exam, m, by_name[name], deadline) for name in m.fails)
        ):
            named.append(Finding(m.name, m.mistake, m.repair, m.fails))
            left -= set(m.fails)
    return named


DEFAULT_DTYPE = (
    "default_dtype",
    "Your result is float32, whatever dtype the input has.",
    "torch.zeros(…), torch.ones(…) and torch.tensor(…) make float32: pass dtype=x.dtype and device=x.device, or use "
    "x.new_zeros(…) or torch.zeros_like(x).",
)
"""A mistake that can be made in any exercise."""


def _slips(failed: Sequence[Evidence], explained: Collection[str]) -> list[Finding]:
    """The slip that shows in claims which no mistake of the catalogue explains; it explains those where nothing else
    is wrong."""
    shown = [
        found
        for found in failed
        if found.claim.name not in explained
        and found.smallest is not None
        and found.smallest.mismatch.code == "dtype"
        and all(look.mismatch.got == "float32" for look in found.failures if look.mismatch.code == "dtype")
    ]
    alone = [found.claim.name for found in shown if all(_only_dtype(look) for look in found.failures)]
    return [Finding(*DEFAULT_DTYPE, tuple(alone))] if shown else []


def _only_dtype(look: Failure) -> bool:
    """Whether the answer is right but for its dtype, as far as float32 can tell."""
    return not isinstance(look.got, Trouble) and _agree(look.expected, _as(look.expected, look.got), SINGLE)


def _as(expected: Any, got: Any) -> Any:
    """The answer, each tensor in the dtype that is expected in its place."""
    if isinstance(expected, torch.Tensor) and isinstance(got, torch.Tensor):
        return got.to(expected.dtype)
    if isinstance(expected, dict) and isinstance(got, dict):
        return {key: _as(expected.get(key), value) for key, value in got.items()}
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple) and len(expected) == len(got):
        return type(got)(_as(e, g) for e, g in zip(expected, got, strict=True))
    return got


def _explains(exam: Exam, misconception: Misconception, evidence: Evidence, deadline: float) -> bool:
    prop = exam.exercise.property(evidence.claim.name)
    # The smallest first: there most misconceptions are told from the answer.
    for look in (evidence.smallest, *evidence.failures, *evidence.looks):
        if look is None:
            continue
        if time.process_time() > deadline:
            return False
        # The same global random numbers, so that an ignored generator shows the same way.
        conditions = Conditions(seed=look.seed, seconds=exam.exercise.seconds)
        if not _does_so(prop, look, exam.mistaken(misconception, prop, look.case, conditions)):
            return False
    return True


def _does_so(prop: Property, look: Look, shown: Any) -> bool:
    """Whether a misconception shows on an input what the answer showed there."""
    # A judge never sees an error, and that there was one says nothing.
    if isinstance(look.got, Raised) and isinstance(shown, Raised) and not isinstance(look.expected, Raised):
        return alike(look.got, shown)
    if look.mismatch is None or prop.judge is not None:
        try:
            mismatch = judged(prop, look.case, look.expected, shown)
        except Fault:
            return False
        if look.mismatch is None or mismatch is None:
            return look.mismatch is mismatch
        return mismatch.code == look.mismatch.code
    if isinstance(look.got, Raised) and isinstance(shown, Raised):
        return alike(look.got, shown)
    if isinstance(look.got, Odd) and isinstance(shown, Odd):
        return str(look.got) == str(shown)
    troubled = isinstance(look.got, Trouble) or isinstance(shown, Trouble)
    return not troubled and _agree(shown, look.got, prop.tolerance)


def alike(one: Raised, other: Raised) -> bool:
    """Whether two errors say the same: those raised on purpose by their kind, what Python and torch raise by their words
    too, since a kind alone stands for nearly everything."""
    if refused(one) or refused(other):
        return one.kinds[0] == other.kinds[0]
    return _essence(one) == _essence(other)


def _essence(raised: Raised) -> str:
    """What an error says, numbers left out. That None stands where a value is needed is worded by the place of its use."""
    return "None" if "NoneType" in raised.message else f"{raised.kinds[0]}: {_unnumbered(raised)}"


def _unnumbered(raised: Raised) -> str:
    return re.sub(r"-?\d+(, -?\d+)*", "#", raised.message)


def _agree(one: Any, other: Any, tolerance: tuple[float, float] | None) -> bool:
    try:
        return compare(one, other, tolerance) is None
    except TypeError:
        return isinstance(one, Foreign) and isinstance(other, Foreign) and one.kind == other.kind
