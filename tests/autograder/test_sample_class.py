"""The sample class, graded by stock nbgrader: everybody gets the grade that was meant for them."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from autograder import catalog, doctor, feedback, sample_class
from autograder.cells import about
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
    "crash": (4, 0, 0, 0, 0),
    "endless": (4, 6, 4, 0, 3),
    "deleted": FULL,
    "duplicated": FULL,
    "shortcut": (0, 6, 4, 4, 3),
    "unreadable": (0, 0, 0, 0, 0),
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
}
FEW = 14
"""Students who are graded where --slow is not asked for: each kind, and who makes the first mistakes."""
# Whom a person has to look at, and for what.
FLAGGED = {
    "crash": {"BatchNorm", "batchnorm_backward", "fold_batchnorm", "group_norm"},
    "shortcut": {"batchnorm_forward"},
    "unreadable": set(EXERCISES),
}

pytestmark = pytest.mark.xdist_group("sample class")


@pytest.fixture(scope="module")
def students(pytestconfig) -> list[str]:
    """Who is graded, in the order of the class."""
    return list(INTENDED)[: None if pytestconfig.getoption("--slow") else FEW]


@pytest.fixture(scope="module")
def graded(tmp_path_factory, students) -> tuple[Path, list[tuple[float, str]]]:
    """The class as `autograder sample-class` grades it: the real command, in a copy of the repository's notebooks.

    Also what it printed into a pipe, each line with the time it came.
    """
    root = tmp_path_factory.mktemp("sample")
    for name in ("solutions", "nbgrader_config.py"):
        (root / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "autograder.cli", "sample-class", "--unsafe-no-sandbox"]
    if len(students) < len(INTENDED):
        command.append(f"--students={len(students)}")
    complaints = root / "stderr.txt"
    with (
        complaints.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=root) as process,
    ):
        assert process.stdout is not None
        watch = threading.Timer(1500, process.kill)
        watch.start()
        printed = [(time.monotonic(), line) for line in process.stdout]
        watch.cancel()
    said = complaints.read_text()
    assert process.returncode == 0, "".join(line for _, line in printed[-40:]) + said[-4000:]
    assert "DuplicateCellId" not in said
    return root / "demo", printed


@pytest.fixture(scope="module")
def course(graded) -> Path:
    return graded[0]


@pytest.fixture(scope="module")
def printed(graded) -> list[tuple[float, str]]:
    return graded[1]


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


def test_everybody_is_in_the_gradebook(grades, students):
    assert set(grades) == set(students)


def test_grades_are_the_intended_ones(grades, students):
    earned = {student: tuple(grades[student][e][0] for e in EXERCISES) for student in students}
    assert earned == {student: INTENDED[student] for student in students}


def test_a_person_is_asked_for_exactly_where_one_is_needed(grades, students):
    asked = {student: {e for e in EXERCISES if grades[student][e][1]} for student in students}
    assert asked == {student: FLAGGED.get(student, set()) for student in students}


def test_the_written_question_waits_for_a_person(grades):
    (written,) = set(grades["solved"]) - set(EXERCISES)
    assert grades["solved"][written] == (None, True)
    assert grades["untouched"][written][0] == 0


def test_every_misconception_is_handed_in_and_named_to_its_student(course, students):
    handed_in = set()
    for student in (s for s in students if s.startswith("mistaken")):
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
    assert handed_in == every if len(students) == len(INTENDED) else handed_in < every


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


def test_the_report_has_a_row_for_everybody_and_links_their_feedback(course, students):
    report = BeautifulSoup((course / "report.html").read_text(), "html.parser")
    text = report.get_text(" ")
    links = {a["href"] for a in report.find_all("a", href=True)}
    for student in students:
        assert student in text
        assert f"feedback/{student}/{ASSIGNMENT}/batchnorm.html" in links
        assert (course / "feedback" / student / ASSIGNMENT / "batchnorm.html").is_file()
    assert not report.find_all("script", src=True)
    assert not report.find_all("link", href=re.compile("^http"))


def test_the_table_is_printed(printed, students):
    table = "".join(line for _, line in printed)
    table = table[table.index("remarks") :]
    assert all(student in table for student in students)


@pytest.mark.parametrize("what", ["grading", "writing feedback"])
def test_a_log_hears_of_every_student_as_their_turn_comes(printed, students, what):
    told = [(at, line) for at, line in printed if line.startswith(f"{what}: ")]
    total = len(students)
    assert [line.partition(" (")[0] for _, line in told] == [
        f"{what}: {n} of {total}" for n in range(1, total + 1)
    ]
    assert {line.rpartition("(")[2].rstrip(")\n") for _, line in told} == set(students)
    assert told[-1][0] - told[0][0] > 1, "they came in one burst"


def test_sample_cells_stand_alone():
    """Each catalogue answer becomes a cell that runs by itself and checks as the object did."""
    for exercise in catalog.topic("batchnorm"):
        for answer in [exercise.right[0].answer, exercise.misconceptions[-1].answer]:
            namespace: dict[str, object] = {"__name__": "learner"}
            exec(compile(sample_class.cell(exercise, answer), "<cell>", "exec"), namespace)
            assert exercise.id in namespace


def test_the_doctor_speaks_of_what_it_repaired(course, students):
    said = {s: about(_autograded(course, s))["doctor"] for s in students}
    assert said["solved"] == []
    assert any("batchnorm_forward" in line for line in said["deleted"])
    assert any("batchnorm_forward" in line for line in said["duplicated"])
    assert any("PDF" in line for line in said["unreadable"])
    release = course / "lectures" / ASSIGNMENT / "batchnorm.ipynb"
    assert doctor.examine(release, release).sentences == []


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "autograder.cli", "sample-class", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_refuses_without_consent(tmp_path):
    done = run(cwd=tmp_path)
    assert done.returncode != 0
    assert "there is no sandbox" in done.stderr
    assert "--unsafe-no-sandbox" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_lecture_without_a_class_names_those_with_one(tmp_path):
    done = run("06_fcn", "--unsafe-no-sandbox", cwd=tmp_path)
    assert done.returncode != 0
    assert "no sample class of '06_fcn'; there is one of: 02_batchnorm" in done.stderr
