"""Every lecture through nbgrader's converters: a solved submission gets all points, an untouched one none."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from autograder import catalog, feedback, sample_class
from autograder.exercise import Outcome
from coursekit import TOPICS

ROOT = Path(__file__).parents[2]
ASSIGNMENTS = sorted(p.name for p in (ROOT / "lectures").iterdir() if p.is_dir())


def test_every_topic_has_its_lecture():
    assert [name.partition("_")[2] for name in ASSIGNMENTS] == list(TOPICS)


# The commands themselves are run for lecture 2 (test_sample_class.py, test_exchange.py), whose two ends are in its
# sample class; a process for each of three commands would only repeat the imports here.
TOOLS = {
    "generate_assignment": GenerateAssignment,
    "autograde": Autograde,
    "generate_feedback": GenerateFeedback,
}


def _nbgrader(course: Path, tool: str, assignment: str) -> None:
    config = PyFileConfigLoader("nbgrader_config.py", path=str(course)).load_config()
    config.CourseDirectory.update(root=str(course), assignment_id=assignment)
    converter = TOOLS[tool](
        coursedir=CourseDirectory(config=config), config=config, log=logging.getLogger("quiet")
    )
    converter.start()


@pytest.mark.parametrize("assignment", [name for name in ASSIGNMENTS if name != "02_batchnorm"])
def test_solved_gets_everything_and_untouched_nothing(assignment, tmp_path, monkeypatch):
    # nbgrader finds alembic beside the interpreter that runs it.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    course = tmp_path / "course"
    made = sample_class.prepare(ROOT, course, assignment, sample_class.ends, run=_nbgrader)
    assert {sample.student for sample in made} == {"solved", "untouched"}
    for tool in ("autograde", "generate_feedback"):
        _nbgrader(course, tool, assignment)
    pages = [course / "feedback" / sample.student / assignment for sample in made]
    assert all([path.name for path in page.iterdir()] == [f"{assignment[3:]}.html"] for page in pages)

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
