"""Which file of a submission is its notebook, under whatever name and in whatever wrapping it came."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from autograder import doctor
from autograder.matching import shared, worked_on

SUFFIXES = (".ipynb", ".json", ".txt", "")
"""What notebooks end in, as browsers and mail programs leave them."""
DEPTH = 3
FILES = 500
BYTES = 100 * 2**20
"""Bounds of what is looked into: folders below each other, files, bytes of one of them."""


@dataclass(frozen=True)
class Candidate:
    """A notebook of the lecture that was handed in under some name."""

    name: str
    content: bytes
    notebook: NotebookNode

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(cell.source for cell in self.notebook.cells)


def chosen(wanted: Path, release: NotebookNode, report: doctor.Report) -> Path | bytes:
    """The notebook that was handed in: the file itself, or the content of the one that plainly is it. What was found
    is told to ``report``. Raises :class:`~autograder.doctor.Unreadable`."""
    others = [name for name, _ in plain_files(wanted.parent) if name not in (wanted.name, "timestamp.txt")]
    if is_plain(wanted):
        if others:
            _doubt_others(wanted, release, report)
        return wanted
    if wanted.is_symlink():
        report.doubt(f"{wanted.name} is a link, and links are not followed: hand in the file itself.")
    found = _unlike(_candidates(wanted.parent, release))
    if not found:
        return _alike(wanted, others, report)
    one = _one_of(wanted, found, release, report)
    report.repaired(f"The file was called {one.name}; it has been read as {wanted.name}.")
    return one.content


def _one_of(
    wanted: Path, found: Sequence[Candidate], release: NotebookNode, report: doctor.Report
) -> Candidate:
    with_work = [one for one in found if worked_on(one.notebook, release)]
    if len(found) == 1 or len(with_work) == 1:
        return (with_work or list(found))[0]
    ranked = sorted(
        with_work or found,
        key=lambda one: (-len(worked_on(one.notebook, release)), not _names(wanted, one.name), one.name),
    )
    rest = ", ".join(one.name for one in ranked[1:])
    report.doubt(
        f"Several notebooks of this lecture were handed in, and they differ: {ranked[0].name} was graded, and not {rest}. "
        "Which one counts is for a person to say."
    )
    return ranked[0]


def _doubt_others(wanted: Path, release: NotebookNode, report: doctor.Report) -> None:
    """Say where other work lies beside the notebook that bears the right name."""
    with contextlib.suppress(doctor.Unreadable):
        own = tuple(cell.source for cell in doctor.read(wanted).cells)
        differ = [
            one.name
            for one in _unlike(_candidates(wanted.parent, release))
            if one.name != wanted.name and one.sources != own and worked_on(one.notebook, release)
        ]
        if differ:
            report.doubt(
                f"{', '.join(differ)} was handed in too, and holds other work: {wanted.name} was graded. Which one counts "
                "is for a person to say."
            )


def _alike(wanted: Path, others: Sequence[str], report: doctor.Report) -> Path:
    """The one file that by its name should be the notebook, and is none: its reader then says why."""
    notebooks = [name for name in others if name.lower().endswith(".ipynb")]
    alike = [name for name in notebooks if _names(wanted, name)]
    if len(alike or notebooks) == 1:
        name = (alike or notebooks)[0]
        report.repaired(f"The file was called {name}; it has been read as {wanted.name}.")
        return wanted.parent / name
    links = [
        f"{path.name}, a link, which is not followed" for path in wanted.parent.iterdir() if path.is_symlink()
    ]
    there = ", ".join(sorted([*others, *links])) or "nothing"
    raise doctor.Unreadable(f"There is no {wanted.name} among what was handed in (there: {there}).")


def _names(wanted: Path, name: str) -> bool:
    """Whether a file's name has the notebook's in it as a word."""
    return bool(re.search(rf"(?<![a-z]){re.escape(wanted.stem)}(?![a-z])", name, re.IGNORECASE))


def _unlike(candidates: Iterator[Candidate]) -> list[Candidate]:
    """One of each content."""
    found: dict[tuple[str, ...], Candidate] = {}
    for one in candidates:
        found.setdefault(one.sources, one)
    return list(found.values())


def _candidates(folder: Path, release: NotebookNode) -> Iterator[Candidate]:
    for name, content in _contents(folder):
        with contextlib.suppress(doctor.Unreadable):
            notebook = doctor.read(content)
            if shared(notebook, release):
                yield Candidate(name, content, notebook)


def _contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for name, path in plain_files(folder):
        suffix = path.suffix.lower()
        with contextlib.suppress(OSError):
            if suffix == ".zip":
                yield from ((f"{name}/{inner}", content) for inner, content in _zipped(path))
            elif suffix in SUFFIXES and path.stat().st_size <= BYTES:
                yield name, path.read_bytes()


def _zipped(path: Path) -> Iterator[tuple[str, bytes]]:
    """The notebooks of an archive, which is not unpacked: no path in it leads anywhere."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist()[:FILES]:
                parts = info.filename.split("/")
                link = stat.S_ISLNK(info.external_attr >> 16)
                if link or info.is_dir() or parts[-1].startswith(".") or "__MACOSX" in parts:
                    continue
                if os.path.splitext(parts[-1])[1].lower() not in SUFFIXES or info.flag_bits & 1:
                    continue
                with archive.open(info) as file:
                    content = file.read(BYTES + 1)
                if len(content) <= BYTES:
                    yield info.filename, content
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, RuntimeError):
        return


def plain_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a submission with their names, hidden ones and links left out, those that lie deeper last."""
    left, seen = [(folder, 0)], 0
    while left:
        here, depth = left.pop(0)
        with contextlib.suppress(OSError):
            for path in sorted(here.iterdir()):
                seen += 1
                if path.name.startswith(".") or path.is_symlink() or seen > FILES:
                    continue
                if path.is_dir() and depth < DEPTH and path.name != "__MACOSX":
                    left.append((path, depth + 1))
                elif is_plain(path):
                    yield path.relative_to(folder).as_posix(), path


def is_plain(path: Path) -> bool:
    """Whether a file is one, and no link or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def unfollowed(converter: Any) -> None:
    """Have nbgrader leave out what is no plain file where it copies the rest of a submission: a link may lead to another
    student's, and one that leads nowhere costs the grade."""
    course, initialize = converter.coursedir, converter.init_assignment

    def initialized(assignment: str, student: str) -> None:
        odd = set(_odd(converter._format_source(assignment, student)))
        before = course.ignore
        course.ignore = [*before, *sorted(map(glob.escape, odd))]
        try:
            initialize(assignment, student)
        finally:
            course.ignore = before

    converter.init_assignment = initialized


def _odd(folder: str) -> Iterator[str]:
    for here, folders, files in os.walk(folder):
        yield from (name for name in files if not is_plain(Path(here) / name))
        folders[:] = [name for name in folders if not os.path.islink(os.path.join(here, name))]
