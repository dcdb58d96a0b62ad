"""What in the code of a submission can hide from the watch what an answer calls: told to a person, and never charged.

Outputs prove what was computed, not how, and the watch over library calls lives in the learner's own process, where it can
be lied to by who knows of it. The source lies outside, and says who does.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autograder.cells import is_check, role_of
from autograder.exercise import Verdict
from autograder.statements import UNREADABLE, mended, parsed

FOR_LEARNERS = frozenset(["check", "example", "hint", "progress", "learner"])
OWN = "the autograder's own modules"
_WORDS = {
    "what looks at its calls": (
        "setprofile", "setprofile_all_threads", "getprofile", "settrace", "settrace_all_threads", "gettrace", "pythonapi",
        "_getframe", "_current_frames", "currentframe", "f_back", "f_locals", "get_objects", "get_referrers",
        "_python_dispatch", "TorchDispatchMode", "_disable_current_modes", "_DisableTorchDispatch", "AUTOGRADER_SOCKET",
    ),
    "other threads and processes": (
        "fork", "forkpty", "posix_spawn", "posix_spawnp", "subprocess", "multiprocessing", "threading", "_thread",
        "ThreadPoolExecutor", "ProcessPoolExecutor", "to_thread", "run_in_executor",
    ),
}  # fmt: skip
_WHAT = {word: what for what, words in _WORDS.items() for word in words}
_UNREAD = frozenset(["exec", "eval", "compile", "__import__"])
"""Functions of that name run code that stands in no cell; methods, as of networks and patterns, do not."""
FILE = 2**20
"""More bytes than a file of code has."""


def audited(verdict: Verdict, found: Collection[str]) -> Verdict:
    """The verdict; where points were earned beside such code, a person is told what was seen of it."""
    if not found or verdict.points <= 0:
        return verdict
    return replace(
        verdict, flags=(*verdict.flags, f"what it calls may not all have been seen: {'; '.join(found)}")
    )


def audit(
    cells: Iterable[Mapping[str, Any]], release: Iterable[Mapping[str, Any]], files: Iterable[Path] = ()
) -> Sequence[str]:
    """What stands in the cells of a submission and the files beside it, and not in the release, as parts of a sentence."""
    own = dict.fromkeys(name for source in (*_sources(cells), *_texts(files)) for name in _named(source))
    given = {name for source in _sources(release) for name in _named(source)}
    by_what: dict[str, list[str]] = {}
    for what, word in own:
        if (what, word) not in given:
            by_what.setdefault(what, []).append(word)
    return [f"its notebook uses {what} ({', '.join(words[:4])})" for what, words in by_what.items()]


def _sources(cells: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    return (
        mended(c["source"])
        for c in cells
        if c["cell_type"] == "code" and not is_check(c) and role_of(c) != "setup"
    )


def _texts(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        if path.suffix == ".py" and path.stat().st_size <= FILE:
            yield path.read_text(encoding="utf-8", errors="replace")


def _named(source: str) -> Iterator[tuple[str, str]]:
    """What the code names of all that, wherever in it, and in texts too: they name attributes and modules as well."""
    try:
        nodes = list(ast.walk(parsed(source)))
    except UNREADABLE:
        return
    for node in nodes:
        for word in _words(node):
            if word in _WHAT:
                yield _WHAT[word], word
            elif word.startswith("autograder.") and word.split(".")[1] not in FOR_LEARNERS:
                yield OWN, word
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in _UNREAD:
            yield "code that stands in no cell", node.id


def _words(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(id=name):
            yield name
        case ast.Attribute(value=ast.Name(id="autograder"), attr=name):
            yield f"autograder.{name}"
        case ast.Attribute(attr=name):
            yield name
        case ast.Constant(value=str(text)) if text.isascii() and len(text) < 80:
            yield text
        case ast.Import(names=names):
            yield from (name.name for name in names)
            yield from (part for name in names for part in name.name.split("."))
        case ast.ImportFrom(module=str(module), names=names):
            yield from (f"{module}.{name.name}" for name in names)
            yield from (part for part in (*module.split("."), *(name.name for name in names)))
