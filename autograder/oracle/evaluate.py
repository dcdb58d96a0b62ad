"""The verdict on one answer."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from autograder import agent, catalog
from autograder.agent.watch import ELSEWHERE
from autograder.attempt import Attempt, Gone, TimedOut
from autograder.exercise import (
    Case,
    Claim,
    Exercise,
    Finding,
    Outcome,
    Property,
    PropertyResult,
    Training,
    Verdict,
    without_verdict,
)
from autograder.oracle import arguments
from autograder.oracle.compare import with_article
from autograder.oracle.describe import describe
from autograder.oracle.diagnose import diagnose
from autograder.oracle.exam import Exam
from autograder.oracle.examine import Evidence, Examination, Look, examination_of
from autograder.oracle.observe import Lost
from autograder.oracle.recorded import Recorded
from autograder.oracle.shortcut import shortcut

log = logging.getLogger(__name__)
TEXT = 1000
FAULT = "the check itself failed here, not the answer: a person looks at it"


def devices_present() -> tuple[str, ...]:
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def evaluate(
    exercise_id: str,
    attempt: Any,
    *,
    seed: int | None = None,
    exam: Exam | None = None,
    devices: Sequence[str] | None = None,
    allow_reference: bool = False,
    outcomes_only: bool = False,
) -> Verdict:
    """Judge an answer to an exercise.

    ``attempt`` is the function or class, a mapping that may hold it under its name (a namespace), or an
    :class:`~autograder.attempt.Attempt`. ``seed`` replays the inputs of an earlier verdict, and an ``exam`` of that
    seed spares the drawing and the reference's part where many answers sit it; ``devices`` defaults to every
    one present. ``allow_reference`` switches the search for shortcuts off, and the watch that it needs: the gate
    uses it for the reference itself. ``outcomes_only`` leaves out what only feedback needs: a smaller input, names and
    descriptions.

    Raises ValueError for an unknown exercise or device, or another exercise's exam. Whatever the answer does is in the verdict.
    """
    exercise = catalog.find(exercise_id)
    if exam is None:
        exam = Exam(exercise, seed)
    elif exam.exercise is not exercise or seed not in (None, exam.seed):
        raise ValueError(
            f"exam must be one of {exercise_id} with the seed {exam.seed if seed is None else seed}, got one of "
            f"{exam.exercise.id} with {exam.seed}"
        )
    devices = tuple(devices or devices_present())
    for device in devices:
        if device not in devices_present():
            raise ValueError(f"devices must be among {devices_present()}, got {device!r}")
    if not issubclass(type(attempt), Attempt):
        attempt = Attempt.local(attempt, exercise.id, seconds=exercise.seconds)
    start = time.perf_counter()
    examination = examination_of(
        exam, attempt, devices, watched=not allow_reference, smaller=not outcomes_only
    )
    try:
        with agent.preserved():
            verdict = _evaluate(exam, attempt, examination, allow_reference, outcomes_only)
    except (Gone, Lost) as gone:
        examination.spent += gone.seconds
        verdict = without_verdict(exercise, f"no verdict: {gone}")
    except TimedOut as late:
        verdict = replace(without_verdict(exercise, str(late), outcome=Outcome.TIMED_OUT), flags=())
    return replace(
        verdict,
        seed=exam.seed,
        devices=devices,
        seconds=time.perf_counter() - start,
        learner_seconds=examination.spent,
    )


HELPED = "it has something done in another process or a bare thread, and what runs there was not seen"


def first_failure(exercise_id: str, attempt: Any, *, seed: int | None = None) -> tuple[Claim, Look] | None:
    """The first claim that an answer does not fulfill, and the smallest input that shows it; None where there is none.

    Of an exercise that trains, the input alone: nothing is trained. Raises ValueError for an unknown exercise.
    """
    exercise = catalog.find(exercise_id)
    exam = Exam(exercise, seed)
    if isinstance(exercise, Training):
        return exercise.properties[0], Look(exam.training(), None, None, None)
    attempt = Attempt.local(attempt, exercise.id, seconds=exercise.seconds)
    examination = examination_of(exam, attempt, devices_present(), watched=False)
    with agent.preserved():
        for claim in exercise.properties:
            evidence = examination.of(claim)
            if evidence.smallest is not None:
                return claim, evidence.smallest
    return None


def _evaluate(
    exam: Exam, attempt: Attempt, examination: Examination, allow_reference: bool, outcomes_only: bool
) -> Verdict:
    exercise = exam.exercise
    looked = attempt.look()
    problem = _not_usable(exercise, looked)
    if problem is not None:
        outcome, message = problem
        return replace(without_verdict(exercise, message, outcome=outcome), flags=())

    if not allow_reference and (why := shortcut(exercise, looked, set())):
        return _as_shortcut(exercise, why)
    evidence: list[Evidence] = []
    for claim in exercise.properties:
        evidence.append(examination.of(claim))
        if not allow_reference and (why := shortcut(exercise, looked, examination.calls)):
            return _as_shortcut(exercise, why)

    results = tuple(_result(exercise, found) for found in _counted(evidence))
    wrong = [r for r in results if r.outcome not in (Outcome.CORRECT, Outcome.WAITING, Outcome.NO_VERDICT)]
    findings: tuple[Finding, ...] = ()
    if not outcomes_only and any(r.outcome not in (Outcome.NOT_ATTEMPTED, Outcome.TIMED_OUT) for r in wrong):
        findings = diagnose(exam, evidence)
        named = {claim for finding in findings for claim in finding.claims}
        results = tuple(
            r if r.name in named or not found.failed else replace(r, described=_described(exam, found))
            for r, found in zip(results, evidence, strict=True)
        )
    cut = _cut(exam, evidence)
    faults = [f"no verdict on {found.claim.name}: {found.fault}" for found in evidence if found.fault]
    return Verdict(
        exercise.id,
        _overall(results),
        sum(r.points for r in results),
        exercise.points,
        results,
        0,
        findings=findings,
        message=cut,
        flags=(*faults, *([cut] if cut else []), *([HELPED] if ELSEWHERE in examination.calls else [])),
    )


def _cut(exam: Exam, evidence: Sequence[Evidence]) -> str:
    """That the answer's time was used up, and what was judged until then; "" where it was not."""
    looks = [look for found in evidence for look in found.looks]
    late = [look for look in looks if isinstance(look.got, TimedOut)]
    if not late:
        return ""
    if isinstance(exam.exercise, Training):
        return f"the training was cut short: {late[0].got}"
    of_all = sum(len(cases) for cases in exam.every().values())
    return f"the time was used up, {len(looks) - len(late)} of {of_all} inputs were judged: {late[0].got}"


def _not_usable(exercise: Exercise, looked: Mapping[str, Any]) -> tuple[Outcome, str] | None:
    kind = looked.get("kind")
    noun = "class" if exercise.is_class else "function"
    if kind == "missing":
        return (
            Outcome.NOT_ATTEMPTED,
            f"there is no {noun} named {exercise.id} yet: run the cell that defines it",
        )
    if kind not in ("class", "callable"):
        return (
            Outcome.WRONG_KIND,
            f"{exercise.id} must be a {noun}, got {with_article(str(looked.get('type', 'value')))}",
        )
    if exercise.is_class and kind != "class":
        return (
            Outcome.WRONG_KIND,
            f"{exercise.id} must be a class, got {with_article(str(looked.get('type', 'function')))}",
        )
    return None


def _described(exam: Exam, evidence: Evidence) -> str:
    claim = evidence.claim
    if not isinstance(claim, Property):
        return ""
    signature = inspect.signature(exam.exercise.reference)
    recorded = Recorded(
        evidence.looks,
        claim.tolerance,
        signature,
        lambda case: exam.shown(claim, case),
        compared=claim.judge is None,
        differentiated="gradient" in claim.says,
    )
    try:
        return describe(recorded)
    except Exception:
        # What cannot be described is only not said.
        log.exception("no description of %s, %s, seed %s", exam.exercise.id, claim.name, exam.seed)
        return ""


def _counted(evidence: Sequence[Evidence]) -> Iterator[Evidence]:
    """The evidence; of claims that hold and do not count alone, whether what they stand beside holds at all."""
    found = {e.claim.name: e for e in evidence}
    for one in evidence:
        beside = found.get(getattr(one.claim, "beside", ""))
        yield one if beside is None or beside.passed else replace(one, waits_for=beside.claim)


def _as_shortcut(exercise: Exercise, why: str) -> Verdict:
    verdict = without_verdict(exercise, f"a shortcut: {why}", outcome=Outcome.SHORTCUT)
    return replace(verdict, flags=(f"shortcut: {why}",))


def _result(exercise: Exercise[Any], evidence: Evidence) -> PropertyResult:
    claim, failure = evidence.claim, evidence.smallest
    if evidence.fault:
        return PropertyResult(claim.name, claim.says, Outcome.NO_VERDICT, 0.0, claim.points, message=FAULT)
    if failure is None and evidence.waits_for is not None:
        why = f"this counts once an input comes out right of: {evidence.waits_for.says}"
        return PropertyResult(claim.name, claim.says, Outcome.WAITING, 0.0, claim.points, message=why)
    if failure is None:
        return PropertyResult(claim.name, claim.says, Outcome.CORRECT, claim.points, claim.points)
    found = failure.mismatch
    return PropertyResult(
        claim.name,
        claim.says,
        found.outcome,
        0.0,
        claim.points,
        _tried(exercise, claim, failure.case),
        where=found.where[:TEXT],
        message=found.message[:TEXT],
        expected=found.expected[:TEXT],
        got=found.got[:TEXT],
        printed=failure.printed[:TEXT],
        retypable=bool(arguments.statements(exercise, failure.case)),
    )


def _tried(exercise: Exercise[Any], claim: Claim, case: Case) -> tuple[str, ...]:
    return (*([claim.tried] if claim.tried else []), *arguments.lines(exercise, case))


def _overall(results: Sequence[PropertyResult]) -> Outcome:
    outcomes = [r.outcome for r in results]
    if all(o is Outcome.CORRECT for o in outcomes):
        return Outcome.CORRECT
    if all(o in (Outcome.NOT_ATTEMPTED, Outcome.WAITING) for o in outcomes):
        return Outcome.NOT_ATTEMPTED
    if Outcome.NO_VERDICT in outcomes:
        return Outcome.NO_VERDICT
    # What is partly written was attempted: the rest of it raises.
    wrong = [o for o in outcomes if o not in (Outcome.CORRECT, Outcome.WAITING, Outcome.NOT_ATTEMPTED)]
    return (wrong or [Outcome.RAISED])[0]
