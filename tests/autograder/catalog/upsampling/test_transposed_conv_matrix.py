import torch
from contract import Contract
from torch.nn import functional as F

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestTransposedConvMatrix(Contract):
    exercise_id = "transposed_conv_matrix"


def test_a_matrix_of_the_default_dtype_costs_its_own_claim():
    def answer(kernel, length, stride=1):
        matrix = torch.zeros(stride * (length - 1) + len(kernel), length)
        for j in range(length):
            matrix[stride * j : stride * j + len(kernel), j] = kernel
        return matrix

    verdict = evaluate("transposed_conv_matrix", answer)
    assert (verdict.points, verdict.diagnosis) == (1.75, "default_dtype")


def test_a_numpy_array_costs_its_own_claim():
    def answer(kernel, length, stride=1):
        columns = [F.pad(kernel, (stride * j, stride * (length - 1 - j))) for j in range(length)]
        return torch.stack(columns, 1).numpy()

    verdict = evaluate("transposed_conv_matrix", answer)
    assert (verdict.points, verdict.diagnosis) == (1.75, "numpy_array")


def test_a_spread_kernel_is_named():
    def answer(kernel, length, stride=1):
        spread = kernel.new_zeros(stride * (len(kernel) - 1) + 1)
        spread[::stride] = kernel
        matrix = kernel.new_zeros(length - 1 + len(spread), length)
        for j in range(length):
            matrix[j : j + len(spread), j] = spread
        return matrix

    verdict = evaluate("transposed_conv_matrix", answer)
    assert (verdict.points, verdict.diagnosis) == (1.0, "kernel_spread")


def test_one_number_and_a_length_of_one_count_with_stride_one():
    for refused in (lambda kernel, length: len(kernel) == 1, lambda kernel, length: length == 1):

        def answer(kernel, length, stride=1, refused=refused):
            if stride == 1 and refused(kernel, length):
                raise ValueError("this is no convolution")
            matrix = kernel.new_zeros(stride * (length - 1) + len(kernel), length)
            for j in range(length):
                matrix[stride * j : stride * j + len(kernel), j] = kernel
            return matrix

        assert evaluate("transposed_conv_matrix", answer).outcomes["columns"] is Outcome.RAISED
