"""The exercise total_variation of lecture 03: how much neighbors differ."""

from typing import Any

import torch
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import carries, gradients
from autograder.catalog.visualization.draws import distinct
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import visualization as reference


def _one_image(d: Draw) -> Case:
    return Case((d.layout(d.tensor(1, 1, *d.each([(3, 4), (5, 3), (2, 6), (3, 3)]))),))


def _image_batch(d: Draw) -> Case:
    shape = d.each([(2, 3, 3, 4), (2, 3, 4, 2), (3, 1, 2, 6), (1, 2, 3, 3)])
    return Case((d.layout(d.tensor(*shape)),))


def _untied(d: Draw) -> Case:
    """No two values are equal: at a tie there are several right gradients."""
    shape = d.each([(2, 3, 3, 4), (3, 1, 4, 2), (1, 2, 2, 6), (2, 2, 3, 3)])
    return Case((d.layout(distinct(d, *shape)),))


def _thin(d: Draw) -> Case:
    images, rows, columns = d.integer(2, 3), d.choice([4, 2, 5]), d.choice([3, 2, 4])
    extra = {
        "one row": d.tensor(images, 2, 1, columns),
        "one pixel": d.tensor(images, 2, 1, 1),
    }
    return Case((d.tensor(images, 2, rows, 1),), {}, extra)


def _value(subject: Subject, case: Case) -> Any:
    return _plain(subject(*case.args))


def _of_thin_ones(subject: Subject, case: Case) -> dict[str, Any]:
    return {"one column": _value(subject, case)} | {
        name: _plain(subject(x)) for name, x in case.extra.items()
    }


def _plain(value: Any) -> Any:
    """One number, of whichever kind: that is another property's business."""
    single = isinstance(value, torch.Tensor) and value.numel() == 1
    number = single or type(value) in (int, float)
    return torch.tensor(float(value), dtype=torch.float64) if number else value


def _tv_kinds(d: Draw) -> Case:
    return Case((d.tensor(2, 3, 3, 4, dtype=d.each([torch.float32, torch.float64])),))


# A sum in float32 is as good; which dtype it has is asked for once.
NUMBER = (1e-4, 1e-5)

CLAIMS = Exercise(
    id="total_variation",
    topic="visualization",
    title="How much neighbors differ",
    reference=reference.total_variation,
    minutes=6,
    difficulty=1,
    properties=claims(
        """
        differences (0.75): the absolute differences of all vertical and horizontal neighbors of one image,
          summed
        batch (0.5): one sum over all images and channels
        gradient (0.25): gradients flow back into the image
        tried: the gradient with respect to x
        thin (0.25): images of one row, one column or one pixel
        tried: total_variation of x and of each of these
        kinds (0.25): a scalar tensor of the dtype of x, and x is not changed
        """,
        differences=on(_one_image, _value, tolerance=NUMBER, examples=6),
        batch=on(_image_batch, _value, tolerance=NUMBER, examples=6),
        gradient=on(_untied, gradients(0), examples=4),
        thin=on(_thin, _of_thin_ones, tolerance=NUMBER, examples=3),
        kinds=on(_tv_kinds, carries, examples=4, beside="differences"),
    ),
    hints=hints("""
        I don't see how to take all differences at once
        x[:, :, 1:] are all rows but the first, x[:, :, :-1] all but the last. What is their difference?

        The two differences don't have the same shape
        They need not: one has a row less, the other a column less. Sum each by itself, then add.

        My number is too small or too large
        abs() before sum(), no mean, each pair once: (x[:, :, 1:] − x[:, :, :-1]).abs().sum() plus the same
          along the last axis.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def sliced(x):
    """slices"""
    down = x[:, :, 1:] - x[:, :, :-1]
    right = x[:, :, :, 1:] - x[:, :, :, :-1]
    return down.abs().sum() + right.abs().sum()


answers.edits("""
mean_of_differences: all but kinds
- down.abs().sum() + right.abs().sum()
+ down.abs().mean() + right.abs().mean()
You averaged the differences.
Sum them. maximize_activation divides by the number of values itself.

divided_by_values: all but kinds
- down.abs().sum() + right.abs().sum()
+ (down.abs().sum() + right.abs().sum()) / x.numel()
You divided by the number of values.
Sum only. maximize_activation divides by x.numel() itself.

mean_over_images: batch gradient thin
- down.abs().sum() + right.abs().sum()
+ (down.abs().sum() + right.abs().sum()) / len(x)
You divided by the number of images.
One sum over everything, images too.

one_number_an_image: all but differences
- down.abs().sum() + right.abs().sum()
+ down.abs().sum((1, 2, 3)) + right.abs().sum((1, 2, 3))
You returned one number for each image.
One scalar: sum over the images too.

squared: all but kinds
- down.abs().sum() + right.abs().sum()
+ (down**2).sum() + (right**2).sum()
You squared the differences: one sharp edge then costs more than a soft ramp of the same height.
Take their absolute values, abs().

root_of_squares: all but kinds
- down.abs().sum() + right.abs().sum()
+ ((down**2).sum() + (right**2).sum()).sqrt()
You took the root of the sum of squares.
Take the absolute value of each difference, then sum.

gradient_lengths: all but kinds
- down.abs().sum() + right.abs().sum()
+ (down[..., :-1] ** 2 + right[:, :, :-1] ** 2).clamp(min=1e-20).sqrt().sum()
You combined the vertical and the horizontal difference of a pixel into a length, √(dy² + dx²).
Here they count separately: the sum of |dy| plus the sum of |dx|.

signed: all but kinds
- down.abs().sum() + right.abs().sum()
+ down.sum() + right.sum()
You summed the differences with their signs: all but the borders cancel.
abs() each difference first.

absolute_too_late: all but kinds
- down.abs().sum() + right.abs().sum()
+ down.sum().abs() + right.sum().abs()
You took the absolute value of the sums: inside them the differences have canceled already.
First abs(), then sum().

horizontal_only: all but kinds
- down = x[:, :, 1:] - x[:, :, :-1]
...
- down.abs().sum() + right.abs().sum()
+ right.abs().sum()
You left the vertical neighbors out.
Add (x[:, :, 1:] − x[:, :, :-1]).abs().sum().

vertical_only: all but kinds
- right = x[:, :, :, 1:] - x[:, :, :, :-1]
- return down.abs().sum() + right.abs().sum()
+ return down.abs().sum()
You left the horizontal neighbors out.
Add (x[..., 1:] − x[..., :-1]).abs().sum().

around_the_border: all but kinds
- down = x[:, :, 1:] - x[:, :, :-1]
- right = x[:, :, :, 1:] - x[:, :, :, :-1]
+ down = x - x.roll(1, 2)
+ right = x - x.roll(1, 3)
You compared the last row with the first one, as roll does.
Pixels at opposite borders are no neighbors: subtract slices, x[:, :, 1:] − x[:, :, :-1].

zeros_prepended: all but kinds
- down = x[:, :, 1:] - x[:, :, :-1]
- right = x[:, :, :, 1:] - x[:, :, :, :-1]
+ down = torch.diff(x, dim=2, prepend=torch.zeros_like(x[:, :, :1]))
+ right = torch.diff(x, dim=3, prepend=torch.zeros_like(x[:, :, :, :1]))
You put zeros before the first row and the first column, so that their own absolute values were counted.
Only pixels of the image are neighbors: there is one difference less than there are rows, or columns.

channels_as_neighbors: all but kinds
- down = x[:, :, 1:] - x[:, :, :-1]
- right = x[:, :, :, 1:] - x[:, :, :, :-1]
+ down = x[:, 1:] - x[:, :-1]
+ right = x[:, :, 1:] - x[:, :, :-1]
You took differences along the channel axis.
Rows are axis 2 and columns axis 3 of (N, C, H, W).

channels_for_rows: all but kinds
- down = x[:, :, 1:] - x[:, :, :-1]
+ down = x[:, 1:] - x[:, :-1]
You took differences along the channel axis for the vertical ones.
Rows are axis 2 of (N, C, H, W): x[:, :, 1:] − x[:, :, :-1].

first_image_only: batch gradient thin
- down = x[:, :, 1:] - x[:, :, :-1]
- right = x[:, :, :, 1:] - x[:, :, :, :-1]
+ down = x[0, :, 1:] - x[0, :, :-1]
+ right = x[0, :, :, 1:] - x[0, :, :, :-1]
You took the first image only.
One sum over everything, all N images.

mean_over_channels: batch gradient thin
- down.abs().sum() + right.abs().sum()
+ (down.abs().sum() + right.abs().sum()) / x.shape[1]
You divided by the number of channels.
One sum over everything, channels too.

every_axis: batch gradient thin
- down = x[:, :, 1:] - x[:, :, :-1]
- right = x[:, :, :, 1:] - x[:, :, :, :-1]
- return down.abs().sum() + right.abs().sum()
+ return sum(x.diff(dim=axis).abs().sum() for axis in range(4))
You took differences along all four axes.
Images and channels are no neighbors: rows, axis 2, and columns, axis 3, only.

counted_twice: all but kinds
- down.abs().sum() + right.abs().sum()
+ 2 * (down.abs().sum() + right.abs().sum())
You counted each pair of neighbors twice.
Each pair once: with the right one and the lower one, not with all four.

halved: all but kinds
- down.abs().sum() + right.abs().sum()
+ (down.abs().sum() + right.abs().sum()) / 2
You took half: the mean of the two directions, or half of each pair.
The sum of both, each pair of neighbors once.

last_row_and_column_cut: all but kinds
- down = x[:, :, 1:] - x[:, :, :-1]
- right = x[:, :, :, 1:] - x[:, :, :, :-1]
+ down = x[:, :, 1:, :-1] - x[:, :, :-1, :-1]
+ right = x[:, :, :-1, 1:] - x[:, :, :-1, :-1]
You cut both differences to the same size, and lost pairs in the last row and column.
They need not have the same shape: sum each by itself.

diagonal: all but kinds
- down = x[:, :, 1:] - x[:, :, :-1]
- right = x[:, :, :, 1:] - x[:, :, :, :-1]
- return down.abs().sum() + right.abs().sum()
+ return (x[:, :, 1:, 1:] - x[:, :, :-1, :-1]).abs().sum()
You compared diagonal neighbors.
Shift by one row, and separately by one column.

python_number: gradient kinds
- down.abs().sum() + right.abs().sum()
+ (down.abs().sum() + right.abs().sum()).item()
You returned a Python number, through which no gradient flows.
Leave item() and float() away.

gradient_cut: gradient
- down.abs().sum() + right.abs().sum()
+ (down.abs().sum() + right.abs().sum()).detach()
No gradient flows back into x.
Leave detach(), .data and torch.no_grad() away.
""")


@answers.right
def padded(x):
    """padded borders"""
    down = F.pad(x, (0, 0, 0, 1), mode="replicate") - F.pad(x, (0, 0, 1, 0), mode="replicate")
    right = F.pad(x, (0, 1, 0, 0), mode="replicate") - F.pad(x, (1, 0, 0, 0), mode="replicate")
    return down.abs().sum() + right.abs().sum()


@answers.right
def by_row(x):
    """row by row"""
    total = x.new_zeros(())
    for i in range(1, x.shape[2]):
        total = total + (x[:, :, i] - x[:, :, i - 1]).abs().sum()
    for j in range(1, x.shape[3]):
        total = total + torch.norm(x[..., j] - x[..., j - 1], p=1)
    return total


EXERCISE = answers.exercise()
