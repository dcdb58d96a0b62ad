import torch
from contract import Contract

from autograder.oracle import evaluate


class TestBilinearKernel(Contract):
    exercise_id = "bilinear_kernel"


def kernel(channels, factor, *, center=None, times=1.0, dtype=torch.float32):
    k = 2 * factor - factor % 2
    middle = (k - 1) / 2 if center is None else center(k)
    ramp = 1 - (torch.arange(k, dtype=dtype) - middle).abs() / factor
    return times * torch.eye(channels, dtype=dtype)[:, :, None, None] * torch.outer(ramp, ramp)


def test_weights_times_a_hundredth_are_named():
    verdict = evaluate("bilinear_kernel", lambda channels, factor: kernel(channels, factor, times=0.01))
    assert (verdict.points, verdict.diagnosis) == (0, "scaled_down")


def test_a_numpy_array_costs_its_own_claim():
    verdict = evaluate("bilinear_kernel", lambda channels, factor: kernel(channels, factor).numpy())
    assert (verdict.points, verdict.diagnosis) == (2.75, "numpy_array")


def test_the_smaller_of_the_two_ramps_is_named():
    def answer(channels, factor):
        ramp = kernel(1, factor)[0, 0].diagonal().sqrt()
        return torch.eye(channels)[:, :, None, None] * torch.minimum(ramp[:, None], ramp)

    assert evaluate("bilinear_kernel", answer).diagnosis == "flat_faces"


def test_a_middle_at_half_the_size_is_named():
    verdict = evaluate(
        "bilinear_kernel", lambda channels, factor: kernel(channels, factor, center=lambda k: k / 2)
    )
    assert verdict.diagnosis == "middle_at_half_the_size"


def test_float64_costs_its_own_claim_and_a_wrong_size_another():
    verdict = evaluate(
        "bilinear_kernel", lambda channels, factor: kernel(channels, factor, dtype=torch.float64)
    )
    assert (verdict.points, verdict.diagnosis) == (2.75, "float64")

    def depthwise(channels, factor):
        return kernel(1, factor).expand(channels, -1, -1, -1)

    verdict = evaluate("bilinear_kernel", depthwise)
    assert (verdict.points, verdict.diagnosis) == (2.25, "depthwise_shape")
