"""The exercise transposed_conv_matrix of lecture 05: a copy of the kernel in every column."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from autograder.catalog.forbidden import CONV_TRANSPOSE
from autograder.catalog.upsampling.draws import carries_by_name, distinct
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import upsampling as reference


def _matrix_columns(d: Draw) -> Case:
    return Case((distinct(d, d.integer(2, 4)), d.integer(3, 5)))


def _matrix_overlap(d: Draw) -> Case:
    stride = d.integer(2, 3)
    return Case((distinct(d, stride + d.integer(1, 2)), d.integer(2, 4)), {"stride": stride})


def _matrix_gaps(d: Draw) -> Case:
    k = d.choice([2, 1])
    return Case((distinct(d, k), d.choice([2, 1, 3])), {"stride": k + d.integer(1, 2)})


def _matrix_single_precision(d: Draw) -> Case:
    return Case((distinct(d, 3).float(), 3))


def _matrix_promoted(kernel, length, stride=1):
    return _matrix(kernel, length, stride).double()


def _matrix(kernel, length, stride=1):
    k = len(kernel)
    matrix = kernel.new_zeros(stride * (length - 1) + k, length)
    for j in range(length):
        matrix[stride * j : stride * j + k, j] = kernel
    return matrix


def _matrix_transposed(kernel, length, stride=1):
    return _matrix(kernel, length, stride).T


def _matrix_flipped(kernel, length, stride=1):
    return _matrix(kernel.flip(0), length, stride)


def _matrix_stride_ignored(kernel, length, stride=1):
    return _matrix(kernel, length)


def _matrix_step_one(kernel, length, stride=1):
    small = _matrix(kernel, length)
    out = kernel.new_zeros(max(stride * (length - 1) + len(kernel), len(small)), length)
    out[: len(small)] = small
    return out


def _matrix_long(kernel, length, stride=1):
    matrix = _matrix(kernel, length, stride)
    return torch.cat([matrix, kernel.new_zeros(stride - 1, length)])


def _matrix_cut(kernel, length, stride=1):
    return _matrix(kernel, length, stride)[: stride * length]


def _matrix_default_dtype(kernel, length, stride=1):
    return _matrix(kernel, length, stride).float()


def _matrix_loops(kernel, length, stride=1):
    rows = stride * (length - 1) + len(kernel)
    matrix = torch.zeros(rows, length, dtype=kernel.dtype, device=kernel.device)
    for row in range(rows):
        for column in range(length):
            if 0 <= row - stride * column < len(kernel):
                matrix[row, column] = kernel[row - stride * column]
    return matrix


def _matrix_indexed(kernel, length, stride=1):
    tap = torch.arange(stride * (length - 1) + len(kernel), device=kernel.device)[:, None]
    tap = tap - stride * torch.arange(length, device=kernel.device)
    inside = (tap >= 0) & (tap < len(kernel))
    return torch.where(inside, kernel[tap.clamp(0, len(kernel) - 1)], 0.0)


def _matrix_padded(kernel, length, stride=1):
    columns = [F.pad(kernel, (stride * j, stride * (length - 1 - j))) for j in range(length)]
    return torch.stack(columns, dim=1)


EXERCISE = Exercise(
    id="transposed_conv_matrix",
    topic="upsampling",
    title="A copy of the kernel in every column",
    reference=reference.transposed_conv_matrix,
    minutes=10,
    difficulty=2,
    properties=(
        Property("columns", "stride 1: column j holds the kernel, j rows down", 0.75, _matrix_columns),
        Property(
            "overlap",
            "larger strides: each copy begins stride rows below the one before",
            0.5,
            _matrix_overlap,
        ),
        Property(
            "gaps", "a kernel shorter than the stride leaves rows of zeros; one column", 0.5, _matrix_gaps
        ),
        Property(
            "carries",
            "a float32 kernel gives a float32 matrix, and kernel is not modified in place",
            0.25,
            _matrix_single_precision,
            carries_by_name("kernel", "length"),
            examples=2,
        ),
    ),
    misconceptions=(
        Misconception(
            "kernel_in_the_rows",
            "You put the kernel into the rows: this is the matrix of the convolution.",
            "Transpose it. The transposed convolution has a copy of the kernel in every column.",
            ("columns", "overlap", "gaps", "carries"),
            _matrix_transposed,
        ),
        Misconception(
            "kernel_flipped",
            "Your columns hold the kernel upside down.",
            "An input of 1 lays down the kernel as it is: no flip.",
            ("columns", "overlap", "gaps"),
            _matrix_flipped,
        ),
        Misconception(
            "stride_ignored",
            "You did not use the stride.",
            "Column j begins at row stride·j, and the matrix has stride·(length − 1) + k rows.",
            ("overlap", "gaps"),
            _matrix_stride_ignored,
        ),
        Misconception(
            "one_row_per_column",
            "Your matrix has the right number of rows, but each copy begins one row below the one before.",
            "It begins stride rows below: at row stride·j.",
            ("overlap", "gaps"),
            _matrix_step_one,
        ),
        Misconception(
            "rows_after_the_last_copy",
            "Your matrix has stride·length + k − 1 rows: the last ones are empty.",
            "Nothing comes after the last copy: stride·(length − 1) + k rows.",
            ("overlap", "gaps"),
            _matrix_long,
        ),
        Misconception(
            "last_copies_cut",
            "You cut the matrix off after stride·length rows, through the last copies of the kernel.",
            "Every copy is whole: stride·(length − 1) + k rows.",
            ("columns", "overlap", "carries"),
            _matrix_cut,
        ),
        Misconception(
            "default_dtype",
            "Your matrix is float32 whatever the kernel is.",
            "kernel.new_zeros(...) makes zeros of the dtype and on the device of the kernel.",
            ("columns", "overlap", "gaps"),
            _matrix_default_dtype,
        ),
        Misconception(
            "always_float64",
            "Your matrix is float64 whatever the kernel is.",
            "kernel.new_zeros(...) makes zeros of the dtype and on the device of the kernel.",
            ("carries",),
            _matrix_promoted,
        ),
    ),
    right=(
        Variant("entry by entry", _matrix_loops),
        Variant("the tap of every entry", _matrix_indexed),
        Variant("padded columns", _matrix_padded),
    ),
    hints=(
        Hint(
            "I don't know how many rows there are",
            "The last copy begins at row stride·(length − 1) and is k rows long.",
        ),
        Hint(
            "My matrix is lying on its side",
            "Multiply it with the vector (1, 0, 0, …): the result has to be one copy of the kernel.",
        ),
        Hint(
            "I don't know how to start",
            "kernel.new_zeros(stride * (length - 1) + k, length); for each column j write the kernel into rows stride·j to stride·j + k.",
        ),
    ),
    forbidden=(CONV_TRANSPOSE,),
)
