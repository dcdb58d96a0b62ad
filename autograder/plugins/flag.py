"""Asking for a person where the machine's word is not enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbformat import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.preprocessors import NbGraderPreprocessor

from autograder import unfinished
from autograder.cells import KEY, about, grade_id_of, is_check, mapping, role_of
from autograder.exercise import Verdict


class Flag(NbGraderPreprocessor):
    """After ``SaveAutoGrades``: a verdict with flags, or none at all, is marked for manual grading, with the
    reason as the comment on the learner's cell; where the doctor had doubts, every verdict that is not full marks. So is
    a written question that was answered beside its cell. With that the grading is finished."""

    def __call__(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        return self.preprocess(nb, resources)  # not to be switched off

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        here = resources["nbgrader"]
        where = (here["notebook"], here["assignment"], here["student"])
        verdicts: dict[str, Verdict] = (resources.get(KEY) or {}).get("verdicts", {})
        asks = mapping(about(nb).get("asks"))
        checks = [grade_id_of(cell) for cell in nb.cells if is_check(cell)]
        written = [grade_id_of(cell) for cell in nb.cells if role_of(cell) == "written"]
        saved = {grade_id_of(cell) for cell in nb.cells if utils.is_grade(cell)}
        with Gradebook(here["db_url"]) as gradebook:
            unfinished.clear(gradebook.find_submission_notebook(*where), saved)
            for grade_id in checks:
                verdict = verdicts.get(grade_id)
                reasons = _reasons(verdict, about(nb).get("doubts") or ())
                if grade_id in asks and (verdict is None or not verdict.correct):
                    reasons = (*reasons, asks[grade_id])
                if not reasons:
                    continue
                grade = gradebook.find_grade(grade_id, *where)
                grade.needs_manual_grade = True
                if verdict is None:
                    grade.auto_score = 0
                self._say(gradebook, f"{grade_id}-solution", where, reasons)
            for grade_id in set(written) & set(asks):
                grade = gradebook.find_grade(grade_id, *where)
                # Not the 0 that nbgrader gives to a question that is as it was handed out.
                grade.auto_score, grade.needs_manual_grade = None, True
                self._say(gradebook, grade_id, where, (asks[grade_id],))
            gradebook.db.commit()
        return nb, resources

    def _say(
        self, gradebook: Gradebook, grade_id: str, where: tuple[str, ...], reasons: tuple[str, ...]
    ) -> None:
        try:
            comment = gradebook.find_comment(grade_id, *where)
            comment.auto_comment = "For a person to look at: " + "; ".join(reasons)
        except MissingEntry:
            self.log.info("%s has no cell to comment on", grade_id)


def _reasons(verdict: Verdict | None, doubts: Sequence[str]) -> tuple[str, ...]:
    """Why a person should look at a verdict."""
    if verdict is None:
        return ("no verdict was made", *doubts)
    return (*verdict.flags, *(doubts if verdict.points < verdict.max_points else ()))
