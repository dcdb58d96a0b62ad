"""What exercises of lecture 02 share: batches with something to normalize, and a look at answers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from autograder.attempt import Subject
from autograder.catalog.observations import described
from autograder.draw import Draw
from autograder.exercise import Case

# Loose enough that the place of eps = 1e-5 does not show: that is one property's business, not every one's.
LOOSE = (1e-3, 1e-4)
# Tight enough for eps, loose enough for float32: the dtype is one property's business, too.
CLOSE = (1e-4, 1e-5)
# Images of every exam. As many columns as channels come first: there what goes along the wrong axis shows in
# numbers. One image, one channel and a map three times as wide as high come as well.
IMAGES = ((2, 3, 2, 3), (1, 2, 3, 4), (3, 1, 4, 2), (2, 3, 2, 6))
# Of a channel's scale: a negative one turns it around, and zero leaves its shift alone.
SIGNS = (1.0, -1.0, 0.0)


class Narrow(NamedTuple):
    """Where eps shows: the keyword, as it is given, and how much smaller than usual the values are."""

    given: Mapping[str, float]
    scale: float


EPS = (Narrow({"eps": 0.1}, 0.1), Narrow({"eps": 0.0}, 0.1), Narrow({}, 0.01), Narrow({"eps": 10.0}, 1.0))


def column(v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return v.view(1, -1, *[1] * (x.dim() - 2))


def spread(d: Draw, n: int, c: int, *size: int) -> torch.Tensor:
    """A batch whose channels differ in scale and offset and never come close to constant, where eps = 1e-5
    would show in every number: images, or the columns of a single one, lie on two levels by turns."""
    x = d.positive(n, c, *size, low=0.0, high=1.0)
    axis = 0 if n > 1 else -1
    levels = 2.0 * (torch.arange(x.shape[axis], dtype=x.dtype) % 2)
    x = (x.movedim(axis, -1) + levels).movedim(-1, axis)
    scale = d.positive(c, low=1.5, high=4.0)
    return d.layout(x * column(scale, x) + column(d.tensor(c), x))


def rows(d: Draw, *, least: int = 2) -> torch.Tensor:
    c = d.each([2, 1, 3, 5])
    return spread(d, _count(d, c, least), c)


def _count(d: Draw, c: int, least: int) -> int:
    """How many rows: never as many as columns: that axes are told by their place shows in images."""
    return d.choice([n for n in range(least, 8) if n != c])


def images(d: Draw) -> torch.Tensor:
    return spread(d, *d.each(IMAGES))


def narrow_rows(d: Draw, *, least: int = 2) -> tuple[torch.Tensor, Mapping[str, float]]:
    """A batch of rows, and the eps that goes with it. The first has a channel that is constant, which eps
    alone keeps from being divided by zero."""
    given, scale = d.each(EPS)
    c = d.integer(2, 5)
    x = spread(d, _count(d, c, least), c) * scale
    if given.get("eps") == EPS[0].given["eps"]:
        x[:, -1] = x[0, -1]
    return x, given


def affine(d: Draw, c: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of every channel."""
    return signed(d.positive(c)).to(dtype), d.tensor(c, dtype=dtype)


def signed(gamma: torch.Tensor) -> torch.Tensor:
    return gamma * torch.tensor([SIGNS[i % len(SIGNS)] for i in range(len(gamma))], dtype=gamma.dtype)


def entries(subject: Subject, case: Case) -> dict[str, Any]:
    """As `carries` of the observations, where a list is as good as a tuple."""
    answer, changed = subject.with_changes(*case.args, **case.kwargs)
    several = isinstance(answer, list | tuple)
    return {
        "answer": [described(entry) for entry in answer] if several else described(answer),
        "arguments changed in place": [int(c) for c in changed],
    }
