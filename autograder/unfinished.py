"""Submissions whose grading has begun and not come to its end, as the gradebook has them.

The mark stands in nbgrader's own columns: every grade is for a person to look at, and the comments of the learner's
cells say why. Until then an earlier score stands; what finishes the grading writes over all of it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

SAYS = (
    "For a person to look at: the grading of this submission was begun and has not come to its end. The points are those "
    "of an earlier grading, or missing; grade it again."
)


def mark(db_url: str, assignment: str, student: str, notebooks: Collection[str]) -> None:
    """Mark what a student has of these notebooks; nothing where nothing of theirs was graded."""
    from nbgrader.api import Gradebook, MissingEntry

    with Gradebook(db_url) as gradebook:
        try:
            submission = gradebook.find_submission(assignment, student)
        except MissingEntry:
            return
        for notebook in submission.notebooks:
            if notebook.name not in notebooks:
                continue
            for grade in notebook.grades:
                grade.needs_manual_grade = True
            for comment in notebook.comments:
                comment.auto_comment = SAYS
        gradebook.db.commit()


def clear(notebook: Any, saved: Collection[str]) -> None:
    """Take the mark off a submitted notebook, of which these grades were saved anew: no other score of the machine's stays."""
    for grade in notebook.grades:
        if grade.name not in saved:
            grade.auto_score = None
    for comment in notebook.comments:
        if comment.auto_comment == SAYS:
            comment.auto_comment = None


def marked(gradebook: Any, assignment: str) -> set[tuple[str, str]]:
    """The students and notebooks that bear the mark."""
    from nbgrader import api

    found = (
        gradebook.db.query(api.SubmittedAssignment.student_id, api.Notebook.name)
        .select_from(api.Comment)
        .join(api.SubmittedNotebook, api.Comment.notebook_id == api.SubmittedNotebook.id)
        .join(api.Notebook, api.SubmittedNotebook.notebook_id == api.Notebook.id)
        .join(api.SubmittedAssignment, api.SubmittedNotebook.assignment_id == api.SubmittedAssignment.id)
        .join(api.Assignment, api.SubmittedAssignment.assignment_id == api.Assignment.id)
        .filter(api.Assignment.name == assignment, api.Comment.auto_comment == SAYS)
        .distinct()
    )
    return {(student, notebook) for student, notebook in found}
