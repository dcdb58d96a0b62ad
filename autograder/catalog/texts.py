"""Texts of the catalogue, written as blocks: a blank line ends one, and a line that is indented goes on from the
one above."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Block(NamedTuple):
    """The lines of a block as they stand, and the number of the first within its text."""

    first: int
    lines: list[str]


def blocks(text: str) -> Iterator[Block]:
    lines: list[str] = []
    first = 0
    for number, line in enumerate([*textwrap.dedent(text).splitlines(), ""]):
        if line.strip():
            first = first if lines else number
            lines.append(line)
        elif lines:
            yield Block(first, lines)
            lines = []


def joined(lines: Sequence[str]) -> list[str]:
    """The lines, each with those that go on from it."""
    whole: list[str] = []
    for line in lines:
        if line.startswith(" ") and whole:
            whole[-1] += f" {line.strip()}"
        else:
            whole.append(line.rstrip())
    return whole
