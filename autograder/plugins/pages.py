"""Feedback pages for everybody who was graded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nbgrader.converters.generate_feedback import HTMLExporter

from autograder import named


class FeedbackExporter(HTMLExporter):
    """``c.GenerateFeedback.exporter_class``: as nbgrader's own, and for ids that are patterns to it as well.

    nbgrader looks for notebooks by a pattern that a student's id is part of, and finds none of ``smith [audit]``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        converter: Any = self.parent
        if not hasattr(converter, "assignments") or converter.coursedir.notebook_id != "*":
            return
        for folder in named.folders(converter):
            names = sorted(path.name for path in Path(folder).glob("*.ipynb"))
            if names and not converter.assignments.get(folder):
                converter.assignments[folder] = [os.path.join(folder, name) for name in names]
