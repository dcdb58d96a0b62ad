"""The way of a notebook through nbgrader's own exchange: release, fetch, submit, collect, autograde, feedback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

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


@pytest.mark.xdist_group("exchange")
def test_round_trip(tmp_path):
    course, student, exchange = tmp_path / "course", tmp_path / "student", tmp_path / "exchange"
    for folder in (course, student, exchange, tmp_path / "home"):
        folder.mkdir()
    exchange.chmod(0o777)
    shutil.copytree(ROOT / "solutions" / ASSIGNMENT, course / "solutions" / ASSIGNMENT)
    settings = f"c.Exchange.root = {str(exchange)!r}\nc.CourseDirectory.course_id = 'vision'\n"
    config = (ROOT / "nbgrader_config.py").read_text()
    (course / "nbgrader_config.py").write_text(config + settings + "c.Judge.unsafe_no_sandbox = True\n")
    (student / "nbgrader_config.py").write_text("c = get_config()\n" + settings)

    _nbgrader(course, "generate_assignment", ASSIGNMENT)
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
