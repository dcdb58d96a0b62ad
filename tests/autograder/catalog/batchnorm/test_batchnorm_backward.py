import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate

HOLDS = (Outcome.CORRECT, Outcome.WAITING)


def right(grad_y, x, gamma, eps=1e-5):
    axes = [a for a in range(x.dim()) if a != 1]
    along = (1, -1, *[1] * (x.dim() - 2))
    centered = x - x.mean(axes, keepdim=True)
    var = centered.square().mean(axes, keepdim=True) + eps
    grad_hat = grad_y * gamma.view(along)
    slope = (grad_hat * centered).mean(axes, keepdim=True) / var
    grad_x = (grad_hat - grad_hat.mean(axes, keepdim=True) - centered * slope) / var.sqrt()
    return grad_x, (grad_y * centered / var.sqrt()).sum(axes), grad_y.sum(axes)


def as_a_list(grad_y, x, gamma, eps=1e-5):
    return list(right(grad_y, x, gamma, eps))


def jacobian(grad_y, x, gamma, eps=1e-5):
    """the matrix of ∂x_hat/∂x, a channel at a time"""
    parts = []
    for v, g, scale in zip(x.unbind(1), grad_y.unbind(1), gamma, strict=True):
        flat, up = v.reshape(-1), g.reshape(-1)
        m, sigma = len(flat), (flat.var(correction=0) + eps).sqrt()
        hat = (flat - flat.mean()) / sigma
        matrix = (torch.eye(m, dtype=x.dtype) - 1 / m - torch.outer(hat, hat) / m) / sigma
        parts.append(((scale * up @ matrix).reshape(v.shape), up @ hat, up.sum()))
    of_x, of_gamma, of_beta = zip(*parts, strict=True)
    return torch.stack(of_x, 1), torch.stack(of_gamma), torch.stack(of_beta)


def float32(grad_y, x, gamma, eps=1e-5):
    return tuple(g.float() for g in right(grad_y, x, gamma, eps))


def parameters_with_axes(grad_y, x, gamma, eps=1e-5):
    grad_x, of_gamma, of_beta = right(grad_y, x, gamma, eps)
    along = (1, -1, *[1] * (x.dim() - 2))
    return grad_x, of_gamma.view(along), of_beta.view(along)


def default_eps(grad_y, x, gamma, eps=1e-5):
    return right(grad_y, x, gamma)


def eps_added_to_the_root(grad_y, x, gamma, eps=1e-5):
    axes = [a for a in range(x.dim()) if a != 1]
    sigma = x.std(axes, correction=0, keepdim=True) + eps
    x_hat = (x - x.mean(axes, keepdim=True)) / sigma
    grad_hat = grad_y * gamma.view(1, -1, *[1] * (x.dim() - 2))
    means = grad_hat.mean(axes, keepdim=True) + x_hat * (grad_hat * x_hat).mean(axes, keepdim=True)
    return (grad_hat - means) / sigma, (grad_y * x_hat).sum(axes), grad_y.sum(axes)


def beta_first(grad_y, x, gamma, eps=1e-5):
    grad_x, of_gamma, of_beta = right(grad_y, x, gamma, eps)
    return grad_x, of_beta, of_gamma


def size_of_gamma(grad_y, x, gamma, eps=1e-5):
    return right(grad_y, x, gamma.abs(), eps)


class TestBatchnormBackward(Contract):
    exercise_id = "batchnorm_backward"

    @pytest.mark.parametrize("answer", [as_a_list, jacobian])
    def test_other_right_answers_lose_nothing(self, exam, answer):
        assert evaluate("batchnorm_backward", answer, exam=exam).correct

    @pytest.mark.parametrize(
        ("answer", "failed", "name"),
        [
            (float32, {"carries"}, "float32_returned"),
            (parameters_with_axes, {"carries"}, "axes_kept"),
            (default_eps, {"eps"}, "eps_fixed"),
            (eps_added_to_the_root, {"eps"}, "eps_outside_root"),
            (beta_first, {"parameters"}, "gradients_swapped"),
            (size_of_gamma, {"rows", "images", "eps"}, None),
        ],
    )
    def test_a_mistake_costs_what_it_touches_and_bears_its_name(self, exam, answer, failed, name):
        verdict = evaluate("batchnorm_backward", answer, exam=exam)
        assert {claim for claim, outcome in verdict.outcomes.items() if outcome not in HOLDS} == failed
        assert verdict.diagnosis == name
