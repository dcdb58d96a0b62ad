"""Writes sample_grades.json: what everybody in the sample classes is to get, by what the catalogue says of their answers.

Run it after mistakes or claims were added: ``python tests/autograder/sample_grades.py``. The classes are graded against
the file by stock nbgrader (test_sample_class.py), and a changed line in it is a changed grade.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import nbformat

from autograder import catalog
from autograder.exercise import Exercise, Training
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam
from autograder.sample_class import Sample, samples
from coursekit import TOPICS

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("sample_grades.json")


@functools.cache
def _exam(exercise_id: str) -> Exam:
    # The exam that the sample classes sit.
    return Exam(catalog.find(exercise_id), 0)


@functools.cache
def mistaken(exercise_id: str, name: str) -> float:
    """Points of an answer with that mistake: those of the claims that it does not fail.

    A claim of form counts where the one that it stands beside holds on some input: that is for the oracle to say. Of
    a training there is one input.
    """
    exercise = catalog.find(exercise_id)
    wrong = exercise.misconception(name)
    held = [claim for claim in exercise.properties if claim.name not in wrong.fails]
    waiting = [claim for claim in held if getattr(claim, "beside", "") in wrong.fails]
    if waiting and not isinstance(exercise, Training):
        return evaluate(exercise_id, wrong.answer, exam=_exam(exercise_id), devices=("cpu",)).points
    return sum(claim.points for claim in held if claim not in waiting)


def grades(sample: Sample, exercises: tuple[Exercise, ...]) -> Iterator[float]:
    short = [e.id for e in exercises if not isinstance(e, Training)]
    first, crash, *_, loop, last = short
    done = {
        "solved": [e.id for e in exercises],
        "untouched": [],
        "partial": [first, last],
        "crash": [e for e in short if e != crash],
        "endless": [e for e in short if e != loop],
        "shortcut": [e for e in short if e != first],
        "unreadable": [],
    }.get(sample.student, short)
    kind = sample.student.partition("-")[0]
    said = (
        dict(part.split(": ") for part in sample.about.split("; "))
        if kind in ("mistaken", "trained", "mix")
        else {}
    )
    for exercise in exercises:
        told = said.get(exercise.id, "right" if exercise.id in done else "untouched")
        if told in ("right", "untouched"):
            yield sum(claim.points for claim in exercise.properties) if told == "right" else 0
        else:
            yield mistaken(exercise.id, told)


def everybody() -> Iterator[tuple[str, dict[str, list[float]]]]:
    for number, topic in enumerate(TOPICS, 1):
        lecture = f"{number:02}_{topic}"
        release, solved = (
            nbformat.read(ROOT / room / lecture / f"{topic}.ipynb", 4) for room in ("lectures", "solutions")
        )
        yield (
            lecture,
            {s.student: list(grades(s, catalog.topic(topic))) for s in samples()(release, solved, topic)},
        )


if __name__ == "__main__":
    rows = []
    for lecture, students in everybody():
        lines = [
            f"    {json.dumps(who)}: {json.dumps([p if p % 1 else int(p) for p in earned])}"
            for who, earned in students.items()
        ]
        rows.append(f"  {json.dumps(lecture)}: {{\n" + ",\n".join(lines) + "\n  }")
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
