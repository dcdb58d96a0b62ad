"""Preprocessing: the statistics of a training set, and images standardized by them."""

from collections.abc import Iterable

import torch
from torch import Tensor

from coursekit import _validate as validate


def streaming_statistics(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, in one pass over batches that need not fit in memory.

    Args:
        batches: tensors (n, C, H, W); n, H and W may differ between them, and every pixel counts the same.

    Returns:
        mean (C,) and population standard deviation (C,), in the dtype of the first batch (float32 for
        integers).

    Raises:
        ValueError: there is no pixel at all, or a batch has another rank or number of channels.

    Source: Chan, Golub and LeVeque 1983, equation 2.1: counts, means and sums of squared deviations are
    merged in float64, so a large mean costs no accuracy.
    """
    count, mean, squares, dtype = 0, torch.tensor(0.0), torch.tensor(0.0), None
    for index, batch in enumerate(batches):
        name = f"batch {index} of batches"
        if not isinstance(batch, Tensor) or batch.ndim != 4:
            raise validate.refuse(name, "a tensor of shape (n, C, H, W)", validate.shape_of(batch))
        if batch.numel() == 0:
            continue
        if dtype is None:
            dtype = validate.as_float(batch[:0]).dtype
            mean = squares = torch.zeros(batch.shape[1], dtype=torch.float64, device=batch.device)
        if batch.shape[1] != len(mean):
            expected = f"of {len(mean)} channels, as the batches before it"
            raise validate.refuse(name, expected, validate.shape_of(batch))

        pixels = batch.to(mean).transpose(0, 1).flatten(1)
        n = pixels.shape[1]
        delta = pixels.mean(1) - mean
        total = count + n
        squares = squares + pixels.var(1, correction=0) * n + delta**2 * count * n / total
        mean = mean + delta * n / total
        count = total
    if count == 0:
        raise validate.refuse("batches", "at least one pixel", "none")
    return mean.to(dtype), (squares / count).sqrt().to(dtype)
