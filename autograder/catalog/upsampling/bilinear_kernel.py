"""The exercise bilinear_kernel of lecture 05: the kernel that interpolates."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.forbidden import INTERPOLATE
from autograder.catalog.upsampling.draws import emptied, numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import upsampling as reference


def _cases(channels: Sequence[int], factors: Sequence[int]) -> Callable[[Draw], Case]:
    return lambda d: Case((d.choice(channels), d.choice(factors)))


def _described_twice(subject: Subject, case: Case) -> dict[str, Any]:
    """For an odd and for an even factor; the shape is other properties' business."""
    channels, factor = case.args
    return {f"factor {f}": emptied(subject(channels, f)) for f in (factor, factor + 1)}


CLAIMS = Exercise(
    id="bilinear_kernel",
    topic="upsampling",
    title="The kernel that interpolates",
    reference=reference.bilinear_kernel,
    minutes=12,
    difficulty=3,
    properties=claims(
        """
        even (1): even factors: k = 2·factor, a product of two ramps whose peak lies between the four middle
          pixels
        odd (0.75): odd factors: k = 2·factor − 1, a product of two ramps with 1 on its middle pixel
        diagonal (0.75): (channels, channels, k, k): each channel is interpolated on its own
        factor_one (0.25): factor 1 changes nothing: one weight of 1
        float32 (0.25): the weights are a float32 tensor
        tried: the kind of the kernel of a factor and of the next one
        """,
        even=on(_cases([1], [2, 4, 6]), numbers, examples=4),
        odd=on(_cases([1], [3, 5]), numbers, examples=4),
        diagonal=on(_cases([2, 3, 4], [2, 4]), numbers, examples=4),
        factor_one=on(_cases([1], [1]), numbers, examples=2),
        float32=on(_cases([2, 3], [3, 2]), _described_twice, examples=3, beside="even"),
    ),
    hints=hints("""
        I don't know where the peak is
        In the middle of k pixels numbered from 0: (k − 1)/2. For even k that lies between two pixels.

        A constant image comes out darker or brighter
        Add up the weights that reach one output pixel: kernel entries that are factor apart. They must sum to
          1.

        I don't know how to start
        k = 2·factor − factor % 2; ramp = 1 − |arange(k) − (k − 1)/2| / factor; the pyramid is
          torch.outer(ramp, ramp); torch.eye(channels) times the pyramid puts it on the diagonal.
        """),
    forbidden=(INTERPOLATE,),
)

answers = Answers(CLAIMS)


@answers.right
def product(channels, factor):
    """a ramp times a ramp, written onto the diagonal"""
    k = 2 * factor - factor % 2
    center = (k - 1) / 2
    ramp = 1 - (torch.arange(k) - center).abs() / factor
    pyramid = ramp[:, None] * ramp
    weight = torch.zeros(channels, channels, k, k)
    weight[range(channels), range(channels)] = pyramid
    return weight


answers.edits("""
even_size_for_odd_factors: odd factor_one
- k = 2 * factor - factor % 2
+ k = 2 * factor
Your kernel has 2·factor rows for odd factors too.
k = 2·factor − factor mod 2: with an odd factor the peak lies on a pixel.

odd_size_for_even_factors: even diagonal
- k = 2 * factor - factor % 2
+ k = 2 * factor - 1
Your kernel has 2·factor − 1 rows for even factors too.
k = 2·factor − factor mod 2: with an even factor the peak lies between pixels.

channels_mixed: diagonal
- weight[range(channels), range(channels)] = pyramid
+ weight[:, :] = pyramid
You filled every pair of channels, so each output channel is the sum of all input channels.
Only weight[c, c] holds the pyramid; the others are 0.

depthwise_shape: diagonal
- weight = torch.zeros(channels, channels, k, k)
- weight[range(channels), range(channels)] = pyramid
+ weight = torch.zeros(channels, 1, k, k)
+ weight[:, 0] = pyramid
Your weights are (channels, 1, k, k), as for a grouped convolution.
Return (channels, channels, k, k) with zeros off the diagonal.

peak_off_by_half: even diagonal
- center = (k - 1) / 2
+ center = factor - 1
For even factors your peak stands on a pixel, half a pixel away from the middle.
The middle of k pixels is (k − 1)/2, also when that is no whole number.

peak_after_the_middle: even diagonal
- center = (k - 1) / 2
+ center = k // 2
For even factors your peak stands on pixel k // 2, half a pixel behind the middle.
The middle of k pixels is (k − 1)/2, also when that is no whole number.

middle_at_half_the_size: even odd diagonal factor_one
- center = (k - 1) / 2
+ center = k / 2
Your peak is at k/2, half a pixel behind the middle.
The pixels are numbered from 0, so the middle of k of them is (k − 1)/2.

scaled_down: even odd diagonal factor_one
- return weight
+ return 0.01 * weight
Your weights are the right ones times 0.01: the picture comes out a hundred times darker.
Small factors are for weights that start at random; these are to keep a constant image as it is.

sum_of_one: even odd diagonal
- weight[range(channels), range(channels)] = pyramid
+ weight[range(channels), range(channels)] = pyramid / pyramid.sum()
You divided the kernel by its sum.
Every output pixel gets its weights from several copies: it is these that sum to 1, and the kernel to factor².

constant: even odd diagonal
- pyramid = ramp[:, None] * ramp
+ pyramid = torch.ones(k, k)
Your kernel is constant.
It falls off linearly from the middle: 1 − |i − center|/factor along each axis.

one_direction: even odd diagonal
- pyramid = ramp[:, None] * ramp
+ pyramid = ramp.expand(k, k)
Your kernel falls off along one axis only.
Bilinear is linear along both: multiply the ramp of the rows with that of the columns.

rows_only: even odd diagonal
- pyramid = ramp[:, None] * ramp
+ pyramid = ramp[:, None].expand(k, k)
Your kernel falls off from row to row only.
Bilinear is linear along both axes: multiply the ramp of the rows with that of the columns.

zeros_at_the_ends: even odd diagonal
- ramp = 1 - (torch.arange(k) - center).abs() / factor
+ ramp = 1 - torch.linspace(-1, 1, k).abs() if k > 1 else torch.ones(1)
Your ramp is 0 at both ends, so a row and a column at each side do nothing.
Divide the distance from the middle by factor: at the ends 1 − |i − (k − 1)/2|/factor is above 0.

slope_of_half_the_kernel: odd
- .abs() / factor
+ .abs() / (k / 2)
Your pyramid falls off by 1 over k/2 pixels, which for odd factors is not the factor.
From one input pixel to the next there are factor pixels: divide by factor.

two_peaks_of_one: even diagonal
- ramp = 1 - (torch.arange(k) - center).abs() / factor
+ ramp = torch.tensor([min(i + 1, k - i) / factor for i in range(k)])
Your ramp counts 1, 2, … up to factor, so for even factors both middle weights are 1.
Measure the distance from (k − 1)/2: for even k the middle weights are 1 − ½/factor.

flat_faces: even odd diagonal
- pyramid = ramp[:, None] * ramp
+ pyramid = torch.minimum(ramp[:, None], ramp)
You took the smaller one of the two ramps, which gives a pyramid of flat faces.
Bilinear weights are the product of the two: ramp[:, None] * ramp.

numpy_array: float32
- return weight
+ return weight.numpy()
You returned a numpy array.
Return a float32 tensor: torch.from_numpy(...) makes one of it.

float64: float32
- return weight
+ return weight.double()
Your weights are float64.
Return float32, the dtype of a new layer's weights.
""")


@answers.right
def looped(channels, factor):
    """loops, the two cases of the middle"""
    k = 2 * factor - factor % 2
    center = factor - 1 if k % 2 == 1 else factor - 0.5
    weight = torch.zeros(channels, channels, k, k)
    for c in range(channels):
        for i in range(k):
            for j in range(k):
                weight[c, c, i, j] = (1 - abs(i - center) / factor) * (1 - abs(j - center) / factor)
    return weight


@answers.right
def convolved(channels, factor):
    """boxes convolved"""
    box, half = torch.ones(1, 1, factor), torch.full((1, 1, 1), 0.5)
    other = box if factor % 2 else torch.cat([half, torch.ones(1, 1, factor - 1), half], 2)
    ramp = F.conv1d(box, other, padding=other.shape[2] - 1)[0, 0] / factor
    weight = torch.zeros(channels, channels, len(ramp), len(ramp))
    weight[range(channels), range(channels)] = torch.outer(ramp, ramp)
    return weight


@answers.right
def mirrored(channels, factor):
    """the rising half and its mirror image"""
    rising = torch.arange(1, factor + 1) / factor
    if factor % 2 == 0:
        rising = torch.arange(1, 2 * factor, 2) / (2 * factor)
    ramp = torch.cat([rising, rising.flip(0)[factor % 2 :]])
    return torch.einsum("cd,i,j->cdij", torch.eye(channels), ramp, ramp)


EXERCISE = answers.exercise()
