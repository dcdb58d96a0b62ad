"""The source of a function or class, and a digest where the source is lost."""

from __future__ import annotations

import ast
import contextlib
import dis
import hashlib
import inspect
import linecache
import types
from typing import Any


def unwrapped(found: Any) -> Any:
    """The function beneath decorators and bindings."""
    with contextlib.suppress(ValueError):
        found = inspect.unwrap(found)
    return getattr(found, "__func__", found)


def fingerprint(thing: Any) -> str:
    """A digest of what the code of a function or class does, step by step, whatever its local variables are called;
    it shows a copy whose source cannot be had. Empty for what has no code."""
    members = [thing] if not inspect.isclass(thing) else [unwrapped(m) for m in vars(thing).values()]
    codes = [c for c in (getattr(m, "__code__", None) for m in members) if isinstance(c, types.CodeType)]
    if not codes:
        return ""
    return hashlib.sha256(repr(sorted(map(_done, codes))).encode()).hexdigest()


def _done(code: types.CodeType) -> str:
    # How an attribute is called depends on whether the same cell has imported what it is of.
    steps = [
        (step.opname.replace("LOAD_METHOD", "LOAD_ATTR"), _meant(step))
        for step in dis.get_instructions(code)
        if step.opname not in ("PUSH_NULL", "PRECALL")
    ]
    inner = [_done(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return repr((code.co_argcount, steps, inner))


def _meant(step: dis.Instruction) -> str:
    """What a step works on: names of other modules and constants as they are, local variables by their number."""
    if isinstance(step.argval, types.CodeType) or "JUMP" in step.opname:
        return ""
    if any(kind in step.opname for kind in ("FAST", "DEREF", "CLOSURE", "CELL")):
        return str(step.arg)
    return step.argrepr.replace("NULL|self + ", "").replace("NULL + ", "")


def source_of(thing: Any) -> str:
    """The source of a function or class, also of one typed into a notebook; empty where it cannot be had."""
    try:
        code = code_of(thing)
        if code is None:
            return ""
        lines = linecache.getlines(code.co_filename)
        tree = _tree("".join(lines))
        wanted = ast.ClassDef if inspect.isclass(thing) else (ast.FunctionDef, ast.AsyncFunctionDef)
        best = None
        for node in ast.walk(tree):
            if isinstance(node, wanted) and node.name == thing.__name__:
                inside = node.lineno <= code.co_firstlineno <= (node.end_lineno or node.lineno)
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                if inside or first <= code.co_firstlineno <= (node.end_lineno or first):
                    best = node
        return "" if best is None else ast.unparse(best)
    except (OSError, SyntaxError, ValueError, AttributeError, TypeError, RecursionError):
        return ""


def _tree(text: str) -> ast.Module:
    # Where two threads make trees at once, Python 3.11 mistakes the depth of one for the other's.
    for _ in range(5):
        with contextlib.suppress(SystemError):
            return ast.parse(text)
    return ast.parse(text)


def code_of(thing: Any) -> types.CodeType | None:
    """The code of a function, or of the first method that a class defines itself; None without one."""
    if inspect.isclass(thing):
        for member in vars(thing).values():
            code = code_of(unwrapped(member)) if callable(member) and not inspect.isclass(member) else None
            if code is not None and thing.__name__ in code.co_qualname:
                return code
        return None
    return getattr(thing, "__code__", None)
