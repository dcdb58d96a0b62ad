import pytest
from contract import Contract

from autograder.oracle import evaluate


def closed(size, depth=4, least=1):
    out = size - 12 * 2**depth + 8
    if out < least:
        raise ValueError("nothing is left")
    return out


def four_left(size, depth=4):
    side = size
    for _ in range(depth):
        side -= 4
        if side % 2:
            raise ValueError("odd")
        side //= 2
    return closed(size, depth, least=3)


class TestUnetOutputSize(Contract):
    exercise_id = "unet_output_size"

    def test_a_formula_that_rounds_nothing_is_not_told_that_it_rounds(self):
        verdict = evaluate("unet_output_size", closed)
        assert (verdict.points, verdict.diagnosis) == (2.25, "odd_sizes_accepted")
        assert "round" not in verdict.findings[0].mistake

    @pytest.mark.parametrize("number", range(3))
    def test_the_smallest_size_of_depth_one_is_in_every_exam(self, number):
        assert evaluate("unet_output_size", four_left).points == 2.25

    def test_184_of_any_depth(self):
        assert evaluate("unet_output_size", lambda size, depth=4: size - 184).diagnosis == "always_184"
