import functools

import numpy as np
import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate

HOLDS = (Outcome.CORRECT, Outcome.WAITING)


def alongside(v, x):
    return v.reshape(-1, *[1] * (x.dim() - 2))


def standardized(x, eps=1e-5, axes=None):
    axes = axes or [a for a in range(x.dim()) if a != 1]
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(axes, keepdim=True) + eps)


def right(x, gamma, beta, eps=1e-5):
    return standardized(x, eps) * alongside(gamma, x) + alongside(beta, x)


def sums(x, gamma, beta, eps=1e-5):
    axes = tuple(a for a in range(x.dim()) if a != 1)
    count = float(np.prod([x.shape[a] for a in axes]))
    centered = x - x.sum(axes, keepdim=True) / count
    inverse = ((centered * centered).sum(axes) / count + eps).pow(-0.5)
    return centered * alongside(inverse * gamma, x) + alongside(beta, x)


def own_copy_in_place(x, gamma, beta, eps=1e-5):
    y = x.clone()
    y -= x.mean([a for a in range(x.dim()) if a != 1], keepdim=True)
    y = y / (y.pow(2).mean([a for a in range(x.dim()) if a != 1], keepdim=True) + eps) ** 0.5
    y *= alongside(gamma, x)
    y += alongside(beta, x)
    return y


class Callable:
    def __call__(self, x, gamma, beta, eps=1e-5):
        return torch.stack([self.one(x[:, c], gamma[c], beta[c], eps) for c in range(x.size(1))], 1)

    def one(self, v, g, b, eps):
        return torch.addcmul(b, g, (v - v.mean()) / (v.var(correction=0) + eps).sqrt())


def partial_of(axes, x, gamma, beta, eps=1e-5):
    return right(x, gamma, beta, eps)


def float32(x, gamma, beta, eps=1e-5):
    return right(x.float(), gamma.float(), beta.float(), eps)


def float64(x, gamma, beta, eps=1e-5):
    return right(x.double(), gamma.double(), beta.double(), eps)


def another_default(x, gamma, beta, eps=1e-3):
    return right(x, gamma, beta, eps)


def always_the_default(x, gamma, beta, eps=1e-5):
    return right(x, gamma, beta)


def no_negative_gamma(x, gamma, beta, eps=1e-5):
    return right(x, gamma.abs(), beta, eps)


def one_image_left_alone(x, gamma, beta, eps=1e-5):
    return right(x, gamma, beta, eps) if len(x) > 1 else x * alongside(gamma, x) + alongside(beta, x)


def squeezed(x, gamma, beta, eps=1e-5):
    axes = [a for a in range(x.dim()) if a != 1]
    mean, var = x.mean(axes, keepdim=True).squeeze(), x.var(axes, correction=0, keepdim=True).squeeze()
    pairs = zip(x.unbind(1), mean, var, gamma, beta, strict=True)
    return torch.stack([(v - m) / (s + eps).sqrt() * g + b for v, m, s, g, b in pairs], 1)


def std_plus_eps(x, gamma, beta, eps=1e-5):
    axes = [a for a in range(x.dim()) if a != 1]
    x_hat = (x - x.mean(axes, keepdim=True)) / (x.std(axes, keepdim=True) + eps)
    return alongside(gamma, x) * x_hat + alongside(beta, x)


def as_rows(x, gamma, beta, eps=1e-5):
    var, mean = torch.var_mean(x, 0, correction=0)
    return torch.rsqrt(var + eps) * (x - mean) * gamma + beta


def keepdim_forgotten(x, gamma, beta, eps=1e-5):
    axes = [a for a in range(x.dim()) if a != 1]
    return (x - x.mean(axes)) * torch.rsqrt(x.var(axes, correction=0) + eps) * alongside(
        gamma, x
    ) + alongside(beta, x)


def each_image(x, gamma, beta, eps=1e-5):
    return standardized(x, eps, [2, 3] if x.dim() == 4 else None) * alongside(gamma, x) + alongside(beta, x)


class TestBatchnormForward(Contract):
    exercise_id = "batchnorm_forward"

    @pytest.mark.parametrize(
        "answer",
        [right, sums, own_copy_in_place, Callable(), functools.partial(partial_of, None)],
        ids=["plain", "sums", "own copy", "object", "partial"],
    )
    def test_other_right_answers_lose_nothing(self, exam, answer):
        assert evaluate("batchnorm_forward", answer, exam=exam).correct

    @pytest.mark.parametrize(
        ("answer", "failed", "name"),
        [
            (float32, {"carries"}, "float32_returned"),
            (float64, {"carries"}, "float64_returned"),
            (another_default, {"eps"}, None),
            (always_the_default, {"eps"}, "eps_fixed"),
            (no_negative_gamma, {"rows", "images", "eps", "gradients"}, None),
            (one_image_left_alone, {"images", "gradients"}, None),
            (squeezed, {"rows", "images", "gradients"}, None),
            (std_plus_eps, {"rows", "images", "eps", "gradients"}, "unbiased_std_plus_eps"),
            (as_rows, {"images", "gradients"}, "rows_only"),
            (keepdim_forgotten, {"images", "gradients"}, "statistics_on_last_axis"),
            (each_image, {"images", "gradients"}, "instance_norm"),
        ],
    )
    def test_a_mistake_costs_what_it_touches_and_bears_its_name(self, exam, answer, failed, name):
        verdict = evaluate("batchnorm_forward", answer, exam=exam)
        assert {claim for claim, outcome in verdict.outcomes.items() if outcome not in HOLDS} == failed
        assert verdict.diagnosis == name
