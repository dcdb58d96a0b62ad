"""The statements of a cell: read through IPython's own syntax, and what names each makes, changes and uses.

Line numbers are the cell's own throughout, so that what is said of a line is true of what the learner sees.
"""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What parsing may raise on what somebody wrote into a cell."""

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

NOT_PYTHON = frozenset(
    [
        "bash",
        "sh",
        "script",
        "html",
        "HTML",
        "javascript",
        "js",
        "latex",
        "markdown",
        "svg",
        "SVG",
        "perl",
        "ruby",
        "pypy",
        "python",
        "python2",
        "python3",
        "cmd",
        "system",
        "sx",
        "!",
        "writefile",
        "file",
        "timeit",
    ]
)
"""Cell magics whose body is no Python of this kernel, or runs apart from the notebook's names."""

_MENDED = {
    **dict.fromkeys("\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
    **dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", ""),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033\uff02", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4\uff07", "'"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\uff0d", "-"),
    **dict(zip("\uff08\uff09\uff3b\uff3d\uff0c\uff1a\uff1b\uff1d\uff0b\uff0a\uff0f\u00d7", "()[],:;=+*/*", strict=True)),
}  # fmt: skip
"""What word processors, web pages and keyboards of other languages put in place of Python's own characters."""


# --- reading ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def parsed(source: str) -> ast.Module:
    """The statements of a cell, magics and shell lines as the calls IPython makes of them. Raises :data:`UNREADABLE`.

    A source is read once, and so is what its statements make, change and use: all cells of a class's notebooks are asked
    about again for each exercise, and most of them are the lecture's own.
    """
    try:
        return ast.parse(source)
    except UNREADABLE:
        plain = _plain(source)
        if plain == source:
            raise
        return ast.parse(plain)


def _plain(source: str) -> str:
    """Python in place of IPython's own syntax, line for line."""
    from IPython.core.inputtransformer2 import TransformerManager

    lines = source.split("\n")
    for number, line in enumerate(lines):
        magic = re.match(r"\s*%%(\S*)", line)
        if magic and magic[1] in NOT_PYTHON:
            return "#\n" * number
        if line.strip() and not magic:
            break
        # IPython leaves empty lines at the top out, and every number would be wrong.
        lines[number] = "#"
    # What is timed is run in the cell as well.
    lines = [re.sub(r"^(\s*)%time\s+(?!-)(?=\S)", r"\1", line) for line in lines]
    return TransformerManager().transform_cell("\n".join(lines))


def offset(source: str) -> int:
    """How many lines IPython leaves out at the top of a cell before it counts."""
    return len(re.match(r"(?:[ \t]*\n)*", source)[0].splitlines())  # type: ignore[index]


def mended(source: str) -> str:
    """A cell that compiles once look-alikes of Python's own characters are replaced, so replaced; else as it is.

    Only lines that Python refuses are touched: a text may hold any of these characters.
    """
    tried = source
    for _ in range(source.count("\n") + 2):
        try:
            parsed(tried)
            return tried
        except SyntaxError as error:
            lines = tried.split("\n")
            number = (error.lineno or 0) - 1
            better = _replaced(lines[number]) if 0 <= number < len(lines) else ""
            if number < 0 or number >= len(lines) or better == lines[number]:
                return source
            lines[number] = better
            tried = "\n".join(lines)
        except UNREADABLE:
            return source
    return source


def _replaced(line: str) -> str:
    return "".join(_MENDED.get(character, character) for character in line)


def refused(source: str) -> SyntaxError | None:
    """Why a cell does not compile, or None where it does."""
    try:
        parsed(source)
    except SyntaxError as error:
        return error
    except UNREADABLE as error:
        return SyntaxError(str(error))
    return None


# --- names ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16384)
def made(node: ast.stmt) -> frozenset[str]:
    """The names that a statement binds in the notebook."""
    if isinstance(node, DEFINITIONS):
        return frozenset({node.name})
    if isinstance(node, IMPORTS):
        return frozenset(alias.asname or alias.name.partition(".")[0] for alias in node.names)
    names: set[str] = set()
    for inner in _outside_functions(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            names.add(inner.id)
        elif isinstance(inner, ast.MatchAs | ast.MatchStar | ast.MatchMapping):
            names.add((inner.rest if isinstance(inner, ast.MatchMapping) else inner.name) or "")
        elif isinstance(inner, COMPREHENSIONS):
            # All but what `:=` binds is its own.
            names |= {one.target.id for one in ast.walk(inner) if isinstance(one, ast.NamedExpr)}
        elif isinstance(inner, (*DEFINITIONS, *IMPORTS)):
            names |= made(inner)
    return frozenset(names - {""})


def deleted(node: ast.stmt) -> set[str]:
    """The names that a statement takes from the notebook: by ``del``, or as the name of an error that it has caught."""
    names: set[str] = set()
    for inner in _outside_functions(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Del):
            names.add(inner.id)
        elif isinstance(inner, ast.ExceptHandler) and inner.name:
            names.add(inner.name)
    return names


def made_by_functions(node: ast.stmt) -> set[str]:
    """The names of the notebook that functions in a statement bind or delete once they are called, by ``global``."""
    declared, bound = set(), set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Global):
            declared |= set(inner.names)
        elif isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            bound.add(inner.id)
        elif isinstance(inner, (*DEFINITIONS, *IMPORTS)) and inner is not node:
            bound |= made(inner)
    return declared & bound


def called(node: ast.AST, *, at_once: bool = False) -> set[str]:
    """The names that a statement calls; ``at_once`` leaves those out that only functions call which it defines."""
    names: set[str] = set()
    left: list[ast.AST] = [node]
    while left:
        inner = left.pop()
        if at_once and isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            left += [*inner.decorator_list, inner.args]
            continue
        if at_once and isinstance(inner, ast.Lambda):
            left.append(inner.args)
            continue
        if isinstance(inner, ast.Call):
            if isinstance(inner.func, ast.Name):
                names.add(inner.func.id)
            elif isinstance(inner.func, ast.Lambda):
                left.append(inner.func.body)
        left += ast.iter_child_nodes(inner)
    return names


@lru_cache(maxsize=16384)
def changed(node: ast.stmt) -> frozenset[str]:
    """The names whose objects a statement changes by what can be seen of it: ``a[0] = …``, ``a.b = …``, ``a.append(…)``."""
    if isinstance(node, (*DEFINITIONS, *IMPORTS)):
        return frozenset()
    names: set[str] = set()
    for inner in _outside_functions(node):
        if isinstance(inner, ast.Attribute | ast.Subscript) and not isinstance(inner.ctx, ast.Load):
            names |= _root(inner)
        elif isinstance(inner, ast.Expr) and isinstance(
            called := getattr(inner.value, "func", None), ast.Attribute
        ):
            names |= _root(called)
    return frozenset(names)


@lru_cache(maxsize=16384)
def used(node: ast.stmt, *, at_once: bool = False) -> frozenset[str]:
    """The names of the notebook that a statement reads, also later, when what it defines is called.

    ``at_once`` leaves those out that only the bodies of functions read.
    """
    try:
        code = compile(ast.Module([node], []), "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except UNREADABLE:
        return frozenset()
    return frozenset(_read(code, at_once))


def free(nodes: Iterable[ast.stmt]) -> set[str]:
    """The names that statements, run one after the other, need from before."""
    needed: set[str] = set()
    before: set[str] = set()
    for node in nodes:
        needed |= used(node) - before
        before |= made(node)
    return needed


def _read(code: types.CodeType, at_once: bool) -> Iterator[str]:
    import dis

    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "DELETE_NAME"):
            yield str(step.argval)
    for inner in code.co_consts:
        # A class body runs at once, and so does a comprehension.
        later = at_once and isinstance(inner, types.CodeType) and inner.co_flags & 0x2
        if isinstance(inner, types.CodeType) and (not later or inner.co_name.endswith("comp>")):
            yield from _read(inner, at_once)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """A statement and what is in it, but for what has names of its own."""
    yield node
    if isinstance(node, (*DEFINITIONS, ast.Lambda, *COMPREHENSIONS)):
        return
    for inner in ast.iter_child_nodes(node):
        yield from _outside_functions(inner)


def _root(node: ast.expr) -> set[str]:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()


# --- choosing ---------------------------------------------------------------------------------------------


def only(source: str, wanted: Callable[[ast.stmt], bool]) -> str:
    """A cell's lines of the wanted statements where they stood; "" where it has none, or does not compile."""
    try:
        nodes = [node for node in parsed(source).body if wanted(node)]
    except UNREADABLE:
        return ""
    lines = source.split("\n")
    kept = ["#"] * len(lines)
    for node in nodes:
        first, last = extent(node)
        kept[first - 1 : last] = lines[first - 1 : last]
    return "\n".join(kept).rstrip("#\n") if nodes else ""


def after(source: str, line: int) -> str:
    """A cell without the statement that has this line, and those before it; "" where nothing is left."""
    return only(source, lambda node: extent(node)[0] > line)


def at(source: str, line: int) -> ast.stmt | None:
    """The statement that has a line of a cell."""
    try:
        found = (node for node in parsed(source).body if extent(node)[0] <= line <= extent(node)[1])
        return next(found, None)
    except UNREADABLE:
        return None


def extent(node: ast.stmt) -> tuple[int, int]:
    """First and last line of a statement, decorators included."""
    decorators = [d.lineno for d in getattr(node, "decorator_list", ())]
    return min([node.lineno, *decorators]), node.end_lineno or node.lineno


def needed(lecture: Iterable[str], own: Iterable[str], also: Collection[str] = ()) -> set[str]:
    """The names that the learner's cells need, and those that the lecture's need in turn to make them."""
    lecture = list(lecture)
    names = set(also)
    for source in own:
        names |= free(_statements(source))
    # `figures.show(…)` changes no module.
    values = assigned(lecture)
    nodes = [node for source in lecture for node in _statements(source)]
    reads = [(made(node) | (changed(node) & values), used(node)) for node in nodes]
    before = -1
    while before != len(names):
        before = len(names)
        for makes, uses in reads:
            if not makes.isdisjoint(names):
                names |= uses
    return names


def assigned(sources: Iterable[str]) -> set[str]:
    """The names that cells make otherwise than by importing."""
    nodes = (node for source in sources for node in _statements(source) if not isinstance(node, IMPORTS))
    return {name for node in nodes for name in made(node)}


def _statements(source: str) -> list[ast.stmt]:
    try:
        return parsed(source).body
    except UNREADABLE:
        return []
