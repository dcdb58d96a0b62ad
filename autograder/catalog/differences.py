"""A wrong answer as what it changes of a right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from autograder.exercise import Exercise, Misconception

AROUND = 2
"""Unchanged lines shown on both sides of a change."""


def difference(exercise: Exercise, misconception: Misconception) -> list[str]:
    """The lines of a wrong answer, each behind ``-``, ``+`` or a space: what it drops of the right answer that is
    nearest to it, what it adds, and a little around that. An answer with nothing in common is all ``+``."""
    wrong = misconception.code.body.splitlines()
    rights = [variant.code.body.splitlines() for variant in exercise.right]
    nearest = max(rights, key=lambda right: difflib.SequenceMatcher(None, right, wrong).ratio())
    lines = list(_compared(nearest, wrong))
    # Where little stays, a reader is better off with the answer itself.
    if sum(not line.startswith(" ") for line in lines) > len(wrong):
        return [f"+ {line}".rstrip() for line in wrong]
    return lines


def _compared(right: list[str], wrong: list[str]) -> Iterator[str]:
    ended = 0
    for group in difflib.SequenceMatcher(None, right, wrong).get_grouped_opcodes(AROUND):
        if group[0][1] > ended:
            yield "  ..."
        for kind, a, b, c, d in group:
            if kind == "equal":
                yield from (f"  {line}".rstrip() for line in right[a:b])
            else:
                yield from (f"- {line}".rstrip() for line in right[a:b])
                yield from (f"+ {line}".rstrip() for line in wrong[c:d])
        ended = group[-1][2]
    if ended < len(right):
        yield "  ..."
