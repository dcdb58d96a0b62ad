import torch
from contract import Contract
from torch.nn import functional as F

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestMaxPoolWithSwitches(Contract):
    exercise_id = "max_pool_with_switches"


def pooled(x, k):
    """y and switches by way of unfold."""
    N, C, W, h, w = *x.shape[:2], x.shape[3], x.shape[2] // k, x.shape[3] // k
    cells = x.unfold(2, k, k).unfold(3, k, k).reshape(N, C, h, w, k * k)
    best = cells.argmax(-1)
    row = torch.arange(h)[:, None] * k + best // k
    column = torch.arange(w) * k + best % k
    return cells.gather(-1, best[..., None])[..., 0], row * W + column


def test_unfolding_is_right():
    assert evaluate("max_pool_with_switches", pooled).correct


def test_switches_counted_through_the_channels_are_named():
    def answer(x, k):
        y, switches = pooled(x, k)
        for c in range(x.shape[1]):
            switches[:, c] = switches[:, c] * x.shape[1] + c
        return y, switches

    verdict = evaluate("max_pool_with_switches", answer)
    assert verdict.diagnosis == "counted_through_the_channels"
    assert verdict.findings[0].claims == ("switches", "ties", "negative", "ragged")


def test_the_dtype_of_the_switches_costs_its_own_claim():
    for cast, name in ((torch.float32, "switches_as_floats"), (torch.int32, "switches_as_int32")):
        verdict = evaluate(
            "max_pool_with_switches", lambda x, k, to=cast: (pooled(x, k)[0], pooled(x, k)[1].to(to))
        )
        assert (verdict.points, verdict.diagnosis) == (2.75, name)


def test_switches_in_the_dtype_of_x_are_not_said_to_be_float32():
    def answer(x, k):
        y, switches = pooled(x, k)
        return y, switches.to(x.dtype)

    verdict = evaluate("max_pool_with_switches", answer)
    assert [f.name for f in verdict.findings] == ["switches_in_the_dtype_of_x"]


def test_the_order_of_the_two_costs_its_own_claim():
    verdict = evaluate("max_pool_with_switches", lambda x, k: pooled(x, k)[::-1])
    assert (verdict.points, verdict.diagnosis) == (2.75, "order_of_results")


def test_the_maxima_alone_are_told_what_is_missing():
    verdict = evaluate("max_pool_with_switches", lambda x, k: pooled(x, k)[0])
    assert verdict.outcomes["values"] is verdict.outcomes["gradients"] is Outcome.CORRECT
    assert "switches are missing" in next(r for r in verdict.results if r.name == "switches").message


def test_windows_of_one_pixel_and_of_the_whole_map_count():
    for refused in (lambda x, k: k == 1, lambda x, k: k == min(x.shape[2:])):

        def answer(x, k, refused=refused):
            if refused(x, k):
                raise ValueError(f"k must be of another size, got {k}")
            return pooled(x, k)

        assert evaluate("max_pool_with_switches", answer).outcomes["values"] is Outcome.RAISED


def test_an_edge_along_one_side_only_is_dropped_too():
    def answer(x, k):
        # Cut where both sides have an edge, and padded where one has.
        if (x.shape[2] % k == 0) != (x.shape[3] % k == 0):
            y, switches = pooled(F.pad(x, (0, -x.shape[3] % k, 0, -x.shape[2] % k), value=-100.0), k)
            return y, switches
        return pooled(x, k)

    assert evaluate("max_pool_with_switches", answer).outcomes["ragged"] is not Outcome.CORRECT
