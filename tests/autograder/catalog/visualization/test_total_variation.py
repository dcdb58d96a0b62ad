import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate


def summed(x):
    return x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome is not Outcome.CORRECT}


class TestTotalVariation(Contract):
    exercise_id = "total_variation"

    def test_a_number_costs_what_it_is_not_and_no_more(self, exam):
        verdict = evaluate("total_variation", lambda x: float(summed(x)), exam=exam)
        assert lost(verdict) == {"gradient", "kinds"}
        assert verdict.diagnosis == "python_number"

    def test_float32_costs_the_claim_about_the_dtype_alone(self, exam):
        verdict = evaluate("total_variation", lambda x: summed(x.float()), exam=exam)
        assert lost(verdict) == {"kinds"}

    def test_no_gradient_is_asked_for_at_ties(self, exam):
        def total_variation(x):
            return sum((x.diff(dim=i) * torch.where(x.diff(dim=i) < 0, -1, 1)).sum() for i in (2, 3))

        for case in exam.cases(exam.exercise.property("gradient")):
            assert len(case.args[0].unique()) == case.args[0].numel()
        assert evaluate("total_variation", total_variation, exam=exam).correct
