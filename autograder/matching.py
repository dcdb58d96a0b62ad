"""Which cell of a submission is which of the release."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from autograder.cells import defines, exercise_of, grade_id_of, is_check, role_of

SIMILAR = 0.85
"""How alike two texts of the lecture are of which one is the other, edited."""


def match(cells: Sequence[Mapping[str, Any]], release: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Release cell number → submitted cell number: by grade id, else by cell id, else by source."""
    found: dict[int, int] = {}
    free = set(range(len(cells)))

    def take(number: int, candidates: Sequence[int]) -> None:
        """Of several claimants (a copied cell): one that was worked on, else the one that kept its id."""
        usable = [c for c in candidates if c in free]
        if number in found or not usable:
            return
        original = release[number]
        best = min(
            usable,
            key=lambda c: (
                cells[c]["cell_type"] != original["cell_type"],
                cells[c]["source"] == original["source"] and role_of(original) in ("exercise", "written"),
                cells[c].get("id") != original["id"],
                c,
            ),
        )
        found[number] = best
        free.discard(best)

    by_grade: dict[str, list[int]] = {}
    by_id: dict[str, list[int]] = {}
    by_source: dict[str, list[int]] = {}
    for number, cell in enumerate(cells):
        by_grade.setdefault(grade_id_of(cell), []).append(number)
        by_id.setdefault(str(cell.get("id")), []).append(number)
        by_source.setdefault(cell["source"].strip(), []).append(number)
    for number, original in enumerate(release):
        if grade_id_of(original):
            take(number, by_grade.get(grade_id_of(original), []))
    for number, original in enumerate(release):
        take(number, by_id.get(original["id"], []))
    for number, original in enumerate(release):
        take(number, by_source.get(original["source"].strip(), []))
    for number, original in enumerate(release):
        name = exercise_of(original)
        if is_check(original):
            call = re.compile(rf"\bcheck\(\s*['\"]{re.escape(name)}['\"]")
            take(
                number,
                [
                    c
                    for c in free
                    if call.search(cells[c]["source"]) and name not in defines(cells[c]["source"])
                ],
            )
        elif role_of(original) == "exercise":
            take(number, [c for c in free if name in defines(cells[c]["source"], assigned=False)])
    for number, original in enumerate(release):
        if number not in found:
            take(number, [c for c in sorted(free) if _similar(cells[c], original)])
    return found


def _similar(cell: Mapping[str, Any], original: Mapping[str, Any]) -> bool:
    if cell["cell_type"] != original["cell_type"] or role_of(original) in ("check", "exercise"):
        return False
    one, other = cell["source"], original["source"]
    if not one or not other or max(len(one), len(other)) > 20_000:
        return False
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return (
        matcher.real_quick_ratio() >= SIMILAR
        and matcher.quick_ratio() >= SIMILAR
        and matcher.ratio() >= SIMILAR
    )


def shared(notebook: Mapping[str, Any], release: Mapping[str, Any]) -> set[str]:
    """The exercises of a release that a notebook has, whatever it is called and whatever its metadata lost."""
    known = {cell["id"]: exercise_of(cell) for cell in release["cells"] if exercise_of(cell)}
    names = set(known.values())
    found: set[str] = set()
    for cell in notebook["cells"]:
        found |= {exercise_of(cell), known.get(str(cell.get("id")), ""), grade_id_of(cell)}
        if cell["cell_type"] == "code":
            found |= defines(cell["source"], assigned=False)
    return found & names


def worked_on(notebook: Mapping[str, Any], release: Mapping[str, Any]) -> set[str]:
    """The exercises of a release whose cells are not as they were handed out."""
    given = {cell["source"].strip() for cell in release["cells"]}
    names = {exercise_of(cell) for cell in release["cells"]} - {""}
    own = [
        c["source"]
        for c in notebook["cells"]
        if c["cell_type"] == "code" and c["source"].strip() not in given
    ]
    return set().union(*(defines(source) for source in own)) & names
