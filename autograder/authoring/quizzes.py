"""The predictions of a lecture: each is there, tells nothing in the notebook, and is not given away by its length."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbformat import NotebookNode

from autograder.authoring.source import plain_python
from coursekit.quizzes import Quiz, all_of_them

LONGER = 1.25
"""An option that many times as long as any other is chosen for that."""
FEW = 8
"""Characters that nobody counts."""


def quiz_problems(name: str, lecture: NotebookNode) -> list[str]:
    """What is wrong with the predictions that a lecture asks for, a sentence each."""
    known = all_of_them()
    secrets = {text: quiz for quiz, held in known.items() for text in (held.because, *held.wrong.values())}
    problems = []
    for number, cell in enumerate(lecture.cells, 1):
        where = f"{name} (cell {number})"
        problems += [
            f"{where}: holds what the quiz {quiz!r} says to who has chosen"
            for text, quiz in secrets.items()
            if text in cell.source
        ]
        if cell.cell_type == "code":
            problems += [
                f"{where}: predict() asks for {asked}, which is no quiz of coursekit/quizzes"
                for asked in _asked(cell.source)
                if asked not in map(repr, known)
            ]
    return problems


def _asked(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(plain_python(source))
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "predict":
            yield ast.unparse(node.args[0]) if node.args else "nothing"


def quiz_warnings() -> list[str]:
    """The quizzes whose right option can be told without reading, a sentence each."""
    return [
        f"coursekit/quizzes: the right option of {name!r} is the longest by more than a quarter"
        for name, quiz in all_of_them().items()
        if _gives_itself_away(quiz)
    ]


def _gives_itself_away(quiz: Quiz) -> bool:
    longest = max(map(len, quiz.wrong))
    return len(quiz.right) > max(LONGER * longest, longest + FEW)
