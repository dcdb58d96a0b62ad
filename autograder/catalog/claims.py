"""What an exercise claims and which help it gives, as texts::

properties=claims(
    \"\"\"
    blocks (1): each value is repeated factor×factor times, as one block

    narrow (0.5): maps of one row, one column or one value; factor 1
    tried: nearest_upsample for each of these
    \"\"\",
    blocks=on(_blocks_case),
    narrow=on(_narrow_case, each, examples=2),
)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from autograder.catalog.texts import blocks, joined
from autograder.draw import Draw
from autograder.exercise import Case, Hint, Mismatch, Property, call

_HEAD = re.compile(r"(\w+) \((\d+(?:\.\d+)?)\): (.+)")


class Trial(NamedTuple):
    """How a claim is tried, as :class:`~autograder.exercise.Property` has it."""

    draw: Callable[[Draw], Case]
    observe: Callable[[Any, Case], Any]
    judge: Callable[[Case, Any, Any], Mismatch | None] | None
    examples: int
    tolerance: tuple[float, float] | None
    beside: str


def on(
    draw: Callable[[Draw], Case],
    observe: Callable[[Any, Case], Any] = call,
    judge: Callable[[Case, Any, Any], Mismatch | None] | None = None,
    *,
    examples: int = 8,
    tolerance: tuple[float, float] | None = None,
    beside: str = "",
) -> Trial:
    """What is drawn for a claim, what is looked at, and beside which other claim it counts."""
    return Trial(draw, observe, judge, examples, tolerance, beside)


def claims(text: str, **trials: Trial) -> tuple[Property, ...]:
    """The properties that a text tells, a line each: ``name (points): what is claimed``, and below it, where more is
    done with an answer than one call, ``tried: …``; a line that goes on is indented. Raises ValueError where text and
    trials do not fit."""
    told: list[list[str]] = []
    for line in (line for block in blocks(text) for line in joined(block.lines)):
        if line.startswith("tried: ") and told and len(told[-1]) == 1:
            told[-1].append(line.removeprefix("tried: "))
        else:
            told.append([line])
    made = []
    for first, *tried in told:
        head = _HEAD.fullmatch(first)
        if head is None:
            raise ValueError(f"a claim is `name (points): what is claimed`, got {first!r}")
        name, points, says = head.groups()
        if name not in trials:
            raise ValueError(f"the claim {name!r} is told and not tried")
        made.append(Property(name, says, float(points), *trials.pop(name), tried="".join(tried)))
    if trials:
        raise ValueError(f"the claim {next(iter(trials))!r} is tried and not told")
    for claim in made:
        if claim.beside and claim.beside not in {c.name for c in made if not c.beside}:
            raise ValueError(
                f"the claim {claim.name!r} stands beside one that counts alone, got {claim.beside!r}"
            )
    return tuple(made)


def hints(text: str) -> tuple[Hint, Hint, Hint]:
    """The three hints that a text tells, a block each: the symptom, and below it the help."""
    told = [joined(block.lines) for block in blocks(text)]
    if [len(lines) for lines in told] != [2, 2, 2]:
        raise ValueError(
            f"three hints of a symptom and its help are told, got blocks of {list(map(len, told))} lines"
        )
    one, two, three = (Hint(symptom, help) for symptom, help in told)
    return one, two, three
