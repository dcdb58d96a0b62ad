import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class TestMaxUnpool(Contract):
    exercise_id = "max_unpool"


def unpooled(y, switches, size, zeros=None, divisor=None):
    N, C, H, W = *y.shape[:2], *size
    out = y.new_zeros(N, C, H, W) if zeros is None else zeros(N, C, H, W)
    by = W if divisor is None else divisor(H, W)
    n, c = torch.arange(N)[:, None, None, None], torch.arange(C)[:, None, None]
    out[n, c, switches // by, switches % by] = y
    return out


def test_rows_and_columns_by_index_are_right():
    assert evaluate("max_unpool", unpooled).correct


def test_a_result_of_float32_costs_its_own_claim():
    verdict = evaluate("max_unpool", lambda y, switches, size: unpooled(y, switches, size).float())
    assert (verdict.points, verdict.diagnosis) == (2.75, "default_dtype")


def test_zeros_that_torch_does_not_mix_with_y_are_told():
    verdict = evaluate("max_unpool", lambda y, switches, size: unpooled(y, switches, size, zeros=torch.zeros))
    assert (verdict.points, verdict.diagnosis) == (2.75, "zeros_of_another_dtype_indexed")

    def scattered(y, switches, size):
        flat = torch.zeros(*y.shape[:2], size[0] * size[1])
        return flat.scatter_(2, switches.flatten(2), y.flatten(2)).reshape(*y.shape[:2], *size)

    verdict = evaluate("max_unpool", scattered)
    assert (verdict.points, verdict.diagnosis) == (2.75, "zeros_of_another_dtype")
    assert "y.new_zeros" in verdict.findings[0].repair


def test_memory_in_another_order_costs_its_own_claim():
    def answer(y, switches, size):
        N, C = y.shape[:2]
        flat = y.new_zeros(N, C, size[0] * size[1])
        return flat.scatter(2, switches.view(N, C, -1), y.view(N, C, -1)).view(N, C, *size)

    verdict = evaluate("max_unpool", answer)
    assert (verdict.points, verdict.diagnosis) == (2.75, "joined_by_view")


def test_a_division_by_the_height_is_named_by_numbers_and_not_by_an_error_alone():
    verdict = evaluate(
        "max_unpool", lambda y, switches, size: unpooled(y, switches, size, divisor=lambda H, W: H)
    )
    assert verdict.diagnosis == "divided_by_the_height"

    def failing(y, switches, size):
        if size[0] != size[1]:
            raise IndexError("index 12 is out of bounds for dimension 0 with size 4")
        return unpooled(y, switches, size)

    assert evaluate("max_unpool", failing).diagnosis is None


def test_one_value_and_windows_of_one_pixel_count():
    for refused in (lambda y, size: y.shape[2:] == (1, 1), lambda y, size: y.shape[2:] == size):

        def answer(y, switches, size, refused=refused):
            if refused(y, size):
                raise ValueError("y must have another size")
            return unpooled(y, switches, size)

        assert evaluate("max_unpool", answer).outcomes["places"] is Outcome.RAISED
