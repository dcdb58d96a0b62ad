"""Whether the notebooks are what their texts build, and nothing of a solution is in a release."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from autograder import catalog
from autograder.authoring.build import render, repository
from autograder.authoring.prose import reads_well
from autograder.authoring.quizzes import quiz_problems, quiz_warnings
from autograder.authoring.source import BEGIN, END, RELEASES, SOURCES, AuthoringError, Source, sources
from autograder.cells import exercise_of, role_of

PLACEHOLDER = "OWNER"
LEAK_LENGTH = 30
"""A solution's line this long, found in a lecture, is a leak; shorter ones may well be coincidence."""


def check(root: Path | str, topics: Sequence[str] | None = None) -> list[str]:
    """Every problem of the sources and the notebooks built from them, a sentence each; empty when clean."""
    root = Path(root).resolve()
    problems: list[str] = []
    try:
        found = sources(root, topics)
    except AuthoringError as error:
        return [str(error)]
    for source in found:
        try:
            built = render(source)
        except AuthoringError as error:
            problems.append(str(error))
            continue
        for path, text in built.files():
            problems += drift(root, path, text)
        solution = nbformat.reads(built.solution, as_version=4)
        lecture = nbformat.reads(built.lecture, as_version=4)
        problems += _catalogue_covered(source, lecture)
        problems += reads_well(source, solution, lecture)
        problems += quiz_problems(source.lecture.relative_to(source.root).as_posix(), lecture)
        problems += leaks(root, solution)
    if topics is None:
        problems += _strays(root, found)
    return problems


def warnings(root: Path | str) -> list[str]:
    """What is no problem here and would be one for readers elsewhere, a sentence each."""
    root = Path(root).resolve()
    try:
        address = repository(root)
    except AuthoringError:
        return []  # a problem, where there is a lecture
    if PLACEHOLDER not in address.split("/"):
        return quiz_warnings()
    return [
        *quiz_warnings(),
        f"pyproject.toml: Repository is still the placeholder {address}; the badges and Colab's install line lead "
        "nowhere until it is set and `autograder build` has run",
    ]


def drift(root: Path, path: Path, text: str) -> list[str]:
    """One sentence if the file is not what its source builds; how a machine ends its lines is its own affair."""
    name = path.relative_to(root).as_posix()
    if not path.exists():
        return [f"{name}: not built; run `autograder build`"]
    there = _text_of(path)
    if there == text:
        return []
    return [f"{name}: differs from what its source builds ({_where(there, text)}); run `autograder build`"]


def _where(there: str, text: str) -> str:
    try:
        old, new = (nbformat.reads(one, as_version=4).cells for one in (there, text))
    except Exception:
        return "it cannot be read as a notebook"
    differing = [number for number, (a, b) in enumerate(zip(old, new, strict=False), 1) if a != b]
    if len(old) != len(new):
        first = differing[0] if differing else min(len(old), len(new)) + 1
        return f"{len(old)} cells instead of {len(new)}, first at cell {first}"
    return f"first at cell {differing[0]}" if differing else "in its metadata or layout, in no cell"


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def solution_lines(notebook: NotebookNode) -> list[tuple[int, str]]:
    """(cell number, line) of every line of every solution region that is telling enough to look for."""
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        inside = False
        for line in cell.source.splitlines():
            if BEGIN in line or END in line:
                inside = BEGIN in line
            elif inside and len(_plain(line)) >= LEAK_LENGTH and not _boilerplate(line):
                found.append((number, _plain(line)))
    return found


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", line).strip()


def _boilerplate(line: str) -> bool:
    return re.match(r"\s*(def |class |import |from |super\(\)|\"\"\"|#)", line) is not None


def leaks(root: Path, solution: NotebookNode) -> list[str]:
    """Lines of this solution that stand in any file under ``lectures/``."""
    secrets = solution_lines(solution)
    problems = []
    for path in sorted((root / RELEASES).rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(root).as_posix()
        for where, text in _texts(path):
            plain = _plain(text)
            for number, line in secrets:
                if line in plain:
                    problems.append(f"{name}{where}: holds a line of the solution in cell {number}: {line!r}")
    return problems


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    raw = _text_of(path)
    if path.suffix == ".ipynb":
        try:
            notebook = nbformat.reads(raw, as_version=4)
        except Exception:
            yield "", raw
            return
        for number, cell in enumerate(notebook.cells, 1):
            yield f" (cell {number})", cell.source
            if cell.get("outputs"):
                yield f" (output of cell {number})", str(cell.outputs)
        yield " (metadata)", str(notebook.metadata)
    else:
        yield "", raw


def _strays(root: Path, found: Sequence[Source]) -> list[str]:
    """Files that nbgrader would hand to students, or that no source stands behind."""
    problems = []
    expected = {path for source in found for path in (source.solution, source.lecture)}
    for folder in (SOURCES, RELEASES):
        for path in sorted((root / folder).glob("*/**/*")):
            name = path.relative_to(root).as_posix()
            if not path.is_file() or path in expected or re.search("ipynb_checkpoints|__pycache__", name):
                continue
            if path.suffix == ".ipynb":
                problems.append(f"{name}: no source in {SOURCES}/ builds it")
            else:
                problems.append(f"{name}: nbgrader would hand this to students; only notebooks belong here")
    return problems


def _catalogue_covered(source: Source, lecture: NotebookNode) -> list[str]:
    """Every exercise of the topic stands in its lecture once: card, stub and check."""
    problems = []
    try:
        exercises = catalog.topic(source.topic)
    except (KeyError, ValueError):
        return [f"{source.name}: the catalogue has no topic {source.topic!r}"]
    for exercise in exercises:
        roles = Counter(role_of(cell) for cell in lecture.cells if exercise_of(cell) == exercise.id)
        for role, what in (("text", "card"), ("exercise", "stub"), ("check", "check cell")):
            if roles[role] != 1:
                problems.append(f"{source.name}: exercise {exercise.id!r} has {roles[role]} {what}s, not one")
    if not any(role_of(cell) == "written" for cell in lecture.cells):
        problems.append(f"{source.name}: no written question")
    return problems
