"""The arguments of a case as a reader sees them: by name, and in full where they fit on a screen."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Mapping
from typing import Any

import torch

from autograder.exercise import SCREEN, Case, Exercise
from autograder.values import Batches, Network, assigned, short

NUMBERS = 1000
"""So many numbers surely don't fit on a screen."""


def named(exercise: Exercise[Any], case: Case) -> dict[str, Any]:
    """The arguments by the names of the reference's parameters, and what stands beside them."""
    try:
        bound = inspect.signature(exercise.reference).bind_partial(*case.args, **case.kwargs).arguments
    except (TypeError, ValueError):
        bound = {**{str(k): v for k, v in enumerate(case.args)}, **case.kwargs}
    return {**bound, **case.extra}


def lines(exercise: Exercise[Any], case: Case) -> list[str]:
    """An entry for each argument, ``x = torch.tensor(…)``: statements that make it where the case fits on a screen, and
    what it is otherwise."""
    return statements(exercise, case) or [
        f"{name} = {short(value)}" for name, value in named(exercise, case).items()
    ]


def statements(exercise: Exercise[Any], case: Case) -> list[str]:
    """For each argument, the statements that make it; none where they don't fit on a screen, or an argument is made by
    none. They need torch, nn and OrderedDict."""
    arguments = named(exercise, case)
    if sum(map(_numbers, arguments.values())) > NUMBERS:
        return []
    try:
        made = [assigned(identifier(name), value) for name, value in arguments.items()]
    except ValueError:
        return []
    return made if sum(statement.count("\n") + 1 for statement in made) <= SCREEN else []


def identifier(name: str) -> str:
    """A name for code: what stands beside the arguments is named in words."""
    plain = re.sub(r"\W+", "_", name)
    return f"{plain}_" if keyword.iskeyword(plain) else plain


def _numbers(value: Any) -> int:
    match value:
        case torch.Tensor():
            return value.numel()
        case Batches(items):
            return sum(map(_numbers, items))
        case Network(_, tensors):
            return sum(map(_numbers, tensors.values()))
        case Mapping():
            return sum(map(_numbers, value.values()))
        case list() | tuple():
            return sum(map(_numbers, value))
    return 1
