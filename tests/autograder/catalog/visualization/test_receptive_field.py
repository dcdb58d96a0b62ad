import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome is not Outcome.CORRECT}


class TestReceptiveField(Contract):
    exercise_id = "receptive_field"

    def test_the_plain_rule_for_the_start_is_named(self, exam):
        def receptive_field(layers):
            size, jump, start = 1, 1, 0.0
            for kernel, stride, padding, dilation in layers:
                size += dilation * (kernel - 1) * jump
                start += ((kernel - 1) / 2 - padding) * jump
                jump *= stride
            return size, jump, start

        verdict = evaluate("receptive_field", receptive_field, exam=exam)
        assert lost(verdict) == {"dilated_start"}
        assert verdict.diagnosis == "dilation_left_out_of_start"

    def test_two_mistakes_have_two_names(self, exam):
        def receptive_field(layers):
            size, jump, start = 1, 1, 0.5
            for kernel, stride, padding, _ in layers:
                size += (kernel - 1) * jump
                start += ((kernel - 1) / 2 - padding) * jump
                jump *= stride
            return size, jump, start

        verdict = evaluate("receptive_field", receptive_field, exam=exam)
        assert {finding.name for finding in verdict.findings} == {"half_pixel", "dilation_ignored"}
        assert verdict.unexplained == ()

    def test_padding_that_is_added_costs_one_claim(self, exam):
        def receptive_field(layers):
            size, jump, start = 1, 1, 0.0
            for kernel, stride, padding, dilation in layers:
                size += dilation * (kernel - 1) * jump
                start += (dilation * (kernel - 1) / 2 + padding) * jump
                jump *= stride
            return size, jump, start

        assert lost(evaluate("receptive_field", receptive_field, exam=exam)) == {"padding"}

    @pytest.mark.parametrize("number", [float, torch.tensor])
    def test_other_numbers_cost_the_claim_about_integers_alone(self, exam, number):
        def receptive_field(layers):
            size, jump, start = number(1), number(1), 0.0
            for kernel, stride, padding, dilation in layers:
                size = size + dilation * (kernel - 1) * jump
                start = start + (dilation * (kernel - 1) / 2 - padding) * jump
                jump = jump * stride
            return size, jump, start

        assert lost(evaluate("receptive_field", receptive_field, exam=exam)) == {"integers"}

    def test_a_stride_larger_than_its_kernel_is_in_every_exam(self, exam):
        for name in ("size", "start", "padding", "dilation", "dilated_start"):
            cases = exam.cases(exam.exercise.property(name))
            assert all(any(s > k for k, s, _, _ in case.args[0][:-1]) for case in cases)
