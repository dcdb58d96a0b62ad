import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam


def whitening(covariance, mean=lambda x: x.mean(0), pair=lambda c, W: (c @ W, W)):
    def zca(x, eps=1e-5):
        dtype = x.dtype if x.is_floating_point() else torch.float32
        c = x.double() - mean(x.double())
        S, U = torch.linalg.eigh(covariance(c))
        W = U @ torch.diag((S.clamp(min=0) + eps) ** -0.5) @ U.T
        return [v.to(dtype) for v in pair(c, W)]

    return zca


def divided_by(n):
    return lambda c: c.T @ c / n(c)


right = divided_by(len)


def short_svd(x, eps=1e-5):
    dtype = x.dtype if x.is_floating_point() else torch.float32
    c = x.double() - x.double().mean(0)
    _, s, vt = torch.linalg.svd(c, full_matrices=False)
    W = vt.T @ torch.diag((s**2 / len(x) + eps) ** -0.5) @ vt
    return (c @ W).to(dtype), W.to(dtype)


NUMBERS = ("whitened", "matrix", "eps", "dependent")


class TestZcaWhiten(Contract):
    exercise_id = "zca_whiten"

    def test_two_tensors_may_come_as_a_list(self):
        assert evaluate("zca_whiten", whitening(right)).correct

    @pytest.mark.parametrize(
        ("name", "claims", "answer"),
        [
            ("divided_by_features", NUMBERS, whitening(divided_by(lambda c: c.shape[1]))),
            ("torch_cov_as_it_is", NUMBERS, whitening(lambda c: torch.cov(c.T))),
            ("one_mean", NUMBERS, whitening(right, mean=torch.mean)),
            ("swapped", (*NUMBERS, "kinds"), whitening(right, pair=lambda c, W: (W, c @ W))),
            (
                "samples_in_columns",
                (*NUMBERS, "kinds"),
                whitening(lambda c: c @ c.T / c.shape[1], pair=lambda c, W: (W @ c, W)),
            ),
            ("directions_left_out", ("dependent",), short_svd),
        ],
    )
    def test_reported_mistakes_have_names(self, name, claims, answer):
        (finding,) = evaluate("zca_whiten", answer).findings
        assert (finding.name, finding.claims) == (name, claims)

    def test_one_feature_costs_its_own_claim(self):
        one = whitening(lambda c: torch.cov(c.T, correction=0))
        outcomes = evaluate("zca_whiten", one).outcomes
        assert [name for name, o in outcomes.items() if o is not Outcome.CORRECT] == ["dependent"]

    def test_every_exam_has_the_ends_of_what_is_allowed(self, exercise):
        cases = Exam(exercise).every()
        assert 0 in [case.args[1] for case in cases["eps"]]
        shapes = [tuple(case.args[0].shape) for case in cases["dependent"]]
        for holds in (lambda n, d: n < d, lambda n, d: n == d, lambda n, d: n == 1, lambda n, d: d == 1):
            assert any(holds(n, d) for n, d in shapes)
