"""Reading a submission that may be anything at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import NotebookExporter
from nbconvert.exporters.exporter import ResourcesDict
from nbgrader.converters.base import NbGraderException

from autograder import beside, doctor, named
from autograder.cells import KEY
from autograder.plugins import timestamp
from autograder.plugins.consent import Refused, walled
from autograder.plugins.course import course_of, folders_beside, release_of
from autograder.plugins.regrade import Regrade
from autograder.plugins.submitted import chosen, unfollowed


class SubmissionExporter(NotebookExporter):
    """``c.Autograde.exporter_class``: reads what a student handed in through the doctor.

    A file that is no notebook becomes the untouched release with the reason on top, so that its student has a
    row, 0 points and feedback, and the class goes on.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        try:
            # Here, because nothing of the class has been touched yet.
            walled(self)
        except Refused as refused:
            self.log.error(str(refused))
            raise NbGraderException(str(refused)) from None
        if hasattr(self.parent, "sanitize_preprocessors"):
            Regrade(self.parent)
            unfollowed(self.parent)
        timestamp.tolerate(self.parent)
        self._expect_everybody()

    def _expect_everybody(self) -> None:
        """Have every student who handed in anything converted, also one whose file has another name.

        nbgrader fails a student whose notebook is called ``batchnorm (1).ipynb``, and passes over one who
        handed in a PDF.
        """
        converter: Any = self.parent
        if not hasattr(converter, "sanitize_preprocessors") or converter.coursedir.notebook_id != "*":
            return
        course = course_of(self)
        released = Path(course.format_path(course.release_directory, ".", course.assignment_id))
        names = [path.name for path in sorted(released.glob("*.ipynb"))]
        for folder in named.folders(converter):
            found = converter.assignments.setdefault(folder, [])
            here = {os.path.basename(path) for path in found}
            found += [os.path.join(folder, name) for name in names if name not in here]

    def from_filename(self, filename: str, resources: Any = None, **kwargs: Any) -> Any:
        if not getattr(self.parent, "_sanitizing", True):
            return super().from_filename(filename, resources=resources, **kwargs)
        resources = ResourcesDict() if resources is None else resources
        path, name = os.path.split(filename)
        resources["metadata"] = ResourcesDict(name=os.path.splitext(name)[0], path=path)
        report = doctor.Report()
        try:
            notebook = doctor.read(chosen(Path(filename), release_of(self, resources), report), report)
            _tell_of_folder(Path(path), beside.look(*folders_beside(self, resources)), report)
            resources[KEY] = {"doctor": report.sentences, "doubts": report.doubts}
        except doctor.Unreadable as error:
            self.log.warning("%s: %s", filename, error)
            notebook = release_of(self, resources)
            notebook.cells.insert(0, _explanation(str(error)))
            resources[KEY] = {"doctor": [str(error)], "unreadable": str(error)}
        return self.from_notebook_node(notebook, resources=resources, **kwargs)


def _tell_of_folder(folder: Path, found: beside.Beside, report: doctor.Report) -> None:
    """Say what became of the rest of a submission: its date, and the files beside the notebook."""
    if timestamp.undated(folder):
        report.note(
            f"What {timestamp.NAME} holds is no date, or one to come: it counts as handed in without a date, and no "
            "points are taken for being late."
        )
    for sentence in found.left_out:
        report.doubt(sentence)


def _explanation(reason: str) -> nbformat.NotebookNode:
    text = (
        "**Your file could not be read, so nothing in it could be graded.** "
        f"{reason}\n\nBefore you hand it in again, run `autograder doctor` on it."
    )
    return nbformat.v4.new_markdown_cell(text, id="unreadable")
