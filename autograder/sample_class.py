"""A sample class out of the catalogue: solved, untouched, mistaken, hostile to the grader by accident.

Every mistake of the lecture is handed in by somebody, in readable code. The class is graded by stock
nbgrader, as an instructor would.
"""

from __future__ import annotations

import ast
import copy
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from autograder import catalog
from autograder.cells import exercise_of, role_of
from autograder.exercise import Code, Exercise, Training
from autograder.statements import free, made, parsed

WRITTEN = "I go by the last figure: what it shows is what the formula above it lets one expect."


@dataclass(frozen=True)
class Sample:
    """One submission: who, what it is for, and the bytes that were handed in."""

    student: str
    about: str
    content: bytes


Make = Callable[[NotebookNode, NotebookNode, str], list[Sample]]
"""Submissions out of the released notebook, the one with solutions and the topic."""


def ends(release: NotebookNode, solved: NotebookNode, topic: str) -> list[Sample]:
    """The two submissions whose grades are known of every lecture: all done, and nothing."""
    return list(_Class(release, solved, topic).ends())


def samples(students: int | None = None, seed: int = 0) -> Make:
    """A class of that many students; left out, of as many as there is something to hand in.

    Those that differ most in kind come first. Past the last mistake come students who did some exercises right, some
    wrong and some not at all, drawn from ``seed``. A network is trained by who solved everything and by who makes a
    mistake of the training: that takes as long as all other exercises together.
    """

    def make(release: NotebookNode, solved: NotebookNode, topic: str) -> list[Sample]:
        known = _Class(release, solved, topic)
        made = [*known.ends(), *known.kinds(), *known.right(), *known.mistaken()]
        chance = random.Random(seed)
        mixes = max(MIXES, (students or 0) - len(made))
        return [*made, *(known.mix(number, chance) for number in range(1, mixes + 1))][:students]

    return make


MIXES = 3


class _Class:
    """What can be handed in for one lecture."""

    def __init__(self, release: NotebookNode, solved: NotebookNode, topic: str) -> None:
        self.release = release
        self.exercises = catalog.topic(topic)
        self.short = [e for e in self.exercises if not isinstance(e, Training)]
        solutions = {cell.id: cell.source for cell in solved.cells}
        self.solutions = {e.id: solutions[f"{e.id}-solution"] for e in self.exercises}
        self.imported = {name for c in release.cells if role_of(c) == "setup" for name in _bound(c.source)}
        self.done = {e.id: self.alone(e) for e in self.short}

    def ends(self) -> Iterator[Sample]:
        yield self.hand_in("solved", "every exercise right", self.solutions)
        yield self.hand_in("untouched", "as it was handed out", {})

    def kinds(self) -> Iterator[Sample]:
        """One of each kind that is no mistake of a formula."""
        first, crash, *_, loop, last = self.short
        partial = {e.id: self.done[e.id] for e in (first, last)}
        crashing = "import os\n\n\n" + _broken(crash, "os._exit(1)")
        endless = _broken(loop, "while True:", "    pass")
        copied = f"from {first.reference.__module__} import {first.id}"
        yield self.hand_in("partial", "the first and the last exercise only", partial)
        yield self.hand_in("crash", f"the process ends in {crash.id}", self.done | {crash.id: crashing})
        yield self.hand_in("endless", f"{loop.id} never returns", self.done | {loop.id: endless})
        yield self.hand_in("deleted", f"no check of {first.id}", self.done, lambda nb: _delete(nb, first.id))
        yield self.hand_in(
            "doubled", f"{first.id} checked twice", self.done, lambda nb: _double(nb, first.id)
        )
        yield self.hand_in("shortcut", f"{first.id} imported", self.done | {first.id: copied})
        yield Sample("unreadable", "not a notebook", b"%PDF-1.4 the wrong file")

    def right(self) -> Iterator[Sample]:
        for number in range(max(len(e.right) for e in self.short)):
            answers = {e.id: self.cell(e, e.right[number % len(e.right)].code) for e in self.short}
            yield self.hand_in(f"right-{number + 1}", "right answers written differently", answers)

    def mistaken(self) -> Iterator[Sample]:
        """Every mistake of the lecture, one of each exercise a student; those of a training by themselves."""
        trained = [e for e in self.exercises if isinstance(e, Training)]
        for kind, exercises in (("mistaken", self.short), ("trained", trained)):
            for number in range(max((len(e.misconceptions) for e in exercises), default=0)):
                chosen = {e.id: e.misconceptions[number] for e in exercises if number < len(e.misconceptions)}
                answers = {e.id: self.cell(e, chosen[e.id].code) for e in exercises if e.id in chosen}
                about = "; ".join(f"{name}: {m.name}" for name, m in chosen.items())
                yield self.hand_in(f"{kind}-{number + 1:02}", about, self.done | answers)

    def mix(self, number: int, chance: random.Random) -> Sample:
        answers, about = {}, []
        for exercise in self.short:
            kind = chance.choices(("right", "wrong", "untouched"), (4, 3, 1))[0]
            about.append(f"{exercise.id}: {kind}")
            if kind == "right":
                answers[exercise.id] = self.done[exercise.id]
            elif kind == "wrong":
                wrong = chance.choice(exercise.misconceptions)
                about[-1] = f"{exercise.id}: {wrong.name}"
                answers[exercise.id] = self.cell(exercise, wrong.code)
        return self.hand_in(f"mix-{number}", "; ".join(about), answers)

    def alone(self, exercise: Exercise) -> str:
        """A right answer that calls none of the lecture's others: they may be wrong or missing in the same notebook."""
        answers = (self.solutions[exercise.id], *(self.cell(exercise, v.code) for v in exercise.right))
        others = {e.id for e in self.exercises} - {exercise.id}
        return next(a for a in answers if others.isdisjoint(free(parsed(a).body)))

    def cell(self, exercise: Exercise, code: Code) -> str:
        """An answer of the catalogue as a student would have typed it below the setup cell. What it brings along under the
        name of another exercise has a name of its own: it would be taken for the answer to that one."""
        text = "\n".join([*code.imports(known=self.imported), "", "", code.body]).strip()
        others = {e.id for e in self.exercises} - {exercise.id}
        for name in others & {name for node in parsed(text).body for name in made(node)}:
            text = re.sub(rf"\b{name}\b", f"Own{name}" if name[0].isupper() else f"own_{name}", text)
        return text

    def hand_in(
        self,
        student: str,
        about: str,
        answers: Mapping[str, str],
        change: Callable[[NotebookNode], None] | None = None,
    ) -> Sample:
        notebook = copy.deepcopy(self.release)
        for c in notebook.cells:
            if role_of(c) == "exercise" and exercise_of(c) in answers:
                c.source = answers[exercise_of(c)]
            if answers and role_of(c) == "written":
                c.source = WRITTEN
        if change is not None:
            change(notebook)
        return Sample(student, about, nbformat.writes(notebook, allow_nan=False).encode())


def _bound(source: str) -> Iterator[str]:
    """The names that a cell's imports make."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)


def _broken(exercise: Exercise, *lines: str) -> str:
    """A definition that does this instead of what was asked."""
    if exercise.is_class:
        head, margin = f"class {exercise.id}:\n    def __init__(self, *args, **kwargs):\n", " " * 8
    else:
        head, margin = f"def {exercise.id}(*args, **kwargs):\n", " " * 4
    return head + "\n".join(margin + line for line in lines)


def _delete(notebook: NotebookNode, exercise: str) -> None:
    notebook.cells = [c for c in notebook.cells if c.id != exercise]


def _double(notebook: NotebookNode, exercise: str) -> None:
    place = next(i for i, c in enumerate(notebook.cells) if c.id == exercise)
    again = copy.deepcopy(notebook.cells[place])
    # A notebook editor gives the pasted cell an id of its own; the grading metadata is the same.
    again.id = f"{exercise}-again"
    notebook.cells.insert(place, again)


# -- a course of its own ------------------------------------------------------------------------------------


def nbgrader(course: Path, *arguments: str) -> None:
    """Run one of nbgrader's commands in a course; RuntimeError with the end of its log where it fails."""
    for _ in _running(course, *arguments):
        pass


def prepare(
    root: Path,
    course: Path,
    assignment: str,
    make: Make,
    seed: int | None = None,
    run: Callable[[Path, str, str], None] = nbgrader,
    *,
    walled: bool = True,
) -> list[Sample]:
    """Lay out a course directory with a submission a sample. ``root`` is the repository, built; ``seed`` fixes what
    the checks draw; ``run`` runs a command of nbgrader's; ``walled``: the samples are graded in the sandbox."""
    if course.exists():
        shutil.rmtree(course)
    course.mkdir(parents=True)
    shutil.copytree(root / "solutions" / assignment, course / "solutions" / assignment)
    config = (root / "nbgrader_config.py").read_text(encoding="utf-8")
    own = ["c.Judge.unsafe_no_sandbox = True"] * (not walled) + [f"c.Judge.seed = {seed}"] * (
        seed is not None
    )
    (course / "nbgrader_config.py").write_text("\n".join([config, *own, ""]), encoding="utf-8")
    run(course, "generate_assignment", assignment)
    name = next((course / "solutions" / assignment).glob("*.ipynb")).name
    solved = nbformat.read(course / "solutions" / assignment / name, 4)
    release = nbformat.read(course / "lectures" / assignment / name, 4)
    made = make(release, solved, assignment.partition("_")[2])
    for sample in made:
        folder = course / "submitted" / sample.student / assignment
        folder.mkdir(parents=True)
        (folder / name).write_bytes(sample.content)
    return made


def grade(course: Path, assignment: str) -> Iterator[str]:
    """Grade with ``nbgrader autograde``; yields each student as the work on them begins."""
    return _students(r"Autograding .*\bautograded/([^/]+)/", course, "autograde", assignment)


def feedback(course: Path, assignment: str) -> Iterator[str]:
    """Write everybody's feedback with ``nbgrader generate_feedback``; yields each student, as :func:`grade` does."""
    return _students(r"Converting notebook .*\bautograded/([^/]+)/", course, "generate_feedback", assignment)


def _students(told: str, course: Path, *arguments: str) -> Iterator[str]:
    for line in _running(course, *arguments):
        if match := re.search(told, line):
            yield match[1]


def _running(course: Path, *arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "nbgrader", *arguments]
    log = course / "nbgrader.log"
    with (
        subprocess.Popen(
            command, cwd=course, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        log.open("a", encoding="utf-8") as kept,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            kept.write(line)
            yield line
    if process.returncode:
        tail = "".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-20:])
        raise RuntimeError(f"`nbgrader {' '.join(arguments)}` ended with {process.returncode}:\n{tail}")
