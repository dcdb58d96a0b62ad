"""The exercise channel_statistics of lecture 01: mean and standard deviation of each channel."""

from __future__ import annotations

from typing import Any

import torch

from autograder.attempt import Subject
from autograder.catalog.observations import as_double
from autograder.catalog.preprocessing.draws import (
    SCALERS,
    bright_bytes,
    float_of,
    kinds_of_answers,
    mean_and_std,
    numbers_of,
    varied_images,
    whole_numbers,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import preprocessing as reference


def _doubles(pair: Any) -> Any:
    return {k: as_double(v) for k, v in pair.items()} if isinstance(pair, dict) else pair


def _several_images(d: Draw) -> Case:
    n, c = d.choice([2, 1, 3, 4]), d.choice([2, 3, 1])
    return Case((d.layout(varied_images(d, n, c, d.integer(2, 4), d.integer(2, 5))),))


def _offset(d: Draw) -> Case:
    n, c = d.integer(2, 4), d.integer(1, 3)
    x = d.tensor(n, c, 9, 10, scale=d.choice([3.0, 2.0]), shift=1e4)
    return Case(((x + 2.0 * torch.arange(n).view(n, 1, 1, 1)).float(),))


def _far(subject: Subject, case: Case) -> Any:
    result = subject(*case.args)
    if not isinstance(result, list | tuple) or len(result) != 2:
        return result
    mean, std = map(as_double, result)
    return {"mean − 1e4": mean - 1e4 if isinstance(mean, torch.Tensor) else mean, "std": std}


def _flat_channels(d: Draw) -> Case:
    n, c, h, w = d.integer(1, 3), d.integer(2, 4), d.integer(2, 4), d.integer(2, 5)
    images = d.positive(1, c, 1, 1, low=0.1, high=1.0).expand(n, c, h, w).contiguous()
    # One channel at a level where E[x²] is rounded to below E[x]².
    for level in d.positive(50, low=0.1, high=1.0):
        images[:, -1] = level
        if images[:, -1].square().mean() < images[:, -1].mean() ** 2:
            break
    return Case((images,))


_ALL = ("mean", "std", "large_offset", "bytes", "constant", "kinds")


def _pair_of(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> tuple:
    return mean.to(float_of(images)), std.to(float_of(images))


def _channels_unbiased(images):
    x = images.double()
    return _pair_of(images, x.mean((0, 2, 3)), x.std((0, 2, 3)))


def _channels_variance(images):
    x = images.double()
    return _pair_of(images, x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0))


def _channels_average_std(images):
    x = images.double()
    return _pair_of(images, x.mean((0, 2, 3)), x.std((2, 3), correction=0).mean(0))


def _channels_of_mean_image(images):
    x = images.double()
    return _pair_of(images, x.mean((0, 2, 3)), x.mean(0).std((1, 2), correction=0))


def _channels_one_std(images):
    x = images.double()
    mean = x.mean((0, 2, 3), keepdim=True)
    return _pair_of(images, mean.flatten(), (x - mean).square().mean().sqrt())


def _channels_of_integers(images):
    return images.mean((0, 2, 3)), images.std((0, 2, 3), correction=0)


def _channels_always_single(images):
    x = images.float()
    return x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)


def _channels_whole(images):
    x = images.double()
    return _pair_of(images, x.mean(), x.std(correction=0))


def _channels_per_image(images):
    x = images.double()
    return _pair_of(images, x.mean((2, 3)), x.std((2, 3), correction=0))


def _channels_keepdim(images):
    x = images.double()
    axes = (0, 2, 3)
    return _pair_of(images, x.mean(axes, keepdim=True), x.std(axes, correction=0, keepdim=True))


def _channels_rms(images):
    x = images.double()
    return _pair_of(images, x.mean((0, 2, 3)), (x**2).mean((0, 2, 3)).sqrt())


def _channels_swapped(images):
    x = images.double()
    return _pair_of(images, x.std((0, 2, 3), correction=0), x.mean((0, 2, 3)))


def _channels_single(images):
    x = images.to(float_of(images))
    mean = x.mean((0, 2, 3))
    return mean, ((x**2).mean((0, 2, 3)) - mean**2).clamp(min=0).sqrt()


def _channels_bytes(images):
    x = images.double()
    mean = x.mean((0, 2, 3))
    squares = ((x if images.is_floating_point() else images) ** 2).double().mean((0, 2, 3))
    return _pair_of(images, mean, (squares - mean**2).clamp(min=0).sqrt())


def _channels_negative_root(images):
    # Numbers near 1 whose squares are rounded: the difference may come out below zero.
    x = images.double()
    mean = x.mean((0, 2, 3))
    variance = (x**2).mean((0, 2, 3)) - mean**2
    return _pair_of(images, mean, variance.sqrt())


def _channels_double(images):
    x = images.double()
    return x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)


def _channels_loop(images):
    means, stds = [], []
    for c in range(images.shape[1]):
        v = images[:, c].double()
        mean = v.sum() / v.numel()
        means.append(mean)
        stds.append(torch.sqrt(((v - mean) ** 2).sum() / v.numel()))
    return _pair_of(images, torch.stack(means), torch.stack(stds))


def _channels_one_pass(images):
    rows = images.double().transpose(0, 1).flatten(1)
    mean, second = rows.sum(1) / rows.shape[1], torch.einsum("cp,cp->c", rows, rows) / rows.shape[1]
    return _pair_of(images, mean, torch.sqrt(torch.relu(second - mean * mean)))


def _channels_numpy(images):
    import numpy as np

    x = images.cpu().numpy().astype(np.float64)
    pair = (torch.from_numpy(np.ascontiguousarray(f(x, axis=(0, 2, 3)))) for f in (np.mean, np.std))
    return tuple(v.to(images.device, float_of(images)) for v in pair)


def _channels_nested(images):
    """Mean of the images' second moments around the total mean."""
    x = images.to(float_of(images))
    mean = x.mean((2, 3)).mean(0)
    spread = ((x - mean[None, :, None, None]) ** 2).flatten(2).mean(2).mean(0)
    return mean, spread.sqrt()


EXERCISE = Exercise(
    id="channel_statistics",
    topic="preprocessing",
    title="Mean and standard deviation of each channel",
    reference=reference.channel_statistics,
    minutes=10,
    difficulty=2,
    properties=(
        Property(
            "mean",
            "one mean per channel, over N, H and W",
            0.75,
            _several_images,
            numbers_of(0),
            tolerance=(1e-4, 1e-5),
        ),
        Property(
            "std",
            "one population standard deviation per channel, over the same axes",
            0.75,
            _several_images,
            numbers_of(1),
            tolerance=(1e-4, 1e-5),
        ),
        Property(
            "large_offset",
            "float32 images with a mean of 10,000 and a std of 2 or 3 stay accurate",
            0.5,
            _offset,
            _far,
            tolerance=(1e-2, 1e-2),
            examples=4,
            tried="three figures of the mean's distance from 10,000 and of the std are compared",
        ),
        Property(
            "bytes",
            "uint8 pixels do not overflow",
            0.25,
            bright_bytes,
            lambda subject, case: _doubles(mean_and_std(subject, case)),
            tolerance=(1e-4, 1e-5),
        ),
        Property(
            "constant",
            "a channel that never changes has a std of 0",
            0.25,
            _flat_channels,
            numbers_of(1),
            tolerance=(1e-5, 5e-7),
            examples=12,
        ),
        Property(
            "kinds",
            "two tensors of shape (C,): floats keep their dtype, integers give float32; nothing in place",
            0.5,
            whole_numbers,
            kinds_of_answers,
            examples=4,
            tried="channel_statistics(images) for uint8, int64, float32 and float64",
        ),
    ),
    misconceptions=(
        Misconception(
            "divided_by_one_less",
            "Your std divides by the number of pixels minus one, as torch does by default.",
            "These are population statistics: std(..., correction=0).",
            ("std", "bytes"),
            _channels_unbiased,
        ),
        Misconception(
            "variance",
            "You returned the variance.",
            "Take its root: the std has the unit of the pixels.",
            ("std", "large_offset", "bytes"),
            _channels_variance,
        ),
        Misconception(
            "average_of_stds",
            "You averaged the stds of the single images.",
            "Images of different brightness add to the spread: measure deviations from the mean of all images.",
            ("std", "large_offset", "bytes"),
            _channels_average_std,
        ),
        Misconception(
            "std_of_the_mean_image",
            "Your std is that of the mean image.",
            "Averaging the images first removes most of the spread: use every pixel of every image.",
            ("std", "large_offset", "bytes"),
            _channels_of_mean_image,
        ),
        Misconception(
            "around_zero",
            "You did not subtract the mean before squaring.",
            "The spread is around the mean: mean of (x − mean)², then the root.",
            ("std", "large_offset", "bytes", "constant"),
            _channels_rms,
        ),
        Misconception(
            "one_std",
            "Your std is one number for all channels.",
            "Average the squared deviations over axes 0, 2 and 3, and keep axis 1.",
            ("std", "large_offset", "bytes", "constant", "kinds"),
            _channels_one_std,
        ),
        Misconception(
            "whole_tensor",
            "You took one mean and one std for all channels.",
            "Each channel has its own: reduce over axes 0, 2 and 3, and keep axis 1.",
            _ALL,
            _channels_whole,
        ),
        Misconception(
            "each_image",
            "You took the statistics of each image by itself.",
            "They describe the whole set: axis 0 is reduced as well.",
            _ALL,
            _channels_per_image,
        ),
        Misconception(
            "axes_kept",
            "Your statistics still have axes of length 1.",
            "Leave keepdim=True out here: the shape is (C,).",
            _ALL,
            _channels_keepdim,
        ),
        Misconception(
            "swapped",
            "You returned the std first.",
            "The order is mean, std.",
            ("mean", "std", "large_offset", "bytes", "constant"),
            _channels_swapped,
        ),
        Misconception(
            "squares_in_single_precision",
            "You took E[x²] − E[x]² in float32: two numbers near 10⁸ whose difference is 4 or 9.",
            "Subtract the mean first, then square; or compute in float64.",
            ("large_offset",),
            _channels_single,
        ),
        Misconception(
            "integers_not_converted",
            "You asked for the mean of integers, which torch does not take.",
            "Convert them first: images.double(), and the results back at the end.",
            ("bytes", "kinds"),
            _channels_of_integers,
        ),
        Misconception(
            "bytes_squared",
            "You squared uint8 pixels: 200·200 does not fit into a byte.",
            "Convert the images to floats before any arithmetic.",
            ("bytes",),
            _channels_bytes,
        ),
        Misconception(
            "negative_under_the_root",
            "For a constant channel your E[x²] − E[x]² is rounded to a little below zero, and its root is NaN.",
            "Subtract the mean before squaring, or clamp the difference at 0.",
            ("constant",),
            _channels_negative_root,
        ),
        Misconception(
            "always_single",
            "Your answer is float32 even for float64 images.",
            "Only integers become float32; floats keep their own dtype.",
            ("kinds",),
            _channels_always_single,
        ),
        Misconception(
            "always_double",
            "Your answer is float64 whatever the images are.",
            "Compute in float64 if you like, then return the dtype of the images (float32 for integers).",
            ("kinds",),
            _channels_double,
        ),
    ),
    right=(
        Variant("a loop over channels", _channels_loop),
        Variant("one pass in float64", _channels_one_pass),
        Variant("numpy", _channels_numpy),
        Variant("means of means, since all images have one size", _channels_nested),
    ),
    hints=(
        Hint("My shapes are wrong", "One number per channel is left over. Which three axes go?"),
        Hint(
            "The mean is right, the std is not",
            "Which divisor does torch's std use unless told otherwise? And is it the spread of all pixels, or an average of spreads?",
        ),
        Hint(
            "It works for floats, but not for bytes",
            "x = images.double(); mean = x.mean((0, 2, 3)); std = x.std((0, 2, 3), correction=0); then both .to(images.dtype), or float32 for integers.",
        ),
    ),
    forbidden=(SCALERS,),
)
