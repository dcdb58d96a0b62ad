"""Where checks and answers stand: a check after the cell that really defines its name, an answer beside its question.

The release's own stub, and a function that ends in ``raise NotImplementedError`` and returns nothing, define nothing.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from nbformat import NotebookNode

from autograder.cells import ADDED, defines, exercise_of, grade_id_of, is_check, role_of

Cells = Sequence[NotebookNode]

QUOTED = 200
"""Characters of a learner's text that a person is shown beside a question."""

_BROKEN = (SyntaxError, ValueError, RecursionError, MemoryError)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


# --- what a cell defines ----------------------------------------------------------------------------------


def home_of(cells: Cells, release: Cells, name: str) -> int | None:
    """The cell behind which the check of an exercise belongs: the last that really defines its name.

    Where nothing does it is the exercise's own cell, or else the last with a stub of it.
    """
    if real := _definers(cells, name, _stub(release, name)):
        return real[-1]
    own = [i for i, c in enumerate(cells) if role_of(c) == "exercise" and exercise_of(c) == name]
    stubs = [i for i, c in enumerate(cells) if c.cell_type == "code" and name in defines(c.source)]
    return own[0] if own else stubs[-1] if stubs else None


def _definers(cells: Cells, name: str, stub: str) -> list[int]:
    """The cells that make a function or a class of a name; where there is none, those that assign it anything."""
    made = {i: _made(c.source, name, stub) for i, c in enumerate(cells) if _may_define(c)}
    for kind in ("defined", "assigned"):
        if found := [i for i, each in made.items() if each == kind]:
            return found
    return []


def _may_define(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and not is_check(cell)


def _stub(release: Cells, name: str) -> str:
    """What the release's cell of an exercise makes of its name, to be compared."""
    for cell in release:
        tree = _parsed(cell.source) if role_of(cell) == "exercise" and exercise_of(cell) == name else None
        for node in tree.body if tree is not None else ():
            if isinstance(node, _Function | ast.ClassDef) and node.name == name:
                return ast.dump(node)
    return ""


def _made(source: str, name: str, stub: str) -> str:
    """``defined``, ``assigned`` or ``stub``, by the last statement of a cell that binds a name; "" where none does."""
    tree = _parsed(source)
    if tree is None:
        return "defined" if name in defines(source) else ""
    kinds = [kind for node in _statements(tree.body) if (kind := _binding(node, name, stub))]
    return kinds[-1] if kinds else ""


def _binding(node: ast.stmt, name: str, stub: str) -> str:
    if isinstance(node, _Function | ast.ClassDef):
        if node.name != name:
            return ""
        return "stub" if ast.dump(node) == stub or _unfinished(node) else "defined"
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        return "defined" if name in names else ""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        bound = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        if name not in bound or node.value is None or isinstance(node.value, ast.Constant):
            return ""
        return "defined" if isinstance(node.value, ast.Lambda | ast.Name | ast.Attribute) else "assigned"
    return ""


def _unfinished(node: ast.stmt) -> bool:
    """Whether a function, or a method of a class, can do nothing but raise NotImplementedError."""
    if isinstance(node, ast.ClassDef):
        return any(_unfinished(inner) for inner in node.body if isinstance(inner, _Function))
    if not isinstance(node, _Function) or not isinstance(last := node.body[-1], ast.Raise):
        return False
    returns = any(isinstance(inner, ast.Return | ast.Yield) for inner in ast.walk(node))
    return not returns and last.exc is not None and "NotImplementedError" in ast.unparse(last.exc)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a cell does, also those below an ``if``, ``try``, ``with`` or loop."""
    for node in body:
        yield node
        if isinstance(node, _Function | ast.ClassDef):
            continue
        for part in ("body", "orelse", "finalbody", "handlers"):
            for inner in getattr(node, part, []):
                yield from _statements(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])


def _plain(source: str) -> str:
    """A cell without the lines that only IPython understands."""
    return re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)


@lru_cache(maxsize=512)
def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(_plain(source))
    except _BROKEN:
        return None


@lru_cache(maxsize=512)
def _bound(source: str) -> frozenset[str]:
    """The names that a cell binds when it runs."""
    try:
        table = symtable.symtable(_plain(source), "cell", "exec")
    except _BROKEN:
        return frozenset(defines(source))
    return frozenset(s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported())


@lru_cache(maxsize=512)
def _needed(source: str, name: str) -> frozenset[str]:
    """The global names that the function or class of that name looks up when it is called."""
    try:
        table = symtable.symtable(_plain(source), "cell", "exec")
    except _BROKEN:
        return frozenset()
    waiting = [child for child in table.get_children() if child.get_name() == name]
    found: set[str] = set()
    while waiting:
        inner = waiting.pop()
        waiting += inner.get_children()
        found |= {s.get_name() for s in inner.get_symbols() if s.is_global() and s.is_referenced()}
    return frozenset(found)


# --- checks -----------------------------------------------------------------------------------------------


def put_checks_in_order(cells: list[NotebookNode], release: Cells) -> Iterator[str]:
    """Have every check stand after what it checks; yields what was done."""
    for check in [cell for cell in cells if is_check(cell)]:
        name = exercise_of(check)
        stub = _stub(release, name)
        yield from _raise_stubs(cells, check, name, stub)
        index, real = cells.index(check), _definers(cells, name, stub)
        before = [i for i in real if i < index]
        if not real and any(c.cell_type == "code" and name in defines(c.source) for c in cells[:index]):
            continue
        home = before[-1] if before else home_of(cells, release, name)
        if home is None:
            continue
        behind = _behind(cells, home, index, name)
        if behind <= index:
            continue
        what = "before a cell that it needs"
        if home > index:
            own = role_of(cells[home]) == "exercise" and exercise_of(cells[home]) == name
            what = "before its exercise" if own else f"before the cell that defines {name}"
        cells.insert(behind + 1, check)
        del cells[index]
        yield f"The check of {name} stood {what}; it stands after it now."


def _raise_stubs(cells: list[NotebookNode], check: NotebookNode, name: str, stub: str) -> Iterator[str]:
    """A stub that stands between an answer and its check would take the answer's place: it goes above the answer."""
    index = cells.index(check)
    real = [i for i in _definers(cells, name, stub) if i < index]
    for number in range(real[-1] + 1, index) if real else ():
        cell = cells[number]
        if _may_define(cell) and _made(cell.source, name, stub) == "stub" and _bound(cell.source) == {name}:
            del cells[number]
            cells.insert(real[0], cell)
            yield (
                f"An unfinished {name} stood after the cell that defines {name}; it stands before that cell now."
            )


def _behind(cells: Cells, home: int, index: int, name: str) -> int:
    """The last of the cells that the answer in cell ``home`` needs, by name and transitively, and that bind what is
    bound nowhere above."""
    last, waiting, seen = home, [(home, name)], set(dir(builtins))
    while waiting:
        at, wanted = waiting.pop()
        for each in _needed(cells[at].source, wanted) - seen:
            seen.add(each)
            binding = [i for i, c in enumerate(cells) if _may_define(c) and each in _bound(c.source)]
            above = [i for i in binding if i <= max(last, index)]
            real = [i for i in binding if _made(cells[i].source, each, "") != "stub"]
            if not above and real:
                last = max(last, real[0])
            chosen = above[-1:] or real[:1]
            waiting += [(i, each) for i in chosen]
    return last


def defined_again(cells: Cells, release: Cells) -> Iterator[tuple[NotebookNode, int]]:
    """Each check below which its name is defined otherwise once more, and where."""
    for index, check in enumerate(cells):
        if is_check(check):
            name = exercise_of(check)
            real = _definers(cells, name, _stub(release, name))
            judged = {cells[i].source.strip() for i in real if i < index}
            later = [i for i in real if i > index and cells[i].source.strip() not in judged]
            if judged and later:
                yield check, later[-1]


def halves(cells: Cells) -> Iterator[tuple[int, str, str]]:
    """Where a function was cut in two: the place behind its second half, both halves joined, its name."""
    code = [i for i, cell in enumerate(cells) if _may_define(cell)]
    for one, other in pairwise(code):
        roles = [role_of(cells[i]) for i in (one, other)]
        if sorted(roles) != [ADDED, "exercise"] or any(map(is_check, cells[one:other])):
            continue
        name = exercise_of(cells[one if roles[0] == "exercise" else other])
        joined = f"{cells[one].source.rstrip()}\n{cells[other].source.rstrip()}"
        known = any(cell.source == joined for cell in cells)
        works = _parsed(joined) is not None and _made(joined, name, "") == "defined"
        if works and not known and _parsed(cells[other].source) is None:
            yield other + 1, joined, name


# --- written questions ------------------------------------------------------------------------------------


def answers_beside(cells: Cells, release: Cells) -> dict[str, str]:
    """Written questions that are as they were handed out, each with the text of a learner's that stands beside it."""
    originals = {cell.id: cell for cell in release}
    found = {}
    for index, cell in enumerate(cells):
        untouched = role_of(cell) == "written" and cell.source.split() == originals[cell.id].source.split()
        if untouched and (text := _beside(cells, index, originals)):
            found[grade_id_of(cell)] = text
    return found


def _beside(cells: Cells, index: int, originals: Mapping[str, NotebookNode]) -> str:
    """What stands below a question, else above it, else at the notebook's end."""
    ways = (cells[index + 1 :], cells[:index][::-1], cells[index + 1 :][::-1])
    for way in ways:
        texts = []
        for cell in way:
            if not cell.source.strip():
                continue
            text = _own_text(cell, originals)
            texts += [text] if text else []
            if role_of(cell) != ADDED:
                break
        if texts:
            return " … ".join(texts if way is not ways[1] else texts[::-1])
    return ""


def _own_text(cell: NotebookNode, originals: Mapping[str, NotebookNode]) -> str:
    """What a learner wrote into a cell for somebody to read."""
    if role_of(cell) == ADDED:
        copied = any(cell.source.split() == original.source.split() for original in originals.values())
        wrote = "" if copied or (cell.cell_type == "code" and not _prose(cell.source)) else cell.source
    elif role_of(cell) == "text":
        given = {line.strip() for line in originals[cell.id].source.splitlines()}
        wrote = "\n".join(line for line in cell.source.splitlines() if line.strip() not in given)
    else:
        return ""
    return " ".join(wrote.split()) if re.search(r"\w", wrote) else ""


def _prose(source: str) -> bool:
    """Whether a code cell holds nothing that could run: text, comments or strings."""
    tree = _parsed(source)
    if tree is None:
        return not defines(source)
    return all(isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) for n in tree.body)


def quoted(text: str) -> str:
    """A learner's text, shortened, as one code span: nothing in it is read as Markdown, HTML or a formula."""
    short = text if len(text) <= QUOTED else text[: QUOTED - 1] + "…"
    return "`" + short.translate({ord("`"): "'", ord("$"): "＄", ord("\\"): "＼"}) + "`"
