"""The exercise total_variation of lecture 03: how much neighbors differ."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.observations import carries, gradients
from autograder.catalog.visualization.draws import summed_differences
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import visualization as reference


def _one_image(d: Draw) -> Case:
    return Case((d.layout(d.tensor(1, 1, d.choice([3, 2, 4]), d.choice([4, 3, 2]))),))


def _image_batch(d: Draw) -> Case:
    shape = d.choice([(2, 3, 3, 4), (2, 3, 4, 2), (3, 1, 2, 3), (2, 2, 3, 3)])
    return Case((d.layout(d.tensor(*shape)),))


def _thin(d: Draw) -> Case:
    images, rows, columns = d.integer(2, 3), d.choice([4, 2, 5]), d.choice([3, 2, 4])
    extra = {
        "one row": d.tensor(images, 2, 1, columns),
        "one pixel": d.tensor(images, 2, 1, 1),
    }
    return Case((d.tensor(images, 2, rows, 1),), {}, extra)


def _of_thin_ones(subject: Subject, case: Case) -> dict[str, Any]:
    return {"one column": subject(*case.args)} | {name: subject(x) for name, x in case.extra.items()}


def _tv_kinds(d: Draw) -> Case:
    return Case((d.tensor(2, 3, 3, 4, dtype=d.choice([torch.float32, torch.float64])),))


def _differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]


def _tv_mean(x):
    down, right = _differences(x)
    return down.abs().mean() + right.abs().mean()


def _tv_per_value(x):
    return summed_differences(x) / x.numel()


def _tv_per_image(x):
    return summed_differences(x) / len(x)


def _tv_vector(x):
    down, right = _differences(x)
    return down.abs().sum((1, 2, 3)) + right.abs().sum((1, 2, 3))


def _tv_squared(x):
    down, right = _differences(x)
    return (down**2).sum() + (right**2).sum()


def _tv_rooted(x):
    down, right = _differences(x)
    return ((down**2).sum() + (right**2).sum()).sqrt()


def _tv_lengths(x):
    down, right = _differences(x)
    return (down[..., :-1] ** 2 + right[:, :, :-1] ** 2).clamp(min=1e-20).sqrt().sum()


def _tv_signed(x):
    down, right = _differences(x)
    return down.sum() + right.sum()


def _tv_sum_first(x):
    down, right = _differences(x)
    return down.sum().abs() + right.sum().abs()


def _tv_horizontal(x):
    return _differences(x)[1].abs().sum()


def _tv_vertical(x):
    return _differences(x)[0].abs().sum()


def _tv_around(x):
    return sum((x - x.roll(1, axis)).abs().sum() for axis in (2, 3))


def _tv_other_axes(x):
    return x.diff(dim=1).abs().sum() + x.diff(dim=2).abs().sum()


def _tv_channels_for_rows(x):
    return x.diff(dim=1).abs().sum() + x.diff(dim=3).abs().sum()


def _tv_first_image(x):
    return summed_differences(x[:1])


def _tv_channel_mean(x):
    return summed_differences(x) / x.shape[1]


def _tv_every_axis(x):
    return sum(x.diff(dim=axis).abs().sum() for axis in range(4))


def _tv_both_ways(x):
    return 2 * summed_differences(x)


def _tv_half(x):
    return summed_differences(x) / 2


def _tv_cut(x):
    corner = x[:, :, :-1, :-1]
    return (x[:, :, 1:, :-1] - corner).abs().sum() + (x[:, :, :-1, 1:] - corner).abs().sum()


def _tv_diagonal(x):
    return (x[:, :, 1:, 1:] - x[:, :, :-1, :-1]).abs().sum()


def _tv_number(x):
    return summed_differences(x).item()


def _tv_cut_off(x):
    return summed_differences(x.detach())


def _tv_pad(x):
    """The border repeated, so that the differences across it vanish."""
    down = F.pad(x, (0, 0, 0, 1), mode="replicate") - F.pad(x, (0, 0, 1, 0), mode="replicate")
    right = F.pad(x, (0, 1, 0, 0), mode="replicate") - F.pad(x, (1, 0, 0, 0), mode="replicate")
    return down.abs().sum() + right.abs().sum()


def _tv_loop(x):
    """Row by row and column by column."""
    total = x.new_zeros(())
    for i in range(1, x.shape[2]):
        total = total + (x[:, :, i] - x[:, :, i - 1]).abs().sum()
    for j in range(1, x.shape[3]):
        total = total + torch.norm(x[..., j] - x[..., j - 1], p=1)
    return total


TV_NUMBERS = ("differences", "batch", "gradient")

EXERCISE = Exercise(
    id="total_variation",
    topic="visualization",
    title="How much neighbors differ",
    reference=reference.total_variation,
    minutes=6,
    difficulty=1,
    properties=(
        Property(
            "differences",
            "the absolute differences of all vertical and horizontal neighbors of one image, summed",
            0.75,
            _one_image,
            examples=6,
        ),
        Property("batch", "one sum over all images and channels", 0.5, _image_batch, examples=6),
        Property(
            "gradient",
            "gradients flow back into the image",
            0.25,
            _image_batch,
            gradients(0),
            examples=4,
            tried="the gradient with respect to x",
        ),
        Property(
            "thin",
            "images of one row, one column or one pixel",
            0.25,
            _thin,
            _of_thin_ones,
            examples=3,
            tried="images of one column, of one row and of one pixel",
        ),
        Property(
            "kinds",
            "a scalar tensor of the dtype of x, and x is not changed",
            0.25,
            _tv_kinds,
            carries,
            examples=4,
        ),
    ),
    misconceptions=(
        Misconception(
            "mean_of_differences",
            "You averaged the differences.",
            "Sum them. maximize_activation divides by the number of values itself.",
            (*TV_NUMBERS, "thin"),
            _tv_mean,
        ),
        Misconception(
            "divided_by_values",
            "You divided by the number of values.",
            "Sum only. maximize_activation divides by x.numel() itself.",
            (*TV_NUMBERS, "thin"),
            _tv_per_value,
        ),
        Misconception(
            "mean_over_images",
            "You divided by the number of images.",
            "One sum over everything, images too.",
            ("batch", "gradient", "thin"),
            _tv_per_image,
        ),
        Misconception(
            "one_number_an_image",
            "You returned one number for each image.",
            "One scalar: sum over the images too.",
            ("differences", "batch", "gradient", "thin", "kinds"),
            _tv_vector,
        ),
        Misconception(
            "squared",
            "You squared the differences: one sharp edge then costs more than a soft ramp of the same height.",
            "Take their absolute values, abs().",
            (*TV_NUMBERS, "thin"),
            _tv_squared,
        ),
        Misconception(
            "root_of_squares",
            "You took the root of the sum of squares.",
            "Take the absolute value of each difference, then sum.",
            (*TV_NUMBERS, "thin"),
            _tv_rooted,
        ),
        Misconception(
            "gradient_lengths",
            "You combined the vertical and the horizontal difference of a pixel into a length, √(dy² + dx²).",
            "Here they count separately: the sum of |dy| plus the sum of |dx|.",
            (*TV_NUMBERS, "thin"),
            _tv_lengths,
        ),
        Misconception(
            "signed",
            "You summed the differences with their signs: all but the borders cancel.",
            "abs() each difference first.",
            (*TV_NUMBERS, "thin"),
            _tv_signed,
        ),
        Misconception(
            "absolute_too_late",
            "You took the absolute value of the sums: inside them the differences have canceled already.",
            "First abs(), then sum().",
            (*TV_NUMBERS, "thin"),
            _tv_sum_first,
        ),
        Misconception(
            "horizontal_only",
            "You left the vertical neighbors out.",
            "Add (x[:, :, 1:] − x[:, :, :-1]).abs().sum().",
            (*TV_NUMBERS, "thin"),
            _tv_horizontal,
        ),
        Misconception(
            "vertical_only",
            "You left the horizontal neighbors out.",
            "Add (x[..., 1:] − x[..., :-1]).abs().sum().",
            (*TV_NUMBERS, "thin"),
            _tv_vertical,
        ),
        Misconception(
            "around_the_border",
            "You compared the last row with the first one, as roll does.",
            "Pixels at opposite borders are no neighbors: subtract slices, x[:, :, 1:] − x[:, :, :-1].",
            (*TV_NUMBERS, "thin"),
            _tv_around,
        ),
        Misconception(
            "channels_as_neighbors",
            "You took differences along the channel axis.",
            "Rows are axis 2 and columns axis 3 of (N, C, H, W).",
            (*TV_NUMBERS, "thin"),
            _tv_other_axes,
        ),
        Misconception(
            "channels_for_rows",
            "You took differences along the channel axis for the vertical ones.",
            "Rows are axis 2 of (N, C, H, W): x[:, :, 1:] − x[:, :, :-1].",
            (*TV_NUMBERS, "thin"),
            _tv_channels_for_rows,
        ),
        Misconception(
            "first_image_only",
            "You took the first image only.",
            "One sum over everything, all N images.",
            ("batch", "gradient", "thin"),
            _tv_first_image,
        ),
        Misconception(
            "mean_over_channels",
            "You divided by the number of channels.",
            "One sum over everything, channels too.",
            ("batch", "gradient", "thin"),
            _tv_channel_mean,
        ),
        Misconception(
            "every_axis",
            "You took differences along all four axes.",
            "Images and channels are no neighbors: rows, axis 2, and columns, axis 3, only.",
            ("batch", "gradient", "thin"),
            _tv_every_axis,
        ),
        Misconception(
            "counted_twice",
            "You counted each pair of neighbors twice.",
            "Each pair once: with the right one and the lower one, not with all four.",
            (*TV_NUMBERS, "thin"),
            _tv_both_ways,
        ),
        Misconception(
            "halved",
            "You took half: the mean of the two directions, or half of each pair.",
            "The sum of both, each pair of neighbors once.",
            (*TV_NUMBERS, "thin"),
            _tv_half,
        ),
        Misconception(
            "last_row_and_column_cut",
            "You cut both differences to the same size, and lost pairs in the last row and column.",
            "They need not have the same shape: sum each by itself.",
            (*TV_NUMBERS, "thin"),
            _tv_cut,
        ),
        Misconception(
            "diagonal",
            "You compared diagonal neighbors.",
            "Shift by one row, and separately by one column.",
            (*TV_NUMBERS, "thin"),
            _tv_diagonal,
        ),
        Misconception(
            "python_number",
            "You returned a Python number, through which no gradient flows.",
            "Leave item() and float() away.",
            ("differences", "batch", "gradient", "thin", "kinds"),
            _tv_number,
        ),
        Misconception(
            "gradient_cut",
            "No gradient flows back into x.",
            "Leave detach(), .data and torch.no_grad() away.",
            ("gradient",),
            _tv_cut_off,
        ),
    ),
    right=(
        Variant("slices", summed_differences),
        Variant("padded borders", _tv_pad),
        Variant("row by row", _tv_loop),
    ),
    hints=(
        Hint(
            "I don't see how to take all differences at once",
            "x[:, :, 1:] are all rows but the first, x[:, :, :-1] all but the last. What is their difference?",
        ),
        Hint(
            "The two differences don't have the same shape",
            "They need not: one has a row less, the other a column less. Sum each by itself, then add.",
        ),
        Hint(
            "My number is too small or too large",
            "abs() before sum(), no mean, each pair once: (x[:, :, 1:] − x[:, :, :-1]).abs().sum() plus the same along the last axis.",
        ),
    ),
)
