"""Answers that are, call or copy what they should be instead of."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any

from autograder import agent
from autograder.agent.watch import UNWATCHED
from autograder.exercise import Exercise
from coursekit import TOPICS

COPY_NODES = 60


def shortcut(exercise: Exercise, looked: Mapping[str, Any], seen: set[str]) -> str | None:
    """Why the answer is a shortcut: it is, extends, calls or copies the reference, or calls what is forbidden."""
    where = [looked.get("module", ""), *(b.rpartition(".")[0] for b in looked.get("bases", ()))]
    if UNWATCHED in seen:
        return "it switches off, or asks for, what looks at its calls"
    references = tuple(f"coursekit.{topic}" for topic in TOPICS)
    if looked.get("module") in references:
        return f"this is the reference, {looked['module']}.{exercise.id}"
    if any(w in references for w in where):
        return "this class extends the reference"
    for name in sorted(seen):
        module, _, function = name.partition(".")[2].partition(".")
        public = module in TOPICS and not function.startswith(("_", "<"))
        if name.startswith("coursekit.") and public and not exercise.may_use(name):
            return f"it calls the reference, {name}"
    for call in exercise.forbidden:
        if seen.intersection(call.seen) or any(
            s.startswith(c) for c in call.seen if c.endswith(".") for s in seen
        ):
            return f"it calls {call.name}, which is the exercise itself"
    if _copied(exercise.reference, looked.get("source", ""), looked.get("fingerprint", "")):
        return "it is a copy of the reference"
    return None


@cache
def normalized(source: str) -> tuple[str, int]:
    """A function's or class's syntax tree as text, without docstrings, annotations, argument checks and the
    names its author chose, and its number of nodes."""
    tree = ast.parse(textwrap.dedent(source))
    for top in tree.body:
        if isinstance(top, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            top.name = "_"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.body = [line for line in node.body if not _beside_the_point(line)] or [ast.Pass()]
    bound = {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    bound |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
            node.arg = names.setdefault(node.arg, f"v{len(names)}")
        elif isinstance(node, ast.Name) and node.id in bound:
            node.id = names.setdefault(node.id, f"v{len(names)}")
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree), sum(1 for _ in ast.walk(tree))


def _beside_the_point(line: ast.stmt) -> bool:
    """A docstring, a bare annotation, a call for its exception, `if …: raise`: what a copy can leave out or add."""
    if isinstance(line, ast.AnnAssign):
        return line.value is None
    if isinstance(line, ast.If):
        return not line.orelse and all(isinstance(inner, ast.Raise) for inner in line.body)
    if not isinstance(line, ast.Expr):
        return False
    called = line.value.func if isinstance(line.value, ast.Call) else None
    if isinstance(called, ast.Attribute):
        return isinstance(called.value, ast.Name) and called.value.id == "validate"
    return isinstance(line.value, ast.Constant) or (isinstance(called, ast.Name) and called.id == "_check")


@cache
def _copied(reference: Any, source: str, fingerprint: str) -> bool:
    # Short answers can be equal by accident: ten people write the same two-line formula.
    try:
        original, nodes = normalized(inspect.getsource(reference))
    except (SyntaxError, OSError, TypeError, ValueError):
        return False
    if nodes < COPY_NODES:
        return False
    if fingerprint and fingerprint == agent.fingerprint(reference):
        return True
    try:
        return normalized(source)[0] == original
    except (SyntaxError, ValueError, RecursionError):
        return False
