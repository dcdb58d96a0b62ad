"""Notebooks that were tampered with before they were handed in."""

from __future__ import annotations

import copy

import nbformat
import test_plugins as plugins

from attacks import DOUBLE, Attack
from autograder import cells

EXERCISES = ("double", "triple", "batchnorm_forward")
FORGED = nbformat.v4.new_output("execute_result", {"text/plain": "4.0"}, execution_count=1)


def checks(nb):
    return [plugins.code(nb, "check", name) for name in EXERCISES]


def skipped(nb):
    for cell in nb.cells:
        cell.metadata.tags = ["skip-execution", "raises-exception", "hide-input"]
    for check in checks(nb):
        check.source, check.outputs = "4.0", [FORGED]
    return nb


def without_checks(nb):
    return plugins.drop(nb, *checks(nb))


def twins(nb):
    """Every exercise and check of `double` three times, under its own ids and under those of the others."""
    for role in ("exercise", "check"):
        cell = plugins.code(nb, role, "double")
        for name in EXERCISES:
            twin = copy.deepcopy(cell)
            twin.metadata.nbgrader.grade_id = plugins.code(nb, role, name).metadata.nbgrader.grade_id
            nb.cells.insert(nb.cells.index(cell) + 1, twin)
    return nb


def dearer(nb):
    for check in checks(nb):
        check.metadata.nbgrader.points = 300
    return nb


def as_text(nb):
    found = checks(nb)
    for check in found:
        check.cell_type = "markdown"
        check.metadata.nbgrader.cell_type = "markdown"
        check.pop("outputs")
        check.pop("execution_count")
    return nb


def confused(nb):
    """Checks say that they are the one of the exercise that was solved, need no grading, are solutions of their own."""
    found = checks(nb)
    for check in found:
        check.metadata.nbgrader.update(
            {"grade_id": "double", "grade": False, "locked": False, "solution": True}
        )
        if cells.KEY in check.metadata:
            check.metadata[cells.KEY].exercise = "double"
    nb.metadata[cells.KEY] = {
        "topic": "other",
        "assignment": "00_other",
        "verdicts": {"triple": {"points": 3}},
    }
    return nb


def other_kernel(nb):
    argv = ["sh", "-c", "echo 4.0"]
    nb.metadata.kernelspec = {"name": "bash", "display_name": "Evil", "language": "bash", "argv": argv}
    nb.metadata.language_info = {"name": "bash"}
    return nb


ATTACKS = (
    Attack("skips_by_tag", "cell-tag skip", edit=skipped),
    Attack("deletes_checks", "test cell deleted, after an earlier good grade", edit=without_checks, earlier=True),
    Attack("doubles_ids", "duplicated ids", double=DOUBLE, edit=twins, earns=(3, 0, 0)),
    Attack(
        "raises_points", "edited points", double=DOUBLE, edit=dearer, earns=(3, 0, 0),
        said=("points had been changed to 300",),
    ),
    Attack("retypes_checks", "edited type", double=DOUBLE, edit=as_text, earns=(3, 0, 0)),
    Attack("confuses_metadata", "edited metadata", double=DOUBLE, edit=confused, earns=(3, 0, 0)),
    Attack("swaps_kernel", "swapped kernelspec", double=DOUBLE, edit=other_kernel, earns=(3, 0, 0)),
)  # fmt: skip
