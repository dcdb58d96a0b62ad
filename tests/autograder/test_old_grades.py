"""An old grade stands while its new grading is unfinished, and says so: stock nbgrader, killed, failing and interrupted."""

from __future__ import annotations

import signal
import time

import pytest
import test_plugins as plugins
import tiny_course
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde
from nbgrader.converters.base import NbGraderException
from nbgrader.preprocessors import AssignLatePenalties, SaveAutoGrades

from autograder import report, unfinished
from autograder.plugins import Flag, Judge
from autograder.report import State

ASSIGNMENT = plugins.ASSIGNMENT
OLD, NEW = (3, 3), (3, 0)

pytestmark = pytest.mark.xdist_group("old grades")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    with plugins.released(tmp_path_factory.mktemp("course")) as root:
        yield root


@pytest.fixture
def again(course, request):
    """A course and a student of it who was graded, and has handed in anew what is worth less."""
    student = request.node.name[-40:].strip("[]").replace("-", "_")
    plugins.submit(course, student, plugins.solve(plugins.release(course)))
    autograde(course, student)
    assert plugins.scores(course, student) == OLD
    assert not is_marked(course, student)
    hand_in(course, student)
    return course, student


def hand_in(course, student, own=""):
    notebook = plugins.solve(plugins.release(course), triple=None)
    plugins.submit(course, student, plugins.first(notebook, own) if own else notebook)
    folder = course / "submitted" / student / ASSIGNMENT
    (folder / "timestamp.txt").write_text("2024-03-03 10:00:00 UTC")
    return folder


def autograde(course, student, **traits):
    config = plugins.configuration(course, **traits)
    config.CourseDirectory.student_id = student
    Autograde(coursedir=plugins.CourseDirectory(config=config), config=config).start()


def is_marked(course, student):
    """Whether every grade is for a person, its reason stands on every cell of the learner's, and the report names it;
    anything between that and nothing of it is a fault."""
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        notebook = gradebook.find_submission_notebook("tiny", ASSIGNMENT, student)
        said = {comment.auto_comment == unfinished.SAYS for comment in notebook.comments}
        asked = all(grade.needs_manual_grade for grade in notebook.grades)
    row = next(row for row in report.collect(course, ASSIGNMENT) if row.student == student)
    told = row.state is State.UNGRADED and any("not come to its end" in why for _, why in row.flags)
    assert said == {told}
    assert asked or not told
    return told


def assert_finished(course, student):
    """The next run, asked for nothing special, finishes it."""
    autograde(course, student)
    assert plugins.scores(course, student) == NEW
    assert not is_marked(course, student)
    assert [grade[1] for name, grade in plugins.grades(course, student).items() if name != "why"] == [
        False
    ] * 2


HOW = {"killed": signal.SIGKILL, "interrupted": signal.SIGINT, "terminated": signal.SIGTERM}


@pytest.mark.parametrize("how", HOW)
def test_ended_half_way(again, how):
    course, student = again
    cut(course, student, HOW[how])
    assert is_marked(course, student)
    assert plugins.scores(course, student) == OLD
    hand_in(course, student)
    assert_finished(course, student)


def test_killed_with_a_file_under_another_name(again):
    """nbgrader gives it 0 points before it is read."""
    course, student = again
    cut(course, student, signal.SIGKILL, "tiny (1).ipynb")
    assert is_marked(course, student)
    assert_finished(course, student)


def cut(course, student, how, name="tiny.ipynb"):
    """Begin to grade what takes for ever, and end that in the midst."""
    folder = hand_in(course, student, "import time\ntime.sleep(100)")
    (folder / "tiny.ipynb").rename(folder / name)
    running = tiny_course.nbgrader(course, "autograde", ASSIGNMENT, "--student", student)
    wait_for(lambda: "Autograding" in (course / "nbgrader.log").read_text(), running)
    assert is_marked(course, student)
    running.send_signal(how)
    assert running.wait(30) != 0
    (course / "nbgrader.log").unlink()
    (folder / name).unlink()
    hand_in(course, student)


def wait_for(condition, running):
    end = time.monotonic() + 60
    while not condition():
        assert running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def fails(*_, **__):
    raise RuntimeError("a fault of nbgrader's own")


@pytest.mark.parametrize(
    "step", [Judge, SaveAutoGrades, Flag, AssignLatePenalties], ids=lambda step: step.__name__
)
def test_an_error_in_a_step(again, monkeypatch, step):
    course, student = again
    with monkeypatch.context() as patch:
        patch.setattr(step, "preprocess", fails)
        with pytest.raises(NbGraderException):
            autograde(course, student)
    assert is_marked(course, student)
    assert plugins.scores(course, student) == (OLD if step in (Judge, SaveAutoGrades) else NEW)
    assert_finished(course, student)


def test_an_error_before_anything_is_read(again):
    course, student = again
    path = course / "lectures" / ASSIGNMENT / "tiny.ipynb"
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(NbGraderException):
            autograde(course, student)
    finally:
        path.with_suffix(".away").rename(path)
    assert is_marked(course, student)
    assert plugins.scores(course, student) == OLD
    assert_finished(course, student)


def test_a_grading_in_pieces_is_marked_between_them(again, monkeypatch):
    """Killed while the scores are written: what is new counts, the rest is marked."""
    course, student = again
    saved = SaveAutoGrades._add_score

    def until_triple(self, cell, resources):
        if cell.metadata.nbgrader.grade_id == "triple":
            raise RuntimeError("a fault of nbgrader's own")
        saved(self, cell, resources)

    with monkeypatch.context() as patch:
        patch.setattr(SaveAutoGrades, "_add_score", until_triple)
        with pytest.raises(NbGraderException):
            autograde(course, student)
    assert is_marked(course, student)
    assert plugins.scores(course, student) == (NEW[0], OLD[1])
    assert_finished(course, student)


def test_a_first_grading_that_is_cut_is_marked_too(course, monkeypatch):
    hand_in(course, "first")
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "preprocess", fails)
        with pytest.raises(NbGraderException):
            autograde(course, "first")
    assert is_marked(course, "first")
    assert_finished(course, "first")


def test_what_is_finished_is_not_graded_again(again):
    course, student = again
    assert_finished(course, student)
    graded = course / "autograded" / student / ASSIGNMENT / "tiny.ipynb"
    before = graded.stat().st_mtime_ns
    autograde(course, student)
    assert graded.stat().st_mtime_ns == before
    assert not is_marked(course, student)


def test_who_left_out_an_exercise_is_finished_all_the_same(again):
    """The cell that the mark stood on is gone with it."""
    course, student = again
    notebook = plugins.solve(plugins.release(course), triple=None)
    plugins.submit(course, student, plugins.drop(notebook, plugins.code(notebook, "exercise", "triple")))
    assert_finished(course, student)


def test_a_score_of_which_nothing_is_left_does_not_stand(again):
    course, student = again
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        notebook = gradebook.find_submission_notebook("tiny", ASSIGNMENT, student)
        unfinished.clear(notebook, {"double"})
        assert {grade.name: grade.auto_score for grade in notebook.grades} == {
            "double": 3,
            "triple": None,
            "why": None,
        }
