"""Where cells ended when a class was graded, and what that cost: never points without a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from autograder.cells import defines, is_check, role_of
from autograder.exercise import Outcome, Verdict
from autograder.statements import at, changed, made, mended, needed, offset, refused

_LINE = re.compile(r"Cell In ?\[\d+\], line (\d+)|<cell line: (\d+)>|<timed exec>:(\d+)")
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_WHY = {
    "StdinNotImplementedError": " (nobody is there to answer input() when a class is graded)",
    "KeyboardInterrupt": " (its time was used up)",
}


@dataclass(frozen=True)
class Stop:
    """A statement that failed: in which kind of cell and line (0 where unknown), by what error, and the names that were
    not made."""

    role: str
    error: str
    line: int
    lost: frozenset[str]


def stop(cell: Mapping[str, Any], source: str, error: str, line: int) -> Stop:
    """What is lost by the statement in that line of a cell's ``source``, or somewhere in it."""
    if why := refused(source):
        lost = defines(source) | set(re.findall(r"^(\w+)\s*=", source, re.MULTILINE))
        return Stop(role_of(cell), "a SyntaxError", why.lineno or line, frozenset(lost))
    failed = at(source, line)
    gone = made(failed) | changed(failed) if failed else frozenset(defines(source))
    return Stop(role_of(cell), error, line, gone)


def named(reply: Mapping[str, Any]) -> str:
    """The name of the error that a kernel tells of, which may tell anything."""
    return re.sub(r"\W", "", str(reply.get("ename", "")))[:60] or "an error"


def line_of(reply: Mapping[str, Any], source: str) -> int:
    """The line of ``source`` in which a kernel says that it ended; 0 where it says none."""
    told = reply.get("traceback")
    # An error in how a magic is called leaves the traceback of an earlier one standing.
    if not isinstance(told, list) or reply.get("ename") == "UsageError":
        return 0
    found = _LINE.search(_COLORS.sub("", "\n".join(str(part)[:5000] for part in told[:20])))
    if found is None:
        return 0
    magics = re.match(r"(?:#.*\n|\s*%%.*\n)*", source) if found[3] else None
    return int(found[found.lastindex or 1]) + (magics[0].count("\n") if magics else offset(source))


def told(verdict: Verdict, stops: Iterable[Stop], cells: Iterable[Mapping[str, Any]]) -> Verdict:
    """The verdict; flagged, with the reason, where points are lost and something failed that the answer needs."""
    if verdict.points >= verdict.max_points:
        return verdict
    name = verdict.exercise
    sources = [mended(c["source"]) for c in cells if c["cell_type"] == "code" and not is_check(c)]
    wanted = needed(sources, (), {name})
    reason = next((_says(s, name, wanted) for s in stops if s.lost & wanted), "")
    if not reason:
        return verdict
    said = (
        reason
        if verdict.outcome is Outcome.NOT_ATTEMPTED
        else "; ".join(filter(None, [verdict.message, reason]))
    )
    return replace(verdict, message=said, flags=(*verdict.flags, reason))


def _says(stop: Stop, name: str, wanted: set[str]) -> str:
    whose = "a cell of the lecture" if stop.role == "story" else "your cell"
    where = f" in line {stop.line}" if stop.line else ""
    ended = f"{whose} ended with {stop.error}{where}{_WHY.get(stop.error, '')}"
    if name in stop.lost:
        return f"{ended}, before it defined {name}"
    return f"{ended}, before it made {', '.join(sorted(stop.lost & wanted)[:3])}, which {name} needs"
