"""What exercises of lecture 01 share: images and dtypes."""

from collections.abc import Callable
from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.observations import as_double, described, named
from autograder.draw import Draw
from autograder.exercise import Case, Forbidden

SCALERS = Forbidden("sklearn.preprocessing", ("sklearn.preprocessing.",))


def varied_images(d: Draw, n: int, c: int, h: int, w: int) -> torch.Tensor:
    """Images of different brightness, so that what is averaged over shows in every number."""
    brightness = torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1)
    channels = 3.0 * torch.arange(c, dtype=torch.float64).view(1, c, 1, 1)
    return d.tensor(n, c, h, w) + brightness + channels


def bright_bytes(d: Draw) -> Case:
    shape = (d.integer(2, 5), d.integer(2, 3), d.integer(2, 4), d.integer(2, 5))
    return Case((d.integers(*shape, low=150, high=255, dtype=torch.uint8),))


def whole_numbers(d: Draw) -> Case:
    # The numbers of images and of channels differ, so that the shape tells which of the two was averaged.
    n, c = d.choice([(3, 2), (2, 3), (4, 2), (4, 3)])
    return Case((d.integers(n, c, 2, 3, low=100, high=255),))


KINDS = (torch.uint8, torch.int64, torch.float32, torch.float64)


def kinds_of_answers(subject: Subject, case: Case) -> Any:
    """Shape and dtype of the answer for each dtype of the input, and what was modified in place."""
    seen: dict[str, Any] = {}
    for dtype in KINDS:
        images = case.args[0].to(dtype)
        answer, changed = subject.with_changes(images)
        seen[f"for {str(dtype).removeprefix('torch.')} images"] = described(answer)
        seen["modified in place"] = bool(changed) or seen.get("modified in place", False)
    return seen


mean_and_std = named("mean", "std")


def numbers_of(index: int) -> Callable[[Subject, Case], Any]:
    """One of the two returned values, without its dtype."""

    def observe(subject: Subject, case: Case) -> Any:
        result = subject(*case.args)
        if not isinstance(result, list | tuple) or len(result) != 2:
            return result
        return as_double(result[index])

    return observe
