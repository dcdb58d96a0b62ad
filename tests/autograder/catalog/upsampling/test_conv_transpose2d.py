import pytest
import torch
from contract import Contract
from torch.nn import functional as F

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestConvTranspose2d(Contract):
    exercise_id = "conv_transpose2d"


def by_tap(x, weight, bias=None, stride=1, padding=0, output_padding=0, *, check=True, zeros=None):
    if check and output_padding >= stride:
        raise ValueError(f"output_padding must be below {stride}, got {output_padding}")
    (N, _, H, W), (_, K, kh, kw) = x.shape, weight.shape
    height, width = stride * (H - 1) + kh + output_padding, stride * (W - 1) + kw + output_padding
    y = (zeros or x.new_zeros)(N, K, height, width)
    for r in range(kh):
        for c in range(kw):
            rows = slice(r, r + stride * (H - 1) + 1, stride)
            columns = slice(c, c + stride * (W - 1) + 1, stride)
            y[:, :, rows, columns] += torch.einsum("nihw,io->nohw", x, weight[:, :, r, c])
    y = y[..., padding : height - padding, padding : width - padding]
    return y if bias is None else y + bias[:, None, None]


def verdict_of(change):
    def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0):
        return change(x, weight, bias, stride, padding, output_padding)

    return evaluate("conv_transpose2d", conv_transpose2d)


def test_taps_are_right():
    assert verdict_of(by_tap).correct


def test_sums_in_float32_cost_their_own_claim():
    verdict = verdict_of(lambda *args: by_tap(*args, zeros=torch.zeros))
    assert (verdict.points, verdict.diagnosis) == (4.75, "default_dtype")


def test_zeros_that_torch_does_not_mix_with_the_weight_cost_their_own_claim():
    def answer(x, weight, bias, stride, padding, output_padding):
        if output_padding >= stride:
            raise ValueError("output_padding is too large")
        (kh, kw), (H, W) = weight.shape[2:], x.shape[2:]
        nails = torch.zeros(*x.shape[:2], stride * (H - 1) + 1, stride * (W - 1) + 1)
        nails[..., ::stride, ::stride] = x
        rows, columns = kh - 1 - padding, kw - 1 - padding
        spread = F.pad(nails, (columns, columns + output_padding, rows, rows + output_padding))
        return F.conv2d(spread, weight.flip(2, 3).transpose(0, 1), bias)

    verdict = verdict_of(answer)
    assert (verdict.points, verdict.diagnosis) == (4.75, "zeros_of_another_dtype")


def test_a_forgotten_bias_is_no_missing_gradient_of_x():
    verdict = verdict_of(lambda x, weight, bias, *numbers: by_tap(x, weight, None, *numbers))
    assert (verdict.points, verdict.diagnosis) == (4.5, "bias_ignored")


def test_a_stride_larger_than_the_kernel_counts():
    def answer(x, weight, bias, stride, padding, output_padding):
        if stride > min(weight.shape[2:]):
            raise ValueError("the stride must not be larger than the kernel")
        return by_tap(x, weight, bias, stride, padding, output_padding)

    verdict = verdict_of(answer)
    assert verdict.outcomes["strided"] is Outcome.RAISED
    assert verdict.points == 4


@pytest.mark.parametrize(
    ("limit", "name"),
    [(lambda stride: stride + 1, "refuses_only_above"), (lambda stride: max(1, stride - 1), None)],
    ids=["one too late", "one too early"],
)
def test_what_is_refused_begins_at_the_stride(limit, name):
    def answer(x, weight, bias, stride, padding, output_padding):
        if output_padding >= limit(stride):
            raise ValueError("output_padding is too large")
        return by_tap(x, weight, bias, stride, padding, output_padding, check=False)

    verdict = verdict_of(answer)
    assert verdict.diagnosis == name
    assert verdict.outcomes["refuses"] is Outcome.WRONG_VALUES


def test_a_refusal_by_assert_is_named():
    def answer(x, weight, bias, stride, padding, output_padding):
        assert output_padding < stride
        return by_tap(x, weight, bias, stride, padding, output_padding)

    verdict = verdict_of(answer)
    assert (verdict.points, verdict.diagnosis) == (4.75, "refused_by_assert")


def test_a_result_without_a_graph_is_named():
    verdict = verdict_of(lambda *args: by_tap(*args).detach())
    assert (verdict.points, verdict.diagnosis) == (3.75, "cut_from_the_graph")


def test_padding_put_around_x_is_named():
    def answer(x, weight, bias, stride, padding, output_padding):
        return by_tap(F.pad(x, (padding,) * 4), weight, bias, stride, 0, output_padding)

    verdict = verdict_of(answer)
    assert (verdict.points, verdict.diagnosis) == (3.75, "x_padded")


def test_padding_of_two_is_tried():
    def answer(x, weight, bias, stride, padding, output_padding):
        return by_tap(x, weight, bias, stride, min(padding, 1), output_padding)

    verdict = verdict_of(answer)
    assert verdict.outcomes["padding"] is not Outcome.CORRECT


def test_zero_insertion_before_a_convolution_is_right():
    def answer(x, weight, bias, stride, padding, output_padding):
        if output_padding >= stride:
            raise ValueError("output_padding is too large")
        kh, kw = weight.shape[2:]
        nails = x.new_zeros(*x.shape[:2], stride * (x.shape[2] - 1) + 1, stride * (x.shape[3] - 1) + 1)
        nails[..., ::stride, ::stride] = x
        rows, columns = kh - 1 - padding, kw - 1 - padding
        spread = F.pad(nails, (columns, columns + output_padding, rows, rows + output_padding))
        return F.conv2d(spread, weight.flip(2, 3).transpose(0, 1), bias)

    assert verdict_of(answer).correct
