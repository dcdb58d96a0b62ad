"""The files that lie beside a notebook: which of them its kernel is given, and why others are left out.

At home a notebook imports ``helpers.py`` and reads ``data.csv`` from its own folder, so they are there when it is graded
as well. What bears the name of a module that grading needs is not: Python would load it in that module's place.
"""

from __future__ import annotations

import ast
import importlib.machinery
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

BYTES = 200 * 2**20
COUNT = 2000
"""What the files beside one notebook may come to."""

_OWN = ("autograder", "coursekit", "sitecustomize", "usercustomize", "ipykernel_launcher")
_KNOWN_BY_GRADER = ("timestamp.txt",)
_CACHES = ("__pycache__",)
_SUFFIXES = tuple(importlib.machinery.all_suffixes())
_SHOWN = 3


@dataclass
class Beside:
    """What lies beside a notebook.

    Attributes:
        given: the files that the kernel gets, by their paths in its folder.
        shadows, over, unreadable: what is left out, since it bears a module's name, is too much, or is no plain file
            that can be read.
    """

    given: dict[str, Path] = field(default_factory=dict)
    shadows: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> list[str]:
        """A sentence for each reason for which something was left out."""
        reasons = (
            (self.shadows, "bears the name of a module that Python needs itself: rename it, and its imports"),
            (
                self.over,
                f"is more than the {COUNT} files and {BYTES // 2**20} MB that may be handed in with a notebook",
            ),
            (self.unreadable, "is a link or no plain file that can be read: hand in the file itself"),
        )
        return [
            f"{_listed(names)}, handed in beside the notebook, was left out when it was graded, since it {why}."
            for names, why in reasons
            if names
        ]

    def copy_into(self, folder: Path) -> None:
        """Put what is given into a folder, to be read by everybody."""
        for name, path in self.given.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o644)
        for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            inner.chmod(0o755)


def look(handed_in: Path, release: Path | None = None) -> Beside:
    """What lies in the folder of a submission, and in that of the release, whose files come first."""
    found = Beside()
    for folder in (path for path in (release, handed_in) if path is not None):
        for name, path in _files(folder):
            if name in found.given or path.suffix == ".ipynb":
                continue
            top = name.split("/")[0]
            if top in found.shadows:
                continue
            if _shadows(folder / top):
                found.shadows.append(top)
            elif not _plain(path):
                found.unreadable.append(name)
            else:
                found.given[name] = path
    _bound(found)
    return found


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for here, folders, files in os.walk(folder):
        hidden = [name for name in folders if name.startswith(".") or name in _CACHES]
        links = [name for name in folders if name not in hidden and os.path.islink(os.path.join(here, name))]
        folders[:] = sorted(name for name in folders if name not in (*hidden, *links))
        for name in sorted([*files, *links]):
            path = Path(here) / name
            relative = path.relative_to(folder).as_posix()
            if not name.startswith(".") and relative not in _KNOWN_BY_GRADER:
                yield relative, path


def _plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode) and os.access(path, os.R_OK)
    except OSError:
        return False


def _bound(found: Beside) -> None:
    """Keep what is within the bounds: modules and small files before large ones."""
    sizes = {name: path.lstat().st_size for name, path in found.given.items()}
    total = 0
    order = sorted(sizes, key=lambda name: (not name.endswith(".py"), sizes[name], name))
    for number, name in enumerate(order):
        total += sizes[name]
        if number >= COUNT or total > BYTES:
            found.over.append(name)
            del found.given[name]


def _shadows(path: Path) -> bool:
    """Whether Python would find a file or folder under the name of a module that is there without it."""
    name = path.name.split(".")[0]
    if path.is_dir():
        return any((path / f"__init__{suffix}").exists() for suffix in _SUFFIXES) and is_module(name)
    return path.name.endswith(_SUFFIXES) and is_module(name)


@cache
def is_module(name: str) -> bool:
    """Whether the Python environment has a module of that name; a folder that is no package does not count."""
    if name in _OWN or name in sys.stdlib_module_names:
        return True
    here = [entry for entry in sys.path if entry and Path(entry).resolve() != Path.cwd()]
    try:
        spec = importlib.machinery.PathFinder.find_spec(name, here)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and name != "test"


def _listed(names: Iterable[str]) -> str:
    shown = [name[:80] for name in names]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


# --- at home ----------------------------------------------------------------------------------------------


def used(sources: Iterable[str], folder: Path) -> tuple[list[str], list[str]]:
    """The files that the code of a notebook names or imports: those in its folder or below, and those outside of it."""
    inside: dict[str, None] = {}
    outside: dict[str, None] = {}
    for name in dict.fromkeys(name for source in sources for name in _named(source)):
        path = folder / name
        if not os.path.isfile(path):
            continue
        kept = inside if path.resolve().is_relative_to(folder.resolve()) else outside
        kept[name] = None
    return list(inside), list(outside)


def _named(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        for module in modules:
            top = module.split(".")[0]
            yield from (f"{top}.py", f"{top}/__init__.py")
