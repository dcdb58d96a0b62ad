"""One student named to nbgrader is that student, whatever characters the id holds and whatever was handed in."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Callable
from typing import Any

EVERYBODY = "*"


def folders(converter: Any) -> list[str]:
    """The folders that a converter was asked to work on: of the student who bears the id, else of all it matches."""
    course = converter.coursedir
    asked = converter._format_source(course.assignment_id, course.student_id)
    return [asked] if course.student_id != EVERYBODY and os.path.isdir(asked) else glob.glob(asked)


def install() -> None:
    """Have nbgrader's converters take ``--student`` so, for as long as this process lives.

    To nbgrader every id is a pattern: it finds nothing of ``smith [audit]``, and grades ``anna`` for ``ann?``. It also
    refuses to grade one student who handed in anything but a notebook of the right name. It chooses before it loads any
    plugin.
    """
    from nbgrader.converters import Autograde, GenerateFeedback

    for converter in (Autograde, GenerateFeedback):
        # `nbgrader_config.py` may be read more than once.
        if not hasattr(converter.init_notebooks, "__wrapped__"):
            converter.init_notebooks = _exact(converter.init_notebooks)


def _exact(init_notebooks: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(init_notebooks)
    def chosen(self: Any) -> None:
        course = self.coursedir
        asked = folders(self)
        if course.student_id == EVERYBODY or asked != [
            self._format_source(course.assignment_id, course.student_id)
        ]:
            init_notebooks(self)
            return
        found = glob.glob(os.path.join(glob.escape(asked[0]), f"{course.notebook_id}.ipynb"))
        # Of a whole submission the exporter says what it is, and what is missing in it.
        if found or (course.notebook_id == "*" and hasattr(self, "sanitize_preprocessors")):
            self.assignments, self.notebooks = {asked[0]: found}, []
        else:
            init_notebooks(self)

    return chosen
