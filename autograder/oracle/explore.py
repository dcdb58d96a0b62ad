"""Drawing the cases of a property, and smaller ones where one fails."""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from autograder.draw import Draw
from autograder.exercise import Case
from autograder.values import Batches, Network


def entropy(seed: int, name: str) -> int:
    """The seed of one part of a check, such as a property."""
    return zlib.crc32(f"{seed}/{name}".encode())


def explore(
    draw: Callable[[Draw], Case], seed: int, visit: Callable[[Case], None], *, shrink: bool, examples: int
) -> None:
    """Call ``visit`` on drawn cases; with ``shrink`` an exception from it starts the search for smaller ones."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, Verbosity, settings, strategies

    @strategies.composite
    def cases(choose: Any) -> Case:
        return draw(Draw(choose, seed))

    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
    )
    @hypothesis.given(cases())
    def run(case: Case) -> None:
        visit(case)

    with _elsewhere():
        run()


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """Hypothesis keeps small caches; they belong in the temporary folder and not in the learner's."""
    from hypothesis import configuration

    # The home is asked for at the first use, and an explicit choice of the learner's is left alone.
    if "HYPOTHESIS_STORAGE_DIRECTORY" not in os.environ:
        configuration.set_hypothesis_home_dir(os.path.join(tempfile.gettempdir(), "coursekit-hypothesis"))
    try:
        yield
    finally:
        if "HYPOTHESIS_STORAGE_DIRECTORY" not in os.environ:
            configuration.set_hypothesis_home_dir(None)


def size_of(case: Case) -> int:
    """How much a reader has to take in: numbers of values, and whole numbers by their size."""

    def count(value: Any) -> int:
        match value:
            case torch.Tensor():
                return 8 + value.numel()
            case Batches(items):
                return 8 + sum(count(i) for i in items)
            case Network(_, tensors):
                return 8 + sum(t.numel() for t in tensors.values())
            case Mapping():
                return sum(count(v) for v in value.values())
            case list() | tuple():
                return 1 + sum(count(v) for v in value)
            case int():
                return min(abs(value), 64)
        return 1

    return count(case.args) + count(case.kwargs) + count(case.extra)
