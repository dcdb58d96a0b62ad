"""Every exercise, by topic. A topic's module holds ``EXERCISES``, in the order of its notebook."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from autograder.exercise import Exercise

TOPICS = ("preprocessing", "batchnorm", "visualization", "convolutionalize", "upsampling", "fcn", "unet")
"""The topics that have exercises, in the order of the lectures."""


@cache
def topic(name: str) -> tuple[Exercise, ...]:
    """A topic's exercises in notebook order; ValueError for an unknown topic."""
    if name not in TOPICS:
        raise ValueError(f"topic must be one of {', '.join(TOPICS)}, got {name!r}")
    return import_module(f"{__name__}.{name}").EXERCISES


def every() -> tuple[Exercise, ...]:
    """All exercises."""
    return tuple(exercise for name in TOPICS for exercise in topic(name))


def find(exercise_id: str) -> Exercise:
    """The exercise of that id; ValueError naming the known ones otherwise."""
    for exercise in every():
        if exercise.id == exercise_id:
            return exercise
    known = ", ".join(e.id for e in every())
    raise ValueError(f"exercise_id must be one of {known}, got {exercise_id!r}")
