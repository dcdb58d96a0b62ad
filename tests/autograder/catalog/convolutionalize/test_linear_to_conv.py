import torch
from contract import Contract
from torch import nn

from autograder.exercise import Outcome
from autograder.oracle import evaluate

HOLDS = (Outcome.CORRECT, Outcome.WAITING)


def lost(verdict):
    return {name for name, outcome in verdict.outcomes.items() if outcome not in HOLDS}


def built(linear, in_channels, kernel_size, **how):
    if in_channels * kernel_size[0] * kernel_size[1] != linear.in_features:
        raise ValueError("in_channels and kernel_size do not fit")
    how = {"bias": linear.bias is not None, **how}
    return nn.Conv2d(in_channels, linear.out_features, tuple(kernel_size), **how).to(linear.weight)


def filled(conv, linear):
    conv.weight.data = linear.weight.data.reshape(conv.weight.shape).clone()
    if linear.bias is not None:
        conv.bias.data = linear.bias.data.clone()
    return conv


class TestLinearToConv(Contract):
    exercise_id = "linear_to_conv"

    def test_numbers_that_were_not_copied_are_told_whatever_was_drawn_instead(self):
        def bare(linear, in_channels, kernel_size=(1, 1)):
            nn.Linear(3, 2)
            return built(linear, in_channels, kernel_size)

        def weights_alone(linear, in_channels, kernel_size=(1, 1)):
            nn.Linear(3, 2)
            conv = built(linear, in_channels, kernel_size)
            conv.weight.data = linear.weight.data.reshape(conv.weight.shape).clone()
            return conv

        def always_biased(linear, in_channels, kernel_size=(1, 1)):
            nn.Linear(3, 2)
            return filled(built(linear, in_channels, kernel_size, bias=True), linear)

        named = ("weights_not_copied", "bias_not_copied", "bias_invented")
        for answer, name in zip((bare, weights_alone, always_biased), named, strict=True):
            assert evaluate("linear_to_conv", answer).diagnosis == name

    def test_copying_while_gradients_are_recorded_is_named(self):
        def recorded(linear, in_channels, kernel_size=(1, 1)):
            conv = built(linear, in_channels, kernel_size)
            conv.weight[:] = linear.weight.view(conv.weight.shape)
            return conv

        # Another line than the catalogue's, and torch says the same.
        assert evaluate("linear_to_conv", recorded).diagnosis == "copied_with_gradients"

    def test_a_mistake_of_form_costs_its_own_claim(self):
        def evaluated(linear, in_channels, kernel_size=(1, 1)):
            return filled(built(linear.eval(), in_channels, kernel_size), linear)

        def frozen(linear, in_channels, kernel_size=(1, 1)):
            return filled(built(linear, in_channels, kernel_size), linear).requires_grad_(False)

        def biasless(linear, in_channels, kernel_size=(1, 1)):
            conv = built(linear, in_channels, kernel_size, bias=False)
            with torch.no_grad():
                conv.weight.copy_(linear.weight.view_as(conv.weight))
            return conv

        assert lost(evaluate("linear_to_conv", evaluated)) == {"apart"}
        assert lost(evaluate("linear_to_conv", frozen)) == {"apart"}
        assert "dtype" not in lost(evaluate("linear_to_conv", biasless))
