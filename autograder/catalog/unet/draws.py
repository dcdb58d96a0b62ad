"""What exercises of lecture 07 share: skips, two convolutions, and networks whose layers have any names.

Nobody is told what to call the layers of a network. Parameters of one shape therefore get the same numbers, so
that any names and any order of construction give the same function, and gradients are summed by shape.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.observations import described, parameters_of
from autograder.exercise import Case

# Networks of other layer types add in another order.
LOOSE = (1e-6, 1e-6)
NOTHING = torch.zeros(())


def input_side(bottom: int, depth: int) -> int:
    """The input whose lowest map, after its two convolutions, has this side."""
    side = bottom + 4
    for _ in range(depth):
        side = 2 * side + 4
    return side


def fits(skip, up):
    if skip.shape[2] < up.shape[2] or skip.shape[3] < up.shape[3]:
        raise ValueError(f"up must be no larger than skip, got {tuple(up.shape)} and {tuple(skip.shape)}")


def cut(skip, up, start):
    fits(skip, up)
    h, w = up.shape[2:]
    top, left = start(skip.shape[2] - h), start(skip.shape[3] - w)
    return skip[:, :, top : top + h, left : left + w]


def floor(difference):
    return difference // 2


def skip_up_first(skip, up):
    return torch.cat([up, cut(skip, up, floor)], 1)


def skip_corner(skip, up):
    return torch.cat([cut(skip, up, lambda difference: 0), up], 1)


def skip_narrowed(skip, up):
    for axis in (2, 3):
        if skip.size(axis) < up.size(axis):
            raise ValueError(f"up must be no larger than skip along axis {axis}")
        skip = skip.narrow(axis, (skip.size(axis) - up.size(axis)) // 2, up.size(axis))
    return torch.concatenate((skip, up), dim=1)


def skip_negative_padding(skip, up):
    rows, columns = skip.shape[-2] - up.shape[-2], skip.shape[-1] - up.shape[-1]
    if min(rows, columns) < 0:
        raise ValueError("up must not be larger than skip")
    top, left = rows // 2, columns // 2
    return torch.cat([F.pad(skip, (-left, left - columns, -top, top - rows)), up], dim=1)


def skip_indexed(skip, up):
    fits(skip, up)
    n, c, big_h, big_w = skip.shape
    h, w = up.shape[2:]
    rows = torch.arange(h, device=skip.device) + (big_h - h) // 2
    columns = torch.arange(w, device=skip.device) + (big_w - w) // 2
    joined = skip.new_empty(n, c + up.shape[1], h, w)
    joined[:, :c] = skip[:, :, rows[:, None], columns]
    joined[:, c:] = up
    return joined


def _values(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers that follow from the shape: weights that keep the signal's size, biases that keep units alive."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {shape}".encode()))
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
    return numbers * math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.3 * numbers.abs()


def filled_network(subject: Subject, case: Case) -> Any:
    network = subject(*case.args, **case.kwargs)
    network.do("double")
    network.do("eval")
    shapes = {name: tuple(p.shape) for name, p in network.inspect()["parameters"].items()}
    values = {name: _values(case.extra["seed"], shape) for name, shape in shapes.items()}
    # Not strict: what else an answer keeps in its state shows in its output.
    network.do("load_state_dict", values, strict=False)
    return network


def applied_gradients(subject: Subject, case: Case) -> Any:
    network = filled_network(subject, case)
    grads = network.vjp(case.extra["x"], wrt=[0, network])["grads"]
    summed: dict[str, Any] = {"x": grads.pop("0")}
    for grad in grads.values():
        if grad is not None:
            name = f"parameters of shape {tuple(grad.shape)}"
            summed[name] = summed.get(name, 0) + grad
    return summed


def parameter_shapes(subject: Subject, case: Case) -> dict[str, int]:
    """How many parameters there are of each shape."""
    network = subject(*case.args, **case.kwargs)
    counts: dict[str, int] = {}
    for p in parameters_of(network, NOTHING).values():
        name = f"{'biases' if p.dim() == 1 else 'weights'} of shape {tuple(p.shape)}"
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def runs(subject: Subject, case: Case) -> str:
    return described(subject(*case.args, **case.kwargs)(case.extra["x"]))


class Double(nn.Module):
    """Two convolutions with a seam at each step, where the misconceptions put their mistake."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.make(in_channels, out_channels)
        for conv in [m for m in self.modules() if isinstance(m, nn.Conv2d)]:
            self.draw(conv)

    def make(self, in_channels, out_channels):
        self.one = nn.Conv2d(in_channels, out_channels, 3)
        self.two = nn.Conv2d(out_channels, out_channels, 3)

    def draw(self, conv):
        nn.init.normal_(conv.weight, 0.0, self.std(conv))
        nn.init.zeros_(conv.bias)

    def std(self, conv):
        return math.sqrt(2 / (9 * conv.in_channels))

    def forward(self, x):
        return F.relu(self.two(F.relu(self.one(x))))


class DoublePadded(Double):
    def make(self, in_channels, out_channels):
        self.one = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.two = nn.Conv2d(out_channels, out_channels, 3, padding=1)


class DoubleSingle(Double):
    def make(self, in_channels, out_channels):
        self.one = nn.Conv2d(in_channels, out_channels, 3)

    def forward(self, x):
        return F.relu(self.one(x))


class DoubleNormalized(Double):
    def make(self, in_channels, out_channels):
        super().make(in_channels, out_channels)
        self.norms = nn.ModuleList([nn.BatchNorm2d(out_channels) for _ in range(2)])

    def forward(self, x):
        return self.norms[1](self.two(self.norms[0](self.one(x)).relu())).relu()


class DoubleSequential(nn.Sequential):
    """A Sequential that draws by torch's own initialization for ReLU."""

    def __init__(self, in_channels, out_channels):
        first = nn.Conv2d(in_channels, out_channels, kernel_size=3)
        second = nn.Conv2d(out_channels, out_channels, kernel_size=3)
        super().__init__(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))
        for conv in (first, second):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            conv.bias.data.fill_(0)


class DoubleParameters(nn.Module):
    """Parameters and F.conv2d, the second convolution made first."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        for name, c in (("b", out_channels), ("a", in_channels)):
            weight = torch.randn(out_channels, c, 3, 3) * (2 / (c * 3 * 3)) ** 0.5
            self.register_parameter(f"weight_{name}", nn.Parameter(weight))
            self.register_parameter(f"bias_{name}", nn.Parameter(torch.zeros(out_channels)))

    def forward(self, x):
        x = F.conv2d(x, self.weight_a, self.bias_a).clamp(min=0)
        return F.conv2d(x, self.weight_b, self.bias_b).clamp(min=0)
