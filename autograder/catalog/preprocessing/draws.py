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
    """Bytes of which two do not fit into one; brightness differs by image, spread by channel. The means
    of the channels are within 1 of each other: around which one the spread is taken is asked elsewhere."""
    n, c, (h, w) = d.choice([2, 3]), d.choice([2, 3, 1]), d.choice([(3, 4), (2, 6), (4, 3)])
    bright = 70 * (torch.arange(n) % 2).view(n, 1, 1, 1)
    channel = torch.arange(c).view(1, c, 1, 1)
    pixels = (d.integers(n, c, h, w, low=0, high=40) + bright) // (1 + channel)
    means = pixels.double().mean((0, 2, 3), keepdim=True)
    return Case(((pixels + 130 + (means[:, :1] - means).round()).to(torch.uint8),))


def whole_numbers(d: Draw) -> Case:
    # The numbers of images and of channels differ, so that the shape tells which of the two was averaged.
    n, c = d.choice([(3, 2), (2, 3), (4, 2), (4, 3)])
    return Case((d.integers(n, c, 2, 3, low=100, high=255),))


KINDS = (torch.uint8, torch.int64, torch.float32, torch.float64)


def kind_of_answer(answer: Any) -> str:
    """Shape and dtype; whether several tensors come as a tuple or as a list is all one."""
    return described(tuple(answer) if isinstance(answer, list) else answer)


def kinds_of_answers(subject: Subject, case: Case) -> Any:
    """Shape and dtype of the answer for each dtype of the input, and what was modified in place."""
    seen: dict[str, Any] = {}
    for dtype in KINDS:
        images = case.args[0].to(dtype)
        answer, changed = subject.with_changes(images)
        seen[f"for {str(dtype).removeprefix('torch.')} images"] = kind_of_answer(answer)
        seen["modified in place"] = bool(changed) or seen.get("modified in place", False)
    return seen


def mean_and_std(subject: Subject, case: Case) -> Any:
    """The two statistics by name, without their dtype."""
    result = _named(subject, case)
    return {name: as_double(v) for name, v in result.items()} if isinstance(result, dict) else result


_named = named("mean", "std")
OVERFLOW = (5e-2, 5e-2)
"""Tolerance where it is asked whether something overflowed, and not by what was divided."""


def numbers_of(index: int) -> Callable[[Subject, Case], Any]:
    """One of the two returned values, without its dtype."""

    def observe(subject: Subject, case: Case) -> Any:
        result = subject(*case.args)
        if not isinstance(result, list | tuple) or len(result) != 2:
            return result
        return as_double(result[index])

    return observe
