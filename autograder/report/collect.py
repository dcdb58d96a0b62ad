"""A graded course directory, read: a row for every student."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from autograder import unfinished
from autograder.cells import KEY, grade_id_of, is_check
from autograder.exercise import Outcome, Verdict
from autograder.feedback import number, verdict_of


class State(StrEnum):
    """How far a submission came."""

    GRADED = "graded"
    UNREADABLE = "could not be read"
    UNGRADED = "handed in, not graded"
    MISSING = "not handed in"


@dataclass(frozen=True)
class Submission:
    """One student's work on one notebook, as graded.

    ``points`` are the gradebook's: with what a person gave, less a late penalty. ``overruled`` has the points a
    person gave an exercise in place of its verdict's, ``waiting`` counts written answers nobody has graded yet.
    ``concerns`` are for a person to look at beside the verdicts' own flags; ``notes`` tell what the doctor did.
    ``feedback`` is the student's page, relative to the course directory.
    """

    student: str
    assignment: str
    notebook: str
    points: float
    max_points: float
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    concerns: list[str] = field(default_factory=list)
    feedback: str | None = None
    state: State = State.GRADED
    overruled: Mapping[str, float] = field(default_factory=dict)
    waiting: int = 0

    @property
    def share(self) -> float:
        return self.points / self.max_points if self.max_points > 0 else 0.0

    @property
    def flags(self) -> list[tuple[str, str]]:
        """What a person should look at, as (exercises or "", reason); not what a person has decided already."""
        exercises: dict[str, list[str]] = {}
        if self.state is State.GRADED:
            for verdict in self.verdicts:
                for reason in _reasons(verdict) if verdict.exercise not in self.overruled else ():
                    exercises.setdefault(reason, []).append(verdict.exercise)
        return [("", c) for c in self.concerns] + [
            (", ".join(names), why) for why, names in exercises.items()
        ]

    def given(self, verdict: Verdict) -> float:
        """The points of a verdict's exercise: a person's where one gave them."""
        return self.overruled.get(verdict.exercise, verdict.points)

    @property
    def by_exercise(self) -> dict[str, Verdict]:
        return {v.exercise: v for v in self.verdicts}


def _reasons(verdict: Verdict) -> tuple[str, ...]:
    if verdict.flags or verdict.outcome not in (Outcome.SHORTCUT, Outcome.NO_VERDICT):
        return verdict.flags
    return (verdict.message or verdict.outcome.value,)


_LARGEST_NOTEBOOK = 64 * 2**20
BEGUN = (
    "its grading was begun and has not come to its end: the points are those of an earlier one, or missing"
)


def collect(course_root: Path | str, assignment: str, *, db_url: str | None = None) -> list[Submission]:
    """A row for every student of the gradebook and everyone who handed something in, whatever became of it.

    Reads the gradebook (``gradebook.db`` in ``course_root`` unless ``db_url`` names another), the autograded
    notebooks and the feedback folder. A verdict counts only in a cell the gradebook knows as graded by the
    machine, where the grader replaced all outputs.
    """
    root = Path(course_root)
    if db_url is None:
        if not (root / "gradebook.db").is_file():
            raise FileNotFoundError(f"{root / 'gradebook.db'}: no gradebook; has this course been graded?")
        db_url = f"sqlite:///{(root / 'gradebook.db').resolve()}"
    maxima, students, grades, begun = _gradebook(db_url, assignment)
    handed_in = {p.parent.name for p in root.glob(f"submitted/*/{assignment}") if p.is_dir()}
    handed_in |= {student for student, _ in grades}
    rows = []
    for student in sorted(students | handed_in):
        for notebook, maximum in maxima.items():
            row = Submission(student, assignment, notebook, 0.0, maximum, state=State.MISSING)
            if student in handed_in:
                row = _read(root, row, grades.get((student, notebook), []), (student, notebook) in begun)
            rows.append(row)
    return rows


@dataclass(frozen=True)
class _Grade:
    """One graded cell of one submission, as the gradebook has it."""

    cell: str
    by_machine: bool
    score: float
    auto_score: float | None
    manual_score: float | None
    waits: bool
    penalty: float


def _gradebook(
    db_url: str, assignment: str
) -> tuple[dict[str, float], set[str], dict[tuple[str, str], list[_Grade]], set[tuple[str, str]]]:
    """Maximal points by notebook, all students, and by student and notebook the grades and those whose grading is unfinished."""
    from nbgrader import api

    grades: dict[tuple[str, str], list[_Grade]] = {}
    with api.Gradebook(db_url) as book:
        maxima = {n.name: float(n.max_score or 0) for n in book.find_assignment(assignment).notebooks}
        students = {student for (student,) in book.db.query(api.Student.id)}
        graded = api.GradeCell.__table__
        # One query: the object mapper would ask again for every submission.
        found = (
            book.db.query(
                api.SubmittedAssignment.student_id,
                api.Notebook.name,
                api.BaseCell.name,
                graded.c.cell_type,
                api.Grade.score,
                api.Grade.auto_score,
                api.Grade.manual_score,
                api.Grade.needs_manual_grade,
                api.SubmittedNotebook.late_submission_penalty,
            )
            .select_from(api.SubmittedNotebook)
            .join(api.Notebook, api.SubmittedNotebook.notebook_id == api.Notebook.id)
            .join(api.SubmittedAssignment, api.SubmittedNotebook.assignment_id == api.SubmittedAssignment.id)
            .join(api.Assignment, api.SubmittedAssignment.assignment_id == api.Assignment.id)
            .outerjoin(api.Grade, api.Grade.notebook_id == api.SubmittedNotebook.id)
            .outerjoin(api.BaseCell, api.Grade.cell_id == api.BaseCell.id)
            .outerjoin(graded, graded.c.id == api.BaseCell.id)
            .filter(api.Assignment.name == assignment)
        )
        for student, notebook, cell, kind, score, auto, manual, waits, penalty in found:
            here = grades.setdefault((student, notebook), [])
            if cell is not None:
                here.append(
                    _Grade(cell, kind == "code", score or 0.0, auto, manual, bool(waits), penalty or 0.0)
                )
        begun = unfinished.marked(book, assignment)
    return maxima, students, grades, begun


def _read(root: Path, row: Submission, grades: Sequence[_Grade], begun: bool) -> Submission:
    """A submission that was handed in: its points from the gradebook, the rest from its graded notebook."""
    score = sum(g.score for g in grades)
    penalty = min(max((g.penalty for g in grades), default=0.0), score)
    notes = [f"handed in late: {number(penalty)} taken off the points"] if penalty else []
    page = f"feedback/{row.student}/{row.assignment}/{row.notebook}.html"
    row = replace(
        row,
        points=score - penalty,
        feedback=page if (root / page).is_file() else None,
        waiting=sum(g.waits and not g.by_machine for g in grades),
    )
    if begun:
        return replace(row, state=State.UNGRADED, notes=notes, concerns=[BEGUN])
    path = root / "autograded" / row.student / row.assignment / f"{row.notebook}.ipynb"
    if not path.is_file():
        return replace(
            row, state=State.UNGRADED, notes=notes, concerns=["handed in, but there is no graded notebook"]
        )
    try:
        if path.stat().st_size > _LARGEST_NOTEBOOK:
            raise ValueError(f"larger than {_LARGEST_NOTEBOOK // 2**20} MiB")
        notebook = json.loads(path.read_bytes())
        cells = [c for c in notebook["cells"] if isinstance(c, dict)]
        kept = notebook["metadata"].get(KEY) or {}
        unreadable, doctor = kept.get("unreadable"), kept.get("doctor")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        concern = f"the graded notebook could not be opened ({type(error).__name__}: {error})"
        return replace(row, state=State.UNREADABLE, notes=notes, concerns=[concern])
    notes += [n for n in doctor if isinstance(n, str) and n != unreadable] if isinstance(doctor, list) else []
    verdicts, overruled, concerns = _judged(cells, [g for g in grades if g.by_machine])
    if unreadable:
        return replace(row, state=State.UNREADABLE, notes=notes, concerns=[str(unreadable)])
    state = State.GRADED
    return replace(row, verdicts=verdicts, notes=notes, concerns=concerns, overruled=overruled, state=state)


def _judged(
    cells: Iterable[Mapping[str, Any]], grades: Sequence[_Grade]
) -> tuple[list[Verdict], dict[str, float], list[str]]:
    """The verdicts in the notebook's order, points a person gave instead, and where book and notebook differ."""
    by_cell = {g.cell: g for g in grades}
    found = {
        grade_id_of(cell): verdict
        for cell in cells
        if is_check(cell) and (verdict := verdict_of(cell)) is not None
    }
    judged = {name: verdict for name, verdict in found.items() if name in by_cell}
    overruled = {
        v.exercise: by_cell[n].score for n, v in judged.items() if by_cell[n].manual_score is not None
    }
    concerns = []
    if without := [n for n, g in by_cell.items() if n not in judged and g.manual_score is None]:
        concerns.append(f"graded, but the notebook holds no verdict on {', '.join(without)}")
    for name, verdict in judged.items():
        booked = by_cell[name].auto_score
        if booked != verdict.points:
            has = "nothing" if booked is None else number(booked)
            concerns.append(f"{name}: the verdict says {number(verdict.points)}, the gradebook has {has}")
    return list(judged.values()), overruled, concerns
