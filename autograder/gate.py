"""The gate: every reference, right variant and misconception of the catalogue through every check.

``python -m autograder.gate FD`` is the far side of the wire: a process that holds the catalogue's answers
and lets an agent speak for them over the socket it inherited.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from autograder import catalog
from autograder.agent import Agent
from autograder.attempt import Attempt
from autograder.catalog.training import MEMORY, remembered
from autograder.exercise import Exercise, Misconception, Outcome, Training, Verdict
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam
from autograder.wire import Channel


def answers(exercise: Exercise) -> dict[str, Any]:
    """Every answer the catalogue holds for an exercise, by the name it has on the wire."""
    found = {"reference": exercise.reference}
    found |= {f"right/{v.name}": v.answer for v in exercise.right}
    found |= {f"misconception/{m.name}": m.answer for m in exercise.misconceptions}
    if isinstance(exercise, Training):
        return {name: remembered(answer) for name, answer in found.items()}
    return found


class _Catalogued:
    """What an agent finds by name: ``batchnorm_forward/misconception/eps_outside_root``."""

    def __call__(self, name: str) -> Any:
        exercise, _, answer = name.partition("/")
        return answers(catalog.find(exercise))[answer]


@contextlib.contextmanager
def _memory() -> Iterator[None]:
    """Where both sides find what an answer has trained before; only the outermost of these makes a folder."""
    if MEMORY in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder, unittest.mock.patch.dict(os.environ, {MEMORY: folder}):
        yield


@contextlib.contextmanager
def far_side() -> Iterator[Callable[[Exercise, str], Attempt]]:
    """A process across the wire; yields ``attempt(exercise, answer)``, a remote attempt at that answer."""
    near, far = socket.socketpair()
    memory = contextlib.ExitStack()
    memory.enter_context(_memory())
    process = subprocess.Popen(
        [sys.executable, "-m", "autograder.gate", str(far.fileno())], pass_fds=[far.fileno()]
    )
    far.close()
    try:
        yield lambda exercise, answer: Attempt.remote(
            near, f"{exercise.id}/{answer}", seconds=exercise.seconds, grace=30.0
        )
        with contextlib.suppress(Exception):
            Channel(near).send({"op": "bye"})
    finally:
        near.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        memory.close()


def examine(
    exercise: Exercise,
    remote: Callable[[Exercise, str], Attempt] | None,
    exam: Exam,
    sample: int | None = None,
    here: Callable[[Misconception], Any] = attrgetter("answer"),
) -> dict[str, Any]:
    """One exercise's row: points of reference and right variants, points and diagnosis of misconceptions,
    whether the wire gave the same verdicts, and every ``problem`` in words.

    All answers sit one exam: the reference's part, and a training that stands behind several of them, come once.

    The wire carries every answer, or, with a ``sample``, every right one and so many misconceptions, by chance. What
    library calls a misconception makes is then looked at there only: it costs a third of a check. Of an exercise that
    trains, one right answer and the misconceptions of the sample are tried, and the others left out. ``shown`` says of each whether it is shown an input that can be retyped. ``here`` makes what is judged on this side out of a misconception.
    """
    row: dict[str, Any] = {
        "exercise": exercise.id,
        "right": [],
        "misconceptions": [],
        "problems": [],
        "shown": [],
    }
    own, same = [], True
    wrong = [m.name for m in exercise.misconceptions]
    chance = secrets.SystemRandom()
    here_only = set() if sample is None else set(chance.sample(wrong, max(len(wrong) - sample, 0)))
    tried = answers(exercise)
    if sample is not None and isinstance(exercise, Training):
        one = chance.choice([answer for answer in tried if not answer.startswith("misconception/")])
        left = {f"misconception/{name}" for name in wrong if name not in here_only}
        tried = {answer: thing for answer, thing in tried.items() if answer == one or answer in left}

    def judge(answer: str, thing: Any) -> Verdict:
        nonlocal same
        allow = answer == "reference"
        unwatched = allow or (sample is not None and answer.startswith("misconception/"))
        verdict = evaluate(exercise.id, thing, exam=exam, devices=("cpu",), allow_reference=unwatched)
        own.append(verdict.seconds - verdict.learner_seconds)
        if remote is not None and answer.removeprefix("misconception/") not in here_only:
            far = evaluate(
                exercise.id,
                remote(exercise, answer),
                exam=exam,
                devices=("cpu",),
                allow_reference=allow,
            )
            own.append(far.seconds - far.learner_seconds)
            if (far.outcomes, far.diagnosis, far.points) != (
                verdict.outcomes,
                verdict.diagnosis,
                verdict.points,
            ):
                same = False
                row["problems"].append(f"{answer}: local {_brief(verdict)}, through the wire {_brief(far)}")
        return verdict

    for answer, thing in tried.items():
        kind, _, name = answer.partition("/")
        if kind == "misconception" and not isinstance(exercise, Training):
            thing = here(exercise.misconception(name))
        verdict = judge(answer, thing)
        scores = {"points": verdict.points, "max_points": verdict.max_points}
        if kind == "reference":
            row["reference"] = scores
        elif kind == "right":
            row["right"].append({"name": name, **scores})
        else:
            row["misconceptions"].append({"name": name, **scores, "diagnosis": verdict.diagnosis})
            if not isinstance(exercise, Training):
                row["shown"].append(any(result.retypable for result in verdict.results))
            failed = {n for n, o in verdict.outcomes.items() if o not in (Outcome.CORRECT, Outcome.WAITING)}
            declared = set(exercise.misconception(name).fails)
            if failed != declared:
                row["problems"].append(
                    f"{name}: fails {sorted(failed)}, declares {sorted(declared)} (seed {verdict.seed})"
                )
            if verdict.diagnosis != name:
                row["problems"].append(f"{name}: diagnosed as {verdict.diagnosis} (seed {verdict.seed})")
        if kind != "misconception" and not verdict.correct:
            row["problems"].append(f"{answer}: {_brief(verdict)} (seed {verdict.seed})")
    row["same_through_wire"] = remote is not None and same
    row["overhead"] = own
    return row


def _brief(verdict: Verdict) -> str:
    wrong = {n: str(o) for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT}
    return f"{verdict.points:g}/{verdict.max_points:g}, {wrong or 'all correct'}, diagnosis {verdict.diagnosis} {verdict.message}"


def run(
    exercises: Sequence[Exercise],
    *,
    wire: bool = True,
    seed: int | None = None,
    after: Callable[[dict[str, Any]], None] = lambda row: None,
) -> list[dict[str, Any]]:
    """The rows of all exercises; ``after(row)`` is called as each is done."""
    with _memory(), far_side() if wire else contextlib.nullcontext() as remote:
        rows = []
        for exercise in exercises:
            rows.append(examine(exercise, remote, Exam(exercise, seed)))
            after(rows[-1])
    return rows


class Luck(NamedTuple):
    """A claim that is judged otherwise than declared in some exams, told by their seeds."""

    answer: str
    property: str
    declared: bool
    seeds: tuple[int, ...]


def luck(exercise: Exercise, exams: int, first: int = 0) -> list[Luck]:
    """Where the points of the catalogue's answers depend on which exam they sit: outcomes alone, of so many exams."""
    if isinstance(exercise, Training):
        raise ValueError(f"{exercise.id} is judged by one training: its answers are tried seed by seed")
    expected = {f"misconception/{m.name}": set(m.fails) for m in exercise.misconceptions}
    found: dict[tuple[str, str], list[int]] = {}
    for seed in range(first, first + exams):
        exam = Exam(exercise, seed)
        for name, answer in answers(exercise).items():
            verdict = evaluate(
                exercise.id, answer, exam=exam, devices=("cpu",), allow_reference=True, outcomes_only=True
            )
            failed = {n for n, o in verdict.outcomes.items() if o not in (Outcome.CORRECT, Outcome.WAITING)}
            for prop in failed ^ expected.get(name, set()):
                found.setdefault((name, prop), []).append(seed)
    return [
        Luck(name, prop, prop in expected.get(name, ()), tuple(seeds))
        for (name, prop), seeds in found.items()
    ]


def overhead(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Median and longest time of a check beside the learner's own, in seconds."""
    times = [t for row in rows for t in row["overhead"]]
    return statistics.median(times), max(times)


def shown(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """So many of so many wrong answers are shown an input that fits on a screen and can be retyped."""
    seen = [one for row in rows for one in row["shown"]]
    return sum(seen), len(seen)


def published(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as the JSON file has them."""
    keys = ("exercise", "reference", "right", "misconceptions", "same_through_wire")
    return [{k: row[k] for k in keys} for row in rows]


if __name__ == "__main__":
    Agent(_Catalogued()).serve(Channel(socket.socket(fileno=int(sys.argv[1]))))
