"""Every exercise, by topic. A topic's package holds ``ORDER``, the ids in the order of its notebook, and a module
for each of them, named as the id is in snake_case, with the entry as ``EXERCISE``."""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module

from autograder.exercise import Exercise
from coursekit import TOPICS


@cache
def topic(name: str) -> tuple[Exercise, ...]:
    """A topic's exercises in notebook order; ValueError for an unknown topic."""
    if name not in TOPICS:
        raise ValueError(f"topic must be one of {', '.join(TOPICS)}, got {name!r}")
    return tuple(_entry(name, exercise_id) for exercise_id in _order(name))


def every() -> tuple[Exercise, ...]:
    """All exercises."""
    return tuple(exercise for name in TOPICS for exercise in topic(name))


def find(exercise_id: str) -> Exercise:
    """The exercise of that id; ValueError naming the known ones otherwise. Only its own module is imported."""
    for name in TOPICS:
        if exercise_id in _order(name):
            return _entry(name, exercise_id)
    known = ", ".join(e for name in TOPICS for e in _order(name))
    raise ValueError(f"exercise_id must be one of {known}, got {exercise_id!r}")


def _order(name: str) -> tuple[str, ...]:
    return import_module(f"{__name__}.{name}").ORDER


def _entry(name: str, exercise_id: str) -> Exercise:
    module = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", exercise_id).lower()
    return import_module(f"{__name__}.{name}.{module}").EXERCISE
