"""Every lecture through stock `nbgrader autograde`: a solved submission gets all points, an untouched one none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest

from autograder import catalog, feedback, sample_class
from autograder.exercise import Outcome
from coursekit import TOPICS

ROOT = Path(__file__).parents[2]
ASSIGNMENTS = sorted(p.name for p in (ROOT / "lectures").iterdir() if p.is_dir())


def test_every_topic_has_its_lecture():
    assert [name.partition("_")[2] for name in ASSIGNMENTS] == list(TOPICS)


# Lecture 2's are among the sample class (test_sample_class.py).
@pytest.mark.parametrize("assignment", [name for name in ASSIGNMENTS if name != "02_batchnorm"])
def test_solved_gets_everything_and_untouched_nothing(assignment, tmp_path, monkeypatch):
    from nbgrader.api import Gradebook

    # nbgrader finds alembic beside the interpreter that runs it.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    course = tmp_path / "course"
    sample_class.prepare(ROOT, course, assignment, sample_class.ends)
    assert set(sample_class.grade(course, assignment)) == {"solved", "untouched"}
    assert set(sample_class.feedback(course, assignment)) == {"solved", "untouched"}

    topic = assignment.partition("_")[2]
    exercises = catalog.topic(topic)
    points = {}
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        for student in gradebook.students:
            grades = gradebook.find_submission_notebook(topic, assignment, student.id).grades
            automatic = {g.name: g for g in grades if g.name in {e.id for e in exercises}}
            assert not any(g.needs_manual_grade for g in automatic.values())
            points[student.id] = {name: g.auto_score for name, g in automatic.items()}
            # The written question waits for a person where there is an answer to read.
            waiting = [g for g in grades if g.name not in automatic and g.needs_manual_grade]
            assert len(waiting) == (1 if student.id == "solved" else len(waiting))
    assert points["solved"] == {e.id: e.points for e in exercises}
    assert points["untouched"] == {e.id: 0 for e in exercises}

    graded = nbformat.read(course / "autograded" / "untouched" / assignment / f"{topic}.ipynb", 4)
    verdicts = [v for v in map(feedback.verdict_of, (c for c in graded.cells if c.cell_type == "code")) if v]
    assert {v.exercise: v.outcome for v in verdicts} == {e.id: Outcome.NOT_ATTEMPTED for e in exercises}
