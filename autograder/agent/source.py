"""The source of a function or class, and a digest where the source is lost."""

from __future__ import annotations

import ast
import contextlib
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
    """A digest of the global names, attributes and constants of a function or class, in the order of their
    use; it shows a copy whose source cannot be had. Empty for what has no code."""
    members = [thing] if not inspect.isclass(thing) else [unwrapped(m) for m in vars(thing).values()]
    codes = [c for c in (getattr(m, "__code__", None) for m in members) if isinstance(c, types.CodeType)]
    if not codes:
        return ""
    return hashlib.sha256(repr(sorted(map(_used, codes))).encode()).hexdigest()


def _used(code: types.CodeType) -> str:
    # The first constant is the docstring where there is one. Bytecode itself depends on the cell's imports.
    inner = [_used(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts[1:]]
    return repr((code.co_argcount, code.co_nlocals, code.co_names, inner))


def source_of(thing: Any) -> str:
    """The source of a function or class, also of one typed into a notebook; empty where it cannot be had."""
    try:
        code = code_of(thing)
        if code is None:
            return ""
        lines = linecache.getlines(code.co_filename)
        tree = ast.parse("".join(lines))
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


def code_of(thing: Any) -> types.CodeType | None:
    """The code of a function, or of the first method that a class defines itself; None without one."""
    if inspect.isclass(thing):
        for member in vars(thing).values():
            code = code_of(unwrapped(member)) if callable(member) and not inspect.isclass(member) else None
            if code is not None and thing.__name__ in code.co_qualname:
                return code
        return None
    return getattr(thing, "__code__", None)
