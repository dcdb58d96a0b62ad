"""The exercise streaming_statistics of lecture 01: statistics of a data set that does not fit in memory."""

from typing import Any

import numpy as np
import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.preprocessing.draws import (
    KINDS,
    OVERFLOW,
    bright_bytes,
    kind_of_answer,
    mean_and_std,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Batches
from coursekit import preprocessing as reference


def _batches(d: Draw, c: int, shapes: tuple[tuple[int, int, int], ...]) -> Case:
    """Batches of different brightness and contrast, as sorted data has, of shapes (n, H, W)."""
    channel = torch.arange(c, dtype=torch.float64).view(c, 1, 1)
    made = []
    for number, (n, h, w) in enumerate(shapes):
        x = d.tensor(n, c, h, w, scale=1.0 + number) * (1 + channel) + 2 * number + 3 * channel
        made.append(d.layout((x * 100).round() / 100))
    return Case((Batches(tuple(made)),))


def _unequal(d: Draw) -> Case:
    counts = d.each([(1, 3), (3, 1, 2), (1, 1, 4), (4, 2), (5,)])
    c, h, w = d.choice([2, 1, 3]), d.integer(1, 2), d.integer(3, 4)
    return _batches(d, c, tuple((n, h, w) for n in counts))


def _different_sizes(d: Draw) -> Case:
    shapes = d.each(
        [
            ((2, 1, 1), (2, 3, 4)),
            ((1, 6, 2), (1, 1, 1), (1, 2, 6)),
            ((1, 1, 6), (3, 2, 2)),
            ((3, 2, 3), (1, 4, 3)),
        ]
    )
    return _batches(d, d.choice([2, 1, 3]), shapes)


def _far_from_zero(d: Draw) -> Case:
    c = d.choice([2, 1])
    shifts = (1e6 + 2 * number for number in range(d.integer(2, 3)))
    batches = tuple(d.tensor(2, c, 3, 4, shift=shift).float() for shift in shifts)
    return Case((Batches(batches),))


def _bytes(d: Draw) -> Case:
    # One batch: how several are put together is the business of other claims.
    return Case((Batches(bright_bytes(d).args),))


def _kinds(d: Draw) -> Case:
    return Case((), {}, {"batch": d.integers(2, d.integer(1, 3), 3, 2, low=0, high=255)})


def _kinds_of_statistics(subject: Subject, case: Case) -> Any:
    seen: dict[str, Any] = {}
    for dtype in KINDS:
        batches = Batches((case.extra["batch"].to(dtype),) * 2)
        answer, changed = subject.with_changes(batches)
        seen[f"for {str(dtype).removeprefix('torch.')} batches"] = kind_of_answer(answer)
        seen["modified in place"] = bool(changed) or seen.get("modified in place", False)
    return seen


def _near(subject: Subject, case: Case) -> Any:
    result = mean_and_std(subject, case)
    if not isinstance(result, dict) or not all(isinstance(t, torch.Tensor) for t in result.values()):
        return result
    # float32 cannot say where near a million it is by less than 0.06.
    return {"mean − 1e6, in tens": (result["mean"].double() - 1e6) / 10, "std": result["std"].double()}


CLAIMS = Exercise(
    id="streaming_statistics",
    topic="preprocessing",
    title="Statistics of a data set that does not fit in memory",
    reference=reference.streaming_statistics,
    minutes=20,
    difficulty=3,
    properties=claims(
        """
        every_pixel (1): batches of one image or more, and one batch or more: every pixel counts the same
        any_size (0.75): H and W may differ from batch to batch, down to a batch of one pixel
        large_offset (1): float32 data around a million with a spread of 1 stays accurate to two figures
        tried: two figures of the mean and the std are compared
        bytes (0.75): uint8 pixels do not overflow
        kinds (0.5): two tensors of shape (C,): floats keep their dtype, integers give float32; nothing in
          place
        tried: streaming_statistics(batches) for uint8, int64, float32 and float64
        """,
        every_pixel=on(_unequal, mean_and_std, tolerance=(1e-4, 1e-5)),
        any_size=on(_different_sizes, mean_and_std, tolerance=(1e-4, 1e-5)),
        large_offset=on(_far_from_zero, _near, tolerance=(4e-2, 2e-2), examples=4),
        bytes=on(_bytes, mean_and_std, tolerance=OVERFLOW),
        kinds=on(_kinds, _kinds_of_statistics, examples=4, beside="every_pixel"),
    ),
    hints=hints("""
        I don't know what to keep
        What would you have to remember of all batches so far, to be able to forget their pixels?

        The std is a little off
        A batch whose mean differs from the others' adds to the spread of all.

        It breaks far from zero
        Keep n, mean and m2 per channel in float64. For a batch with k pixels, mean b and squared deviations
          q: delta = b − mean; m2 += q + delta²·n·k/(n+k); mean += delta·k/(n+k); n += k. std = sqrt(m2 / n).
        """),
)

answers = Answers(CLAIMS)


@answers.right
def sums(batches):
    """sums in float64"""
    total, squares, n = 0.0, 0.0, 0
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        x = batch.double()
        total = total + x.sum((0, 2, 3))
        squares = squares + (x**2).sum((0, 2, 3))
        n += x.numel() // x.shape[1]
    mean = total / n
    std = (squares / n - mean**2).clamp(min=0).sqrt()
    return mean.to(dtype), std.to(dtype)


answers.edits("""
first_batch_used_up: all but kinds
- total, squares, n = 0.0, 0.0, 0
+ first = next(iter(batches))
+ dtype = first.dtype if first.is_floating_point() else torch.float32
+ total = squares = torch.zeros(first.shape[1], dtype=torch.float64)
+ n = 0
...
-     dtype = batch.dtype if batch.is_floating_point() else torch.float32
The first batch is missing from your statistics: next(iter(batches)) takes it, and the loop begins behind it.
Ask the first batch inside the loop for its channels and dtype, or keep it and count it, too.

images_counted_not_pixels: any_size
- total = total + x.sum((0, 2, 3))
- squares = squares + (x**2).sum((0, 2, 3))
- n += x.numel() // x.shape[1]
+ total = total + len(x) * x.mean((0, 2, 3))
+ squares = squares + len(x) * (x**2).mean((0, 2, 3))
+ n += len(x)
You weighed each batch by its number of images.
Weigh by pixels, n·H·W: images of different size hold different numbers of them.

within_batches_only: all but bytes kinds
- (x**2).sum((0, 2, 3))
+ ((x - x.mean((0, 2, 3), keepdim=True)) ** 2).sum((0, 2, 3))
- (squares / n - mean**2).clamp(min=0).sqrt()
+ (squares / n).sqrt()
Your variance is the average of the batches' own variances.
Batches whose means differ add to the spread: each contributes count·(its mean − total mean)² as well.

divided_by_one_less: every_pixel any_size
- (squares / n - mean**2)
+ ((squares - n * mean**2) / (n - 1))
You divided by the number of pixels minus one.
These are population statistics: divide by the number of pixels.

squares_in_single_precision: large_offset
- batch.double()
+ batch.to(dtype)
You took E[x²] − E[x]² in float32: two numbers near 10¹² whose difference is 1.
Accumulate in float64, or merge means and squared deviations batch by batch.

values_counted_not_pixels: all but kinds
- n += x.numel() // x.shape[1]
+ n += x.numel()
You divided by the number of values in all channels.
A channel of a batch has n·H·W pixels: numel() counts those of all C channels, so divide it by C.

second_pass: all but kinds
- squares = squares + (x**2).sum((0, 2, 3))
...
- std = (squares / n - mean**2).clamp(min=0).sqrt()
+ squares = torch.zeros_like(mean)
+ for batch in batches:
+     squares = squares + ((batch.double() - mean[:, None, None]) ** 2).sum((0, 2, 3))
+ std = (squares / n).sqrt()
You walked through the batches twice, but the second time nothing is left.
An iterator can be read once: keep what you need (count, mean, squared deviations) as you go.

bytes_squared: bytes
- (x**2).sum((0, 2, 3))
+ (x**2 if batch.is_floating_point() else batch**2).double().sum((0, 2, 3))
You squared uint8 pixels: 200·200 does not fit into a byte.
Convert the batch to float64 before any arithmetic.

centered_in_place: kinds
- total = total + x.sum((0, 2, 3))
- squares = squares + (x**2).sum((0, 2, 3))
- n += x.numel() // x.shape[1]
+ k, center = x.numel() // x.shape[1], x.mean((0, 2, 3))
+ x -= center[:, None, None]
+ total = total + k * center
+ squares = squares + (x**2).sum((0, 2, 3)) + k * center**2
+ n += k
You changed a batch that you were handed.
Write x = x - mean, which makes a new tensor, and not x -= mean: double() of a float64 batch is that batch.

last_batch_only: all but bytes kinds
- total = total + x.sum((0, 2, 3))
- squares = squares + (x**2).sum((0, 2, 3))
- n += x.numel() // x.shape[1]
+ total = x.sum((0, 2, 3))
+ squares = (x**2).sum((0, 2, 3))
+ n = x.numel() // x.shape[1]
Your result is that of the last batch.
Carry count, mean and spread from batch to batch.

integers_not_converted: bytes kinds
- x = batch.double()
- total = total + x.sum((0, 2, 3))
+ x = batch.double() if batch.is_floating_point() else batch
+ total = total + x.mean((0, 2, 3)) * (x.numel() // x.shape[1])
You asked for the mean of integers, which torch does not take.
Convert the batch first: batch.double(), and the results at the end.

variance: all but kinds
- mean**2).clamp(min=0).sqrt()
+ mean**2).clamp(min=0)
You returned the variance.
Take its root: the std has the unit of the pixels.

always_single: kinds
- mean.to(dtype), std.to(dtype)
+ mean.float(), std.float()
Your answer is float32 even for float64 batches.
Only integers become float32; floats keep their own dtype.

always_double: kinds
- dtype = batch.dtype if batch.is_floating_point() else torch.float32
...
- mean.to(dtype), std.to(dtype)
+ mean, std
Your answer is float64 whatever the batches are.
Compute in float64 if you like, then return the dtype of the batches (float32 for integers).
""")


@answers.right
def merged(batches):
    """counts, means and squared deviations, merged"""
    n, mean, spread = 0, 0.0, 0.0
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        x = batch.double()
        k = x.numel() // x.shape[1]
        batch_mean = x.mean((0, 2, 3))
        batch_spread = x.var((0, 2, 3), correction=0) * k
        delta = batch_mean - mean
        mean = mean + delta * k / (n + k)
        spread = spread + batch_spread + delta**2 * n * k / (n + k)
        n += k
    return mean.to(dtype), (spread / n).sqrt().to(dtype)


answers.edits("""
merged_around_the_new_mean: every_pixel any_size large_offset
- delta**2 * n * k / (n + k)
+ (batch_mean - mean) ** 2 * n * k / (n + k)
Your δ² is the distance of the batch's mean from the mean that already contains it.
δ is measured from the mean before: compute δ first and use it in both lines.

old_spread_not_moved: every_pixel any_size large_offset
- batch_spread + delta**2 * n * k / (n + k)
+ ((x - mean[:, None, None]) ** 2).sum((0, 2, 3))
You measured a batch's deviations from the new mean, but the sum of those before is still around the old one.
The mean moves for all pixels: add the batch's own spread and δ²·n·k/(n + k), with δ from the old mean.

counted_before_merging: all but kinds
- delta = batch_mean - mean
+ n += k
+ delta = batch_mean - mean
- n += k
You added k to n before the merge, so that n + k counts the batch twice.
In both formulas n is the number of pixels before the batch: n += k comes last.

distance_not_weighed: every_pixel any_size large_offset
- delta**2 * n * k / (n + k)
+ (delta**2 if n > 0 else 0)
You added δ² as it is, as if one pixel had been so far away.
All n + k pixels are away from the new mean: δ² · n·k/(n + k).

no_spread_of_one_pixel: any_size
- x.var((0, 2, 3), correction=0) * k
+ x.var((0, 2, 3)) * (k - 1)
A batch of one pixel turns your std into NaN: torch divides its variance by N − 1, which is 0 there.
Sum the squared deviations themselves, or use correction=0 and multiply by k: one pixel has a spread of 0.
""")


@answers.wrong("any_size")
def concatenated(batches):
    """You put all batches into one tensor, which torch.cat cannot do where H or W differ.

    Go through them one by one: count, mean and squared deviations are all that has to be kept.
    """
    images = torch.cat(list(batches))
    dtype = images.dtype if images.is_floating_point() else torch.float32
    x = images.double()
    return x.mean((0, 2, 3)).to(dtype), x.std((0, 2, 3), correction=0).to(dtype)


@answers.wrong("all but bytes kinds")
def variances_weighed_by_images(batches):
    """Your mean and your variance are averages of those of the batches, weighed by their numbers of images.

    Weigh by pixels, n·H·W, and add what the batches' means differ: count·(its mean − total mean)².
    """
    mean, variance, images = 0.0, 0.0, 0
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        mean = mean + len(batch) * batch.double().mean((0, 2, 3))
        variance = variance + len(batch) * batch.double().var((0, 2, 3), correction=0)
        images += len(batch)
    return (mean / images).to(dtype), (variance / images).sqrt().to(dtype)


@answers.wrong("all but bytes kinds")
def average_of_batches(batches):
    """You averaged the means and the stds of the batches.

    Sum over pixels and divide once at the end; spreads of batches do not average to the spread of all.
    """
    means, stds = [], []
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        means.append(batch.double().mean((0, 2, 3)))
        stds.append(batch.double().std((0, 2, 3), correction=0))
    return torch.stack(means).mean(0).to(dtype), torch.stack(stds).mean(0).to(dtype)


@answers.wrong("all but bytes kinds")
def average_of_unbiased_stds(batches):
    """You averaged the means and the stds of the batches, stds that divide by N − 1.

    Sum over pixels and divide once at the end, by the number of all pixels.
    """
    means, stds = [], []
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        means.append(batch.double().mean((0, 2, 3)))
        stds.append(batch.double().std((0, 2, 3)))
    return torch.stack(means).mean(0).to(dtype), torch.stack(stds).mean(0).to(dtype)


@answers.wrong("all but bytes kinds")
def average_of_variances(batches):
    """You averaged the means and the variances of the batches.

    Weigh each batch by its pixels, and add what the batches' means differ: count·(its mean − total mean)².
    """
    means, variances = [], []
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        means.append(batch.double().mean((0, 2, 3)))
        variances.append(batch.double().var((0, 2, 3), correction=0))
    return torch.stack(means).mean(0).to(dtype), torch.stack(variances).mean(0).sqrt().to(dtype)


@answers.wrong("all but bytes kinds")
def average_of_unbiased_variances(batches):
    """You averaged the means and the variances of the batches, variances that divide by N − 1.

    Weigh each batch by its pixels, and add what the batches' means differ: count·(its mean − total mean)².
    """
    means, variances = [], []
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        means.append(batch.double().mean((0, 2, 3)))
        variances.append(batch.double().var((0, 2, 3)))
    return torch.stack(means).mean(0).to(dtype), torch.stack(variances).mean(0).sqrt().to(dtype)


@answers.wrong("all but kinds")
def variance_of_variances(batches):
    """Your std is the spread of the batches' variances: how much they differ, not how large they are.

    Sum the squared deviations of all pixels from the mean of all pixels, and divide by their number.
    """
    means, variances = [], []
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        means.append(batch.double().mean((0, 2, 3)))
        variances.append(batch.double().var((0, 2, 3), correction=0))
    return torch.stack(means).mean(0).to(dtype), torch.stack(variances).var(0, correction=0).sqrt().to(dtype)


@answers.wrong("all but kinds")
def spread_of_batch_means(batches):
    """Your std is the spread of the batches' means.

    What the pixels of a batch differ among themselves counts too: merge the squared deviations of all.
    """
    means = []
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        means.append(batch.double().mean((0, 2, 3)))
    means = torch.stack(means)
    return means.mean(0).to(dtype), means.std(0, correction=0).to(dtype)


@answers.wrong("all but kinds")
def average_over_images(batches):
    """You averaged the means and the stds of the single images.

    Images of different brightness add to the spread: measure deviations from the mean of all pixels.
    """
    mean, std, images = 0.0, 0.0, 0
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        rows = batch.double().flatten(2)
        mean = mean + rows.mean(2).sum(0)
        std = std + rows.std(2).sum(0)
        images += len(batch)
    return (mean / images).to(dtype), (std / images).to(dtype)


@answers.wrong("all but kinds")
def variances_over_images(batches):
    """You averaged the means and the variances of the single images.

    Images of different brightness add to the spread: measure deviations from the mean of all pixels.
    """
    mean, variance, images = 0.0, 0.0, 0
    for batch in batches:
        dtype = batch.dtype if batch.is_floating_point() else torch.float32
        rows = batch.double().flatten(2)
        mean = mean + rows.mean(2).sum(0)
        variance = variance + rows.var(2).sum(0)
        images += len(batch)
    return (mean / images).to(dtype), (variance / images).sqrt().to(dtype)


@answers.right
def welford(batches):
    """Welford, an image at a time"""
    n, mean, spread, kind = 0, None, None, torch.float32
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        for image in batch.double():
            pixels = image.flatten(1)
            k = pixels.shape[1]
            if mean is None:
                mean, spread = torch.zeros_like(pixels[:, 0]), torch.zeros_like(pixels[:, 0])
            delta = pixels - mean[:, None]
            mean = mean + delta.sum(1) / (n + k)
            spread = spread + (delta * (pixels - mean[:, None])).sum(1)
            n += k
    return mean.to(kind), (spread / n).sqrt().to(kind)


@answers.right
def collected(batches):
    """numpy, collected"""
    columns, kind, device = [], torch.float32, "cpu"
    for batch in batches:
        kind, device = batch.dtype if batch.is_floating_point() else torch.float32, batch.device
        columns.append(np.moveaxis(batch.cpu().numpy(), 1, 0).reshape(batch.shape[1], -1).astype(np.float64))
    rows = np.concatenate(columns, axis=1)
    return tuple(torch.from_numpy(v).to(device, kind) for v in (rows.mean(1), rows.std(1)))


EXERCISE = answers.exercise()
