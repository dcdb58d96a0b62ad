"""The exercise bilinear_kernel of lecture 05: the kernel that interpolates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.forbidden import INTERPOLATE
from autograder.catalog.observations import described, numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import upsampling as reference


def _bilinear_case(channels: Sequence[int], factors: Sequence[int]) -> Callable[[Draw], Case]:
    return lambda d: Case((d.choice(channels), d.choice(factors)))


def _described_twice(subject: Subject, case: Case) -> dict[str, Any]:
    """For an odd and for an even factor."""
    channels, factor = case.args
    return {f"factor {f}": described(subject(channels, f)) for f in (factor, factor + 1)}


def _bilinear(channels, factor, *, k=None, center=None, slope=None, one_axis=False, mask=None):
    k = 2 * factor - factor % 2 if k is None else k
    center = (k - 1) / 2 if center is None else center
    ramp = 1 - (torch.arange(k, dtype=torch.float32) - center).abs() / (slope or factor)
    pyramid = ramp.expand(k, k) if one_axis else ramp[:, None] * ramp
    mask = torch.eye(channels) if mask is None else mask
    return mask[:, :, None, None] * pyramid


def _bilinear_even(channels, factor):
    return _bilinear(channels, factor, k=2 * factor)


def _bilinear_full(channels, factor):
    return _bilinear(channels, factor, mask=torch.ones(channels, channels))


def _bilinear_depthwise(channels, factor):
    return _bilinear(channels, factor, mask=torch.ones(channels, 1))


def _bilinear_center(channels, factor):
    return _bilinear(channels, factor, center=factor - 1)


def _bilinear_center_after(channels, factor):
    return _bilinear(channels, factor, center=(2 * factor - factor % 2) // 2)


def _bilinear_odd(channels, factor):
    return _bilinear(channels, factor, k=2 * factor - 1)


def _bilinear_rows_only(channels, factor):
    return _bilinear(channels, factor, one_axis=True).mT


def _bilinear_zero_ends(channels, factor):
    k = 2 * factor - factor % 2
    ramp = 1 - torch.linspace(-1, 1, k).abs() if k > 1 else torch.ones(1)
    return torch.eye(channels)[:, :, None, None] * torch.outer(ramp, ramp)


def _bilinear_normalized(channels, factor):
    weight = _bilinear(channels, factor)
    return weight / weight[0, 0].sum()


def _bilinear_box(channels, factor):
    k = 2 * factor - factor % 2
    return torch.eye(channels)[:, :, None, None] * torch.ones(k, k)


def _bilinear_one_axis(channels, factor):
    return _bilinear(channels, factor, one_axis=True)


def _bilinear_half_kernel(channels, factor):
    return _bilinear(channels, factor, slope=(2 * factor - factor % 2) / 2)


def _bilinear_plateau(channels, factor):
    k = 2 * factor - factor % 2
    ramp = torch.tensor([min(i + 1, k - i) / factor for i in range(k)])
    return torch.eye(channels)[:, :, None, None] * torch.outer(ramp, ramp)


def _bilinear_double(channels, factor):
    return _bilinear(channels, factor).double()


def _bilinear_loops(channels, factor):
    k = 2 * factor - factor % 2
    center = factor - 1 if k % 2 == 1 else factor - 0.5
    weight = torch.zeros(channels, channels, k, k)
    for c in range(channels):
        for i in range(k):
            for j in range(k):
                weight[c, c, i, j] = (1 - abs(i - center) / factor) * (1 - abs(j - center) / factor)
    return weight


def _bilinear_boxes(channels, factor):
    """A triangle is a box convolved with a box."""
    box = torch.ones(1, 1, factor)
    other = box if factor % 2 else torch.cat([torch.full((1, 1, 1), 0.5), torch.ones(1, 1, factor - 1),
                                              torch.full((1, 1, 1), 0.5)], 2)  # fmt: skip
    ramp = F.conv1d(box, other, padding=other.shape[2] - 1)[0, 0] / factor
    weight = torch.zeros(channels, channels, len(ramp), len(ramp))
    weight[range(channels), range(channels)] = torch.outer(ramp, ramp)
    return weight


def _bilinear_rising(channels, factor):
    """The rising half and its mirror image."""
    rising = (
        torch.arange(1, 2 * factor, 2) / (2 * factor)
        if factor % 2 == 0
        else torch.arange(1, factor + 1) / factor
    )
    ramp = torch.cat([rising, rising.flip(0)[factor % 2 :]])
    return torch.einsum("cd,i,j->cdij", torch.eye(channels), ramp, ramp)


EXERCISE = Exercise(
    id="bilinear_kernel",
    topic="upsampling",
    title="The kernel that interpolates",
    reference=reference.bilinear_kernel,
    minutes=12,
    difficulty=3,
    properties=(
        Property(
            "even",
            "even factors: k = 2·factor, a pyramid whose peak lies between the four middle pixels",
            1.0,
            _bilinear_case([1], [2, 4, 6]),
            numbers,
            examples=4,
        ),
        Property(
            "odd",
            "odd factors: k = 2·factor − 1, a pyramid with 1 on its middle pixel",
            0.75,
            _bilinear_case([1], [3, 5]),
            numbers,
            examples=4,
        ),
        Property(
            "diagonal",
            "(channels, channels, k, k): each channel is interpolated on its own",
            0.75,
            _bilinear_case([2, 3, 4], [2, 4]),
            numbers,
            examples=4,
        ),
        Property(
            "factor_one",
            "factor 1 changes nothing: one weight of 1",
            0.25,
            _bilinear_case([1], [1]),
            numbers,
            examples=2,
        ),
        Property(
            "float32",
            "the weights are float32",
            0.25,
            _bilinear_case([2, 3], [3, 2]),
            _described_twice,
            examples=3,
            tried="the kind of the kernel of a factor and of the next one",
        ),
    ),
    misconceptions=(
        Misconception(
            "even_size_for_odd_factors",
            "Your kernel has 2·factor rows for odd factors too.",
            "k = 2·factor − factor mod 2: with an odd factor the peak lies on a pixel.",
            ("odd", "factor_one", "float32"),
            _bilinear_even,
        ),
        Misconception(
            "odd_size_for_even_factors",
            "Your kernel has 2·factor − 1 rows for even factors too.",
            "k = 2·factor − factor mod 2: with an even factor the peak lies between pixels.",
            ("even", "diagonal", "float32"),
            _bilinear_odd,
        ),
        Misconception(
            "channels_mixed",
            "You filled every pair of channels, so each output channel is the sum of all input channels.",
            "Only weight[c, c] holds the pyramid; the others are 0.",
            ("diagonal",),
            _bilinear_full,
        ),
        Misconception(
            "depthwise_shape",
            "Your weights are (channels, 1, k, k), as for a grouped convolution.",
            "Return (channels, channels, k, k) with zeros off the diagonal.",
            ("diagonal", "float32"),
            _bilinear_depthwise,
        ),
        Misconception(
            "peak_off_by_half",
            "For even factors your peak stands on a pixel, half a pixel away from the middle.",
            "The middle of k pixels is (k − 1)/2, also when that is no whole number.",
            ("even", "diagonal"),
            _bilinear_center,
        ),
        Misconception(
            "peak_after_the_middle",
            "For even factors your peak stands on pixel k // 2, half a pixel behind the middle.",
            "The middle of k pixels is (k − 1)/2, also when that is no whole number.",
            ("even", "diagonal"),
            _bilinear_center_after,
        ),
        Misconception(
            "sum_of_one",
            "You divided the kernel by its sum.",
            "Every output pixel gets its weights from several copies: it is these that sum to 1, and the kernel to factor².",
            ("even", "odd", "diagonal"),
            _bilinear_normalized,
        ),
        Misconception(
            "constant",
            "Your kernel is constant.",
            "It falls off linearly from the middle: 1 − |i − center|/factor along each axis.",
            ("even", "odd", "diagonal"),
            _bilinear_box,
        ),
        Misconception(
            "one_direction",
            "Your kernel falls off along one axis only.",
            "Bilinear is linear along both: multiply the ramp of the rows with that of the columns.",
            ("even", "odd", "diagonal"),
            _bilinear_one_axis,
        ),
        Misconception(
            "rows_only",
            "Your kernel falls off from row to row only.",
            "Bilinear is linear along both axes: multiply the ramp of the rows with that of the columns.",
            ("even", "odd", "diagonal"),
            _bilinear_rows_only,
        ),
        Misconception(
            "zeros_at_the_ends",
            "Your ramp is 0 at both ends, so a row and a column at each side do nothing.",
            "Divide the distance from the middle by factor: at the ends 1 − |i − (k − 1)/2|/factor is above 0.",
            ("even", "odd", "diagonal"),
            _bilinear_zero_ends,
        ),
        Misconception(
            "slope_of_half_the_kernel",
            "Your pyramid falls off by 1 over k/2 pixels, which for odd factors is not the factor.",
            "From one input pixel to the next there are factor pixels: divide by factor.",
            ("odd",),
            _bilinear_half_kernel,
        ),
        Misconception(
            "two_peaks_of_one",
            "Your ramp counts 1, 2, … up to factor, so for even factors both middle weights are 1.",
            "Measure the distance from (k − 1)/2: for even k the middle weights are 1 − ½/factor.",
            ("even", "diagonal"),
            _bilinear_plateau,
        ),
        Misconception(
            "float64",
            "Your weights are float64.",
            "Return float32, the dtype of a new layer's weights.",
            ("float32",),
            _bilinear_double,
        ),
    ),
    right=(
        Variant("loops, the two cases of the middle", _bilinear_loops),
        Variant("boxes convolved", _bilinear_boxes),
        Variant("the rising half and its mirror image", _bilinear_rising),
    ),
    hints=(
        Hint(
            "I don't know where the peak is",
            "In the middle of k pixels numbered from 0: (k − 1)/2. For even k that lies between two pixels.",
        ),
        Hint(
            "A constant image comes out darker or brighter",
            "Add up the weights that reach one output pixel: kernel entries that are factor apart. They must sum to 1.",
        ),
        Hint(
            "I don't know how to start",
            "k = 2·factor − factor % 2; ramp = 1 − |arange(k) − (k − 1)/2| / factor; the pyramid is torch.outer(ramp, ramp); torch.eye(channels) times the pyramid puts it on the diagonal.",
        ),
    ),
    forbidden=(INTERPOLATE,),
)
