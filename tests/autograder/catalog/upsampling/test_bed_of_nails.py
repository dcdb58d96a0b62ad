import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestBedOfNails(Contract):
    exercise_id = "bed_of_nails"


def test_zeros_of_the_default_dtype_cost_their_own_claim():
    def answer(x, factor):
        out = torch.zeros(*x.shape[:2], factor * x.shape[2], factor * x.shape[3])
        out[..., ::factor, ::factor] = x
        return out

    verdict = evaluate("bed_of_nails", answer)
    assert (verdict.diagnosis, verdict.points) == ("default_dtype", 1.5)
    assert verdict.outcomes["nails"] is Outcome.CORRECT


def test_a_wrong_size_is_no_wrong_dtype():
    def answer(x, factor):
        N, C, H, W = x.shape
        out = x.new_zeros(N, C, factor * (H - 1) + 1, factor * (W - 1) + 1)
        out[..., ::factor, ::factor] = x
        return out

    verdict = evaluate("bed_of_nails", answer)
    assert verdict.diagnosis == "last_zeros_missing"
    assert verdict.findings[0].claims == ("nails", "gradients")


def test_an_x_in_another_order_of_memory_costs_its_own_claim():
    def answer(x, factor):
        N, C, H, W = x.shape
        out = x.new_zeros(N * C, factor * H, factor * W)
        out[:, ::factor, ::factor] = x.view(N * C, H, W)
        return out.view(N, C, factor * H, factor * W)

    verdict = evaluate("bed_of_nails", answer)
    assert (verdict.diagnosis, verdict.points) == ("refused_in_another_order", 1.5)
    assert verdict.outcomes["nails"] is verdict.outcomes["gradients"] is Outcome.CORRECT
