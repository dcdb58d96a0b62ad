"""The sample class, graded by stock nbgrader: everybody gets the grade that was meant for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from autograder import catalog, demo, doctor, feedback
from autograder.exercise import Outcome

ROOT = Path(__file__).parents[2]
ASSIGNMENT = "02_batchnorm"
EXERCISES = ("batchnorm_forward", "BatchNorm", "batchnorm_backward", "fold_batchnorm", "group_norm")
FULL = (4, 6, 4, 4, 3)

# What each submission was made to earn, an exercise a column, in the order above.
INTENDED = {
    "solved": FULL,
    "untouched": (0, 0, 0, 0, 0),
    "partial": (4, 0, 0, 0, 3),
    "right-1": FULL,
    "right-2": FULL,
    "right-3": FULL,
    "mistaken-01": (0.5, 4.25, 1.25, 0.5, 0.75),
    "mistaken-02": (3.5, 4.75, 1.25, 1, 0.75),
    "mistaken-03": (3.5, 4, 1.25, 1, 1.25),
    "mistaken-04": (0.5, 5, 1.25, 0.5, 0.75),
    "mistaken-05": (0.5, 4, 3, 3.5, 2.75),
    "mistaken-06": (2, 1.5, 0.5, 0.5, 0.75),
    "mistaken-07": (0.5, 5.5, 3.25, 3.25, 0.75),
    "mistaken-08": (3, 5.5, 3.25, 3.75, 2.5),
    "mistaken-09": (0.5, 4, 3.5, 3.5, 2.5),
    "mistaken-10": (0.5, 4.75, 2.75, 3.5, 2.25),
    "mistaken-11": (2, 4.25, 3.5, 3.5, 2.75),
    "mistaken-12": (2.5, 5, 4, 4, 3),
    "crash": (4, 0, 0, 0, 0),
    "endless": (4, 6, 4, 0, 3),
    "deleted": FULL,
    "duplicated": FULL,
    "shortcut": (0, 6, 4, 4, 3),
    "unreadable": (0, 0, 0, 0, 0),
}
# Whom a person has to look at, and for what.
FLAGGED = {
    "crash": {"BatchNorm", "batchnorm_backward", "fold_batchnorm", "group_norm"},
    "shortcut": {"batchnorm_forward"},
    "unreadable": set(EXERCISES),
}

pytestmark = pytest.mark.xdist_group("sample class")


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """The class as `autograder demo` grades it: the real command, in a copy of the repository's notebooks."""
    root = tmp_path_factory.mktemp("sample")
    for name in ("solutions", "nbgrader_config.py"):
        (root / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "autograder.cli", "demo", "--unsafe-no-sandbox", "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=root)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "DuplicateCellId" not in done.stderr
    (root / "demo" / "printed.txt").write_text(done.stdout)
    return root / "demo"


@pytest.fixture(scope="module")
def grades(course) -> dict[str, dict[str, tuple[float | None, bool]]]:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        return {
            student.id: {
                g.name: (g.auto_score, g.needs_manual_grade)
                for g in gradebook.find_submission_notebook("batchnorm", ASSIGNMENT, student.id).grades
            }
            for student in gradebook.students
        }


def _autograded(course: Path, student: str) -> nbformat.NotebookNode:
    return nbformat.read(course / "autograded" / student / ASSIGNMENT / "batchnorm.ipynb", 4)


def _verdicts(course: Path, student: str) -> dict[str, object]:
    found = (feedback.verdict_of(c) for c in _autograded(course, student).cells if c.cell_type == "code")
    return {v.exercise: v for v in found if v is not None}


def test_everybody_is_in_the_gradebook(grades):
    assert set(grades) == set(INTENDED)


@pytest.mark.parametrize("student", INTENDED)
def test_grades_are_the_intended_ones(grades, student):
    assert tuple(grades[student][e][0] for e in EXERCISES) == INTENDED[student]


@pytest.mark.parametrize("student", INTENDED)
def test_a_person_is_asked_for_exactly_where_one_is_needed(grades, student):
    asked = {e for e in EXERCISES if grades[student][e][1]}
    assert asked == FLAGGED.get(student, set())


def test_the_written_question_waits_for_a_person(grades):
    (written,) = set(grades["solved"]) - set(EXERCISES)
    assert grades["solved"][written] == (None, True)
    assert grades["untouched"][written][0] == 0


def test_every_misconception_is_handed_in_and_named_to_its_student(course):
    handed_in = set()
    for student in (s for s in INTENDED if s.startswith("mistaken")):
        number = int(student.partition("-")[2]) - 1
        verdicts = _verdicts(course, student)
        page = BeautifulSoup(
            (course / "feedback" / student / ASSIGNMENT / "batchnorm.html").read_text(), "html.parser"
        ).get_text(" ")
        shown = re.sub(r"[\s`]+", " ", page)
        for exercise in catalog.topic("batchnorm"):
            if number < len(exercise.misconceptions):
                meant = exercise.misconceptions[number]
                handed_in.add((exercise.id, meant.name))
                assert verdicts[exercise.id].diagnosis == meant.name
                assert re.sub(r"[\s`]+", " ", meant.mistake) in shown
            else:
                assert verdicts[exercise.id].correct
    every = {(e.id, m.name) for e in catalog.topic("batchnorm") for m in e.misconceptions}
    assert handed_in == every


def test_untouched_exercises_are_not_attempted(course):
    assert {v.outcome for v in _verdicts(course, "untouched").values()} == {Outcome.NOT_ATTEMPTED}


def test_an_endless_loop_is_called_one(course):
    assert _verdicts(course, "endless")["fold_batchnorm"].outcome is Outcome.TIMED_OUT


def test_the_shortcut_names_the_call(course):
    verdict = _verdicts(course, "shortcut")["batchnorm_forward"]
    assert verdict.outcome is Outcome.SHORTCUT
    assert "F.batch_norm" in verdict.message


def test_no_solution_is_graded_into_an_untouched_submission(course):
    solved = nbformat.read(ROOT / "solutions" / ASSIGNMENT / "batchnorm.ipynb", 4)
    regions = re.findall(
        r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", "\n".join(c.source for c in solved.cells), re.DOTALL
    )
    lines = {line.strip() for region in regions for line in region.splitlines() if len(line.strip()) >= 30}
    assert len(lines) > 20
    released = (course / "lectures" / ASSIGNMENT / "batchnorm.ipynb").read_text()
    for path in (course / "autograded" / "untouched").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not [line for line in lines if line in text or line.replace('"', '\\"') in text]
    assert not [line for line in lines if line in released]
    assert [p.name for p in (course / "autograded" / "untouched" / ASSIGNMENT).iterdir()] == [
        "batchnorm.ipynb"
    ]


def test_the_report_has_a_row_for_everybody_and_links_their_feedback(course):
    report = BeautifulSoup((course / "report.html").read_text(), "html.parser")
    text = report.get_text(" ")
    links = {a["href"] for a in report.find_all("a", href=True)}
    for student in INTENDED:
        assert student in text
        assert f"feedback/{student}/{ASSIGNMENT}/batchnorm.html" in links
        assert (course / "feedback" / student / ASSIGNMENT / "batchnorm.html").is_file()
    assert not report.find_all("script", src=True)
    assert not report.find_all("link", href=re.compile("^http"))


def test_the_table_is_printed(course):
    printed = (course / "printed.txt").read_text()
    assert all(student in printed for student in INTENDED)


def test_sample_cells_stand_alone():
    """Each catalogue answer becomes a cell that runs by itself and checks as the object did."""
    for exercise in catalog.topic("batchnorm"):
        for answer in [exercise.right[0].answer, exercise.misconceptions[-1].answer]:
            namespace: dict[str, object] = {"__name__": "learner"}
            exec(compile(demo.cell(exercise, answer), "<cell>", "exec"), namespace)
            assert exercise.id in namespace


def test_the_doctor_speaks_of_what_it_repaired(course):
    said = {s: _autograded(course, s).metadata["coursekit"]["doctor"] for s in INTENDED}
    assert said["solved"] == []
    assert any("batchnorm_forward" in line for line in said["deleted"])
    assert any("batchnorm_forward" in line for line in said["duplicated"])
    assert any("PDF" in line for line in said["unreadable"])
    release = course / "lectures" / ASSIGNMENT / "batchnorm.ipynb"
    assert doctor.examine(release, release).sentences == []


def test_refuses_without_consent(tmp_path):
    environment = {**os.environ, "COLUMNS": "200"}
    command = [sys.executable, "-m", "autograder.cli", "demo", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert "--unsafe-no-sandbox" in done.stderr
