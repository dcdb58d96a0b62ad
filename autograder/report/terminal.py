"""The class in a few sentences and a table, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autograder.feedback import clean, number, spoken, symbol
from autograder.report.collect import State, Submission
from autograder.report.statistics import counted, hardest_of, hardness, median_share, misconceptions, percent

if TYPE_CHECKING:
    from rich.table import Table


def summary_lines(submissions: Sequence[Submission]) -> list[str]:
    """The class in a few sentences."""
    lines = [_who(submissions)]
    if (median := median_share(submissions)) is not None:
        lines.append(f"The median is {percent(median)} of the points.")
    if hardest := hardest_of(hardness(submissions)):
        name = clean(hardest.exercise, lines=1)
        lines.append(f"The hardest exercise is {name}: {percent(hardest.share)} of its points on average.")
    for m in [m for m in misconceptions(submissions) if len(m.students) > 1][:1]:
        name, exercise = clean(spoken(m.name), lines=1), clean(m.exercise, lines=1)
        lines.append(
            f"The most common mistake is {name} in {exercise}: {counted(len(m.students), 'student')}."
        )
    if flagged := sum(bool(s.flags) for s in submissions):
        lines.append(
            f"{counted(flagged, 'submission is', 'submissions are')} flagged for a person to look at."
        )
    if waiting := sum(s.waiting for s in submissions):
        lines.append(
            f"{counted(waiting, 'written answer waits', 'written answers wait')} to be graded by hand."
        )
    return lines


def _who(submissions: Sequence[Submission]) -> str:
    states = [s.state for s in submissions]
    parts = [f"{states.count(state)} {state}" for state in State if state in states]
    return (
        f"{counted(len({s.student for s in submissions}), 'student')}: {', '.join(parts) or 'nothing yet'}."
    )


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
            cells.append(Text("" if verdict is None else number(s.given(verdict)), style=style))
        cells += [Text(f"{number(s.points)} of {number(s.max_points)}"), Text("; ".join(_remarks(s)))]
        made.add_row(*cells)
    return made


def _remarks(submission: Submission) -> list[str]:
    parts = [] if submission.state is State.GRADED else [submission.state.value]
    parts += [flag_line(exercise, reason) for exercise, reason in submission.flags]
    if submission.notes:
        parts.append(counted(len(submission.notes), "repair or note", "repairs and notes"))
    return [clean(part, lines=1, width=200) for part in parts]


def flag_line(exercise: str, reason: str) -> str:
    """What a person should look at, in a line."""
    return f"⚑ {exercise}: {reason}" if exercise else f"⚑ {reason}"
