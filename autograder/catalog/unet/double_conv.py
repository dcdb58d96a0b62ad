"""The exercise DoubleConv of lecture 07: two valid convolutions and their first weights."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import parameters_of
from autograder.catalog.unet.draws import (
    LOOSE,
    NOTHING,
    applied_gradients,
    filled_network,
    parameter_shapes,
    runs,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Mismatch, Outcome
from coursekit import unet as reference


def _double_case(d: Draw) -> Case:
    c, k = d.each([(2, 3), (3, 2), (1, 4), (2, 2)])
    h, w = d.integer(5, 9), d.integer(6, 10)
    x = d.tensor(d.choice([2, 1]), c, h, d.each([w, 3 * h]))
    return Case((c, k), {}, {"x": x, "seed": d.seed()})


def _double_float32(d: Draw) -> Case:
    c, k = d.each([(2, 3), (3, 1), (1, 4), (2, 2)])
    return Case((c, k), {}, {"x": d.tensor(2, c, d.integer(5, 9), d.integer(6, 10), dtype=torch.float32)})


def _double_wide(d: Draw) -> Case:
    # At three times as many, all deviations that a mistake gives lie apart.
    c = d.integer(8, 10)
    return Case((c, 3 * c))


def _double_made(subject: Subject, case: Case) -> dict[str, int | str]:
    return {**parameter_shapes(subject, case), "output": runs(subject, case)}


def _double_applied(subject: Subject, case: Case) -> dict[str, Any]:
    """In both modes, which a block without further layers does not tell apart."""
    network = filled_network(subject, case)
    seen = {"in eval mode": network(case.extra["x"])}
    network.then("train")
    return {**seen, "in training mode": network(case.extra["x"])}


def _double_drawn(subject: Subject, case: Case) -> dict[str, torch.Tensor]:
    return parameters_of(subject(*case.args), NOTHING)


def _judge_drawn(case: Case, expected: Any, got: Any) -> Mismatch | None:
    inputs, outputs = case.args
    for which, c in (("first", inputs), ("second", outputs)):
        weight = next((p for p in got.values() if tuple(p.shape) == (outputs, c, 3, 3)), None)
        if weight is None:
            return Mismatch(
                Outcome.WRONG_KIND,
                f"there is no {which} convolution with weights ({outputs}, {c}, 3, 3)",
                code="shape",
            )
        right, std = math.sqrt(2 / (9 * c)), float(weight.std())
        # Hundreds of numbers: right answers come within 12 % in all but one of 10⁹ cases.
        if abs(std / right - 1) < 0.2 and abs(float(weight.mean())) < 0.3 * max(right, std):
            continue
        if abs(float(weight.mean())) >= 0.3 * max(right, std):
            message = (
                f"the weights of the {which} convolution have mean {float(weight.mean()):.3f}, expected 0"
            )
            return Mismatch(Outcome.WRONG_VALUES, message, "weights", code="weights: mean")
        known = {
            "first fan in": math.sqrt(2 / (9 * inputs)),
            "default": math.sqrt(1 / (27 * c)),
            "variance": right**2,
            "no kernel": math.sqrt(2 / c),
            "fan out": math.sqrt(2 / (9 * outputs)),
            "half": math.sqrt(1 / (9 * c)),
            "both fans": math.sqrt(2 / (9 * (c + outputs))),
            "standard": 1.0,
            "zero": 0.0,
        }
        code = min(known, key=lambda name: abs(std - known[name]))
        if abs(std - known[code]) > 0.12 * known[code] + 1e-9:
            code = "other"
        return Mismatch(
            Outcome.WRONG_VALUES,
            f"the weights of the {which} convolution have standard deviation {std:.3f}, expected "
            f"√(2 / (9·{c})) = {right:.3f}",
            "weights",
            f"{right:.3f}",
            f"{std:.3f}",
            f"weights: {code}",
        )
    return _judge_biases(outputs, inputs, got)


def _judge_biases(outputs: int, inputs: int, got: dict[str, torch.Tensor]) -> Mismatch | None:
    """The biases beside the convolutions' weights; of other names, every vector."""
    weights = [name for name, p in got.items() if p.dim() == 4 and "weight" in name]
    beside = [got.get(name.replace("weight", "bias")) for name in weights]
    biases = [b for b in beside if b is not None] or [p for p in got.values() if p.dim() == 1]
    drawn = [b for b in biases if bool(b.any())]
    if not drawn:
        return None
    # torch draws them evenly up to 1/√fan_in, the second's smaller.
    bounds = [(1 / (9 * c)) ** 0.5 for c in (inputs, outputs)]
    default = any(
        0.3 * bound < float(drawn[0].std()) < float(drawn[0].abs().max()) <= bound for bound in bounds
    )
    most = max(float(b.abs().max()) for b in drawn)
    code = "biases: default" if default else "biases: other"
    return Mismatch(Outcome.WRONG_VALUES, f"biases are not 0, but up to {most:.2g}", "biases", code=code)


CLAIMS = Exercise(
    id="DoubleConv",
    topic="unet",
    title="Two valid convolutions and their first weights",
    reference=reference.DoubleConv,
    minutes=12,
    difficulty=2,
    properties=claims(
        """
        made (0.5): two 3×3 convolutions with biases, in → out → out channels; 4 rows and 4 columns less
        tried: a new block: its parameters by shape, and one call
        output (0.5): convolution, ReLU, convolution, ReLU, and nothing else, in either mode
        tried: double(), every parameter filled with numbers drawn for its shape, a call after eval() and one
          after train()
        drawn (0.5): weights are drawn with standard deviation √(2 / fan_in), biases are 0
        tried: the parameters of a new block
        gradients (0.5): gradients reach the input and every parameter
        tried: as for the output, then the gradients, summed over parameters of one shape
        """,
        made=on(_double_float32, _double_made, examples=4),
        output=on(_double_case, _double_applied, tolerance=LOOSE),
        drawn=on(_double_wide, _double_drawn, judge=_judge_drawn, examples=3),
        gradients=on(_double_case, applied_gradients, tolerance=LOOSE, examples=4),
    ),
    hints=hints("""
        My output has the wrong size
        A 3×3 convolution without padding loses one pixel on each side. How many do two lose?

        My weights have the wrong spread
        What does one unit of the first convolution read? Count the numbers: that is fan_in. The second reads
          another count.

        I don't know how to put it together
        In __init__: self.conv1 = nn.Conv2d(in_channels, out_channels, 3), self.conv2 =
          nn.Conv2d(out_channels, out_channels, 3); for each nn.init.normal_(conv.weight, std=(2 / (9 ·
          conv.in_channels)) ** 0.5) and nn.init.zeros_(conv.bias). In forward a ReLU after each.
        """),
)

answers = Answers(CLAIMS)


@answers.right
class TwoLayers(nn.Module):
    """two layers, normal_"""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.one = nn.Conv2d(in_channels, out_channels, 3)
        self.two = nn.Conv2d(out_channels, out_channels, 3)
        for conv in (self.one, self.two):
            fan_in = 9 * conv.in_channels
            nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_in))
            nn.init.zeros_(conv.bias)

    def forward(self, x):
        x = F.relu(self.one(x))
        return F.relu(self.two(x))


answers.edits("""
padded: all but drawn
- nn.Conv2d(in_channels, out_channels, 3)
+ nn.Conv2d(in_channels, out_channels, 3, padding=1)
- nn.Conv2d(out_channels, out_channels, 3)
+ nn.Conv2d(out_channels, out_channels, 3, padding=1)
Your convolutions are padded: the output is as large as the input.
Leave padding at 0: each convolution takes a pixel off every side.

last_relu_missing: output gradients
- F.relu(self.two(x))
+ self.two(x)
There is no ReLU after the second convolution.
Each of the two convolutions is followed by a ReLU.

middle_relu_missing: output gradients
- F.relu(self.one(x))
+ self.one(x)
There is no ReLU between the convolutions, so together they are one linear 5×5 convolution.
Each of the two convolutions is followed by a ReLU.

channels_change_late: all
- nn.Conv2d(in_channels, out_channels, 3)
+ nn.Conv2d(in_channels, in_channels, 3)
- nn.Conv2d(out_channels, out_channels, 3)
+ nn.Conv2d(in_channels, out_channels, 3)
Your first convolution keeps in_channels.
The first goes from in_channels to out_channels, the second from out_channels to out_channels.

one_convolution: all
- self.two = nn.Conv2d(out_channels, out_channels, 3)
- for conv in (self.one, self.two):
+ for conv in [self.one]:
- x = F.relu(self.one(x))
- return F.relu(self.two(x))
+ return F.relu(self.one(x))
There is one convolution.
Two of them, each followed by a ReLU.

batch_normalization_added: all but drawn
- self.two = nn.Conv2d(out_channels, out_channels, 3)
+ self.two = nn.Conv2d(out_channels, out_channels, 3)
+ self.norm_one, self.norm_two = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
- F.relu(self.one(x))
+ F.relu(self.norm_one(self.one(x)))
- F.relu(self.two(x))
+ F.relu(self.norm_two(self.two(x)))
You added batch normalization between each convolution and its ReLU.
The block is convolution, ReLU, convolution, ReLU; this network has none.

batch_normalization_last: all but drawn
- self.two = nn.Conv2d(out_channels, out_channels, 3)
+ self.two = nn.Conv2d(out_channels, out_channels, 3)
+ self.norm_one, self.norm_two = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
- F.relu(self.one(x))
+ self.norm_one(F.relu(self.one(x)))
- F.relu(self.two(x))
+ self.norm_two(F.relu(self.two(x)))
You added batch normalization after each ReLU.
The block is convolution, ReLU, convolution, ReLU; this network has none.

dropout_added: output
- x = F.relu(self.one(x))
+ x = F.dropout(F.relu(self.one(x)), 0.5, self.training)
You added dropout between the convolutions.
A block is two convolutions, each with its ReLU, and nothing else.

weights_all_positive: drawn
- nn.init.zeros_(conv.bias)
+ nn.init.zeros_(conv.bias)
+ conv.weight.data.abs_()
Your weights do not have mean 0.
Draw them from a normal distribution around 0: nn.init.normal_(conv.weight, std=...).

no_biases: all but drawn
- nn.Conv2d(in_channels, out_channels, 3)
+ nn.Conv2d(in_channels, out_channels, 3, bias=False)
- nn.Conv2d(out_channels, out_channels, 3)
+ nn.Conv2d(out_channels, out_channels, 3, bias=False)
- nn.init.zeros_(conv.bias)
Your convolutions have no biases.
Leave bias=True and set them to 0 at the start: training moves them.

default_weights: drawn
- for conv in (self.one, self.two):
-     fan_in = 9 * conv.in_channels
-     nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_in))
-     nn.init.zeros_(conv.bias)
Your weights are as torch draws them: uniform, with a sixth of the variance that is asked for.
Draw them anew in __init__: nn.init.normal_(conv.weight, std=√(2 / fan_in)), and set the biases to 0.

default_biases: drawn
- nn.init.zeros_(conv.bias)
Your weights are right, your biases are as torch draws them.
nn.init.zeros_(conv.bias).

biases_not_zero: drawn
- nn.init.zeros_(conv.bias)
+ nn.init.normal_(conv.bias, std=math.sqrt(2 / fan_in))
Your weights are right, your biases are not 0.
nn.init.zeros_(conv.bias).

standard_normal: drawn
- std=math.sqrt(2 / fan_in)
+ std=1
Your weights have standard deviation 1, as normal_ and torch.randn draw them.
Scale them: nn.init.normal_(conv.weight, std=√(2 / fan_in)).

variance_for_deviation: drawn
- math.sqrt(2 / fan_in)
+ 2 / fan_in
Your standard deviation is 2 / fan_in: that is the variance.
Take its root: √(2 / fan_in).

kernel_forgotten: drawn
- fan_in = 9 * conv.in_channels
+ fan_in = conv.in_channels
Your fan_in counts channels only.
A unit reads 3×3 pixels of every input channel: fan_in = 9 · in_channels.

fan_out: drawn
- fan_in = 9 * conv.in_channels
+ fan_in = 9 * conv.out_channels
You divided by the number of outgoing connections, 9 · out_channels.
fan_in counts what a unit reads: 9 · in_channels.

first_fan_in_twice: drawn
- fan_in = 9 * conv.in_channels
+ fan_in = 9 * in_channels
Both convolutions have the standard deviation of the first one.
Each has its own fan_in: the second reads out_channels channels, 9 · out_channels numbers.

relu_not_reckoned_with: drawn
- math.sqrt(2 / fan_in)
+ math.sqrt(1 / fan_in)
Your standard deviation is √(1 / fan_in): half of the variance is missing.
The ReLU cuts off half of the signal; the 2 in √(2 / fan_in) makes up for it.

xavier: drawn
- fan_in = 9 * conv.in_channels
- nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_in))
+ nn.init.xavier_normal_(conv.weight)
Your standard deviation is Xavier's, √(2 / (fan_in + fan_out)).
For ReLU networks it is √(2 / fan_in): nn.init.kaiming_normal_ or normal_ with that std.

cut_from_the_graph: gradients
- x = F.relu(self.one(x))
+ x = F.relu(self.one(x)).detach()
The graph is cut between the convolutions: the first one learns nothing.
Leave out detach(), .data and no_grad() in forward.
""")


@answers.right
class DoubleSequential(nn.Sequential):
    """a Sequential, kaiming_normal_"""

    def __init__(self, in_channels, out_channels):
        first = nn.Conv2d(in_channels, out_channels, kernel_size=3)
        second = nn.Conv2d(out_channels, out_channels, kernel_size=3)
        super().__init__(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))
        for conv in (first, second):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            conv.bias.data.fill_(0)


@answers.right
class DoubleParameters(nn.Module):
    """parameters and F.conv2d"""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        for name, c in (("b", out_channels), ("a", in_channels)):
            weight = torch.randn(out_channels, c, 3, 3) * (2 / (c * 3 * 3)) ** 0.5
            self.register_parameter(f"weight_{name}", nn.Parameter(weight))
            self.register_parameter(f"bias_{name}", nn.Parameter(torch.zeros(out_channels)))

    def forward(self, x):
        x = F.conv2d(x, self.weight_a, self.bias_a).clamp(min=0)
        return F.conv2d(x, self.weight_b, self.bias_b).clamp(min=0)


EXERCISE = answers.exercise()
