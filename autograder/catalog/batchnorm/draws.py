"""What exercises of lecture 02 share: batches with something to normalize."""

from typing import Any

import torch

from autograder.draw import Draw

# Loose enough that the place of eps = 1e-5 does not show: that is one property's business, not every one's.
LOOSE = (1e-3, 1e-4)


def column(v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return v.view(1, -1, *[1] * (x.dim() - 2))


def spread(d: Draw, n: int, c: int, *size: int) -> torch.Tensor:
    """A batch whose channels differ in scale and offset and never come close to constant, where eps = 1e-5
    would show in every number."""
    x = d.positive(n, c, *size, low=0.0, high=1.0)
    x = x + 2.0 * column(torch.arange(n, dtype=x.dtype) % 2, x.movedim(0, 1)).movedim(1, 0)
    scale = d.positive(c, low=1.5, high=4.0)
    return d.layout(x * column(scale, x) + column(d.tensor(c), x))


def image_batch(d: Draw) -> torch.Tensor:
    return spread(d, d.integer(2, 3), d.integer(2, 4), d.integer(1, 4), d.integer(2, 5))


def affine(d: Draw, c: int, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return d.positive(c, **kwargs), d.tensor(c, **kwargs)
