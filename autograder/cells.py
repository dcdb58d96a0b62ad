"""What a cell of a course notebook is: its role, its exercise, whether the machine grades it, what it defines.

A cell is a mapping, out of a notebook or of JSON where anything may stand. Its metadata is true in what the
course made; in a submission it is what somebody claims, until the doctor has put the release's in its place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping
from typing import Any

from autograder.statements import DEFINITIONS, IMPORTS, UNREADABLE, changed, made, only, parsed

KEY = "coursekit"
"""Where the metadata of cells, notebooks and outputs holds what the course has to say of them."""

ADDED = "added"
"""The role of a cell that is not the course's."""


def about(thing: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the course says of a cell, a notebook or an output; empty where it says nothing."""
    return _metadata(thing, KEY)


def role_of(cell: Mapping[str, Any]) -> str:
    """``text``, ``setup``, ``story``, ``exercise``, ``check``, ``written``, or ``added`` for any other cell.

    A cell is a check where :func:`is_check` says so, whatever else it calls itself.
    """
    if is_check(cell):
        return "check"
    role = str(about(cell).get("role", ADDED))
    return role if role != "check" else ADDED


def exercise_of(cell: Mapping[str, Any]) -> str:
    """The exercise a cell belongs to, or ""; a check of which the course says none bears its exercise's name."""
    return str(about(cell).get("exercise", "")) or (grade_id_of(cell) if is_check(cell) else "")


def grade_id_of(cell: Mapping[str, Any]) -> str:
    """The name nbgrader knows a cell by, or ""."""
    found = _metadata(cell, "nbgrader").get("grade_id")
    return found if isinstance(found, str) else ""


def is_check(cell: Mapping[str, Any]) -> bool:
    """Whether the machine grades a cell: nbgrader then reads the points out of its outputs.

    This is nbgrader's own rule and no finer one, so that no cell is scored whose outputs the grader did not
    write.
    """
    marks = _metadata(cell, "nbgrader")
    return cell.get("cell_type") == "code" and bool(marks.get("grade")) and not marks.get("solution")


def _metadata(thing: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return mapping(mapping(thing.get("metadata")).get(key))


def mapping(value: Any) -> Mapping[str, Any]:
    """``value``, or nothing in place of anything that is no mapping."""
    return value if isinstance(value, Mapping) else {}


def defines(source: str, *, assigned: bool = True) -> set[str]:
    """The functions and classes a cell defines at its top level, also where it does not compile.

    ``assigned`` counts ``batchnorm_forward = my_version`` too.
    """
    try:
        tree = parsed(source)
    except UNREADABLE:
        return set(re.findall(r"^(?:async\s+def|def|class)\s+(\w+)", source, re.MULTILINE))
    names = {node.name for node in tree.body if isinstance(node, DEFINITIONS)}
    for node in tree.body if assigned else ():
        targets = node.targets if isinstance(node, ast.Assign) else []
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def definitions(source: str, needed: Collection[str] = ()) -> str:
    """The imports, functions, classes and constants of a cell, and every statement that makes or changes what is
    ``needed``, each where it stands; the lines of the others hold nothing."""
    return only(source, lambda node: _defines(node) or not (made(node) | changed(node)).isdisjoint(needed))


def _defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        try:
            ast.literal_eval(node.value)
        except (ValueError, TypeError):
            return False
        return all(isinstance(target, ast.Name) for target in targets)
    return isinstance(node, (*DEFINITIONS, *IMPORTS))
