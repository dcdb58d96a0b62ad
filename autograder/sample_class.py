"""A sample class out of the catalogue: solved, untouched, mistaken, hostile to the grader by accident.

Every misconception of the topic is handed in by somebody, in readable code. The class is graded by stock
nbgrader, as an instructor would.
"""

from __future__ import annotations

import ast
import copy
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from autograder import catalog
from autograder.cells import exercise_of, role_of
from autograder.exercise import Exercise

LECTURES = ("02_batchnorm",)
"""The lectures that :func:`samples` can make a class of."""

PREFACE = {
    "torch": "import torch",
    "nn": "from torch import nn",
    "copy": "import copy",
    "Any": "from typing import Any",
}
ANSWER = (
    "It answers with the statistics of whoever stands in the same batch: in training mode always, and in eval "
    "mode when the running statistics come from other data."
)


@dataclass(frozen=True)
class Sample:
    """One submission: who, what it is for, and the bytes that were handed in."""

    student: str
    about: str
    content: bytes


def ends(release: NotebookNode, solved: NotebookNode, topic: str) -> list[Sample]:
    """The two submissions whose grades are known of every lecture: all done, and nothing."""
    solutions = {cell.id: cell.source for cell in solved.cells}
    answers = {e.id: solutions[f"{e.id}-solution"] for e in catalog.topic(topic)}
    return [
        Sample(student, about, nbformat.writes(_answered(release, given)).encode())
        for student, about, given in (
            ("solved", "every exercise right", answers), ("untouched", "as it was handed out", {})
        )
    ]  # fmt: skip


def samples(
    release: NotebookNode, solved: NotebookNode, topic: str = "batchnorm", students: int | None = None
) -> list[Sample]:
    """The class, made from the released notebook and the one with solutions: the first ``students`` of it, of whom
    those that differ most in kind come first."""
    exercises = catalog.topic(topic)
    solutions = {cell.id: cell.source for cell in solved.cells}
    right = {e.id: solutions[f"{e.id}-solution"] for e in exercises}
    made: list[Sample] = []

    def hand_in(
        student: str,
        about: str,
        answers: dict[str, str],
        change: Callable[[NotebookNode], None] | None = None,
    ) -> None:
        notebook = _answered(release, answers)
        if change is not None:
            change(notebook)
        made.append(Sample(student, about, nbformat.writes(notebook).encode()))

    first, *_, last = exercises
    hand_in("solved", "every exercise right", right)
    hand_in("untouched", "as it was handed out", {})
    hand_in("partial", "the first and the last exercise only", {e.id: right[e.id] for e in (first, last)})
    crash = f"import os\n\nclass {exercises[1].id}:\n    def __init__(self, *args, **kwargs):\n        os._exit(1)\n"
    hand_in("crash", f"the process ends in the check of {exercises[1].id}", right | {exercises[1].id: crash})
    endless = f"def {exercises[3].id}(*args, **kwargs):\n    while True:\n        pass\n"
    hand_in("endless", f"{exercises[3].id} never returns", right | {exercises[3].id: endless})
    hand_in("deleted", f"the check of {first.id} deleted", right, lambda nb: _delete(nb, first.id))
    hand_in("duplicated", f"the check of {first.id} twice", right, lambda nb: _duplicate(nb, first.id))
    library = f"import torch.nn.functional as F\n\ndef {first.id}(x, gamma, beta, eps=1e-5):\n    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)\n"
    hand_in("shortcut", f"{first.id} calls the library", right | {first.id: library})
    made.append(Sample("unreadable", "not a notebook", b"%PDF-1.4 the wrong file"))
    for number in range(max(len(e.right) for e in exercises)):
        answers = {e.id: cell(e, e.right[number % len(e.right)].answer) for e in exercises}
        hand_in(f"right-{number + 1}", "right answers written differently", answers)
    for number in range(max(len(e.misconceptions) for e in exercises)):
        chosen = {e.id: e.misconceptions[number] for e in exercises if number < len(e.misconceptions)}
        answers = right | {e.id: cell(e, chosen[e.id].answer) for e in exercises if e.id in chosen}
        about = "; ".join(f"{name}: {m.name}" for name, m in chosen.items())
        hand_in(f"mistaken-{number + 1:02}", about, answers)
    return made[:students]


def _answered(release: NotebookNode, answers: dict[str, str]) -> NotebookNode:
    notebook = copy.deepcopy(release)
    for c in notebook.cells:
        if role_of(c) == "exercise" and exercise_of(c) in answers:
            c.source = answers[exercise_of(c)]
        if answers and role_of(c) == "written":
            c.source = ANSWER
    return notebook


def _delete(notebook: NotebookNode, exercise: str) -> None:
    notebook.cells = [c for c in notebook.cells if c.id != exercise]


def _duplicate(notebook: NotebookNode, exercise: str) -> None:
    place = next(i for i, c in enumerate(notebook.cells) if c.id == exercise)
    again = copy.deepcopy(notebook.cells[place])
    # A notebook editor gives the pasted cell an id of its own; the grading metadata is the same.
    again.id = f"{exercise}-again"
    notebook.cells.insert(place, again)


# -- catalogue answers as cells -----------------------------------------------------------------------------


def cell(exercise: Exercise, answer: Any) -> str:
    """A catalogue answer as the cell a learner could have written: its source with the helpers it uses,
    under the exercise's own name."""
    parts = [
        _renamed(source, thing, exercise.id if thing is answer else None) for thing, source in _needed(answer)
    ]
    body = "\n\n".join(parts)
    names = {n.id for n in ast.walk(ast.parse(body)) if isinstance(n, ast.Name)}
    preface = [line for name, line in PREFACE.items() if name in names]
    return "\n".join([*preface, "", body]).strip()


def _needed(answer: Any) -> list[tuple[Any, str]]:
    """The answer and what it uses of the catalogue: what exercises share, then its own module in its order."""
    found: dict[str, Any] = {}
    waiting = [answer]
    while waiting:
        thing = waiting.pop()
        if thing.__name__ in found:
            continue
        found[thing.__name__] = thing
        home = sys.modules[thing.__module__]
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(thing)))):
            used = getattr(home, node.id, None) if isinstance(node, ast.Name) else None
            module = getattr(used, "__module__", None) or ""
            if module.startswith(f"{catalog.__name__}.") and used is not thing:
                waiting.append(used)

    def place(thing: Any) -> tuple[int, bool, int]:
        module = thing.__module__
        return module.count("."), module == answer.__module__, inspect.getsourcelines(thing)[1]

    ordered = sorted(found.values(), key=place)
    return [(t, textwrap.dedent(inspect.getsource(t)).strip()) for t in ordered]


def _renamed(source: str, thing: Any, name: str | None) -> str:
    if name is None:
        return source
    return re.sub(
        rf"^(def|class) {re.escape(thing.__name__)}\b", rf"\1 {name}", source, count=1, flags=re.MULTILINE
    )


# -- a course of its own ------------------------------------------------------------------------------------


def nbgrader(course: Path, *arguments: str) -> None:
    """Run one of nbgrader's commands in a course; RuntimeError with the end of its log where it fails."""
    for _ in _running(course, *arguments):
        pass


def prepare(
    root: Path,
    course: Path,
    assignment: str,
    make: Callable[[NotebookNode, NotebookNode, str], list[Sample]] = samples,
    run: Callable[[Path, str, str], None] = nbgrader,
) -> list[Sample]:
    """Lay out a course directory with a submission a sample. ``root`` is the repository, built; ``make`` hands
    in, from the released notebook, the one with solutions and the topic; ``run`` runs a command of nbgrader's."""
    if course.exists():
        shutil.rmtree(course)
    course.mkdir(parents=True)
    shutil.copytree(root / "solutions" / assignment, course / "solutions" / assignment)
    config = (root / "nbgrader_config.py").read_text(encoding="utf-8")
    (course / "nbgrader_config.py").write_text(
        f"{config}\nc.Judge.unsafe_no_sandbox = True\n", encoding="utf-8"
    )
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
