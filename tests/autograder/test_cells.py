"""What a cell is: one answer, also where its metadata is odd or lies."""

from __future__ import annotations

import nbformat
import pytest
import tiny_course
from nbgrader import utils

from autograder import authoring, cells, doctor

GRADED = {"grade": True, "solution": False, "grade_id": "double", "points": 3}


def cell(kind="code", **metadata):
    return nbformat.from_dict({"cell_type": kind, "source": "", "id": "x", "metadata": metadata})


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        tiny_course.use_catalog(patch)
        _, lecture = authoring.build(tiny_course.write(tmp_path_factory.mktemp("course")))
    return nbformat.read(lecture, as_version=4)


@pytest.mark.parametrize(
    "given",
    [
        cell(nbgrader=GRADED),
        cell(nbgrader=GRADED, coursekit={"role": "story"}),
        cell(nbgrader={**GRADED, "solution": True}),
        cell(nbgrader={**GRADED, "grade": False}, coursekit={"role": "check"}),
        cell("markdown", nbgrader=GRADED),
        cell(coursekit={"role": "check", "exercise": "double"}),
        cell(nbgrader={}),
        cell(),
    ],
)
def test_a_check_is_what_nbgrader_scores_by_its_outputs(given):
    scored = bool(given.cell_type == "code" and utils.is_grade(given) and not utils.is_solution(given))
    assert cells.is_check(given) == scored == (cells.role_of(given) == "check")


@pytest.mark.parametrize("odd", [None, 3, "x", [], [{}], {"role": 3, "grade": [], "grade_id": {}}])
def test_odd_metadata_makes_nothing_of_a_cell(odd):
    for given in ({"cell_type": "code", "metadata": odd}, {"metadata": {cells.KEY: odd, "nbgrader": odd}}):
        assert not cells.is_check(given)
        assert cells.exercise_of(given) == cells.grade_id_of(given) == ""
        assert cells.role_of(given) in (cells.ADDED, "3")


def test_a_built_notebook_answers_alike_by_role_and_by_grading(release):
    for each in release.cells:
        assert cells.about(each)["role"] == cells.role_of(each)
    assert [cells.exercise_of(each) for each in release.cells if cells.is_check(each)] == ["double", "triple"]
    assert cells.about(release)["topic"] == "tiny"


def test_the_exercise_of_a_check_without_a_word_of_the_course_is_its_grade_id():
    assert cells.exercise_of(cell(nbgrader=GRADED)) == "double"
    assert cells.exercise_of(cell(nbgrader={**GRADED, "grade": False})) == ""


def test_a_cell_that_calls_itself_a_check_is_none_after_repair(release):
    mine = nbformat.from_dict(release)
    forged = cell(nbgrader={**GRADED, "grade_id": "bonus"}, coursekit={"role": "check", "exercise": "double"})
    mine.cells.append(forged | {"outputs": [], "execution_count": None, "id": "forged"})
    story = next(each for each in mine.cells if cells.role_of(each) == "story")
    story.metadata.nbgrader = {**GRADED, "grade_id": "values"}
    repaired, _ = doctor.repair(mine, release)
    assert [cells.grade_id_of(each) for each in repaired.cells if cells.is_check(each)] == [
        "double",
        "triple",
    ]
    assert cells.role_of(repaired.cells[-1]) == cells.ADDED
