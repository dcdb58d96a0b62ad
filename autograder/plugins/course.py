"""Where a plugin stands: the course it was loaded in, and the release of the notebook in hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbformat import NotebookNode
from nbgrader.coursedir import CourseDirectory

from autograder import catalog

if TYPE_CHECKING:
    from autograder.oracle.exam import Exam


def course_of(plugin: Any) -> CourseDirectory:
    """The course directory of the converter that loaded a plugin, found up its parents."""
    above = plugin
    while above is not None:
        found = getattr(above, "coursedir", None)
        if found is not None:
            return found
        above = getattr(above, "parent", None)
    return CourseDirectory(parent=plugin)


def release_path(plugin: Any, resources: dict[str, Any]) -> Path:
    course, here = course_of(plugin), resources["nbgrader"]
    folder = course.format_path(course.release_directory, ".", here["assignment"])
    return Path(folder) / f"{here['notebook']}.ipynb"


def folders_beside(plugin: Any, resources: dict[str, Any]) -> tuple[Path, Path]:
    """Where a notebook was handed in, and where it was handed out: other files may lie beside it."""
    course, here = course_of(plugin), resources["nbgrader"]
    folder = course.format_path(course.submitted_directory, here["student"], here["assignment"])
    return Path(folder), release_path(plugin, resources).parent


def exam_path(plugin: Any, resources: dict[str, Any]) -> Path:
    """Where the exam of an assignment lies, beside the gradebook of a course directory."""
    return Path(course_of(plugin).root) / "exams" / f"{resources['nbgrader']['assignment']}.exam"


def exam_at(path: Path, exercises: Iterable[str], seed: int | None) -> Mapping[str, Exam]:
    """The exam that the class sits: the one that lies there, or else a new one; of an assignment without exercises there is
    none. Raises ValueError for a file that is no exam."""
    from autograder.oracle import exam_file

    if not path.exists():
        known = [catalog.find(name) for name in exercises if _is_known(name)]
        if not known:
            return {}
        exam_file.shared(path, known, seed)
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read(path: Path, written: int) -> Mapping[str, Exam]:
    """Read once for all who sit it in this process: what the reference shows is then computed once, too."""
    from autograder.oracle import exam_file

    return exam_file.read(path)


def _is_known(name: str) -> bool:
    try:
        return bool(catalog.find(name))
    except ValueError:
        return False


def release_of(plugin: Any, resources: dict[str, Any]) -> NotebookNode:
    """The notebook students were given. FileNotFoundError says how to make it."""
    path = release_path(plugin, resources)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: grading needs the release; run `nbgrader generate_assignment "
            f"{resources['nbgrader']['assignment']}` or copy it there"
        )
    return nbformat.read(path, as_version=4)
