"""Entering a release in the gradebook that came with the course."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbconvert.exporters import NotebookExporter
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import GenerateAssignment
from nbgrader.coursedir import CourseDirectory

from autograder.authoring import AuthoringError, released


class ReleaseExporter(NotebookExporter):
    """``c.GenerateAssignment.exporter_class``: fills the gradebook where the release stands there already.

    nbgrader passes over an assignment that has its release, and leaves a gradebook empty that has never heard of
    it. A release that is what its source gives can be made anew without a loss. One that somebody has changed is
    left alone, as is one that the gradebook knows: that is what ``--force`` is for.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        converter = self.parent
        if not isinstance(converter, GenerateAssignment) or converter.force or converter.no_database:
            return
        course = converter.coursedir
        unknown = [Path(folder) for folder in converter.assignments if not _known(course, Path(folder).name)]
        there = {source: release for source in unknown if (release := _release_of(course, source)).exists()}
        changed = [release for source, release in there.items() if not _untouched(release, source)]
        for release in changed:
            self.log.warning(
                "%s is not what its source gives and stays as it is, so it is not entered in the gradebook: "
                "--force makes it anew",
                release,
            )
        converter.force = bool(there) and len(unknown) == len(converter.assignments) and not changed


def _known(course: CourseDirectory, assignment: str) -> bool:
    with Gradebook(course.db_url, course.course_id) as gradebook:
        try:
            return bool(gradebook.find_assignment(assignment).notebooks)
        except MissingEntry:
            return False


def _release_of(course: CourseDirectory, source: Path) -> Path:
    return Path(course.format_path(course.release_directory, ".", source.name))


def _untouched(release: Path, source: Path) -> bool:
    files = [path for path in release.rglob("*") if path.is_file() and ".ipynb_checkpoints" not in path.parts]
    return all(_given(path, source / path.relative_to(release), source.name) for path in files)


def _given(path: Path, origin: Path, assignment: str) -> bool:
    """Whether a file of a release is what its source gives."""
    if not origin.is_file():
        return False
    if path.suffix != ".ipynb":
        return path.read_bytes() == origin.read_bytes()
    try:
        made = released(origin.read_text(encoding="utf-8"), assignment, origin.stem)
        return path.read_text(encoding="utf-8") == made
    except (AuthoringError, UnicodeDecodeError):
        return False
