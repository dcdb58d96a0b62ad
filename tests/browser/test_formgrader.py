"""Formgrader's button, in JupyterLab, grades as the command does: behind walls, by the oracle's verdict."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT, served
from nbgrader.api import Gradebook
from playwright.sync_api import Browser, expect

from autograder import sample_class
from autograder.sandbox import machine
from autograder.sandbox.fork import WARM_UP

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

LECTURE = "02_batchnorm"
PATIENCE = 1000 * (WARM_UP + 120)


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A course with one submission, which is right and tries to leave a mark in the course on the way."""
    if not os.environ.get("CI") and (reason := machine.trouble()):
        pytest.skip(reason)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    place = tmp_path / "course"

    def prying(release, solved, topic):
        known = sample_class.samples()(release, solved, topic)
        right = next(sample for sample in known if sample.student == "right-1")
        notebook = nbformat.reads(right.content, 4)
        cell = nbformat.v4.new_code_cell(f"open({str(place / 'mark')!r}, 'w').close()")
        notebook.cells.insert(4, cell)
        return [replace(right, content=nbformat.writes(notebook).encode())]

    sample_class.prepare(ROOT, place, LECTURE, prying)
    return place


def test_formgraders_button_grades_in_the_sandbox(browser: Browser, course: Path, tmp_path: Path) -> None:
    with served(tmp_path, course) as (address, token), browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}/lab?reset&token={token}")
        page.get_by_role("menuitem", name="Nbgrader").click(timeout=60_000)
        page.locator(".lm-Menu-item", has_text="Formgrader").first.click()
        formgrader = page.frame_locator("iframe[src*=formgrader]")
        formgrader.get_by_role("row", name=LECTURE).get_by_role("link", name="1", exact=True).click()
        row = formgrader.get_by_role("row", name="right-1")
        expect(row).to_contain_text("needs autograding", timeout=30_000)
        row.locator(".autograde a").click()
        expect(formgrader.get_by_role("dialog")).to_contain_text("Success", timeout=PATIENCE)
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        submission = gradebook.find_submission(LECTURE, "right-1")
        grades = [grade for notebook in submission.notebooks for grade in notebook.grades]
        given = {g.name: (g.auto_score, g.max_score) for g in grades if g.auto_score is not None}
    assert len(given) > 4
    assert all(score == best for score, best in given.values())
    assert not (course / "mark").exists()
