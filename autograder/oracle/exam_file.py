"""An exam as a file: the inputs that decide about a class, to be kept beside its grades, sent, read and shown.

One file holds the exam of a lecture, all exercises drawn from one seed. It is one frame of the wire: bounded data,
nothing of it is executed. It says by which catalogue it was drawn, since another one would ask other things.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import autograder.catalog
import coursekit
from autograder import catalog, wire
from autograder.exercise import Case, Exercise
from autograder.oracle.exam import Exam

FORMAT = 1
PACKAGES = ("segmentation-course", "torch", "numpy")


class WrongExam(ValueError):
    """A file that is no exam, or one that cannot be sat here; says which and why."""


@cache
def digest() -> str:
    """Of the sources that say what is asked and what is right: the catalogue and the references."""
    found = hashlib.sha256()
    for package in (autograder.catalog, coursekit):
        home = Path(str(package.__file__)).parent
        for path in sorted(home.rglob("*.py")):
            found.update(f"{path.relative_to(home.parent)}\n".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def draw(exercises: Iterable[Exercise], seed: int | None = None) -> dict[str, Exam]:
    """An exam of several exercises, by their ids, from one seed; a fresh one where it is None."""
    seed = secrets.randbits(32) if seed is None else seed
    return {exercise.id: Exam(exercise, seed) for exercise in exercises}


def write(path: Path, exams: Mapping[str, Exam]) -> None:
    """Write an exam, at once and whole. Raises FileExistsError where there is one: it may have been sat."""
    (seed,) = {exam.seed for exam in exams.values()}
    frame = wire.dump(
        {
            "format": FORMAT,
            "seed": seed,
            "catalogue": digest(),
            "versions": versions(),
            "exercises": {
                name: {claim: [_data(case) for case in cases] for claim, cases in exam.every().items()}
                for name, exam in exams.items()
            },
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as partial:
        partial.write(frame)
    try:
        # Unlike a rename, a link does not take the place of what another process has written meanwhile.
        os.link(partial.name, path)
    except FileExistsError:
        raise
    except OSError:
        # Not every file system has links.
        if path.exists():
            raise FileExistsError(path) from None
        shutil.copyfile(partial.name, path)
    finally:
        os.unlink(partial.name)


def read(path: Path) -> dict[str, Exam]:
    """The exam of a file. Raises :class:`WrongExam`."""
    told = about(path)
    if told["catalogue"] != digest():
        raise WrongExam(
            f"{path} was drawn by another version of the catalogue (with {_named(told['versions'])}): what it asks may "
            "be judged otherwise now; move it away and a new one is drawn for the whole class"
        )
    try:
        return {
            name: Exam(
                catalog.find(name),
                told["seed"],
                {claim: [_case(data) for data in cases] for claim, cases in asked.items()},
            )
            for name, asked in told["exercises"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WrongExam(f"{path} is no exam: {type(error).__name__}: {error}") from None


def about(path: Path) -> dict[str, Any]:
    """What an exam's file says of itself, whoever drew it: seed, catalogue, versions, exercises. Raises
    :class:`WrongExam`."""
    try:
        told = wire.load(path.read_bytes())
    except (OSError, wire.WireError) as error:
        raise WrongExam(f"{path} is no exam: {error}") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise WrongExam(f"{path} is no exam of format {FORMAT}")
    kinds = {"seed": int, "catalogue": str, "versions": dict, "exercises": dict}
    for key, kind in kinds.items():
        if not isinstance(told.get(key), kind):
            raise WrongExam(f"{path} is no exam: {key} must be a {kind.__name__}")
    return told


def shared(path: Path, exercises: Iterable[Exercise], seed: int | None = None) -> dict[str, Exam]:
    """The exam that lies there, or a new one, which is then the one that everybody sits. Raises :class:`WrongExam`."""
    if not path.exists():
        # Where another process was quicker, its exam stands.
        with contextlib.suppress(FileExistsError):
            write(path, draw(exercises, seed))
    return read(path)


def _data(case: Case) -> dict[str, Any]:
    return {"args": case.args, "kwargs": dict(case.kwargs), "extra": dict(case.extra)}


def _case(data: Mapping[str, Any]) -> Case:
    return Case(tuple(data["args"]), data["kwargs"], data["extra"])


def _named(told: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in told.items())
