"""An old grade stands only while its new grading is unfinished, and is marked so long."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook

from autograder import unfinished


class Regrade:
    """Has ``nbgrader autograde`` mark what it begins to grade, and grade again what an earlier run has not finished.

    nbgrader takes the graded notebook away first and writes the scores last. Whatever ends it in between, the old
    scores stood there as if nothing had been; and where it was killed, the next run passed the submission over.
    """

    def __init__(self, converter: Any):
        self._converter = converter
        self._initialize, self._begin = converter.init_destination, converter.init_assignment
        self._convert = converter.convert_single_notebook
        converter.init_destination = self._initialized
        converter.init_assignment = self._begun
        converter.convert_single_notebook = self._converted

    @cached_property
    def _left(self) -> set[tuple[str, str]]:
        course = self._converter.coursedir
        with Gradebook(course.db_url) as gradebook:
            return unfinished.marked(gradebook, course.assignment_id)

    def _initialized(self, assignment: str, student: str) -> bool:
        before = self._converter.force
        self._converter.force = before or any((student, name) in self._left for name in self._notebooks)
        try:
            if self._is_due(assignment, student):
                # The next step takes the graded notebook away.
                self._mark(assignment, student)
            return bool(self._initialize(assignment, student))
        finally:
            self._converter.force = before

    def _is_due(self, assignment: str, student: str) -> bool:
        """nbgrader's own rule, before it acts upon it."""
        course = self._converter.coursedir
        if student in course.student_id_exclude.split(","):
            return False
        source, graded = (
            make(assignment, student)
            for make in (self._converter._format_source, self._converter._format_dest)
        )
        there = [Path(graded, f"{name}.ipynb").exists() for name in self._notebooks]
        whole = Path(graded).exists() if course.notebook_id == "*" else all(there)
        if self._converter.force or not whole:
            return True
        new, old = map(course.get_existing_timestamp, (source, graded))
        return new is not None and old is not None and new > old

    def _begun(self, assignment: str, student: str) -> None:
        self._begin(assignment, student)
        # Only now there is a submission in the gradebook where there was none; and a notebook under another name
        # was just given 0 points.
        self._mark(assignment, student)

    def _converted(self, filename: str) -> None:
        try:
            self._convert(filename)
        except BaseException:
            course = self._converter.coursedir
            student = self._converter.init_single_notebook_resources(filename)["nbgrader"]["student"]
            self._mark(course.assignment_id, student, [Path(filename).stem])
            raise

    def _mark(self, assignment: str, student: str, notebooks: Sequence[str] = ()) -> None:
        db_url = self._converter.coursedir.db_url
        unfinished.mark(db_url, assignment, student, notebooks or self._notebooks)

    @property
    def _notebooks(self) -> list[str]:
        return [Path(name).stem for name in self._converter.notebooks]
