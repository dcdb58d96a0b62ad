"""A learner opens the released lecture in JupyterLab, gets it wrong, reads why, and gets it right."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

ROOT = Path(__file__).parents[2]
WRONG = """def batchnorm_forward(x, gamma, beta, eps=1e-5):
axes = (0, *range(2, x.dim()))
shape = (1, -1, *[1] * (x.dim() - 2))
mean, var = x.mean(axes, keepdim=True), x.var(axes, keepdim=True)
x_hat = (x - mean) / torch.sqrt(var + eps)
return gamma.view(shape) * x_hat + beta.view(shape)"""


def _solution() -> str:
    notebook = nbformat.read(ROOT / "solutions" / "02_batchnorm" / "batchnorm.ipynb", 4)
    return next(c.source for c in notebook.cells if c.id == "batchnorm_forward-solution")


def test_a_wrong_answer_is_named_and_a_right_one_recognized(open_notebook):
    notebook = open_notebook("02_batchnorm/batchnorm.ipynb")
    notebook.run("batchnorm-setup", seconds=90)

    assert "not attempted" in notebook.run("batchnorm_forward").lower()
    notebook.run("batchnorm_forward-solution")
    assert "not attempted" in notebook.run("batchnorm_forward").lower()

    # Typed line by line: the editor indents the body by itself.
    notebook.write("batchnorm_forward-solution", WRONG.replace("\n", "\n    "))
    notebook.run("batchnorm_forward-solution")
    said = notebook.run("batchnorm_forward")
    assert "You divided by N−1" in said
    assert "unbiased=False" in said
    _picture(notebook, "feedback-wrong.png")

    notebook.write("batchnorm_forward-solution", _solution())
    notebook.run("batchnorm_forward-solution")
    said = notebook.run("batchnorm_forward")
    assert "4 of 4" in said
    assert "divided" not in said
    _picture(notebook, "feedback-right.png")


def _picture(notebook, name: str) -> None:
    """Kept where SCREENSHOTS says: the pictures of docs/ are made by this test."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        notebook.page.wait_for_timeout(500)
        notebook.page.screenshot(path=Path(folder) / name)
