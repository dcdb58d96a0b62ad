"""Where a plugin stands: the course it was loaded in, and the release of the notebook in hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbgrader.coursedir import CourseDirectory


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


def release_of(plugin: Any, resources: dict[str, Any]) -> NotebookNode:
    """The notebook students were given. FileNotFoundError says how to make it."""
    path = release_path(plugin, resources)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: grading needs the release; run `nbgrader generate_assignment "
            f"{resources['nbgrader']['assignment']}` or copy it there"
        )
    return nbformat.read(path, as_version=4)
