"""The exercise streaming_statistics of lecture 01: statistics of a data set that does not fit in memory."""

from __future__ import annotations

from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.observations import described
from autograder.catalog.preprocessing.draws import KINDS, mean_and_std
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from autograder.values import Batches
from coursekit import preprocessing as reference


def _unequal(d: Draw) -> Case:
    c = d.integer(1, 3)
    batches = []
    for number in range(d.integer(2, 4)):
        shape = (d.integer(1, 4), c, d.integer(1, 5), d.integer(2, 5))
        # Batches of different brightness, as sorted data has; the last is larger than the first.
        batches.append(d.layout(d.tensor(*shape, scale=1.0 + number, shift=2.0 * number)))
    return Case((Batches(tuple(batches)),))


def _different_sizes(d: Draw) -> Case:
    c = d.integer(1, 3)
    small, large = d.integer(1, 3), d.integer(4, 6)
    batches = (d.tensor(2, c, small, small), d.tensor(2, c, large, large + 1, shift=3.0))
    return Case((Batches(batches),))


def _far_from_zero(d: Draw) -> Case:
    c = d.integer(1, 2)
    shifts = (1e6 + 2 * number for number in range(d.integer(2, 3)))
    batches = tuple(d.tensor(4, c, 12, 10, shift=shift).float() for shift in shifts)
    return Case((Batches(batches),))


def _bytes(d: Draw) -> Case:
    x = d.integers(d.integer(1, 3), d.integer(1, 3), 3, d.integer(2, 4), low=100, high=255, dtype=torch.uint8)
    return Case((Batches((x,)),))


def _kinds(d: Draw) -> Case:
    return Case((), {}, {"batch": d.integers(2, d.integer(1, 3), 3, 2, low=0, high=255)})


def _kinds_of_statistics(subject: Subject, case: Case) -> Any:
    seen: dict[str, Any] = {}
    for dtype in KINDS:
        batches = Batches((case.extra["batch"].to(dtype),) * 2)
        seen[f"for {str(dtype).removeprefix('torch.')} batches"] = described(subject(batches))
        seen["modified in place"] = bool(subject.changed(batches)) or seen.get("modified in place", False)
    return seen


def _near(subject: Subject, case: Case) -> Any:
    result = mean_and_std(subject, case)
    if not isinstance(result, dict) or not all(isinstance(t, torch.Tensor) for t in result.values()):
        return result
    # float32 cannot say where near a million it is by less than 0.06.
    return {"mean − 1e6, in tens": (result["mean"].double() - 1e6) / 10, "std": result["std"].double()}


def _statistics(batches: list[torch.Tensor], *, biased: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.cat([_rows(b) for b in batches], 1)
    return _in_kind(batches, rows.mean(1)), _in_kind(batches, rows.std(1, unbiased=not biased))


def _rows(batch: torch.Tensor) -> torch.Tensor:
    return batch.double().transpose(0, 1).flatten(1)


def _in_kind(batches: list[torch.Tensor], value: torch.Tensor) -> torch.Tensor:
    return value.to(batches[0].dtype if batches[0].is_floating_point() else torch.float32)


def _average_of_batches(batches):
    batches = list(batches)
    each = [_statistics([b]) for b in batches]
    return torch.stack([m for m, _ in each]).mean(0), torch.stack([s for _, s in each]).mean(0)


def _count_images(batches):
    batches = list(batches)
    n = sum(len(b) for b in batches)
    mean = sum(_rows(b).mean(1) * len(b) for b in batches) / n
    second = sum((_rows(b) ** 2).mean(1) * len(b) for b in batches) / n
    return _in_kind(batches, mean), _in_kind(batches, (second - mean**2).clamp(min=0).sqrt())


def _unbiased(batches):
    return _statistics(list(batches), biased=False)


def _single_precision(batches):
    total, squares, n, kind = 0, 0, 0, None
    for batch in batches:
        kind = kind or (batch.dtype if batch.is_floating_point() else torch.float32)
        x = batch.to(kind)
        total, squares = total + x.sum((0, 2, 3)), squares + (x**2).sum((0, 2, 3))
        n += x.numel() // x.shape[1]
    mean = total / n
    return mean, (squares / n - mean**2).clamp(min=0).sqrt()


def _two_passes(batches):
    total, n, kind, c = 0.0, 0, torch.float32, 1
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        c = batch.shape[1]
        total, n = total + _rows(batch).sum(1), n + batch.numel() // c
    mean = total / n
    squares = torch.zeros(c, dtype=torch.float64)
    for batch in batches:
        squares = squares + ((_rows(batch) - mean[:, None]) ** 2).sum(1)
    return mean.to(kind), (squares / n).sqrt().to(kind)


def _within_batches(batches):
    batches = list(batches)
    mean, _ = _statistics(batches)
    counts = [b.numel() // b.shape[1] for b in batches]
    var = sum(_rows(b).var(1, unbiased=False) * n for b, n in zip(batches, counts, strict=True)) / sum(counts)
    return mean, _in_kind(batches, var.sqrt())


def _bytes_squared(batches):
    total, squares, n, kind = 0.0, 0.0, 0, torch.float32
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        total = total + batch.double().sum((0, 2, 3))
        x = batch.double() if batch.is_floating_point() else batch
        squares = squares + (x * x).sum((0, 2, 3)).double()
        n += batch.numel() // batch.shape[1]
    mean = total / n
    return mean.to(kind), (squares / n - mean**2).clamp(min=0).sqrt().to(kind)


def _centered_in_place(batches):
    n, mean, spread, kind = 0, 0.0, 0.0, torch.float32
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        x = batch.double()  # the batch itself where it is float64 already
        k, center = x.numel() // x.shape[1], x.mean((0, 2, 3))
        x -= center[:, None, None]
        delta = center - mean
        spread = spread + (x**2).sum((0, 2, 3)) + delta**2 * n * k / (n + k)
        mean = mean + delta * k / (n + k)
        n += k
    return mean.to(kind), (spread / n).sqrt().to(kind)


def _last_batch(batches):
    batches = list(batches)
    return _statistics(batches[-1:])


def _double_sums(batches):
    total, squares, n, kind = 0.0, 0.0, 0, torch.float32
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        x = batch.double()
        total = total + x.sum((0, 2, 3))
        squares = squares + torch.einsum("nchw,nchw->c", x, x)
        n += x.shape[0] * x.shape[2] * x.shape[3]
    mean = total / n
    return mean.to(kind), (squares / n - mean**2).clamp(min=0).sqrt().to(kind)


def _welford(batches):
    """Welford's update, an image at a time, around a running mean."""
    n, mean, spread, kind = 0, None, None, torch.float32
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        for image in batch.double():
            pixels = image.flatten(1)
            k = pixels.shape[1]
            if mean is None:
                mean, spread = torch.zeros_like(pixels[:, 0]), torch.zeros_like(pixels[:, 0])
            delta = pixels - mean[:, None]
            shift = delta.sum(1) / (n + k)
            mean = mean + shift
            spread = spread + (delta * (pixels - mean[:, None])).sum(1)
            n += k
    return mean.to(kind), (spread / n).sqrt().to(kind)


def _numpy(batches):
    import numpy as np

    columns, kind = [], torch.float32
    device = "cpu"
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        device = batch.device
        columns.append(np.moveaxis(batch.cpu().numpy(), 1, 0).reshape(batch.shape[1], -1).astype(np.float64))
    rows = np.concatenate(columns, axis=1)
    mean, std = (torch.from_numpy(v).to(device, kind) for v in (rows.mean(1), rows.std(1)))
    return mean, std


EXERCISE = Exercise(
    id="streaming_statistics",
    topic="preprocessing",
    title="Statistics of a data set that does not fit in memory",
    reference=reference.streaming_statistics,
    minutes=20,
    difficulty=3,
    properties=(
        Property(
            "every_pixel",
            "batches of any number of images, one or more: every pixel counts the same",
            1.0,
            _unequal,
            mean_and_std,
        ),
        Property("any_size", "H and W may differ from batch to batch", 0.75, _different_sizes, mean_and_std),
        Property(
            "large_offset",
            "float32 data around a million with a spread of 1 stays accurate to two figures",
            1.0,
            _far_from_zero,
            _near,
            # Merging means and squared deviations in float32 loses about a hundredth, and is no mistake.
            tolerance=(4e-2, 2e-2),
            examples=4,
            tried="two figures of the mean and the std are compared",
        ),
        Property("bytes", "uint8 pixels do not overflow", 0.75, _bytes, mean_and_std),
        Property(
            "kinds",
            "two tensors of shape (C,): floats keep their dtype, integers give float32; nothing in place",
            0.5,
            _kinds,
            _kinds_of_statistics,
            examples=4,
            tried="streaming_statistics(batches) for uint8, int64, float32 and float64",
        ),
    ),
    misconceptions=(
        Misconception(
            "average_of_batches",
            "You averaged the means and the stds of the batches.",
            "Sum over pixels and divide once at the end; spreads of batches do not average to the spread of all.",
            ("every_pixel", "any_size", "large_offset"),
            _average_of_batches,
        ),
        Misconception(
            "images_counted_not_pixels",
            "You weighed each batch by its number of images.",
            "Weigh by pixels, n·H·W: images of different size hold different numbers of them.",
            ("every_pixel", "any_size"),
            _count_images,
        ),
        Misconception(
            "within_batches_only",
            "Your variance is the average of the batches' own variances.",
            "Batches whose means differ add to the spread: each contributes count·(its mean − total mean)² as well.",
            ("every_pixel", "any_size", "large_offset"),
            _within_batches,
        ),
        Misconception(
            "divided_by_one_less",
            "You divided by the number of pixels minus one.",
            "These are population statistics: divide by the number of pixels.",
            ("every_pixel", "any_size", "bytes"),
            _unbiased,
        ),
        Misconception(
            "squares_in_single_precision",
            "You took E[x²] − E[x]² in float32: two numbers near 10¹² whose difference is 1.",
            "Accumulate in float64, or merge means and squared deviations batch by batch.",
            ("large_offset",),
            _single_precision,
        ),
        Misconception(
            "second_pass",
            "You walked through the batches twice, but the second time nothing is left.",
            "An iterator can be read once: keep what you need (count, mean, squared deviations) as you go.",
            ("every_pixel", "any_size", "large_offset", "bytes"),
            _two_passes,
        ),
        Misconception(
            "bytes_squared",
            "You squared uint8 pixels: 200·200 does not fit into a byte.",
            "Convert the batch to float64 before any arithmetic.",
            ("bytes",),
            _bytes_squared,
        ),
        Misconception(
            "centered_in_place",
            "You subtracted the mean from the caller's batch: double() of a float64 tensor is that tensor.",
            "Write x = x - mean, which makes a new one, and not x -= mean.",
            ("kinds",),
            _centered_in_place,
        ),
        Misconception(
            "last_batch_only",
            "Your result is that of the last batch.",
            "Carry count, mean and spread from batch to batch.",
            ("every_pixel", "any_size", "large_offset"),
            _last_batch,
        ),
    ),
    right=(
        Variant("sums in float64", _double_sums),
        Variant("Welford, an image at a time", _welford),
        Variant("numpy, collected", _numpy),
    ),
    hints=(
        Hint(
            "I don't know what to keep",
            "What would you have to remember of all batches so far, to be able to forget their pixels?",
        ),
        Hint(
            "The std is a little off",
            "A batch whose mean differs from the others' adds to the spread of all.",
        ),
        Hint(
            "It breaks far from zero",
            "Keep n, mean and m2 per channel in float64. For a batch with k pixels, mean b and squared deviations q: delta = b − mean; m2 += q + delta²·n·k/(n+k); mean += delta·k/(n+k); n += k. std = sqrt(m2 / n).",
        ),
    ),
)
