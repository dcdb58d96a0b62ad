"""The exercise channel_statistics of lecture 01: mean and standard deviation of each channel."""

from typing import Any

import numpy as np
import torch

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import as_double
from autograder.catalog.preprocessing.draws import (
    OVERFLOW,
    SCALERS,
    bright_bytes,
    kinds_of_answers,
    mean_and_std,
    numbers_of,
    varied_images,
    whole_numbers,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import preprocessing as reference


def _several_images(d: Draw) -> Case:
    h, w = d.each([(2, 3), (1, 6), (4, 2), (3, 3)])
    n, c = d.choice([2, 1, 3, 4]), d.choice([2, 3, 1])
    return Case((d.layout(varied_images(d, n, c, h, w)),))


def _offset(d: Draw) -> Case:
    n, c = d.choice([2, 3]), d.choice([2, 1])
    bright = 3 * (torch.arange(n) % 2).view(n, 1, 1, 1)
    # The variance of the first channel is 3, and E[x²] in single precision is a multiple of 8. All channels
    # have one mean: around which one the spread is taken is another property's business.
    noise = d.tensor(n, c, 4, 5) * (1 + torch.arange(c).view(1, c, 1, 1))
    noise = ((noise - noise.mean((0, 2, 3), keepdim=True)) * 100).round() / 100
    return Case(((noise + bright + 1e4).float(),))


def _far(subject: Subject, case: Case) -> Any:
    result = subject(*case.args)
    if not isinstance(result, list | tuple) or len(result) != 2:
        return result
    mean, std = map(as_double, result)
    return {"mean − 1e4": mean - 1e4 if isinstance(mean, torch.Tensor) else mean, "std": std}


def _flat_channels(d: Draw) -> Case:
    n, c, h, w = d.integer(1, 3), d.integer(2, 3), d.integer(2, 3), d.integer(2, 4)
    images = d.positive(1, c, 1, 1, low=0.1, high=0.4).expand(n, c, h, w).contiguous()
    # One channel far from the others, at a level where E[x²] is rounded to below E[x]².
    for level in d.positive(50, low=0.6, high=1.0):
        images[:, -1] = level
        if (images**2).mean((0, 2, 3))[-1] < images.mean((0, 2, 3))[-1] ** 2:
            break
    return Case((images,))


def _spread_of_flat(subject: Subject, case: Case) -> Any:
    """In words, since nobody cares how far above 0 a std is that must be 0, but whether a small number was
    added or the channels' levels are in it."""
    std = numbers_of(1)(subject, case)
    if not isinstance(std, torch.Tensor) or std.shape != case.args[0].shape[1:2]:
        return std

    def word(s: float) -> str:
        return "NaN" if s != s else "above 0" if s > 5e-2 else "a little above 0" if s > 5e-7 else "0"

    return {"std of each channel": [word(s) for s in std.tolist()]}


CLAIMS = Exercise(
    id="channel_statistics",
    topic="preprocessing",
    title="Mean and standard deviation of each channel",
    reference=reference.channel_statistics,
    minutes=10,
    difficulty=2,
    properties=claims(
        """
        mean (0.75): one mean per channel, over N, H and W
        std (0.75): one population standard deviation per channel, over the same axes
        large_offset (0.5): float32 images with a mean of 10,000 and a std of 2 or 3 stay accurate
        tried: three figures of the mean's distance from 10,000 and of the std are compared
        bytes (0.25): uint8 pixels do not overflow
        constant (0.25): a channel that never changes has a std of 0
        kinds (0.5): two tensors of shape (C,): floats keep their dtype, integers give float32; nothing in
          place
        tried: channel_statistics(images) for uint8, int64, float32 and float64
        """,
        mean=on(_several_images, numbers_of(0), tolerance=(1e-4, 1e-5)),
        std=on(_several_images, numbers_of(1), tolerance=(1e-4, 1e-5)),
        large_offset=on(_offset, _far, tolerance=(1e-2, 1e-2), examples=4),
        bytes=on(bright_bytes, mean_and_std, tolerance=OVERFLOW),
        constant=on(_flat_channels, _spread_of_flat, examples=12, beside="std"),
        kinds=on(whole_numbers, kinds_of_answers, examples=4, beside="mean"),
    ),
    hints=hints("""
        My shapes are wrong
        One number per channel is left over. Which three axes go?

        The mean is right, the std is not
        Which divisor does torch's std use unless told otherwise? And is it the spread of all pixels, or an
          average of spreads?

        It works for floats, but not for bytes
        x = images.double(); mean = x.mean((0, 2, 3)); std = x.std((0, 2, 3), correction=0); then both
          .to(images.dtype), or float32 for integers.
        """),
    forbidden=(SCALERS,),
)

answers = Answers(CLAIMS)


@answers.right
def plain(images):
    """torch's mean and std, in float64"""
    dtype = images.dtype if images.is_floating_point() else torch.float32
    axes = (0, 2, 3)
    x = images.double()
    mean = x.mean(axes)
    std = x.std(axes, correction=0)
    return mean.to(dtype), std.to(dtype)


answers.edits("""
spread_around_the_mean_image: std large_offset
- x.std(axes, correction=0)
+ x.var(0, correction=0).mean((1, 2)).sqrt()
You took the variance of each pixel over the images, and averaged these: the spread around the mean image.
A channel has one mean, over N, H and W, and the spread around it is asked for: all three axes at once.

divided_by_one_less: std
- x.std(axes, correction=0)
+ x.std(axes)
Your std divides by the number of pixels minus one, as torch does by default.
These are population statistics: std(..., correction=0).

divided_by_images: std large_offset bytes
- std = x.std(axes, correction=0)
+ std = (((x - mean[:, None, None]) ** 2).sum(axes) / len(x)).sqrt()
You divided the squared deviations by the number of images.
A channel has N·H·W pixels: mean((0, 2, 3)) divides by all of them.

spread_around_one_mean: std constant
- x.std(axes, correction=0)
+ ((x - x.mean()) ** 2).mean(axes).sqrt()
You measured the deviations from one mean of all channels together.
Each channel's are taken from its own mean: x - mean[:, None, None].

variance: std large_offset bytes
- x.std(axes, correction=0)
+ x.var(axes, correction=0)
You returned the variance.
Take its root: the std has the unit of the pixels.

average_of_stds: std large_offset bytes
- x.std(axes, correction=0)
+ x.std((2, 3), correction=0).mean(0)
You averaged the stds of the single images.
Images of different brightness add to the spread: measure deviations from the mean of all images.

average_of_unbiased_stds: std large_offset bytes
- x.std(axes, correction=0)
+ x.std((2, 3)).mean(0)
You averaged the stds of the single images, each divided by its number of pixels minus one.
Measure deviations from the mean of all images, and divide by the number of all pixels: correction=0.

std_of_the_mean_image: std large_offset bytes
- x.std(axes, correction=0)
+ x.mean(0).std((1, 2), correction=0)
Your std is that of the mean image.
Averaging the images first removes most of the spread: use every pixel of every image.

around_zero: all but mean kinds
- x.std(axes, correction=0)
+ (x**2).mean(axes).sqrt()
You did not subtract the mean before squaring.
The spread is around the mean: mean of (x − mean)², then the root.

one_std: all but mean
- x.std(axes, correction=0)
+ ((x - mean[:, None, None]) ** 2).mean().sqrt()
Your std is one number for all channels.
Average the squared deviations over axes 0, 2 and 3, and keep axis 1.

whole_tensor: all
- axes = (0, 2, 3)
+ axes = (0, 1, 2, 3)
You took one mean and one std for all channels.
Each channel has its own: reduce over axes 0, 2 and 3, and keep axis 1.

each_image: all
- axes = (0, 2, 3)
+ axes = (2, 3)
You took the statistics of each image by itself.
They describe the whole set: axis 0 is reduced as well.

axes_kept: all
- x.mean(axes)
+ x.mean(axes, keepdim=True)
- x.std(axes, correction=0)
+ x.std(axes, correction=0, keepdim=True)
Your statistics still have axes of length 1.
Leave keepdim=True out here: the shape is (C,).

channels_last: all
- axes = (0, 2, 3)
+ axes = (0, 1, 2)
You reduced over axes 0, 1 and 2, which leaves a number for each column of pixels.
The channels are axis 1: reduce over axes 0, 2 and 3.

std_mean_returned: all but kinds
- mean.to(dtype), std.to(dtype)
+ x.std(axes).to(dtype), mean.to(dtype)
You returned the std first, and it divides by N − 1: what torch.std_mean gives.
The order is mean, std, and correction=0 makes it the std of the population.

swapped: all but kinds
- mean.to(dtype), std.to(dtype)
+ std.to(dtype), mean.to(dtype)
You returned the std first.
The order is mean, std.

squares_in_single_precision: large_offset
- images.double()
+ images.to(dtype)
- x.std(axes, correction=0)
+ ((x**2).mean(axes) - mean**2).clamp(min=0).sqrt()
You took E[x²] − E[x]² in float32: two numbers near 10⁸ whose difference is 4 or 9.
Subtract the mean first, then square; or compute in float64.

one_pass_in_single_precision: large_offset constant
- images.double()
+ images.float()
- x.std(axes, correction=0)
+ ((x**2).mean(axes) - mean**2).sqrt()
You took E[x²] − E[x]² in float32, where it can come out as anything, and the root of what is below 0 is NaN.
Subtract the mean first, then square; or compute in float64, and clamp the difference at 0.

integers_not_converted: bytes kinds
- x = images.double()
+ x = images
You asked for the mean of integers, which torch does not take.
Convert them first: images.double(), and the results back at the end.

bytes_squared: bytes
- std = x.std(axes, correction=0)
+ squares = x**2 if images.is_floating_point() else images**2
+ std = (squares.double().mean(axes) - mean**2).clamp(min=0).sqrt()
You squared uint8 pixels: 200·200 does not fit into a byte.
Convert the images to floats before any arithmetic.

divided_by_255: mean std large_offset bytes
- x = images.double()
+ x = images.double() / 255
You divided the images by 255.
The statistics are those of the pixels as they come, whatever their unit.

bytes_divided_by_255: bytes
- x = images.double()
+ x = images.double() if images.is_floating_point() else images.double() / 255
You divided whole numbers by 255.
The statistics are those of the pixels as they come: 0 to 255 here.

eps_added: constant
- std = x.std(axes, correction=0)
+ std = (x.var(axes, correction=0) + 1e-8).sqrt()
The std of a constant channel is a little above 0 with you: you added a small number, or made it the least.
It is 0: add no eps to the variance or to the std, and clamp neither; nothing is divided by it here.

negative_under_the_root: constant
- x.std(axes, correction=0)
+ ((x**2).mean(axes) - mean**2).sqrt()
For a constant channel your E[x²] − E[x]² is rounded to a little below zero, and its root is NaN.
Subtract the mean before squaring, or clamp the difference at 0.

in_place: kinds
- std = x.std(axes, correction=0)
+ x -= mean[:, None, None]
+ std = x.std(axes, correction=0)
You wrote into the images that you were handed.
Write x - mean, which makes a new tensor, and not x -= mean: double() of a float64 tensor is that tensor.

always_single: kinds
- images.dtype if images.is_floating_point() else torch.float32
+ torch.float32
Your answer is float32 even for float64 images.
Only integers become float32; floats keep their own dtype.

always_double: kinds
- dtype = images.dtype if images.is_floating_point() else torch.float32
...
- mean.to(dtype), std.to(dtype)
+ mean, std
Your answer is float64 whatever the images are.
Compute in float64 if you like, then return the dtype of the images (float32 for integers).
""")


@answers.right
def looped(images):
    """a loop over channels"""
    kind = images.dtype if images.is_floating_point() else torch.float32
    means, stds = [], []
    for c in range(images.shape[1]):
        v = images[:, c].double()
        mean = v.sum() / v.numel()
        means.append(mean)
        stds.append(torch.sqrt(((v - mean) ** 2).sum() / v.numel()))
    return torch.stack(means).to(kind), torch.stack(stds).to(kind)


@answers.right
def one_pass(images):
    """one pass in float64"""
    kind = images.dtype if images.is_floating_point() else torch.float32
    rows = images.double().transpose(0, 1).flatten(1)
    mean, second = rows.sum(1) / rows.shape[1], torch.einsum("cp,cp->c", rows, rows) / rows.shape[1]
    return mean.to(kind), torch.sqrt(torch.relu(second - mean * mean)).to(kind)


@answers.right
def by_numpy(images):
    """numpy"""
    x = images.cpu().numpy().astype(np.float64)
    pair = (torch.from_numpy(np.ascontiguousarray(f(x, axis=(0, 2, 3)))) for f in (np.mean, np.std))
    kind = images.dtype if images.is_floating_point() else torch.float32
    return tuple(v.to(images.device, kind) for v in pair)


@answers.right
def nested(images):
    """means of means, since all images have one size"""
    x = images.to(images.dtype if images.is_floating_point() else torch.float32)
    mean = x.mean((2, 3)).mean(0)
    spread = ((x - mean[None, :, None, None]) ** 2).flatten(2).mean(2).mean(0)
    return mean, spread.sqrt()


EXERCISE = answers.exercise()
