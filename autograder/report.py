"""What an instructor reads after a class is graded: who stands where, what was hard, which mistakes the class
shares, and what a person should look at.

:func:`collect` reads it out of a graded course directory; :func:`html`, :func:`table` and :func:`summary_lines`
show it. Names, notes and messages come from students as well: everything shown is cleaned and escaped.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .exercise import Outcome, Verdict
from .feedback import clean, number, prose, symbol, verdict_of

if TYPE_CHECKING:
    from rich.table import Table


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

    @property
    def by_exercise(self) -> dict[str, Verdict]:
        return {v.exercise: v for v in self.verdicts}


def _reasons(verdict: Verdict) -> tuple[str, ...]:
    if verdict.flags or verdict.outcome not in (Outcome.SHORTCUT, Outcome.NO_VERDICT):
        return verdict.flags
    return (verdict.message or verdict.outcome.value,)


# -- reading a graded course ------------------------------------------------------------------------

_LARGEST_NOTEBOOK = 64 * 2**20


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
    maxima, students, grades = _gradebook(db_url, assignment)
    handed_in = {p.parent.name for p in root.glob(f"submitted/*/{assignment}") if p.is_dir()}
    handed_in |= {student for student, _ in grades}
    rows = []
    for student in sorted(students | handed_in):
        for notebook, maximum in maxima.items():
            row = Submission(student, assignment, notebook, 0.0, maximum, state=State.MISSING)
            if student in handed_in:
                row = _read(root, row, grades.get((student, notebook), []))
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
) -> tuple[dict[str, float], set[str], dict[tuple[str, str], list[_Grade]]]:
    """Maximal points by notebook, all students, and the grades by student and notebook."""
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
    return maxima, students, grades


def _read(root: Path, row: Submission, grades: Sequence[_Grade]) -> Submission:
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
        kept = notebook["metadata"].get("coursekit") or {}
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
    found = {_check_id(cell): verdict for cell in cells if (verdict := verdict_of(cell)) is not None}
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


def _check_id(cell: Mapping[str, Any]) -> str:
    """The ``grade_id`` of a cell whose outputs the grader replaces; "" for any other."""
    metadata = cell.get("metadata")
    ours = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    if cell.get("cell_type") != "code" or not isinstance(ours, dict):
        return ""
    return str(ours.get("grade_id", "")) if ours.get("grade") and not ours.get("solution") else ""


# -- what the class as a whole did ------------------------------------------------------------------


@dataclass(frozen=True)
class Hardness:
    """How a class did on one exercise; ``share`` is the mean share of its points."""

    exercise: str
    max_points: float
    share: float
    answers: int
    full: int
    not_attempted: int


@dataclass(frozen=True)
class Shared:
    """A misconception and who has it."""

    exercise: str
    name: str
    mistake: str
    students: list[str]


def hardness(submissions: Sequence[Submission]) -> list[Hardness]:
    """Every exercise, in the notebook's order."""
    given: dict[str, list[Verdict]] = {}
    # The longest row first, so that one with a check missing does not shuffle the order.
    for submission in sorted(_graded(submissions), key=lambda s: -len(s.verdicts)):
        for verdict in submission.verdicts:
            given.setdefault(verdict.exercise, []).append(verdict)
    return [
        Hardness(
            exercise,
            max(v.max_points for v in verdicts),
            statistics.fmean(v.points / v.max_points if v.max_points else 0.0 for v in verdicts),
            len(verdicts),
            sum(v.correct for v in verdicts),
            sum(v.outcome is Outcome.NOT_ATTEMPTED for v in verdicts),
        )
        for exercise, verdicts in given.items()
    ]


def misconceptions(submissions: Sequence[Submission]) -> list[Shared]:
    """The misconceptions of the class, the most common first."""
    found: dict[tuple[str, str], Shared] = {}
    for submission in submissions:
        for v in submission.verdicts:
            if v.diagnosis:
                new = Shared(v.exercise, v.diagnosis, v.mistake, [])
                found.setdefault((v.exercise, v.diagnosis), new).students.append(submission.student)
    return sorted(found.values(), key=lambda m: (-len(m.students), m.exercise, m.name))


def _graded(submissions: Iterable[Submission]) -> list[Submission]:
    return [s for s in submissions if s.state is State.GRADED]


def _hardest(exercises: Sequence[Hardness]) -> Hardness | None:
    """The exercise with the smallest share of its points; none where the class has them all."""
    found = min(exercises, key=lambda h: h.share, default=None)
    return found if found is not None and found.share < 1 else None


def _median(submissions: Sequence[Submission]) -> float | None:
    """Of the shares: two notebooks of one assignment may have different maxima."""
    graded = _graded(submissions)
    return statistics.median(s.share for s in graded) if graded else None


def _percent(share: float) -> str:
    """Never rounded up to 100%."""
    return f"{math.floor(100 * share + 1e-9)}%"


def _count(many: int, one: str, more: str = "") -> str:
    return f"{many} {one if many == 1 else more or one + 's'}"


def _spoken(name: str) -> str:
    return name.replace("_", " ")


# -- in the terminal --------------------------------------------------------------------------------


def summary_lines(submissions: Sequence[Submission]) -> list[str]:
    """The class in a few sentences."""
    lines = [_who(submissions)]
    if (median := _median(submissions)) is not None:
        lines.append(f"The median is {_percent(median)} of the points.")
    if hardest := _hardest(hardness(submissions)):
        name = clean(hardest.exercise, lines=1)
        lines.append(f"The hardest exercise is {name}: {_percent(hardest.share)} of its points on average.")
    for m in [m for m in misconceptions(submissions) if len(m.students) > 1][:1]:
        name, exercise = clean(_spoken(m.name), lines=1), clean(m.exercise, lines=1)
        lines.append(
            f"The most common mistake is {name} in {exercise}: {_count(len(m.students), 'student')}."
        )
    if flagged := sum(bool(s.flags) for s in submissions):
        lines.append(
            f"{_count(flagged, 'submission is', 'submissions are')} flagged for a person to look at."
        )
    if waiting := sum(s.waiting for s in submissions):
        lines.append(
            f"{_count(waiting, 'written answer waits', 'written answers wait')} to be graded by hand."
        )
    return lines


def _who(submissions: Sequence[Submission]) -> str:
    states = [s.state for s in submissions]
    parts = [f"{states.count(state)} {state}" for state in State if state in states]
    return f"{_count(len({s.student for s in submissions}), 'student')}: {', '.join(parts) or 'nothing yet'}."


def table(submissions: Sequence[Submission]) -> Table:
    """A row a submission, for the terminal: points an exercise, the total, and what a person should see."""
    from rich.table import Table
    from rich.text import Text

    exercises = hardness(submissions)
    several = len({s.notebook for s in submissions}) > 1
    legend = "\n".join(
        f"{i} {clean(e.exercise, lines=1)}, of {number(e.max_points)}" for i, e in enumerate(exercises, 1)
    )
    # Text, not str: a name with brackets would be read as markup.
    made = Table(caption=Text(legend) if legend else None, caption_justify="left")
    made.add_column("student", overflow="fold")
    if several:
        made.add_column("notebook", overflow="fold")
    for i, _ in enumerate(exercises, 1):
        made.add_column(str(i), justify="right")
    made.add_column("points", justify="right", no_wrap=True)
    made.add_column("remarks", overflow="fold", ratio=1)
    styles = {"✓": "green", "✗": "yellow", "–": "dim"}
    for s in submissions:
        cells = [Text(clean(s.student, lines=1, width=40))]
        if several:
            cells.append(Text(clean(s.notebook, lines=1, width=40)))
        for e in exercises:
            verdict = s.by_exercise.get(e.exercise)
            style = "" if verdict is None else styles[symbol(verdict.outcome)]
            cells.append(Text("" if verdict is None else number(_given(s, verdict)), style=style))
        cells += [Text(f"{number(s.points)} of {number(s.max_points)}"), Text("; ".join(_remarks(s)))]
        made.add_row(*cells)
    return made


def _given(submission: Submission, verdict: Verdict) -> float:
    return submission.overruled.get(verdict.exercise, verdict.points)


def _remarks(submission: Submission) -> list[str]:
    parts = [] if submission.state is State.GRADED else [submission.state.value]
    parts += [_flag(exercise, reason) for exercise, reason in submission.flags]
    if submission.notes:
        parts.append(_count(len(submission.notes), "repair or note", "repairs and notes"))
    return [clean(part, lines=1, width=200) for part in parts]


def _flag(exercise: str, reason: str) -> str:
    return f"⚑ {exercise}: {reason}" if exercise else f"⚑ {reason}"


# -- as a page --------------------------------------------------------------------------------------

_STYLE = """
:root{color-scheme:light dark;--bg:#f6f8fa;--card:#fff;--ink:#1f2328;--soft:#57606a;--line:#d0d7de;
--good:#00694f;--bad:#a84300;--odd:#7a3b8f;--bar:#0072b2;--tint:#dcebf5;--well:#f6f8fa}
@media (prefers-color-scheme:dark){:root{--bg:#0f1216;--card:#1b1f24;--ink:#e6edf3;--soft:#a3adb8;--line:#3d444d;
--good:#4fd1ac;--bad:#ffa566;--odd:#d9a3e8;--bar:#5ab4e6;--tint:#223a4d;--well:#262c33}}
*{box-sizing:border-box}
body{margin:0;padding:2rem clamp(1rem,4vw,3.5rem) 4rem;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:84rem;margin:0 auto}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .2em}h2{font-size:1.15rem;margin:0 0 .6rem}
p{margin:.3em 0}a{color:var(--bar)}
code{font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.88em;overflow-wrap:break-word}
.soft{color:var(--soft)}.odd{color:var(--odd)}.bad{color:var(--bad)}.good{color:var(--good)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.4rem 0 0;padding:0}
.tiles div,section{background:var(--card);border:1px solid var(--line);border-radius:8px}
.tiles div{padding:.7rem 1rem}.tiles dt{color:var(--soft)}
.tiles dd{margin:0;font-size:1.6rem;line-height:1.25;font-weight:600;overflow-wrap:anywhere}
.tiles dd small{display:block;font-size:.85rem;font-weight:400;color:var(--soft);line-height:1.4}
section{padding:1.1rem 1.3rem 1.2rem;margin-top:1.2rem;min-width:0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(24rem,100%),1fr));gap:0 1.2rem}
svg{display:block;width:100%;height:auto;max-width:44rem}
svg text{fill:var(--ink);font:13px system-ui,"Liberation Sans",sans-serif;paint-order:stroke;stroke:var(--card);stroke-width:3px}
svg .s{fill:var(--soft)}svg .m{font-family:ui-monospace,Menlo,"DejaVu Sans Mono",monospace;font-size:12.5px}
svg .b{fill:var(--bar)}svg .h{fill:var(--bad)}svg .t{fill:var(--tint)}svg .l{stroke:var(--line)}
svg .d{stroke:var(--ink);stroke-dasharray:4 3}
details{margin-top:.6rem}summary{cursor:pointer;color:var(--soft)}
td details{margin:0}td ul{margin:.2em 0;padding-left:1.2em}
.wrap{overflow:auto;max-height:60vh;border:1px solid var(--line);border-radius:6px}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:14px}
th,td{text-align:left;vertical-align:top;padding:.4rem .65rem;border-bottom:1px solid var(--line)}
tbody tr:last-child>*{border-bottom:0}
thead th{position:sticky;top:0;z-index:2;background:var(--well);font-weight:600;vertical-align:bottom}
tbody th{font-weight:600;position:sticky;left:0;z-index:1;background:var(--card);min-width:8rem;
overflow-wrap:break-word}
thead th:first-child{left:0;z-index:3}
.nowrap{white-space:nowrap}.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid var(--bar);outline-offset:2px}
th button::after{content:" ↕";color:var(--soft);font-weight:400}
th[aria-sort=ascending] button::after{content:" ↑"}th[aria-sort=descending] button::after{content:" ↓"}
thead code{font-weight:600}thead small{display:block;font-weight:400;color:var(--soft)}
.tall{max-height:88vh}.total{background:linear-gradient(to right,var(--tint) var(--s),transparent 0)}
.remarks{min-width:15rem}.who{min-width:12rem;overflow-wrap:anywhere}
tbody tr:hover>*{background-color:var(--well)}
@media print{.wrap{max-height:none;overflow:visible;border:0}body{padding:0}section,.tiles div{border:0}
thead th,tbody th{position:static}th button::after{content:""}}
""".strip()

# Sorting is a convenience: without it the page says the same.
_SCRIPT = """
document.querySelectorAll("th button").forEach(b=>b.onclick=()=>{const h=b.parentNode,i=h.cellIndex,
t=h.closest("table").tBodies[0],d=h.ariaSort=="ascending"?-1:1,k=r=>r.cells[i].dataset.v??r.cells[i].textContent;
[...h.parentNode.cells].forEach(c=>c.removeAttribute("aria-sort"));
h.setAttribute("aria-sort",d>0?"ascending":"descending");
t.append(...[...t.rows].sort((a,b)=>d*k(a).localeCompare(k(b),undefined,{numeric:true})))})
""".strip()


def html(submissions: Sequence[Submission], title: str) -> str:
    """The report as one page that needs nothing else; links to feedback are relative to the course directory."""
    exercises = hardness(submissions)
    parts = [
        f"<header><h1>{_shown(title)}</h1>",
        "".join(f"<p>{_shown(line)}</p>" for line in summary_lines(submissions)[:1]),
        f"{_tiles(submissions, exercises)}</header>",
        _flags(submissions),
        f'<div class="pair">{_histogram(submissions)}{_bars(exercises)}</div>',
        _misconceptions(submissions),
        _students(submissions, exercises),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_shown(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _shown(value: object, width: int = 400) -> str:
    return escape(clean(value, lines=4, width=width))


def _tiles(submissions: Sequence[Submission], exercises: Sequence[Hardness]) -> str:
    graded, median, hardest = _graded(submissions), _median(submissions), _hardest(exercises)
    flagged, waiting = sum(bool(s.flags) for s in submissions), sum(s.waiting for s in submissions)
    tiles = [
        ("students", str(len({s.student for s in submissions})), f"{len(graded)} graded"),
        ("median", "–" if median is None else _percent(median), "of the points, over what is graded"),
        ("to look at", str(flagged), "flagged for a person" if flagged else "nothing is flagged"),
    ]
    if waiting:
        tiles.append(("by hand", str(waiting), "written answers to grade"))
    if hardest is not None:
        name = f"<code>{_breakable(hardest.exercise)}</code>"
        tiles.append(("hardest exercise", _percent(hardest.share), f"of its points: {name}"))
    rows = (f"<div><dt>{a}</dt><dd>{b}<small>{c}</small></dd></div>" for a, b, c in tiles)
    return f'<dl class="tiles">{"".join(rows)}</dl>'


def _breakable(name: str) -> str:
    return _shown(name, 80).replace("_", "_<wbr>")


def _flags(submissions: Sequence[Submission]) -> str:
    rows = [
        f"<tr><th scope=row>{_student(s)}</th><td>{f'<code>{_breakable(exercise)}</code>' if exercise else '–'}</td>"
        f"<td>{prose(clean(reason, lines=4, width=400))}</td></tr>"
        for s in submissions
        for exercise, reason in s.flags
    ]
    if not rows:
        return ""
    note = "The machine's word is not enough here. Points that a person gives in formgrader replace it."
    return _section(
        "For a person to look at", _wrapped("Flags", _table(["student", "exercise", "why"], rows)), note
    )


def _student(submission: Submission) -> str:
    name = _shown(submission.student, 40)
    if submission.feedback is None:
        return name
    return f'<a href="{escape(quote(submission.feedback))}">{name}</a>'


def _section(heading: str, body: str, note: str = "") -> str:
    said = f'<p class="soft">{note}</p>' if note else ""
    return f"<section><h2>{heading}</h2>{said}{body}</section>"


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th scope=col>{h}</th>" for h in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _wrapped(label: str, table: str, shape: str = "wrap") -> str:
    """A table that scrolls within the page, with its header in sight; the keyboard can scroll it."""
    return f'<div class="{shape}" role="region" aria-label="{label}" tabindex="0">{table}</div>'


def _as_table(summary: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = ("<tr>" + "".join(f"<td>{_shown(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<details><summary>{summary}</summary>{_table(heads, cells)}</details>"


def _histogram(submissions: Sequence[Submission]) -> str:
    graded, median = _graded(submissions), _median(submissions)
    if median is None:
        return ""
    counts = [0] * 10
    for s in graded:
        counts[min(int(10 * s.share + 1e-9), 9)] += 1
    labels = [f"{10 * i}–{10 * i + 10}%" for i in range(10)]
    left, bottom, width, height = 14, 200, 48, 150
    at = left + 10 * width * median
    side = "end" if median > 0.5 else "start"
    drawn = [f'<line class="d" x1="{at:.1f}" x2="{at:.1f}" y1="26" y2="{bottom}"/>']
    drawn.append(f'<text x="{at:.1f}" y="18" text-anchor="{side}">median {_percent(median)}</text>')
    for i, count in enumerate(counts):
        x, h = left + i * width, height * count / max(counts)
        drawn.append(
            f'<rect class="b" x="{x + 2}" y="{bottom - h:.1f}" width="{width - 4}" height="{h:.1f}" rx="2"/>'
        )
        if count:
            middle = x + width / 2
            drawn.append(f'<text x="{middle}" y="{bottom - h - 6:.1f}" text-anchor="middle">{count}</text>')
    ticks = "".join(
        f'<text class="s" x="{left + i * width}" y="{bottom + 18}" text-anchor="middle">{10 * i}</text>'
        for i in range(0, 11, 2)
    )
    drawn.append(f'<line class="l" x1="{left}" x2="{left + 10 * width}" y1="{bottom}" y2="{bottom}"/>{ticks}')
    drawn.append(
        f'<text class="s" x="{left + 5 * width}" y="{bottom + 38}" text-anchor="middle">% of the points</text>'
    )
    told = ", ".join(f"{label}: {count}" for label, count in zip(labels, counts, strict=True) if count)
    svg = _svg("h", 512, 244, "Histogram of grades", f"Submissions by share of the points. {told}.", drawn)
    rows = zip(labels, counts, strict=True)
    return _section("Grades", svg + _as_table("as a table", ["share of the points", "submissions"], rows))


def _bars(exercises: Sequence[Hardness]) -> str:
    if not exercises:
        return ""
    hardest, drawn, width = _hardest(exercises), [], 480
    for i, e in enumerate(exercises):
        y = 46 * i
        last = e is hardest
        word = "hardest, " if last else ""
        drawn.append(
            f'<text class="m" x="0" y="{y + 15}">{_shown(e.exercise, 48)}</text>'
            f'<text x="{width}" y="{y + 15}" text-anchor="end">{word}{_percent(e.share)}</text>'
            f'<rect class="t" x="0" y="{y + 22}" width="{width}" height="12" rx="2"/>'
            f'<rect class="{"h" if last else "b"}" x="0" y="{y + 22}" width="{width * e.share:.1f}" height="12" rx="2"/>'
        )
    told = ", ".join(f"{clean(e.exercise, lines=1, width=80)} {_percent(e.share)}" for e in exercises)
    svg = _svg("e", width, 46 * len(exercises), "Mean share of points by exercise", f"{told}.", drawn)
    heads = ["exercise", "points", "mean share", "answers", "all points", "not attempted"]
    rows = (
        (e.exercise, number(e.max_points), _percent(e.share), e.answers, e.full, e.not_attempted)
        for e in exercises
    )
    return _section("Points by exercise, on average", svg + _as_table("as a table", heads, rows))


def _svg(key: str, width: float, height: float, title: str, told: str, drawn: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(told)}</desc>'
        f"{''.join(drawn)}</svg>"
    )


def _misconceptions(submissions: Sequence[Submission]) -> str:
    rows = [
        f"<tr><th scope=row>{_shown(_spoken(m.name))}</th><td><code>{_breakable(m.exercise)}</code></td>"
        f"<td>{prose(clean(m.mistake, lines=4, width=400))}</td><td class=n>{len(m.students)}</td>"
        f'<td class="who">{_people(m.students)}</td></tr>'
        for m in misconceptions(submissions)
    ]
    if not rows:
        return ""
    heads = ["mistake", "exercise", "what happens", "students", "who"]
    return _section("Misconceptions of the class", _wrapped("Misconceptions", _table(heads, rows)))


def _people(students: Sequence[str], most: int = 6) -> str:
    names = [_shown(s, 60) for s in students]
    if len(names) <= most + 1:
        return ", ".join(names)
    rest = f"<details><summary>and {len(names) - most} more</summary>{', '.join(names[most:])}</details>"
    return ", ".join(names[:most]) + rest


def _students(submissions: Sequence[Submission], exercises: Sequence[Hardness]) -> str:
    several = len({s.notebook for s in submissions}) > 1
    written = any(s.waiting for s in submissions)
    heads = ["<th scope=col><button>student</button></th>"]
    heads += ["<th scope=col><button>notebook</button></th>"] * several
    heads += [
        f"<th scope=col class=n><button><code>{_breakable(e.exercise)}</code></button>"
        f"<small>of {number(e.max_points)}</small></th>"
        for e in exercises
    ]
    heads += ["<th scope=col class=n><button>points</button></th>"]
    heads += ["<th scope=col><button>by hand</button></th>"] * written + ["<th scope=col>remarks</th>"]
    rows = (_row(s, exercises, several, written) for s in submissions)
    body = f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    note = (
        "✓ all points, ✗ not all, – not judged, ✎ given by a person. A name links to the student's feedback."
    )
    return _section("Students", _wrapped("Students", body, "wrap tall"), note)


def _row(submission: Submission, exercises: Sequence[Hardness], several: bool, written: bool) -> str:
    cells = [f"<th scope=row>{_student(submission)}</th>"]
    cells += [f"<td>{_shown(submission.notebook, 40)}</td>"] * several
    cells += [_points_cell(submission, submission.by_exercise.get(e.exercise)) for e in exercises]
    cells.append(
        f'<td class="n total" data-v="{submission.points}" style="--s:{100 * submission.share:.0f}%">'
        f"{number(submission.points)} of {number(submission.max_points)}</td>"
    )
    cells += [
        f'<td class="soft nowrap">{f"{submission.waiting} to grade" if submission.waiting else ""}</td>'
    ] * written
    return f'<tr>{"".join(cells)}<td class="remarks">{_remarks_cell(submission)}</td></tr>'


def _points_cell(submission: Submission, verdict: Verdict | None) -> str:
    if verdict is None:
        return '<td class=n data-v="-1"></td>'
    points = _given(submission, verdict)
    tone = {"✓": "good", "✗": "bad", "–": "soft"}[symbol(verdict.outcome)]
    mark, word = symbol(verdict.outcome), verdict.outcome.value
    if verdict.exercise in submission.overruled:
        mark, tone, word = "✎", "odd", f"given by a person; the verdict: {number(verdict.points)}, {word}"
    elif verdict.diagnosis:
        word += f", {_spoken(verdict.diagnosis)}"
    return (
        f'<td class="n {tone}" data-v="{points}" title="{_shown(word, 200)}">'
        f'<span aria-hidden="true">{mark}</span> {number(points)}</td>'
    )


def _remarks_cell(submission: Submission) -> str:
    parts = []
    if submission.state is not State.GRADED:
        parts.append(f'<span class="odd">{submission.state.value}</span>')
    for exercise, reason in submission.flags:
        parts.append(f'<span class="odd">{_shown(_flag(exercise, reason), 200)}</span>')
    shown = "<br>".join(parts)
    if submission.notes:
        items = "".join(f"<li>{_shown(n)}</li>" for n in submission.notes[:50])
        label = _count(len(submission.notes), "note")
        shown += f"<details><summary>{label}</summary><ul>{items}</ul></details>"
    return shown
