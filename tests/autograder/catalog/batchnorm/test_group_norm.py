import pytest
import torch
from contract import Contract

from autograder.exercise import Outcome
from autograder.oracle import evaluate

HOLDS = (Outcome.CORRECT, Outcome.WAITING)


def right(x, num_groups, gamma, beta, eps=1e-5):
    if x.shape[1] % num_groups:
        raise ValueError(f"num_groups must divide {x.shape[1]}, got {num_groups}")
    parts = []
    for part in x.chunk(num_groups, dim=1):
        centered = part - part.mean([1, 2, 3], keepdim=True)
        parts.append(centered / torch.sqrt(centered.pow(2).mean([1, 2, 3], keepdim=True) + eps))
    return torch.cat(parts, 1) * gamma[:, None, None] + beta[:, None, None]


def flat(x, num_groups, gamma, beta, eps=1e-5):
    if x.shape[1] % num_groups != 0:
        raise ValueError("num_groups")
    rows = x.contiguous().view(len(x) * num_groups, -1)
    second, first = (rows * rows).mean(1, keepdim=True), rows.mean(1, keepdim=True)
    y = ((rows - first) * (second - first * first + eps).rsqrt()).view(x.shape)
    return torch.einsum("nchw,c->nchw", y, gamma) + beta.view(-1, 1, 1)


def float32(x, num_groups, gamma, beta, eps=1e-5):
    return right(x, num_groups, gamma, beta, eps).float()


def without_eps(x, num_groups, gamma, beta, eps=1e-5):
    return right(x, num_groups, gamma, beta, 0)


def default_eps(x, num_groups, gamma, beta, eps=1e-5):
    return right(x, num_groups, gamma, beta)


def eps_at_least(x, num_groups, gamma, beta, eps=1e-5):
    rows = right(x, num_groups, torch.ones_like(gamma), 0 * beta, 0).view(len(x), num_groups, -1)
    var = x.reshape(rows.shape).var(2, correction=0, keepdim=True)
    y = (rows * (var / torch.maximum(var, torch.tensor(eps))).sqrt()).view(x.shape)
    return y * gamma[:, None, None] + beta[:, None, None]


def rows_of_any_length(x, num_groups, gamma, beta, eps=1e-5):
    rows = x.reshape(len(x) * num_groups, -1)
    y = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + eps).sqrt()
    return y.view(x.shape) * gamma[:, None, None] + beta[:, None, None]


def more_groups_than_channels(x, num_groups, gamma, beta, eps=1e-5):
    return right(x, min(num_groups, x.shape[1]), gamma, beta, eps)


def one_image_as_a_layer(x, num_groups, gamma, beta, eps=1e-5):
    y = right(x, num_groups, gamma, beta, eps)
    return y if len(x) > 1 else right(x, 1, gamma, beta, eps)


def layer_norm(x, num_groups, gamma, beta, eps=1e-5):
    right(x, num_groups, gamma, beta, eps)
    return right(x, 1, gamma, beta, eps)


def along_the_width(x, num_groups, gamma, beta, eps=1e-5):
    one = torch.ones_like(gamma)
    return gamma * right(x, num_groups, one, 0 * one, eps) + beta


class TestGroupNorm(Contract):
    exercise_id = "group_norm"

    @pytest.mark.parametrize("answer", [right, flat])
    def test_other_right_answers_lose_nothing(self, exam, answer):
        assert evaluate("group_norm", answer, exam=exam).correct

    @pytest.mark.parametrize(
        ("answer", "failed", "name"),
        [
            (float32, {"carries"}, "float32_returned"),
            (without_eps, {"eps"}, "eps_ignored"),
            (default_eps, {"eps"}, "eps_fixed"),
            (eps_at_least, {"eps"}, "eps_as_least"),
            (rows_of_any_length, {"refuses_indivisible"}, "divisor_left_to_reshape"),
            (more_groups_than_channels, {"refuses_indivisible"}, None),
            (one_image_as_a_layer, {"groups", "eps", "gradients"}, None),
            (layer_norm, {"groups", "layer_and_instance", "eps", "gradients"}, "layer_norm"),
            (along_the_width, {"groups", "layer_and_instance", "eps", "gradients"}, "affine_on_last_axis"),
        ],
    )
    def test_a_mistake_costs_what_it_touches_and_bears_its_name(self, exam, answer, failed, name):
        verdict = evaluate("group_norm", answer, exam=exam)
        assert {claim for claim, outcome in verdict.outcomes.items() if outcome not in HOLDS} == failed
        assert verdict.diagnosis == name
