import copy
from functools import partial

import pytest
import torch
from contract import Contract
from torch import nn

from autograder.exercise import Outcome
from autograder.oracle import evaluate

HOLDS = (Outcome.CORRECT, Outcome.WAITING)

GEOMETRY = ("stride", "padding", "dilation", "groups", "padding_mode")


def line(conv, bn):
    std = torch.sqrt(bn.running_var + bn.eps)
    gamma, beta = (bn.weight, bn.bias) if bn.affine else (torch.ones_like(std), torch.zeros_like(std))
    bias = torch.zeros_like(std) if conv.bias is None else conv.bias
    return gamma / std, beta + gamma * (bias - bn.running_mean) / std


def built(conv, bn, *, without=(), to=None, mode=None):
    """A new layer, where some arguments may be forgotten."""
    given = {name: getattr(conv, name) for name in GEOMETRY if name not in without}
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, **given).to(
        to or conv.weight.dtype
    )
    scale, shift = line(conv, bn)
    with torch.no_grad():
        folded.weight.copy_(torch.einsum("k,kcij->kcij", scale, conv.weight))
        folded.bias.copy_(shift)
    return folded.train(conv.training if mode is None else mode)


def matrices(conv, bn):
    scale, shift = line(conv, bn)
    folded = copy.deepcopy(conv)
    folded.weight.data = (torch.diag(scale) @ conv.weight.detach().flatten(1)).view_as(conv.weight).detach()
    folded.register_parameter("bias", nn.Parameter(shift.detach().clone()))
    return folded


def probed_in_eval(conv, bn):
    """what bn does to 0 and 1, its mode put back"""
    mode, c = bn.training, conv.out_channels
    bn.eval()
    with torch.no_grad():
        zero, one = (bn(torch.full((1, c, 1, 1), v).to(bn.running_mean)).flatten() for v in (0.0, 1.0))
        folded = copy.deepcopy(conv)
        folded.weight.copy_(conv.weight * (one - zero).view(c, 1, 1, 1))
        folded.bias = nn.Parameter(zero if conv.bias is None else zero + (one - zero) * conv.bias)
    bn.train(mode)
    return folded


def behind_each_other(conv, bn):
    return nn.Sequential(copy.deepcopy(conv), copy.deepcopy(bn)).eval()


def left_in_eval(conv, bn):
    bn.eval()
    return built(conv, bn)


def into_the_old_one(conv, bn, *, copied=copy.copy, renewed=False):
    """conv itself, or another layer of its parameters; these are written into, or given to both anew."""
    folded = copied(conv)
    scale, shift = line(conv, bn)
    shift = shift.detach().clone()
    with torch.no_grad():
        weight = conv.weight * scale[:, None, None, None]
        if renewed:
            folded.weight = nn.Parameter(weight)
        else:
            folded.weight.copy_(weight)
        folded.bias = nn.Parameter(shift)
    return folded


def bias_as_a_tensor(conv, bn):
    scale, _ = line(conv, bn)
    folded = built(conv, bn)
    shift = (conv.bias.detach().clone() - bn.running_mean) * scale
    folded.bias.data = shift.detach() + (0 if bn.bias is None else bn.bias.detach())
    return folded


def gamma_as_a_tensor(conv, bn):
    bn.weight.detach()
    return built(conv, bn)


def input_channels(conv, bn):
    scale, shift = line(conv, bn)
    folded = copy.deepcopy(conv)
    folded.weight.requires_grad_(False).copy_(scale[None, :, None, None] * conv.weight)
    folded.bias = nn.Parameter(shift.detach())
    return folded


def positive_gamma(conv, bn):
    twin = copy.deepcopy(bn)
    if twin.affine:
        twin.weight.data.abs_()
    return built(conv, twin)


class TestFoldBatchnorm(Contract):
    exercise_id = "fold_batchnorm"

    @pytest.mark.parametrize("answer", [built, matrices, probed_in_eval])
    def test_other_right_answers_lose_nothing(self, exam, answer):
        wrapped = (lambda conv, bn: answer(conv, bn)) if answer is built else answer
        verdict = evaluate("fold_batchnorm", wrapped, exam=exam)
        assert verdict.correct, verdict.outcomes

    def test_two_layers_are_not_one(self, exam):
        verdict = evaluate("fold_batchnorm", behind_each_other, exam=exam)
        assert verdict.points == 0
        assert (
            verdict.results[0].message
            == "expected one nn.Conv2d, got a Sequential that holds Conv2d, BatchNorm2d"
        )

    @pytest.mark.parametrize(
        ("answer", "failed", "name"),
        [
            (partial(built, without=["stride"]), {"geometry"}, "default_stride"),
            (partial(built, without=["padding"]), {"geometry", "padding_mode"}, "default_padding"),
            (partial(built, without=["dilation"]), {"geometry"}, "default_dilation"),
            (partial(built, without=["groups"]), {"geometry"}, "default_groups"),
            (partial(built, without=["padding_mode"]), {"padding_mode"}, "default_padding_mode"),
            (partial(built, to=torch.float32), {"originals"}, "default_dtype"),
            (partial(built, mode=True), {"originals"}, "always_in_training"),
            (partial(built, mode=False), {"originals"}, "always_in_eval"),
            (into_the_old_one, {"originals"}, "shallow_copy"),
            (partial(into_the_old_one, renewed=True), {"originals"}, "shallow_copy"),
            (partial(into_the_old_one, copied=lambda conv: conv), {"originals"}, "in_place"),
            (partial(into_the_old_one, copied=lambda conv: conv, renewed=True), {"originals"}, "in_place"),
            (left_in_eval, {"originals"}, "bn_left_in_eval"),
            (bias_as_a_tensor, {"without_bias"}, "bias_required"),
            (gamma_as_a_tensor, {"without_affine"}, "affine_required"),
        ],
    )
    def test_a_mistake_costs_what_it_touches_and_bears_its_name(self, exam, answer, failed, name):
        verdict = evaluate("fold_batchnorm", lambda conv, bn: answer(conv, bn), exam=exam)
        assert {claim for claim, outcome in verdict.outcomes.items() if outcome not in HOLDS} == failed
        assert verdict.diagnosis == name

    def test_two_forgotten_arguments_of_two_claims_bear_two_names(self, exam):
        forgotten = partial(built, without=["dilation", "padding_mode"])
        verdict = evaluate("fold_batchnorm", lambda conv, bn: forgotten(conv, bn), exam=exam)
        assert {f.name for f in verdict.findings} == {"default_dilation", "default_padding_mode"}

    def test_filters_scaled_along_their_input_are_told_by_their_numbers(self, exam):
        verdict = evaluate("fold_batchnorm", input_channels, exam=exam)
        assert verdict.diagnosis == "input_axis_scaled"
        assert verdict.points == 0

    def test_a_negative_gamma_turns_a_filter_around(self, exam):
        verdict = evaluate("fold_batchnorm", positive_gamma, exam=exam)
        assert verdict.outcomes["same_output"] == "wrong values"
        assert verdict.outcomes["without_affine"] == "correct"
