"""What in a cell ends the process that runs it: ``exit()``, ``os.kill``, the ways to restart a kernel."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import chain

_NAMES = {"exit", "quit"}
"""What IPython puts into every notebook."""
_ATTRIBUTES = {
    "os": {"_exit", "abort", "kill", "killpg"}
    | {f"exec{kind}" for kind in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")},
    "signal": {"raise_signal", "pthread_kill"},
    "faulthandler": {"_sigsegv", "_sigabrt", "_fatal_error"},
}
_ANYWHERE = {"do_shutdown", "ask_exit", "shutdown_kernel", "restart_kernel"}
"""Methods by which kernels are ended, whatever they are called on."""
_SHELL = re.compile(r"^[ \t]*(?:!|%%?(?:sx|system|bash|sh)\b).*\b(?:kill|pkill|killall)\b", re.MULTILINE)
_LINES = re.compile(r"^(?:exit|quit)\b(?:\s*\(.*\))?\s*;?\s*$", re.MULTILINE)


_WORDS = re.compile("|".join(sorted({*_NAMES, *_ANYWHERE, *chain.from_iterable(_ATTRIBUTES.values())})))


def ends_process(source: str) -> str:
    """What a cell would end its process by, as it is written there; "" where nothing is seen."""
    if not _WORDS.search(source):
        return ""
    if found := _SHELL.search(source):
        return found[0].strip()
    plain = re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)
    try:
        tree = ast.parse(plain)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        match = _LINES.search(source)
        return match[0].strip() if match else ""
    return next(_ends(tree), "")


def _ends(tree: ast.Module) -> Iterator[str]:
    own = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    known = {name: name for name in _NAMES - own}
    modules = {name: name for name in _ATTRIBUTES}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {a.asname: a.name for a in node.names if a.asname and a.name in _ATTRIBUTES}
        elif isinstance(node, ast.ImportFrom):
            ending = _ATTRIBUTES.get(node.module or "", set())
            known |= {a.asname or a.name: a.name for a in node.names if a.name in ending}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_end(node.func, known, modules):
            yield ast.unparse(node)
        elif isinstance(node, ast.Expr) and getattr(node.value, "id", "") in _NAMES - own:
            # IPython calls these two where they stand alone.
            yield ast.unparse(node)


def _is_end(called: ast.expr, known: dict[str, str], modules: dict[str, str]) -> bool:
    if isinstance(called, ast.Name):
        return called.id in known
    if not isinstance(called, ast.Attribute):
        return False
    module = modules.get(called.value.id, "") if isinstance(called.value, ast.Name) else ""
    return called.attr in _ANYWHERE or called.attr in _ATTRIBUTES.get(module, set())
