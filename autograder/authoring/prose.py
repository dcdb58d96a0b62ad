"""What a reader of a lecture would stumble over."""

from __future__ import annotations

import ast
import re
import tokenize
from io import StringIO
from typing import Any

from nbformat import NotebookNode

from autograder import catalog
from autograder.authoring.source import Source, headings, plain_python
from autograder.cells import exercise_of, role_of

WIDTH = 104
"""Characters of a line of code that a page of 1100 pixels shows without scrolling."""

BRITISH = re.compile(
    r"\b(colour\w*|behaviour\w*|neighbour\w*|favour\w*|honour\w*|grey\w*|centred?|centres|metres?|"
    r"modell(?:ed|ing)|labell(?:ed|ing)|cancelled|travell(?:ed|ing)|artefacts?|defence|licence|analys(?:e|ed|ing)|"
    r"(?:normal|initial|optim|visual|regular|general|organ|recogn|real|summar|minim|maxim|standard|emphas|util|"
    r"parametr|vector|quant|local|character|penal)is(?:e|es|ed|ing|ation|ations|er|ers))\b",
    re.IGNORECASE,
)


def reads_well(source: Source, solution: NotebookNode, lecture: NotebookNode) -> list[str]:
    """What a reader would stumble over."""
    name = source.lecture.relative_to(source.root).as_posix()
    problems = []
    level, titles = 0, 0
    for number, cell in enumerate(lecture.cells, 1):
        where = f"{name} (cell {number})"
        if cell.cell_type == "code":
            if cell.outputs or cell.execution_count is not None:
                problems.append(f"{where}: an output is committed")
            problems += [f"{where}: {what}" for what in _code_problems(cell)]
        else:
            for depth, title in headings(cell.source):
                titles += depth == 1
                if depth > level + 1:
                    problems.append(f"{where}: heading {title!r} skips from level {level} to {depth}")
                level = depth
            if re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"]+\")[^>]*>", cell.source):
                problems.append(f"{where}: an image has no alt text")
        problems += [f"{where}: British spelling {word!r}" for word in british(cell)]
    if titles != 1:
        problems.append(f"{name}: {titles} titles of level 1 instead of one")
    # the solution's own lines call show() too, and its prose is read by instructors
    for number, cell in enumerate(solution.cells, 1):
        if cell.cell_type == "code" and role_of(cell) == "exercise":
            where = f"{source.solution.relative_to(source.root).as_posix()} (cell {number})"
            problems += [f"{where}: {what}" for what in _code_problems(cell) if "alt=" in what]
    prose = [c.source for c in lecture.cells if c.cell_type == "markdown"][:4]
    stated = [re.search(r"(\d+)\s+minutes", text) for text in prose if "Exercise:" not in text]
    minutes = max((int(found[1]) for found in stated if found), default=0)
    exercises = sum(exercise.minutes for exercise in catalog.topic(source.topic))
    if not minutes:
        problems.append(f"{name}: the opening does not say how many minutes it takes")
    elif minutes < exercises:
        problems.append(f"{name}: {minutes} minutes are less than the {exercises} of its exercises")
    telling = [c.source for c in lecture.cells if role_of(c) in ("text", "story")]
    if not any(re.search(r"\bpredict", text, re.IGNORECASE) for text in telling):
        problems.append(f"{name}: the reader is nowhere asked to predict a result before seeing it")
    return problems


def _code_problems(cell: NotebookNode) -> list[str]:
    try:
        tree = ast.parse(plain_python(cell.source))
    except SyntaxError as error:
        return [f"does not compile: {error}"]
    problems = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _shows(node.func) and "alt" not in {k.arg for k in node.keywords}:
            problems.append(f"line {node.lineno}: show() without alt=")
    if role_of(cell) == "exercise":
        stubs: list[Any] = [n for n in tree.body if getattr(n, "name", None) == exercise_of(cell)]
        problems += [
            f"the docstring of {stub.name} gives no shape such as (N, C, H, W)"
            for stub in stubs
            if _takes_tensors(stub) and not _gives_shape(stub)
        ]
        problems += [
            f"the docstring of {stub.name} has a line of {len(line)} characters; {WIDTH} are shown"
            for stub in stubs
            for line in (ast.get_docstring(stub, clean=False) or "").splitlines()
            if len(line) > WIDTH
        ]
    return problems


def _shows(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr == "show" and ast.unparse(function.value).endswith("figures")
    return isinstance(function, ast.Name) and function.id == "show"


def _functions(stub: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(stub) if isinstance(node, ast.FunctionDef)]


def _takes_tensors(stub: ast.AST) -> bool:
    arguments = [a for f in _functions(stub) for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)]
    return any(a.annotation is not None and "Tensor" in ast.unparse(a.annotation) for a in arguments)


def _gives_shape(stub: ast.AST) -> bool:
    documented = [stub, *_functions(stub)]
    texts = [ast.get_docstring(node) or "" for node in documented]  # type: ignore[arg-type]
    return any(re.search(r"\((?:N|n|C|H|D|K|L|M)\b", text) for text in texts)


def british(cell: NotebookNode) -> list[str]:
    """British spellings in a cell's prose: text outside code spans, comments, strings."""
    if cell.cell_type == "markdown":
        text = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$|\]\([^)]*\)|<[^>]*>", " ", cell.source, flags=re.DOTALL)
    else:
        text = ""
        try:
            for token in tokenize.generate_tokens(StringIO(plain_python(cell.source)).readline):
                if token.type in (tokenize.COMMENT, tokenize.STRING):
                    text += token.string + "\n"
        except (tokenize.TokenError, SyntaxError, IndentationError):
            return []
    return sorted({m[0] for m in BRITISH.finditer(text)})
