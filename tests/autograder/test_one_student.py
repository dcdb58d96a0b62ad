"""One student named to stock nbgrader's own commands, by ids that are patterns: graded, a page made, nobody else touched."""

from __future__ import annotations

import pytest
import test_plugins as plugins
import tiny_course
from nbgrader.api import Gradebook
from nbgrader.apps.api import NbGraderAPI
from nbgrader.converters import Autograde, GenerateFeedback
from nbgrader.converters.base import NbGraderException

ASSIGNMENT = plugins.ASSIGNMENT
PATTERNS = {
    "smith [audit]": ["smith a", "smith [audit]s"],
    "ann?": ["anna", "annb"],
    "b*": ["bob", "b", "bea"],
    "[!c]": ["d", "!"],
    "**": ["e"],
}
"""Ids, and others that as patterns they stand for or beside."""

pytestmark = pytest.mark.xdist_group("one student")


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    with plugins.released(tmp_path_factory.mktemp("course")) as root:
        for student in {*PATTERNS, *(other for others in PATTERNS.values() for other in others)}:
            plugins.submit(root, student, plugins.solve(plugins.release(root)))
        yield root


def only(root, converter, student):
    config = plugins.configuration(root)
    config.CourseDirectory.student_id = student
    converter(coursedir=plugins.CourseDirectory(config=config), config=config).start()


def touched(root):
    """Who has a graded notebook, a page, a row in the gradebook."""
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        booked = {submission.student_id for submission in gradebook.assignment_submissions(ASSIGNMENT)}
    graded, paged = (
        {path.parents[1].name for path in root.glob(f"{step}/*/{ASSIGNMENT}/tiny.*")}
        for step in ("autograded", "feedback")
    )
    return graded, paged, booked


def test_the_commands(handed_in):
    for tool in ("autograde", "generate_feedback"):
        ended = tiny_course.nbgrader(handed_in, tool, ASSIGNMENT, "--student", "smith [audit]").wait(300)
        assert ended == 0, (handed_in / "nbgrader.log").read_text()
    assert touched(handed_in) == ({"smith [audit]"},) * 3
    assert plugins.scores(handed_in, "smith [audit]") == (3, 3)


@pytest.mark.parametrize("student", PATTERNS)
def test_nobody_else_is_touched(handed_in, student):
    before = touched(handed_in)
    only(handed_in, Autograde, student)
    only(handed_in, GenerateFeedback, student)
    assert touched(handed_in) == tuple(these | {student} for these in before)
    assert plugins.scores(handed_in, student) == (3, 3)


def test_formgraders_button(handed_in):
    plugins.submit(handed_in, "[button]", plugins.solve(plugins.release(handed_in)))
    before = touched(handed_in)
    config = plugins.configuration(handed_in)
    done = NbGraderAPI(plugins.CourseDirectory(config=config), config=config).autograde(
        ASSIGNMENT, "[button]"
    )
    assert done["success"], done
    assert touched(handed_in)[0] == before[0] | {"[button]"}


@pytest.mark.parametrize("name", ["tiny.ipynb.txt", "photo.png"])
def test_one_student_without_a_notebook_of_the_right_name_has_a_row(handed_in, name):
    student = f"odd {name}"
    plugins.submit(handed_in, student, plugins.solve(plugins.release(handed_in)))
    folder = handed_in / "submitted" / student / ASSIGNMENT
    (folder / "tiny.ipynb").rename(folder / name)
    if name == "photo.png":
        (folder / name).write_bytes(b"\x89PNG")
    only(handed_in, Autograde, student)
    assert plugins.scores(handed_in, student) == ((3, 3) if name == "tiny.ipynb.txt" else (0, 0))
    assert plugins.grades(handed_in, student)["double"][1] == (name == "photo.png")


def test_a_pattern_that_is_nobodys_id_is_one(handed_in):
    for student in ("zoe", "zac"):
        plugins.submit(handed_in, student, plugins.solve(plugins.release(handed_in)))
    only(handed_in, Autograde, "z*")
    assert {"zoe", "zac"} <= touched(handed_in)[0]
    with pytest.raises(NbGraderException):
        only(handed_in, Autograde, "nobody[x]")
