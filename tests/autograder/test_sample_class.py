"""Sample classes, graded by stock nbgrader: everybody gets the grade that was meant for them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from click.testing import CliRunner
from nbgrader.api import Gradebook

from autograder import catalog, doctor, feedback, sample_class
from autograder.cells import about, exercise_of, is_check
from autograder.cli import main
from autograder.exercise import Outcome, Training, Verdict
from autograder.sandbox import machine

ROOT = Path(__file__).parents[2]
GRADES: dict[str, dict[str, list[float]]] = json.loads(
    Path(__file__).with_name("sample_grades.json").read_text(encoding="utf-8")
)
"""Lecture → student, in the order of the class → points of its exercises in the notebook's order, with the seed 0."""
FEW = 15
"""Students who are graded where --slow is not asked for: each kind, and who makes the first mistakes."""


@dataclass(frozen=True)
class Graded:
    """A class as `autograder sample-class` has left it, and what that printed, each line with the time it came."""

    lecture: str
    students: list[str]
    course: Path
    printed: list[tuple[float, str]]

    @property
    def topic(self) -> str:
        return self.lecture.partition("_")[2]

    @property
    def exercises(self) -> list[str]:
        return [e.id for e in catalog.topic(self.topic)]

    @property
    def short(self) -> list[str]:
        """Those that do not train."""
        return [e.id for e in catalog.topic(self.topic) if not isinstance(e, Training)]

    def grades(self) -> dict[str, dict[str, tuple[float | None, bool]]]:
        with Gradebook(f"sqlite:///{self.course / 'gradebook.db'}") as gradebook:
            return {
                student.id: {
                    g.name: (g.auto_score, g.needs_manual_grade)
                    for g in gradebook.find_submission_notebook(self.topic, self.lecture, student.id).grades
                }
                for student in gradebook.students
            }

    def autograded(self, student: str) -> nbformat.NotebookNode:
        return nbformat.read(self.course / "autograded" / student / self.lecture / f"{self.topic}.ipynb", 4)

    def handed_in(self, student: str) -> nbformat.NotebookNode:
        return nbformat.read(self.course / "submitted" / student / self.lecture / f"{self.topic}.ipynb", 4)

    def verdicts(self, student: str) -> dict[str, Verdict]:
        found = (feedback.verdict_of(c) for c in self.autograded(student).cells if c.cell_type == "code")
        return {v.exercise: v for v in found if v is not None}

    def page(self, student: str) -> Path:
        return self.course / "feedback" / student / self.lecture / f"{self.topic}.html"


def _lectures():
    """Each with its own group, so that a class is graded once, whatever the number of test workers."""
    for lecture in GRADES:
        marks = [pytest.mark.xdist_group(f"sample class {lecture}")]
        if lecture not in ("02_batchnorm", "05_upsampling"):
            marks.append(pytest.mark.slow)
        yield pytest.param(lecture, marks=marks, id=lecture)


@pytest.fixture(scope="module", params=_lectures())
def graded(request, tmp_path_factory, pytestconfig) -> Graded:
    """The class as the real command grades it, in a copy of the repository's notebooks."""
    lecture = request.param
    students = list(GRADES[lecture])
    root = tmp_path_factory.mktemp("sample")
    for name in ("solutions", "nbgrader_config.py"):
        (root / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "autograder.cli", "sample-class", lecture]
    if not pytestconfig.getoption("--slow"):
        students = students[:FEW]
        command.append(f"--students={FEW}")
    complaints = root / "stderr.txt"
    with (
        complaints.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=root) as process,
    ):
        assert process.stdout is not None
        watch = threading.Timer(3000, process.kill)
        watch.start()
        printed = [(time.monotonic(), line) for line in process.stdout]
        watch.cancel()
    said = complaints.read_text()
    assert process.returncode == 0, "".join(line for _, line in printed[-40:]) + said[-4000:]
    assert "DuplicateCellId" not in said
    return Graded(lecture, students, root / "demo", printed)


def test_grades_are_the_intended_ones(graded):
    grades = graded.grades()
    earned = {student: [grades[student][e][0] for e in graded.exercises] for student in grades}
    assert earned == {student: GRADES[graded.lecture][student] for student in graded.students}


OTHERWISE = {
    "cold": ["--Judge.warm=False"],
    "without walls": ["--Judge.warm=False", "--Judge.unsafe_no_sandbox=True"],
}
"""How kernels are started where they are not forked from a warm process, which they are where nothing is said."""
ALIKE = ("solved", "crash", "shortcut", "mistaken-01")
"""Whose grades are compared where --slow is not asked for."""


@pytest.mark.parametrize("how", OTHERWISE)
def test_grades_do_not_depend_on_how_a_kernel_is_started(graded, how, tmp_path, pytestconfig):
    if machine.trouble() and not os.environ.get("CI"):
        pytest.skip(machine.trouble())
    course = tmp_path / "course"
    shutil.copytree(graded.course, course, ignore=shutil.ignore_patterns("autograded", "feedback"))
    everybody = pytestconfig.getoption("--slow")
    for folder in (course / "submitted").iterdir():
        if not everybody and folder.name not in ALIKE:
            shutil.rmtree(folder)
    compared = {folder.name for folder in (course / "submitted").iterdir()}
    sample_class.nbgrader(course, "autograde", graded.lecture, "--force", *OTHERWISE[how])
    again = replace(graded, course=course).grades()
    before = graded.grades()
    assert len(compared) >= 4
    assert {student: again[student] for student in compared} == {
        student: before[student] for student in compared
    }


def test_a_person_is_asked_for_exactly_where_one_is_needed(graded):
    first, crashed, *_ = graded.short
    endless = {graded.short[-2]}
    flagged = {
        "crash": {crashed},
        "endless": endless,
        "shortcut": {first},
        "unreadable": set(graded.exercises),
    }
    grades = graded.grades()
    asked = {student: {e for e in graded.exercises if grades[student][e][1]} for student in graded.students}
    assert asked == {student: flagged.get(student, set()) for student in graded.students}


def test_the_written_questions_wait_for_a_person(graded):
    grades = graded.grades()
    written = set(grades["solved"]) - set(graded.exercises)
    assert written
    for name in written:
        assert grades["solved"][name] == (None, True)
        assert grades["untouched"][name][0] == 0


def test_every_mistake_is_handed_in_and_named_to_its_student(graded):
    handed_in = set()
    for student in (s for s in graded.students if s.startswith(("mistaken", "trained"))):
        kind, _, number = student.partition("-")
        verdicts = graded.verdicts(student)
        page = BeautifulSoup(graded.page(student).read_text(), "html.parser").get_text(" ")
        shown = re.sub(r"[\s`]+", " ", page)
        for exercise in catalog.topic(graded.topic):
            mistakes = exercise.misconceptions
            if (kind == "trained") == isinstance(exercise, Training) and int(number) <= len(mistakes):
                meant = mistakes[int(number) - 1]
                handed_in.add((exercise.id, meant.name))
                assert verdicts[exercise.id].diagnosis == meant.name
                assert re.sub(r"[\s`]+", " ", meant.mistake) in shown
            elif isinstance(exercise, Training):
                assert verdicts[exercise.id].outcome is Outcome.NOT_ATTEMPTED
            else:
                assert verdicts[exercise.id].correct
    every = {(e.id, m.name) for e in catalog.topic(graded.topic) for m in e.misconceptions}
    assert handed_in == every if len(graded.students) > FEW else handed_in < every


def test_untouched_exercises_are_not_attempted(graded):
    assert {v.outcome for v in graded.verdicts("untouched").values()} == {Outcome.NOT_ATTEMPTED}


def test_an_endless_loop_is_called_one(graded):
    assert graded.verdicts("endless")[graded.short[-2]].outcome is Outcome.TIMED_OUT


def test_the_shortcut_is_named(graded):
    verdict = graded.verdicts("shortcut")[graded.short[0]]
    assert verdict.outcome is Outcome.SHORTCUT
    assert "this is the reference" in verdict.message


def test_hand_ins_read_like_something_a_student_wrote(graded):
    """No word of the catalogue, no docstring that tells the mistake, and the locked cells as they were."""
    release = nbformat.read(graded.course / "lectures" / graded.lecture / f"{graded.topic}.ipynb", 4)
    checks = [c.source for c in release.cells if is_check(c)]
    sentences = {m.mistake for e in catalog.topic(graded.topic) for m in e.misconceptions}
    for student in (s for s in graded.students if s.startswith(("right", "mistaken", "trained", "mix"))):
        notebook = graded.handed_in(student)
        assert [c.source for c in notebook.cells if is_check(c)] == checks
        answers = [
            c.source for c in notebook.cells if exercise_of(c) and c.cell_type == "code" and not is_check(c)
        ]
        assert not [a for a in answers if "autograder" in a or any(s in a for s in sentences)]


def test_no_solution_is_graded_into_an_untouched_submission(graded):
    solved = nbformat.read(ROOT / "solutions" / graded.lecture / f"{graded.topic}.ipynb", 4)
    regions = re.findall(
        r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", "\n".join(c.source for c in solved.cells), re.DOTALL
    )
    released = (graded.course / "lectures" / graded.lecture / f"{graded.topic}.ipynb").read_text()
    lines = {line.strip() for region in regions for line in region.splitlines() if len(line.strip()) >= 30}
    assert len(lines) > 10
    assert not [line for line in lines if line in released]
    for path in (graded.course / "autograded" / "untouched").rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert not [line for line in lines if line in text or line.replace('"', '\\"') in text]
    (only,) = (graded.course / "autograded" / "untouched" / graded.lecture).iterdir()
    assert only.name == f"{graded.topic}.ipynb"


def test_the_report_has_a_row_for_everybody_and_shows_the_mistakes_as_differences(graded):
    report = BeautifulSoup((graded.course / "report.html").read_text(), "html.parser")
    text = report.get_text(" ")
    links = {a["href"] for a in report.find_all("a", href=True)}
    for student in graded.students:
        assert student in text
        assert f"feedback/{student}/{graded.lecture}/{graded.topic}.html" in links
        assert graded.page(student).is_file()
    assert not report.find_all("script", src=True)
    assert not report.find_all("link", href=re.compile("^http"))
    shown = [pre.get_text() for pre in report.find_all("pre")]
    assert shown
    assert all(re.search(r"^[+-] ", one, re.MULTILINE) for one in shown)


def test_the_table_is_printed(graded):
    table = "".join(line for _, line in graded.printed)
    table = table[table.index("remarks") :]
    assert all(student in table for student in graded.students)


@pytest.mark.parametrize("what", ["grading", "writing feedback"])
def test_a_log_hears_of_every_student_as_their_turn_comes(graded, what):
    told = [(at, line) for at, line in graded.printed if line.startswith(f"{what}: ")]
    total = len(graded.students)
    assert [line.partition(" (")[0] for _, line in told] == [
        f"{what}: {n} of {total}" for n in range(1, total + 1)
    ]
    assert {line.rpartition("(")[2].rstrip(")\n") for _, line in told} == set(graded.students)
    assert told[-1][0] - told[0][0] > 1, "they came in one burst"


def test_the_doctor_speaks_of_what_it_repaired(graded):
    said = {s: about(graded.autograded(s))["doctor"] for s in graded.students}
    first = graded.short[0]
    assert said["solved"] == []
    assert any(first in line for line in said["deleted"])
    assert any(first in line for line in said["doubled"])
    assert any("PDF" in line for line in said["unreadable"])
    release = graded.course / "lectures" / graded.lecture / f"{graded.topic}.ipynb"
    assert doctor.examine(release, release).sentences == []


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "autograder.cli", "sample-class", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_where_no_walls_can_be_had_it_says_so_and_goes_on(tmp_path, monkeypatch):
    (tmp_path / "solutions" / "02_batchnorm").mkdir(parents=True)
    laid_out = []

    def prepare(*arguments, walled):
        laid_out.append(walled)
        raise RuntimeError("far enough")

    monkeypatch.setattr(sample_class, "prepare", prepare)
    for reason, options in (("bubblewrap is not installed", []), ("", ["--unsafe-no-sandbox"]), ("", [])):
        monkeypatch.setattr(machine, "trouble", lambda reason=reason: reason)
        said = CliRunner().invoke(main, ["sample-class", "--root", str(tmp_path), *options]).output
        assert "far enough" in said
        assert ("Without a sandbox" in said) == bool(reason or options)
        assert reason in said
    assert laid_out == [False, False, True]


def test_an_unknown_lecture_names_the_known(tmp_path):
    done = run("08_transformers", cwd=tmp_path)
    assert done.returncode != 0
    assert "no lecture is called '08_transformers'; there are 01_preprocessing, 02_batchnorm" in done.stderr


def test_what_is_mixed_follows_from_the_seed():
    (release, solved) = (
        nbformat.read(ROOT / place / "02_batchnorm" / "batchnorm.ipynb", 4)
        for place in ("lectures", "solutions")
    )

    def handed_in(students, seed):
        return sample_class.samples(students, seed)(release, solved, "batchnorm")

    whole = list(GRADES["02_batchnorm"])
    assert [sample.student for sample in handed_in(None, 0)] == whole
    assert [sample.student for sample in handed_in(7, 0)] == whole[:7]
    more = len(whole) + 5
    assert handed_in(more, 3) == handed_in(more, 3)
    assert len(handed_in(more, 3)) == more
    assert handed_in(more, 3)[-1] != handed_in(more, 4)[-1]
