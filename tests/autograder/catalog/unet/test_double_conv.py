import math

import pytest
import torch
from contract import Contract
from torch import nn

from autograder.oracle import evaluate


class Block(nn.Sequential):
    """Right, with names of its own."""

    def __init__(self, in_channels, out_channels):
        a, b = nn.Conv2d(in_channels, out_channels, 3), nn.Conv2d(out_channels, out_channels, 3)
        for conv in (a, b):
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        super().__init__(a, nn.ReLU(), b, nn.ReLU())
        self.begin(a, b)

    def begin(self, *convolutions):
        pass


class SmallBiases(Block):
    def begin(self, *convolutions):
        for conv in convolutions:
            nn.init.constant_(conv.bias, 0.01)


class DefaultBiases(Block):
    def begin(self, *convolutions):
        for conv in convolutions:
            nn.init.uniform_(
                conv.bias, -1 / math.sqrt(conv.weight[0].numel()), 1 / math.sqrt(conv.weight[0].numel())
            )


class Standard(Block):
    def begin(self, *convolutions):
        for conv in convolutions:
            conv.weight.data = torch.randn_like(conv.weight)


class Normalized(Block):
    def begin(self, a, b):
        c = len(b.weight)
        for number, layer in enumerate((a, nn.BatchNorm2d(c), nn.ReLU(), b, nn.BatchNorm2d(c), nn.ReLU())):
            self.add_module(str(number), layer)


class TestDoubleConv(Contract):
    exercise_id = "DoubleConv"

    @pytest.mark.parametrize(
        ("answer", "name", "points"),
        [
            (Block, None, 2.0),
            (SmallBiases, "biases_not_zero", 1.5),
            (DefaultBiases, "default_biases", 1.5),
            (Standard, "standard_normal", 1.5),
            # How its convolutions begin is right.
            (Normalized, "batch_normalization_added", 0.5),
        ],
    )
    def test_what_is_told_is_true_of_the_layers(self, answer, name, points):
        verdict = evaluate("DoubleConv", type("DoubleConv", (answer,), {}))
        assert (verdict.points, verdict.diagnosis) == (points, name)
