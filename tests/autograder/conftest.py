"""What tests of the gate and of single exercises share: the far side of the wire, an exercise and its exams."""

import contextlib
import functools
import io
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from autograder import catalog, gate
from autograder.cells import role_of
from autograder.exercise import Training
from autograder.oracle.exam import Exam

pytest.register_assert_rewrite("contract")

LECTURES = Path(__file__).parents[2] / "lectures"


@pytest.fixture(scope="session")
def far_side():
    """``far_side(exercise, answer)``: a remote attempt at an answer of the catalogue."""
    with gate.far_side() as remote:
        yield remote


@pytest.fixture(scope="class")
def exercise(request):
    """The exercise that a class of tests is about."""
    return catalog.find(request.cls.exercise_id)


@pytest.fixture(scope="class")
def setup(exercise):
    """What the setup cell of the exercise's lecture makes known."""
    return _set_up(exercise.topic)


@pytest.fixture(scope="session")
def set_up():
    """``set_up(topic)``: what the setup cell of that lecture makes known."""
    return _set_up


@functools.cache
def _set_up(topic):
    (path,) = LECTURES.glob(f"*_{topic}/{topic}.ipynb")
    (cell,) = [c for c in nbformat.read(path, 4).cells if role_of(c) == "setup"]
    namespace = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(cell.source, namespace)
    return namespace


@pytest.fixture(scope="class")
def exam(exercise):
    return Exam(exercise)


@pytest.fixture(scope="class")
def short_exam(exercise):
    if isinstance(exercise, Training):
        return Exam(exercise, 1)
    properties = tuple(replace(p, examples=1) for p in exercise.properties)
    return Exam(replace(exercise, properties=properties), 1)


@pytest.fixture
def few(short_exam, monkeypatch):
    """An exam of one input a property, for answers that do the same whatever they are given."""
    monkeypatch.setattr(catalog, "find", lambda exercise_id: short_exam.exercise)
    return short_exam


@pytest.fixture
def known(monkeypatch):
    """Makes an exercise the one that is found."""

    def know(exercise):
        monkeypatch.setattr(catalog, "find", lambda exercise_id: exercise)
        return exercise

    return know
