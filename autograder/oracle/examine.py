"""An answer's claims, one by one: tried on drawn inputs, or read off one training."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from autograder.attempt import Attempt, Conditions, Seen, TimedOut, Trouble
from autograder.exercise import (
    Case,
    Claim,
    Mismatch,
    Outcome,
    Property,
    Reading,
    Training,
)
from autograder.oracle.compare import compare
from autograder.oracle.exam import Exam
from autograder.oracle.explore import drawn, entropy, shrink, size_of
from autograder.oracle.observe import Fault, judged, observed_of_learner

log = logging.getLogger(__name__)

SHRINK_SECONDS = 1.0
SHRINK_CALLS = 100

FINAL = (Outcome.TIMED_OUT, Outcome.NOT_ATTEMPTED, Outcome.UNSTABLE)
"""Outcomes after which no further input is tried."""


@dataclass(frozen=True)
class Look:
    """One input on which a claim was tried, and all that was seen there; no mismatch where it holds."""

    case: Case
    got: Any
    expected: Any
    mismatch: Mismatch | None
    printed: str = ""
    size: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Failure(Look):
    """A look that shows a mismatch."""

    mismatch: Mismatch


@dataclass
class Evidence:
    """All that was seen of one claim."""

    claim: Claim
    looks: list[Look] = field(default_factory=list)
    """Of every input of the exam."""
    smallest: Failure | None = None
    simplest: bool = False
    """Whether the first input failed, which has every draw at its simplest."""
    waits_for: Claim | None = None
    """The claim beside which this one counts, where that one holds for no input."""
    fault: str = ""
    """What failed of the check itself, where it could not be completed."""

    @property
    def failed(self) -> bool:
        return self.smallest is not None

    @property
    def failures(self) -> list[Failure]:
        return [look for look in self.looks if isinstance(look, Failure)]

    @property
    def passed(self) -> bool:
        """Whether some input was answered rightly."""
        return len(self.failures) < len(self.looks)

    def add(self, failure: Failure) -> None:
        if self.smallest is None or failure.size < self.smallest.size:
            self.smallest = failure


class Examination(Protocol):
    """One check of one answer. What the learner's code has used up and called is of the whole check."""

    spent: float
    calls: set[str]

    def of(self, claim: Any) -> Evidence:
        """Put one claim to the answer."""
        ...


def examination_of(
    exam: Exam, attempt: Attempt, devices: Sequence[str], watched: bool = True, smaller: bool = True
) -> Examination:
    """The examination that suits the kind of the exam's exercise; ``watched``: it notes what the answer calls;
    ``smaller``: it looks for smaller inputs that fail."""
    if isinstance(exam.exercise, Training):
        return OneTraining(exam, attempt)
    return DrawnInputs(exam, attempt, devices, watched, SHRINK_SECONDS if smaller else 0.0)


class Enough(BaseException):
    """Ends an exploration: nothing more can be learned, or the time is up."""


class DrawnInputs:
    """The examination of a function or a layer: each property on inputs of its own, beside the reference."""

    def __init__(
        self, exam: Exam, attempt: Attempt, devices: Sequence[str], watched: bool, shrink_seconds: float
    ):
        self.spent = 0.0
        self.calls: set[str] = set()
        self._attempt = attempt
        self._exam = exam
        self._devices = devices
        self._device = "cpu"
        self._asked = 0
        self._watched = watched
        self._shrink_seconds = shrink_seconds
        self._cut = False

    def of(self, claim: Property) -> Evidence:
        evidence = Evidence(claim)
        for device in self._devices:
            evidence = self._on(device, claim)
            if evidence.failed:
                break
        return evidence

    def _begin(self, prop: Property, device: str) -> None:
        self._device = device
        # Counted from anew, so that how long an earlier search took changes nothing here.
        self._asked = entropy(self._exam.seed, f"{prop.name} on {device}")

    def _on(self, device: str, prop: Property) -> Evidence:
        evidence = Evidence(prop)
        self._begin(prop, device)
        cases = self._exam.cases(prop)
        if device != "cpu":
            cases = cases[: max(2, len(cases) // 2)]
        # Watching takes longer than most answers do: one call of a property, and nobody knows which.
        watched = self._asked % len(cases) if self._watched else None
        for number, case in enumerate(cases):
            first = number == 0
            try:
                look = self._look(prop, case, watch=number == watched)
                if first:
                    look = self._again(prop, look)
            except Fault as fault:
                evidence.fault = _logged(
                    fault, f"{self._exam.exercise.id}, {prop.name}, seed {self._exam.seed}"
                )
                return evidence
            evidence.looks.append(look)
            if not isinstance(look, Failure):
                continue
            evidence.add(look)
            evidence.simplest = evidence.simplest or first
            if look.mismatch.outcome in FINAL:
                break
        if (
            evidence.smallest is not None
            and not evidence.simplest
            and self._shrink_seconds > 0
            and evidence.smallest.mismatch.outcome not in FINAL
        ):
            self._shrink(evidence, prop)
        return evidence

    def _ask(self, prop: Property, case: Case, watch: bool) -> Seen:
        self._asked += 1
        conditions = Conditions(
            seed=self._asked,
            device=self._device,
            watch="calls" if watch else "nothing",
            seconds=self._seconds(),
            spent=self.spent,
            call=max(self._attempt.seconds / 2, 1.0),
        )
        seen = observed_of_learner(
            prop.observe, self._attempt, case, conditions, lambda: self._exam.forms(prop, case)
        )
        self.spent += seen.seconds
        self.calls |= seen.calls
        self._cut = self._cut or isinstance(seen.value, TimedOut)
        return seen

    def _seconds(self) -> float:
        """The time of all calls. What is slow in each gets what so many calls need, what does not end does not."""
        least = self._attempt.seconds
        if self._cut or self.spent < least / 2:
            return least
        return least * self._exam.seconds / self._exam.exercise.seconds

    def _look(self, prop: Property, case: Case, *, watch: bool = False) -> Look:
        seen = self._ask(prop, case, watch)
        expected = self._exam.expected(prop, case)
        mismatch = judged(prop, case, expected, seen.value)
        elsewhere = ", ".join(sorted(seen.devices - {self._device}))
        if mismatch is None and elsewhere:
            message = f"the inputs were on {self._device}, the answer on {elsewhere}"
            mismatch = Mismatch(Outcome.WRONG_KIND, message, code="device")
        if mismatch is None:
            return Look(case, seen.value, expected, None, seed=self._asked)
        return Failure(case, seen.value, expected, mismatch, seen.printed, size_of(case), self._asked)

    def _again(self, prop: Property, look: Look) -> Look:
        """A right answer is right every time: the same input under other global random numbers."""
        if isinstance(look, Failure):
            return look
        failure = self._look(prop, look.case)
        if not isinstance(failure, Failure):
            return look
        mismatch = Mismatch(
            Outcome.UNSTABLE,
            f"the same input was right once and then not: {failure.mismatch.message}",
            failure.mismatch.where,
            failure.mismatch.expected,
            failure.mismatch.got,
            "unstable",
        )
        return replace(failure, mismatch=mismatch)

    def _shrink(self, evidence: Evidence, prop: Property) -> None:
        """Search for a smaller failing input, for a bounded time and a bounded number of calls."""
        smallest = evidence.smallest
        assert smallest is not None
        wanted = smallest.mismatch.outcome
        seed = self._exam.entropy(prop)
        number = next(n for n, case in enumerate(self._exam.cases(prop)) if case is smallest.case)
        start = time.perf_counter()
        calls = 0

        def fails(case: Case) -> bool:
            nonlocal calls
            calls += 1
            if calls > SHRINK_CALLS or time.perf_counter() > start + self._shrink_seconds:
                raise Enough
            look = self._look(prop, case)
            if not isinstance(look, Failure) or look.mismatch.outcome is not wanted:
                return False
            evidence.add(look)
            return True

        with contextlib.suppress(Enough, Fault):
            shrink(prop.draw, seed, drawn(prop.draw, seed, prop.examples)[number], fails)
        self._shrink_seconds -= time.perf_counter() - start


class OneTraining:
    """The examination of an exercise that trains: its case is drawn, and its answer called, once.

    Training finds its own way to a GPU; the network that comes of it is asked where it lies.
    """

    def __init__(self, exam: Exam, attempt: Attempt):
        assert isinstance(exam.exercise, Training)
        self.spent = 0.0
        self.calls: set[str] = set()
        self._exam = exam
        self._exercise = exam.exercise
        self._attempt = attempt
        self._seed = exam.entropy(exam.exercise.properties[0])
        self._trained: tuple[Case, Seen] | None = None

    def of(self, claim: Reading) -> Evidence:
        case, seen = self._training()
        evidence = Evidence(claim)
        try:
            mismatch = _read(claim, case, seen.value)
        except Fault as fault:
            evidence.fault = _logged(fault, f"{self._exercise.id}, {claim.name}, seed {self._seed}")
            return evidence
        if mismatch is None:
            evidence.looks.append(Look(case, seen.value, None, None, seed=self._seed))
            return evidence
        failure = Failure(case, seen.value, None, mismatch, seen.printed, size_of(case), self._seed)
        evidence.looks.append(failure)
        evidence.add(failure)
        return evidence

    def _training(self) -> tuple[Case, Seen]:
        if self._trained is None:
            case = self._exam.training()
            conditions = Conditions(
                seed=self._seed, threads=_cores(), watch="samples", seconds=self._attempt.seconds
            )
            seen = observed_of_learner(self._exercise.observe, self._attempt, case, conditions)
            self.spent += seen.seconds
            self.calls |= seen.calls
            self._trained = case, seen
        return self._trained


def _read(claim: Reading, case: Case, got: Any) -> Mismatch | None:
    if isinstance(got, Trouble):
        return compare(None, got)
    try:
        return claim.judge(case, got)
    except Exception as error:
        raise Fault.of(error) from error


def _logged(fault: Fault, where: str) -> str:
    log.error("a check failed, and not its answer: %s", where, exc_info=fault)
    return str(fault)


def _cores() -> int:
    """What a training may take: all cores, or what whoever runs several of them allows."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return int(allowed) if allowed.isdecimal() and int(allowed) else os.cpu_count() or 1
