"""What of a learner's own code will not run as it did at home when it is graded, said before it is handed in."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from autograder.cells import ADDED, exercise_of, role_of
from autograder.statements import (
    IMPORTS,
    UNREADABLE,
    called,
    deleted,
    extent,
    made,
    made_by_functions,
    mended,
    needed,
    parsed,
    refused,
    used,
)

_ANYWHERE = {
    *dir(builtins),
    "get_ipython",
    "display",
    "In",
    "Out",
    "exit",
    "quit",
    "__file__",
    "__name__",
    "_",
    "__",
}
_HIDDEN = ("exec", "globals", "locals", "vars", "run_line_magic", "run_cell_magic", "setattr")
_ELSEWHERE = ("google.colab", "kaggle_secrets", "js", "pyodide", "micropip")
"""Modules that one place to run notebooks has and no other."""


def warnings(cells: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What to tell of the learner's code in a repaired notebook: ``note`` or ``problem``, and the sentence."""
    code = [(number, cell) for number, cell in enumerate(cells, 1) if cell["cell_type"] == "code"]
    sources = {number: mended(cell["source"]) for number, cell in code}
    course = {name for n, cell in code if role_of(cell) == "setup" for name in _imported_from_us(sources[n])}
    anywhere = {name for source in sources.values() for name in _made(source)}
    wanted = needed(sources.values(), (), {exercise_of(cell) for _, cell in code} - {""})
    asking = _asking(sources.values())
    known = not any(_makes_names_unseen(source) for source in sources.values())
    above: set[str] = set()
    readable = [source for source in sources.values() if not refused(source)]
    for number, cell in code:
        source = sources[number]
        if role_of(cell) in ("exercise", ADDED):
            # Half of a function that was cut in two stands whole in the cell that joins them, and runs there.
            if not refused(source) or not any(source.strip() in whole for whole in readable):
                yield from _of_its_characters(number, cell["source"], source)
            yield from _of_its_surroundings(number, source, wanted)
            if "input" not in anywhere:
                yield from _of_its_questions(number, source, asking, wanted)
            yield from _of_the_course(number, source, course)
            if known:
                yield from _of_its_names(number, source, above, anywhere, wanted)
        above |= _made(source)


def _of_its_characters(number: int, source: str, better: str) -> Iterator[tuple[str, str]]:
    if source != better:
        pairs = zip(source.split("\n"), better.split("\n"), strict=True)
        line = next(n for n, (one, other) in enumerate(pairs, 1) if one != other)
        yield (
            "problem",
            f"Cell {number} does not compile: line {line} holds no-break spaces, curly quotes or other characters that only "
            "look like Python's. Grading reads them as what they look like; type that line anew.",
        )
    elif why := refused(source):
        yield (
            "problem",
            f"Cell {number} does not compile: SyntaxError in line {why.lineno or 1} ({why.msg}). Nothing in it will run.",
        )


def _of_its_surroundings(number: int, source: str, wanted: set[str]) -> Iterator[tuple[str, str]]:
    for node in _statements(source):
        level, so = _cost(node, wanted)
        for module in _imports(node):
            if any(module == name or module.startswith(f"{name}.") for name in _ELSEWHERE):
                yield (
                    level,
                    f"Cell {number}, line {node.lineno}: {module} is not there when a class is graded. This line will "
                    f"fail{so}.",
                )


def _of_its_questions(
    number: int, source: str, asking: set[str], wanted: set[str]
) -> Iterator[tuple[str, str]]:
    for node in _statements(source):
        level, so = _cost(node, wanted)
        if by := sorted(called(node, at_once=True) & asking):
            calls = "" if "input" in by else f" {by[0]}() asks for it."
            yield (
                level,
                f"Cell {number}, line {node.lineno}: nobody is there to answer input() when a class is graded.{calls} This "
                f"line will fail{so}. Write the value into the cell instead.",
            )
        elif called(node) & asking:
            yield (
                level,
                f"Cell {number}: what line {node.lineno} defines asks by input(), and nobody is there to answer when a class "
                "is graded. It will fail when it is called.",
            )


def _asking(sources: Iterable[str]) -> set[str]:
    """The functions that ask by ``input()``, themselves or through one that they call, and that one itself."""
    nodes = [node for source in sources for node in _statements(source)]
    functions = [
        node
        for node in nodes
        if not isinstance(node, ast.ClassDef) and called(node) - called(node, at_once=True)
    ]
    asking: set[str] = {"input"}
    before = 0
    while before != len(asking):
        before = len(asking)
        for node in functions:
            if (called(node) - called(node, at_once=True)) & asking:
                asking |= made(node)
    return asking


def _cost(node: ast.stmt, wanted: set[str]) -> tuple[str, str]:
    """How bad it is that a statement fails, and what fails with it."""
    if lost := made(node) & wanted:
        return "problem", f", and so will {', '.join(sorted(lost))}"
    return "note", "; the rest of the cell runs"


def _of_the_course(number: int, source: str, course: set[str]) -> Iterator[tuple[str, str]]:
    for node in _statements(source):
        gone = deleted(node) & course
        other = ((made(node) | made_by_functions(node)) & course) - _imported_again(node) - gone
        for name in sorted(gone | other):
            does = (
                f"deletes the course's {name}"
                if name in gone
                else f"gives the course's {name} another meaning"
            )
            yield (
                "note",
                f"Cell {number}, line {node.lineno} {does}, and {name}(…) no longer works below it. Grading does not ask it; "
                "use another name.",
            )


def _imported_again(node: ast.stmt) -> set[str]:
    """The names that a statement imports from the course under which the course has them."""
    return {
        (alias.asname or alias.name).partition(".")[0]
        for inner in ast.walk(node)
        if isinstance(inner, IMPORTS) and _is_ours(inner)
        for alias in inner.names
        if alias.asname in (None, alias.name)
    }


def _of_its_names(
    number: int, source: str, above: set[str], anywhere: set[str], wanted: set[str]
) -> Iterator[tuple[str, str]]:
    here: set[str] = set()
    for node in _statements(source):
        if not isinstance(node, ast.Try | ast.If | ast.With):
            level = "problem" if made(node) & wanted else "note"
            at_once = used(node, at_once=True) - above - here - _ANYWHERE - made(node)
            later = used(node) - anywhere - _ANYWHERE - at_once
            for name in sorted(at_once):
                yield (
                    level,
                    f"Cell {number}, line {extent(node)[0]} uses {name}, which no cell above it makes: on a fresh kernel it ends "
                    "there with a NameError. Restart the kernel and run all cells to see it.",
                )
            for name in sorted(later):
                yield (
                    level,
                    f"Cell {number}: what line {extent(node)[0]} defines uses {name}, which no cell makes. Restart the kernel "
                    "and run all cells to see it.",
                )
        here |= made(node)


def _statements(source: str) -> list[ast.stmt]:
    try:
        return parsed(source).body
    except UNREADABLE:
        return []


def _made(source: str) -> set[str]:
    return {name for node in _statements(source) for name in _also_inside(node)}


def _also_inside(node: ast.stmt) -> frozenset[str]:
    """What a statement makes, also by a ``global`` in the functions it defines."""
    names = (name for inner in ast.walk(node) if isinstance(inner, ast.Global) for name in inner.names)
    return made(node) | set(names)


def _imported_from_us(source: str) -> set[str]:
    return {name for node in _statements(source) if _is_ours(node) for name in made(node)}


def _is_ours(node: ast.stmt) -> bool:
    """Whether a statement imports from the course's own packages."""
    return any(module.partition(".")[0] in ("autograder", "coursekit") for module in _imports(node))


def _imports(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _makes_names_unseen(source: str) -> bool:
    """Whether a cell may make names that its text does not show."""
    for node in (inner for statement in _statements(source) for inner in ast.walk(statement)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return True
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            first = node.args[0] if node.args else None
            harmless = isinstance(first, ast.Constant) and first.value not in (
                "run",
                "pylab",
                "store",
                "load",
            )
            if called in _HIDDEN and not (called == "run_line_magic" and harmless):
                return True
    return False
