"""Putting back what belongs to the course before anything of a submission runs."""

from __future__ import annotations

from typing import Any

from nbformat import NotebookNode
from nbgrader.preprocessors import NbGraderPreprocessor

from autograder import doctor
from autograder.cells import KEY
from autograder.plugins.consent import walled
from autograder.plugins.course import release_of


class RestoreRelease(NbGraderPreprocessor):
    """First of ``c.Autograde.sanitize_preprocessors``: roles, points and locked cells come from the release.

    What the doctor did stands at ``about(nb)["doctor"]``, and what a person is to look at, by grade id, at ``"asks"``.
    """

    def __call__(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        return self.preprocess(nb, resources)  # not to be switched off

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        walled(self)
        release = release_of(self, resources)
        said = resources.get(KEY) or {}
        nb, report = doctor.repair(nb, release)
        sentences = [*said.get("doctor", ()), *(report.sentences if "unreadable" not in said else ())]
        for sentence in sentences:
            self.log.info("doctor: %s", sentence)
        nb.metadata[KEY]["doctor"] = sentences
        nb.metadata[KEY]["asks"] = report.asks
        nb.metadata[KEY]["doubts"] = list(dict.fromkeys([*said.get("doubts", ()), *report.doubts]))
        if "unreadable" in said:
            nb.metadata[KEY]["unreadable"] = said["unreadable"]
        return nb, resources
