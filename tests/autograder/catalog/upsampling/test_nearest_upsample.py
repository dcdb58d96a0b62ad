import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestNearestUpsample(Contract):
    exercise_id = "nearest_upsample"


def lost(verdict):
    """The claims that were tried and do not hold."""
    held = (Outcome.CORRECT, Outcome.WAITING)
    return [name for name, outcome in verdict.outcomes.items() if outcome not in held]


def test_a_result_without_a_graph_loses_the_gradients_and_no_more():
    def answer(x, factor):
        with torch.no_grad():
            return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    verdict = evaluate("nearest_upsample", answer)
    assert (lost(verdict), verdict.diagnosis, verdict.points) == (["gradients"], "detached", 1.5)


def test_a_result_of_the_default_dtype_loses_its_own_claim():
    def answer(x, factor):
        out = torch.zeros(*x.shape[:2], factor * x.shape[2], factor * x.shape[3])
        for row in range(factor):
            for column in range(factor):
                out[..., row::factor, column::factor] = x
        return out

    verdict = evaluate("nearest_upsample", answer)
    assert (lost(verdict), verdict.diagnosis, verdict.points) == (["carries"], "default_dtype", 1.75)


def test_a_matrix_that_torch_does_not_multiply_with_float64_costs_its_own_claim():
    def answer(x, factor):
        down, across = (torch.eye(n).repeat_interleave(factor, 0) for n in x.shape[2:])
        return down @ x @ across.T

    verdict = evaluate("nearest_upsample", answer)
    assert (lost(verdict), verdict.points) == (["carries"], 1.75)
    assert verdict.diagnosis != "refused_in_another_order"


def test_an_x_in_another_order_of_memory_costs_its_own_claim():
    def by_view(x, factor):
        N, C, H, W = x.shape
        values = x.view(-1, 1).repeat(1, factor).view(N * C, H, factor * W)
        return values.repeat_interleave(factor, 1).view(N, C, factor * H, factor * W)

    def by_kron(x, factor):
        return torch.kron(x, torch.ones(factor, factor, dtype=x.dtype))

    for answer in (by_view, by_kron):
        verdict = evaluate("nearest_upsample", answer)
        assert (lost(verdict), verdict.points) == (["carries"], 1.75)
        assert verdict.diagnosis == "refused_in_another_order"


def test_columns_without_rows_are_named():
    verdict = evaluate("nearest_upsample", lambda x, factor: x.repeat_interleave(factor, 3))
    assert verdict.diagnosis == "columns_only"


def test_a_wrong_shape_is_no_wrong_dtype():
    verdict = evaluate("nearest_upsample", lambda x, factor: x.repeat_interleave(factor, 2))
    assert (lost(verdict), verdict.diagnosis) == (["blocks", "narrow", "gradients"], "rows_only")
    assert verdict.outcomes["carries"] is Outcome.WAITING
