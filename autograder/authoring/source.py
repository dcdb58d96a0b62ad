"""The text people edit: where it lies, its cells, and what may be written in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nbformat import NotebookNode

SOURCES, RELEASES = "solutions", "lectures"
BEGIN, END = "BEGIN SOLUTION", "END SOLUTION"
OPTIONS = {"role", "exercise", "written", "points", "tags"}


class AuthoringError(ValueError):
    """A source that no notebook can be built from: file, cell and what is wrong with it."""


@dataclass(frozen=True)
class Source:
    """One lecture's text: ``path`` is ``solutions/NN_topic.py`` below ``root``."""

    root: Path
    path: Path

    @property
    def assignment(self) -> str:
        return self.path.stem

    @property
    def topic(self) -> str:
        return self.assignment.split("_", 1)[1]

    @property
    def name(self) -> str:
        return self.path.relative_to(self.root).as_posix()

    @property
    def solution(self) -> Path:
        return self.root / SOURCES / self.assignment / f"{self.topic}.ipynb"

    @property
    def lecture(self) -> Path:
        return self.root / RELEASES / self.assignment / f"{self.topic}.ipynb"


@dataclass
class Cell:
    """A cell of the source with where it stands, for messages."""

    node: NotebookNode
    number: int
    line: int | None
    source: Source
    options: dict = field(default_factory=dict)

    def error(self, what: str) -> AuthoringError:
        where = self.source.name if self.line is None else f"{self.source.name}:{self.line}"
        return AuthoringError(f"{where} (cell {self.number}): {what}")


def sources(root: Path, topics: Sequence[str] | None = None) -> list[Source]:
    """The lectures' texts in order, or those of ``topics``."""
    root = root.resolve()
    found = [Source(root, path) for path in sorted((root / SOURCES).glob("[0-9][0-9]_*.py"))]
    if topics is None:
        return found
    by_name = {name: source for source in found for name in (source.topic, source.assignment)}
    for topic in topics:
        if topic not in by_name:
            known = ", ".join(source.topic for source in found) or "none"
            raise AuthoringError(f"no lecture called {topic!r} in {SOURCES}/ (there: {known})")
    return [by_name[topic] for topic in topics]


def read(source: Source) -> list[Cell]:
    """The cells of a lecture's text. Raises :class:`AuthoringError`."""
    import jupytext

    text = source.path.read_text(encoding="utf-8")
    nodes = jupytext.reads(text, fmt="py:percent").cells
    lines = [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"# %%(?:\s|$)", line)]
    at = lines if len(lines) == len(nodes) else [None] * len(nodes)
    cells = []
    for number, (node, line) in enumerate(zip(nodes, at, strict=True), 1):
        node.metadata.pop("lines_to_next_cell", None)
        cell = Cell(node, number, line, source, dict(node.metadata))
        unknown = set(cell.options) - OPTIONS
        if unknown:
            known = ", ".join(sorted(OPTIONS))
            raise cell.error(f"unknown option {', '.join(sorted(unknown))}; known: {known}")
        if node.cell_type not in ("code", "markdown"):
            raise cell.error(f"a {node.cell_type} cell; only code and markdown are built")
        cells.append(cell)
    return cells


def regions(cell: Cell) -> list[list[str]]:
    """The solution regions of a cell; an error where the markers are missing or do not pair."""
    found: list[list[str]] = []
    inside = False
    for line in cell.node.source.splitlines():
        if BEGIN in line:
            if inside:
                raise cell.error(f"{BEGIN} inside a solution region")
            inside = True
            found.append([])
        elif END in line:
            if not inside:
                raise cell.error(f"{END} without {BEGIN}")
            inside = False
        elif inside:
            found[-1].append(line)
    if inside:
        raise cell.error(f"{BEGIN} without {END}")
    if not any(line.strip() for region in found for line in region):
        raise cell.error(f"no solution between ### {BEGIN} and ### {END}")
    return found


def headings(markdown: str) -> list[tuple[int, str]]:
    """(level, text) of the headings of a markdown cell; code fences are not looked into."""
    found, fence = [], None
    for line in markdown.splitlines():
        mark = re.match(r"\s{0,3}(```+|~~~+)", line)
        if mark:
            fence = mark[1][:3] if fence is None else (None if mark[1].startswith(fence) else fence)
        elif fence is None and (heading := re.match(r"(#{1,6})\s+(.*\S)", line)):
            found.append((len(heading[1]), heading[2]))
    return found


def plain_python(source: str) -> str:
    """A cell's code with IPython's magics turned into calls."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)
