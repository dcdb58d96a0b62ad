"""nbgrader's own commands as documented: the gradebook filled, and a notebook's way through the exchange."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from autograder import catalog

ROOT = Path(__file__).parents[2]
ASSIGNMENT = "02_batchnorm"


def _nbgrader(place: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(place.parent / "home"),
        "JUPYTER_DATA_DIR": str(place.parent / "home" / "data"),
        "JUPYTER_CONFIG_DIR": str(place.parent / "home" / "config"),
    }
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def _course(folder: Path, *, lectures: bool) -> Path:
    """A copy of the course as docs/instructors.md says."""
    for name in ("solutions", "lectures") if lectures else ("solutions",):
        shutil.copytree(ROOT / name / ASSIGNMENT, folder / name / ASSIGNMENT)
    shutil.copy(ROOT / "nbgrader_config.py", folder)
    return folder


def _documented(tool: str) -> list[str]:
    """The arguments of nbgrader in the first line of the instructors' guide that calls this tool."""
    text = (ROOT / "docs" / "instructors.md").read_text(encoding="utf-8")
    found = re.search(rf"^nbgrader ({tool}[^#\n]*)", text, re.MULTILINE)
    assert found is not None
    return found[1].split()


def _cells_in_gradebook(course: Path) -> set[str]:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        names = [assignment.name for assignment in gradebook.assignments]
        return (
            {c.name for c in gradebook.find_notebook("batchnorm", ASSIGNMENT).grade_cells} if names else set()
        )


def _starts(course: Path) -> None:
    """The documented first command fills the gradebook, and makes the release that the course has."""
    _nbgrader(course, *_documented("generate_assignment"))
    assert {e.id for e in catalog.topic("batchnorm")} < _cells_in_gradebook(course)
    release = Path("lectures", ASSIGNMENT, "batchnorm.ipynb")
    assert (course / release).read_text(encoding="utf-8") == (ROOT / release).read_text(encoding="utf-8")


@pytest.mark.xdist_group("exchange")
def test_the_first_command_makes_the_release_where_there_is_none(tmp_path):
    _starts(_course(tmp_path / "course", lectures=False))


@pytest.mark.xdist_group("exchange")
def test_a_release_that_somebody_changed_is_not_made_anew_unasked(tmp_path):
    course = _course(tmp_path / "course", lectures=True)
    path = course / "lectures" / ASSIGNMENT / "batchnorm.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[1].source += "\n\nSee you on Monday."
    nbformat.write(notebook, path)
    assert "--force makes it anew" in _nbgrader(course, "generate_assignment", ASSIGNMENT)
    assert "See you on Monday." in path.read_text(encoding="utf-8")
    assert _cells_in_gradebook(course) == set()
    _nbgrader(course, "generate_assignment", ASSIGNMENT, "--force")
    assert "See you on Monday." not in path.read_text(encoding="utf-8")
    known = _cells_in_gradebook(course)
    assert known
    nbformat.write(notebook, path)
    _nbgrader(course, "generate_assignment", ASSIGNMENT)
    assert "See you on Monday." in path.read_text(encoding="utf-8")
    assert _cells_in_gradebook(course) == known


@pytest.mark.xdist_group("exchange")
def test_round_trip(tmp_path):
    course, student, exchange = tmp_path / "course", tmp_path / "student", tmp_path / "exchange"
    for folder in (student, exchange, tmp_path / "home"):
        folder.mkdir()
    exchange.chmod(0o777)
    _course(course, lectures=True)
    settings = f"c.Exchange.root = {str(exchange)!r}\nc.CourseDirectory.course_id = 'vision'\n"
    with (course / "nbgrader_config.py").open("a", encoding="utf-8") as config:
        config.write(settings)
    (student / "nbgrader_config.py").write_text("c = get_config()\n" + settings)

    _starts(course)
    _nbgrader(course, "release_assignment", ASSIGNMENT)
    _nbgrader(student, "fetch_assignment", ASSIGNMENT)

    path = student / ASSIGNMENT / "batchnorm.ipynb"
    notebook = nbformat.read(path, 4)
    solved = nbformat.read(ROOT / "solutions" / ASSIGNMENT / "batchnorm.ipynb", 4)
    answer = next(c.source for c in solved.cells if c.id == "batchnorm_forward-solution")
    for cell in notebook.cells:
        if cell.id == "batchnorm_forward-solution":
            cell.source = answer
    nbformat.write(notebook, path)

    _nbgrader(student, "submit", ASSIGNMENT)
    _nbgrader(course, "collect", ASSIGNMENT)
    _nbgrader(course, "autograde", ASSIGNMENT)
    _nbgrader(course, "generate_feedback", ASSIGNMENT)
    _nbgrader(course, "release_feedback", ASSIGNMENT)
    _nbgrader(student, "fetch_feedback", ASSIGNMENT)

    (page,) = (student / ASSIGNMENT / "feedback").rglob("batchnorm.html")
    text = page.read_text()
    assert "Correct: 4 of 4 points" in text
    assert "Not attempted" in text
