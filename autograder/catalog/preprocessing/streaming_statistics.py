"""The exercise streaming_statistics of lecture 01: statistics of a data set that does not fit in memory."""

from typing import Any

import numpy as np
import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import described
from autograder.catalog.preprocessing.draws import KINDS, mean_and_std
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
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
        answer, changed = subject.with_changes(batches)
        seen[f"for {str(dtype).removeprefix('torch.')} batches"] = described(answer)
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
        every_pixel (1): batches of any number of images, one or more: every pixel counts the same
        any_size (0.75): H and W may differ from batch to batch
        large_offset (1): float32 data around a million with a spread of 1 stays accurate to two figures
        tried: two figures of the mean and the std are compared
        bytes (0.75): uint8 pixels do not overflow
        kinds (0.5): two tensors of shape (C,): floats keep their dtype, integers give float32; nothing in
          place
        tried: streaming_statistics(batches) for uint8, int64, float32 and float64
        """,
        every_pixel=on(_unequal, mean_and_std),
        any_size=on(_different_sizes, mean_and_std),
        large_offset=on(_far_from_zero, _near, tolerance=(4e-2, 2e-2), examples=4),
        bytes=on(_bytes, mean_and_std),
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


answers.edits("""
images_counted_not_pixels: every_pixel any_size
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

divided_by_one_less: every_pixel any_size bytes
- (squares / n - mean**2)
+ ((squares - n * mean**2) / (n - 1))
You divided by the number of pixels minus one.
These are population statistics: divide by the number of pixels.

squares_in_single_precision: large_offset
- batch.double()
+ batch.to(dtype)
You took E[x²] − E[x]² in float32: two numbers near 10¹² whose difference is 1.
Accumulate in float64, or merge means and squared deviations batch by batch.

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
You subtracted the mean from the caller's batch: double() of a float64 tensor is that tensor.
Write x = x - mean, which makes a new one, and not x -= mean.

last_batch_only: all but bytes kinds
- total = total + x.sum((0, 2, 3))
- squares = squares + (x**2).sum((0, 2, 3))
- n += x.numel() // x.shape[1]
+ total = x.sum((0, 2, 3))
+ squares = (x**2).sum((0, 2, 3))
+ n = x.numel() // x.shape[1]
Your result is that of the last batch.
Carry count, mean and spread from batch to batch.
""")


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
