"""The built notebooks themselves: they run from top to bottom in time, offline, and they are what their text says."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from autograder import authoring
from autograder.cells import is_check

ROOT = Path(__file__).parents[2]
SOLVED = sorted((ROOT / "solutions").glob("*/*.ipynb"))
WHOLE, CELL = 90, 30  # seconds, on two quiet cores
# A test machine may be slower than the two cores that the budget means; what it took is printed.
ALLOWANCE = 2


class _Timed(NotebookClient):
    """Runs a notebook and notes what each cell takes."""

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        start = time.perf_counter()
        try:
            return await super().async_execute_cell(cell, cell_index, *args, **kwargs)
        finally:
            self.seconds.append((time.perf_counter() - start, cell.source.partition("\n")[0]))


@pytest.mark.alone
@pytest.mark.parametrize("path", SOLVED, ids=lambda p: p.stem)
def test_runs_top_to_bottom_offline_without_data(path, tmp_path, monkeypatch):
    monkeypatch.delenv("COURSEKIT_DATA", raising=False)
    # Nowhere to download to and nowhere to download from.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    _runs(path, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("path", SOLVED, ids=lambda p: p.stem)
def test_runs_top_to_bottom_with_real_data(path, tmp_path, monkeypatch, real_data):
    if real_data is None:
        pytest.skip("COURSEKIT_DATA names no folder")
    monkeypatch.setenv("COURSEKIT_DATA", str(real_data.resolve()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _runs(path, tmp_path, monkeypatch)


def _runs(path, folder, monkeypatch):
    """In time, every check correct, every picture with words, and nothing on the error stream."""
    monkeypatch.delenv("FAST", raising=False)
    client = _Timed(
        nbformat.read(path, 4), timeout=CELL * ALLOWANCE, resources={"metadata": {"path": str(folder)}}
    )
    client.seconds = []
    start = time.perf_counter()
    notebook = client.execute()
    took = time.perf_counter() - start
    slowest = max(client.seconds)
    print(
        f"\n{path.stem}: {took:.0f} s of {WHOLE}, slowest cell {slowest[0]:.0f} s of {CELL} ({slowest[1]!r})"
    )
    assert took < WHOLE * ALLOWANCE
    assert [p.name for p in folder.iterdir() if p.name != "cache"] == []

    verdicts = [
        o.data["text/plain"]
        for c in notebook.cells
        if c.cell_type == "code" and c.source.startswith("check(")
        for o in c.outputs
        # A training may show how far it is; the verdict's first line has the points.
        if "data" in o and "points · " in o.data["text/plain"].partition("\n")[0]
    ]
    exercises = [c for c in notebook.cells if is_check(c)]
    assert len(verdicts) == len(exercises) > 0
    assert all("Correct" in v for v in verdicts)
    images = [
        o.data["text/html"]
        for c in notebook.cells
        if c.cell_type == "code"
        for o in c.outputs
        if "data" in o and "<img" in o.data.get("text/html", "")
    ]
    assert images
    assert all('alt="' in i and 'alt=""' not in i for i in images)
    shown = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in shown if o.output_type == "error"]
    assert not [o.text for o in shown if o.output_type == "stream" and o.name == "stderr"]


def test_build_is_clean():
    assert authoring.check(ROOT) == []


@pytest.mark.parametrize("source", sorted((ROOT / "solutions").glob("*.py")), ids=lambda p: p.stem)
def test_one_changed_character_of_a_source_is_noticed(source, tmp_path):
    for name in ("solutions", "lectures"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "nbgrader_config.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    copy = tmp_path / "solutions" / source.name
    text = copy.read_text()
    place = text.index("the ", len(text) // 2)
    copy.write_text(text[:place] + "p" + text[place + 1 :])
    assert authoring.check(tmp_path, [source.stem]) != []


def test_lectures_hold_nothing_but_notebooks():
    files = [p for p in (ROOT / "lectures").rglob("*") if p.is_file() and ".ipynb_checkpoints" not in p.parts]
    assert files
    assert {p.suffix for p in files} == {".ipynb"}
    assert not any("BEGIN SOLUTION" in p.read_text() for p in files)
