"""The exercise transposed_conv_matrix of lecture 05: a copy of the kernel in every column."""

import torch
from torch.nn import functional as F

from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import CONV_TRANSPOSE
from autograder.catalog.upsampling.draws import SINGLE, carries_by_name, distinct, numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import upsampling as reference


def _kernel(d: Draw, k: int) -> torch.Tensor:
    """No two values are equal, and one is negative."""
    return distinct(d, k) - 0.15


def _columns(d: Draw) -> Case:
    return Case((_kernel(d, d.choice([2, 4, 1, 3])), d.choice([3, 5, 1, 2])))


def _overlap(d: Draw) -> Case:
    stride = d.integer(2, 3)
    return Case((_kernel(d, stride + d.integer(1, 2)), d.integer(2, 4)), {"stride": stride})


def _gaps(d: Draw) -> Case:
    k = d.choice([2, 1])
    return Case((_kernel(d, k), d.choice([2, 1, 3])), {"stride": k + d.integer(1, 2)})


def _single_and_double(d: Draw) -> Case:
    return Case((_kernel(d, 3).to(d.each([torch.float32, torch.float64])), d.integer(3, 4)))


CLAIMS = Exercise(
    id="transposed_conv_matrix",
    topic="upsampling",
    title="A copy of the kernel in every column",
    reference=reference.transposed_conv_matrix,
    minutes=10,
    difficulty=2,
    properties=claims(
        """
        columns (0.75): stride 1: column j holds the kernel, j rows down; a kernel of one number and a
          length of 1 too
        overlap (0.5): larger strides: each copy begins stride rows below the one before
        gaps (0.5): a kernel shorter than the stride leaves rows of zeros; one column
        carries (0.25): the matrix has the dtype of kernel, float32 or float64, and kernel is not modified in
          place
        """,
        columns=on(_columns, numbers, tolerance=SINGLE),
        overlap=on(_overlap, numbers, tolerance=SINGLE),
        gaps=on(_gaps, numbers, tolerance=SINGLE),
        carries=on(_single_and_double, carries_by_name("kernel", "length"), examples=4, beside="columns"),
    ),
    hints=hints("""
        I don't know how many rows there are
        The last copy begins at row stride·(length − 1) and is k rows long.

        My matrix is lying on its side
        Multiply it with the vector (1, 0, 0, …): the result has to be one copy of the kernel.

        I don't know how to start
        kernel.new_zeros(stride * (length - 1) + k, length); for each column j write the kernel into rows
          stride·j to stride·j + k.
        """),
    forbidden=(CONV_TRANSPOSE,),
)

answers = Answers(CLAIMS)


@answers.right
def by_column(kernel, length, stride=1):
    """column by column"""
    k = len(kernel)
    rows = stride * (length - 1) + k
    matrix = kernel.new_zeros(rows, length)
    for j in range(length):
        start = stride * j
        matrix[start : start + k, j] = kernel
    return matrix


answers.edits("""
kernel_in_the_rows: all but carries
- new_zeros(rows, length)
+ new_zeros(length, rows)
- matrix[start : start + k, j]
+ matrix[j, start : start + k]
You put the kernel into the rows: this is the matrix of the convolution.
Transpose it. The transposed convolution has a copy of the kernel in every column.

kernel_flipped: all but carries
- matrix[start : start + k, j] = kernel
+ matrix[start : start + k, j] = kernel.flip(0)
Your columns hold the kernel upside down.
An input of 1 lays down the kernel as it is: no flip.

stride_ignored: overlap gaps
- rows = stride * (length - 1) + k
+ rows = length - 1 + k
- start = stride * j
+ start = j
You did not use the stride.
Column j begins at row stride·j, and the matrix has stride·(length − 1) + k rows.

one_row_per_column: overlap gaps
- start = stride * j
+ start = j
Your matrix has the right number of rows, but each copy begins one row below the one before.
It begins stride rows below: at row stride·j.

kernel_spread: overlap gaps
- rows = stride * (length - 1) + k
+ rows = length - 1 + stride * (k - 1) + 1
- start = stride * j
- matrix[start : start + k, j] = kernel
+ matrix[j : j + stride * (k - 1) + 1 : stride, j] = kernel
You spread the kernel: its numbers stand stride rows apart, and the copies begin one row apart.
It is the other way round: a copy is k rows in a row, and the next one begins stride rows below.

rows_after_the_last_copy: overlap gaps
- rows = stride * (length - 1) + k
+ rows = stride * length + k - 1
Your matrix has stride·length + k − 1 rows: the last ones are empty.
Nothing comes after the last copy: stride·(length − 1) + k rows.

last_copies_cut: columns overlap
- return matrix
+ return matrix[: stride * length]
You cut the matrix off after stride·length rows, through the last copies of the kernel.
Every copy is whole: stride·(length − 1) + k rows.

default_dtype: carries
- kernel.new_zeros(rows, length)
+ torch.zeros(rows, length, device=kernel.device)
Your matrix is float32 whatever the kernel is.
kernel.new_zeros(...) makes zeros of the dtype and on the device of the kernel.

numpy_array: carries
- return matrix
+ return matrix.detach().numpy()
You returned a numpy array.
Return a tensor: torch.from_numpy(...) makes one of it, and keeps the dtype.

always_float64: carries
- return matrix
+ return matrix.double()
Your matrix is float64 whatever the kernel is.
kernel.new_zeros(...) makes zeros of the dtype and on the device of the kernel.
""")


@answers.right
def looped(kernel, length, stride=1):
    """entry by entry"""
    rows = stride * (length - 1) + len(kernel)
    matrix = torch.zeros(rows, length, dtype=kernel.dtype, device=kernel.device)
    for row in range(rows):
        for column in range(length):
            if 0 <= row - stride * column < len(kernel):
                matrix[row, column] = kernel[row - stride * column]
    return matrix


@answers.right
def indexed(kernel, length, stride=1):
    """the tap of every entry"""
    tap = torch.arange(stride * (length - 1) + len(kernel), device=kernel.device)[:, None]
    tap = tap - stride * torch.arange(length, device=kernel.device)
    inside = (tap >= 0) & (tap < len(kernel))
    return torch.where(inside, kernel[tap.clamp(0, len(kernel) - 1)], 0.0)


@answers.right
def padded(kernel, length, stride=1):
    """padded columns"""
    columns = [F.pad(kernel, (stride * j, stride * (length - 1 - j))) for j in range(length)]
    return torch.stack(columns, dim=1)


EXERCISE = answers.exercise()
