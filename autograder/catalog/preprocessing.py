"""Exercises of lecture 01: the statistics of a training set."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from autograder.attempt import Handle, Raised
from autograder.catalog._common import as_double, described
from autograder.exercise import Case, Exercise, Forbidden, Hint, Misconception, Property, Variant
from autograder.values import Batches
from coursekit import preprocessing as reference

SCALERS = Forbidden("sklearn.preprocessing", ("sklearn.preprocessing.",))


# -- mean_image ---------------------------------------------------------------------------------------------


def _images(d: Any, n: int, c: int, h: int, w: int) -> torch.Tensor:
    """Images of different brightness, so that what is averaged over shows in every number."""
    brightness = torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1)
    channels = 3.0 * torch.arange(c, dtype=torch.float64).view(1, c, 1, 1)
    return d.tensor(n, c, h, w) + brightness + channels


def _some_images(d: Any) -> Case:
    n, c = d.choice([3, 1, 2, 4, 5]), d.choice([2, 3, 1])
    return Case((d.layout(_images(d, n, c, d.integer(1, 4), d.integer(2, 5))),))


def _bright_bytes(d: Any) -> Case:
    shape = (d.integer(2, 5), d.integer(2, 3), d.integer(2, 4), d.integer(2, 5))
    return Case((d.integers(*shape, low=150, high=255, dtype=torch.uint8),))


def _whole_numbers(d: Any) -> Case:
    # The numbers of images and of channels differ, so that the shape tells which of the two was averaged.
    n, c = d.choice([(3, 2), (2, 3), (4, 2), (4, 3)])
    return Case((d.integers(n, c, 2, 3, low=100, high=255),))


_KINDS = (torch.uint8, torch.int64, torch.float32, torch.float64)


def _kinds_of_answers(subject: Any, case: Case) -> Any:
    """Shape and dtype of the answer for each dtype of the input, and what was modified in place."""
    seen = {}
    for dtype in _KINDS:
        images = case.args[0].to(dtype)
        seen[f"for {str(dtype).removeprefix('torch.')} images"] = described(subject(images))
        seen["modified in place"] = bool(subject.changed(images)) or seen.get("modified in place", False)
    return seen


def _doubles(pair: Any) -> Any:
    return {k: as_double(v) for k, v in pair.items()} if isinstance(pair, dict) else pair


def _number(subject: Any, case: Case) -> Any:
    return as_double(subject(*case.args))


def _float_of(images: torch.Tensor) -> torch.dtype:
    return images.dtype if images.is_floating_point() else torch.float32


def _mean_of_integers(images):
    return images.mean(0)


def _mean_of_channels(images):
    return images.double().mean((0, 2, 3)).to(_float_of(images))


def _mean_of_each_image(images):
    return images.double().mean((1, 2, 3)).to(_float_of(images))


def _mean_over_channels(images):
    return images.double().mean(1).to(_float_of(images))


def _mean_keeps_axis(images):
    return images.double().mean(0, keepdim=True).to(_float_of(images))


def _mean_halved(images):
    mean = images[0].double()
    for image in images[1:]:
        mean = (mean + image) / 2
    return mean.to(_float_of(images))


def _mean_bytes(images):
    total = torch.zeros_like(images[0])
    for image in images:
        total = total + image
    return total / len(images)


def _mean_first_image(images):
    total = images[0]
    for image in images[1:]:
        total += image
    return total / len(images)


def _mean_in_bytes_again(images):
    return images.double().mean(0).to(images.dtype)


def _mean_single(images):
    return images.float().mean(0)


def _mean_double(images):
    return images.double().mean(0)


def _mean_by_batch_size(images):
    return (images.double().sum(0) / (len(images) - 1)).to(_float_of(images))


def _mean_loop(images):
    total = torch.zeros(images.shape[1:], dtype=torch.float64, device=images.device)
    for image in images:
        total += image
    return (total / images.shape[0]).to(_float_of(images))


def _mean_matrix(images):
    """One row of weights times a matrix with an image in each row."""
    rows = images.reshape(len(images), -1).double()
    weights = torch.full((1, len(images)), 1 / len(images), dtype=torch.float64, device=images.device)
    return (weights @ rows).reshape(images.shape[1:]).to(_float_of(images))


def _mean_running(images):
    kind = images.dtype if images.is_floating_point() else torch.float32
    mean = torch.zeros_like(images[0], dtype=kind)
    for n, image in enumerate(images.unbind(0), start=1):
        mean = mean + (image.to(kind) - mean) / n
    return mean


MEAN_IMAGE = Exercise(
    id="mean_image",
    topic="preprocessing",
    title="The mean image",
    reference=reference.mean_image,
    minutes=5,
    difficulty=1,
    properties=(
        Property(
            "average",
            "the average over all images, pixel by pixel, of shape (C, H, W)",
            1.0,
            _some_images,
            _number,
            tolerance=(1e-4, 1e-5),
        ),
        Property(
            "bytes",
            "uint8 pixels do not overflow, and the mean keeps its fraction",
            0.5,
            _bright_bytes,
            _number,
            tolerance=(1e-4, 1e-5),
        ),
        Property(
            "kinds",
            "floats keep their dtype, integers give float32, and the images are not modified in place",
            0.5,
            _whole_numbers,
            _kinds_of_answers,
            examples=4,
            tried="mean_image(images) for uint8, int64, float32 and float64",
        ),
    ),
    misconceptions=(
        Misconception(
            "mean_of_channels",
            "You averaged over the pixels as well: this is one number per channel.",
            "Reduce over axis 0 alone; the mean image is as large as an image.",
            ("average", "bytes", "kinds"),
            _mean_of_channels,
        ),
        Misconception(
            "mean_of_each_image",
            "You took the mean of each image by itself.",
            "Average over the images, axis 0, and keep channels and pixels.",
            ("average", "bytes", "kinds"),
            _mean_of_each_image,
        ),
        Misconception(
            "mean_over_channels",
            "You averaged over axis 1, the channels.",
            "Axis 0 counts the images: images.mean(0).",
            ("average", "bytes", "kinds"),
            _mean_over_channels,
        ),
        Misconception(
            "axis_kept",
            "Your mean image still has an axis of length 1 in front.",
            "Leave keepdim=True out here: the result has the shape of an image, (C, H, W).",
            ("average", "bytes", "kinds"),
            _mean_keeps_axis,
        ),
        Misconception(
            "halved_each_time",
            "You averaged the mean so far with the next image: the last image then counts one half.",
            "Add all images up and divide once, or move by 1/n: mean += (image − mean) / n.",
            ("average", "bytes"),
            _mean_halved,
        ),
        Misconception(
            "one_less",
            "You divided by N−1.",
            "That divisor is for variances; a mean divides by the number of images.",
            ("average", "bytes"),
            _mean_by_batch_size,
        ),
        Misconception(
            "integers_not_converted",
            "You asked for the mean of integers, which torch does not take.",
            "Convert them first: images.float(), unless they are floats already.",
            ("bytes", "kinds"),
            _mean_of_integers,
        ),
        Misconception(
            "summed_in_bytes",
            "You added bytes up in a byte: 200 + 200 is 144 there.",
            "Convert to floats before you add.",
            ("bytes",),
            _mean_bytes,
        ),
        Misconception(
            "first_image_overwritten",
            "You added the other images into the first one: images[0] is a view, and += writes through it.",
            "Begin with zeros, or write total = total + image.",
            ("bytes", "kinds"),
            _mean_first_image,
        ),
        Misconception(
            "rounded_to_bytes",
            "You converted the mean back to bytes, which cuts its fraction off.",
            "The result is float32 for integer images.",
            ("bytes", "kinds"),
            _mean_in_bytes_again,
        ),
        Misconception(
            "always_single",
            "Your answer is float32 even for float64 images.",
            "Only integers become float32; floats keep their own dtype.",
            ("kinds",),
            _mean_single,
        ),
        Misconception(
            "always_double",
            "Your answer is float64 whatever the images are.",
            "Compute in float64 if you like, then return the dtype of the images (float32 for integers).",
            ("kinds",),
            _mean_double,
        ),
    ),
    right=(
        Variant("a loop that adds up", _mean_loop),
        Variant("a row of weights times a matrix", _mean_matrix),
        Variant("a running mean", _mean_running),
    ),
    hints=(
        Hint("My shape is wrong", "Which one of the four axes should be gone in the result?"),
        Hint(
            "My numbers are far too small for bytes",
            "A byte holds 0 to 255. What is the sum of two bright pixels?",
        ),
        Hint(
            "mean() refuses my images",
            "torch takes no mean of integers. With images.float() (only if they are not floats already), the answer is .mean(0).",
        ),
    ),
)


# -- channel_statistics -------------------------------------------------------------------------------------


def _several_images(d: Any) -> Case:
    n, c = d.choice([2, 1, 3, 4]), d.choice([2, 3, 1])
    return Case((d.layout(_images(d, n, c, d.integer(2, 4), d.integer(2, 5))),))


def _part(index: int) -> Any:
    """The numbers of one of the two statistics."""

    def observe(subject: Any, case: Case) -> Any:
        result = subject(*case.args)
        if not isinstance(result, list | tuple) or len(result) != 2:
            return result
        return as_double(result[index])

    return observe


def _offset(d: Any) -> Case:
    n, c = d.integer(2, 4), d.integer(1, 3)
    x = d.tensor(n, c, 9, 10, scale=d.choice([3.0, 2.0]), shift=1e4)
    return Case(((x + 2.0 * torch.arange(n).view(n, 1, 1, 1)).float(),))


def _far(subject: Any, case: Case) -> Any:
    result = subject(*case.args)
    if not isinstance(result, list | tuple) or len(result) != 2:
        return result
    mean, std = map(as_double, result)
    return {"mean − 1e4": mean - 1e4 if isinstance(mean, torch.Tensor) else mean, "std": std}


def _flat_channels(d: Any) -> Case:
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
    return mean.to(_float_of(images)), std.to(_float_of(images))


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
    x = images.to(_float_of(images))
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
    return tuple(v.to(images.device, _float_of(images)) for v in pair)


def _channels_nested(images):
    """Mean of the images' second moments around the total mean."""
    x = images.to(_float_of(images))
    mean = x.mean((2, 3)).mean(0)
    spread = ((x - mean[None, :, None, None]) ** 2).flatten(2).mean(2).mean(0)
    return mean, spread.sqrt()


CHANNELS = Exercise(
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
            _part(0),
            tolerance=(1e-4, 1e-5),
        ),
        Property(
            "std",
            "one population standard deviation per channel, over the same axes",
            0.75,
            _several_images,
            _part(1),
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
            _bright_bytes,
            lambda subject, case: _doubles(_pair(subject, case)),
            tolerance=(1e-4, 1e-5),
        ),
        Property(
            "constant",
            "a channel that never changes has a std of 0",
            0.25,
            _flat_channels,
            _part(1),
            tolerance=(1e-5, 5e-7),
            examples=12,
        ),
        Property(
            "kinds",
            "two tensors of shape (C,): floats keep their dtype, integers give float32; nothing in place",
            0.5,
            _whole_numbers,
            _kinds_of_answers,
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


# -- streaming_statistics -----------------------------------------------------------------------------------


def _unequal(d: Any) -> Case:
    c = d.integer(1, 3)
    batches = []
    for number in range(d.integer(2, 4)):
        shape = (d.integer(1, 4), c, d.integer(1, 5), d.integer(2, 5))
        # Batches of different brightness, as sorted data has; the last is larger than the first.
        batches.append(d.layout(d.tensor(*shape, scale=1.0 + number, shift=2.0 * number)))
    return Case((Batches(tuple(batches)),))


def _different_sizes(d: Any) -> Case:
    c = d.integer(1, 3)
    small, large = d.integer(1, 3), d.integer(4, 6)
    batches = (d.tensor(2, c, small, small), d.tensor(2, c, large, large + 1, shift=3.0))
    return Case((Batches(batches),))


def _far_from_zero(d: Any) -> Case:
    c = d.integer(1, 2)
    shifts = (1e6 + 2 * number for number in range(d.integer(2, 3)))
    batches = tuple(d.tensor(4, c, 12, 10, shift=shift).float() for shift in shifts)
    return Case((Batches(batches),))


def _bytes(d: Any) -> Case:
    x = d.integers(d.integer(1, 3), d.integer(1, 3), 3, d.integer(2, 4), low=100, high=255, dtype=torch.uint8)
    return Case((Batches((x,)),))


def _kinds(d: Any) -> Case:
    return Case((), {}, {"batch": d.integers(2, d.integer(1, 3), 3, 2, low=0, high=255)})


def _kinds_of_statistics(subject: Any, case: Case) -> Any:
    seen = {}
    for dtype in _KINDS:
        batches = Batches((case.extra["batch"].to(dtype),) * 2)
        seen[f"for {str(dtype).removeprefix('torch.')} batches"] = described(subject(batches))
        seen["modified in place"] = bool(subject.changed(batches)) or seen.get("modified in place", False)
    return seen


def _pair(subject: Any, case: Case) -> Any:
    result = subject(*case.args)
    if not isinstance(result, list | tuple) or len(result) != 2:
        return result
    return {"mean": result[0], "std": result[1]}


def _near(subject: Any, case: Case) -> Any:
    result = _pair(subject, case)
    if not isinstance(result, dict) or not all(isinstance(t, torch.Tensor) for t in result.values()):
        return result
    # float32 cannot say where near a million it is by less than 0.06.
    return {"mean − 1e6, in tens": (result["mean"].double() - 1e6) / 10, "std": result["std"].double()}


def _statistics(batches: Any, *, biased: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.cat([_rows(b) for b in batches], 1)
    return _in_kind(batches, rows.mean(1)), _in_kind(batches, rows.std(1, unbiased=not biased))


def _rows(batch: torch.Tensor) -> torch.Tensor:
    return batch.double().transpose(0, 1).flatten(1)


def _in_kind(batches: list[torch.Tensor], value: torch.Tensor) -> torch.Tensor:
    return value.to(batches[0].dtype if batches[0].is_floating_point() else torch.float32)


def _average_of_batches(batches):
    batches = list(batches)
    each = [_statistics([b]) for b in batches]
    return torch.stack([m for m, _ in each]).mean(0), torch.stack([s for _, s in each]).mean(0)


def _count_images(batches):
    batches = list(batches)
    n = sum(len(b) for b in batches)
    mean = sum(_rows(b).mean(1) * len(b) for b in batches) / n
    second = sum((_rows(b) ** 2).mean(1) * len(b) for b in batches) / n
    return _in_kind(batches, mean), _in_kind(batches, (second - mean**2).clamp(min=0).sqrt())


def _unbiased(batches):
    return _statistics(list(batches), biased=False)


def _single_precision(batches):
    total, squares, n, kind = 0, 0, 0, None
    for batch in batches:
        kind = kind or (batch.dtype if batch.is_floating_point() else torch.float32)
        x = batch.to(kind)
        total, squares = total + x.sum((0, 2, 3)), squares + (x**2).sum((0, 2, 3))
        n += x.numel() // x.shape[1]
    mean = total / n
    return mean, (squares / n - mean**2).clamp(min=0).sqrt()


def _two_passes(batches):
    total, n, kind, c = 0.0, 0, torch.float32, 1
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        c = batch.shape[1]
        total, n = total + _rows(batch).sum(1), n + batch.numel() // c
    mean = total / n
    squares = torch.zeros(c, dtype=torch.float64)
    for batch in batches:
        squares = squares + ((_rows(batch) - mean[:, None]) ** 2).sum(1)
    return mean.to(kind), (squares / n).sqrt().to(kind)


def _within_batches(batches):
    batches = list(batches)
    mean, _ = _statistics(batches)
    counts = [b.numel() // b.shape[1] for b in batches]
    var = sum(_rows(b).var(1, unbiased=False) * n for b, n in zip(batches, counts, strict=True)) / sum(counts)
    return mean, _in_kind(batches, var.sqrt())


def _bytes_squared(batches):
    total, squares, n, kind = 0.0, 0.0, 0, torch.float32
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        total = total + batch.double().sum((0, 2, 3))
        x = batch.double() if batch.is_floating_point() else batch
        squares = squares + (x * x).sum((0, 2, 3)).double()
        n += batch.numel() // batch.shape[1]
    mean = total / n
    return mean.to(kind), (squares / n - mean**2).clamp(min=0).sqrt().to(kind)


def _centered_in_place(batches):
    n, mean, spread, kind = 0, 0.0, 0.0, torch.float32
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        x = batch.double()  # the batch itself where it is float64 already
        k, center = x.numel() // x.shape[1], x.mean((0, 2, 3))
        x -= center[:, None, None]
        delta = center - mean
        spread = spread + (x**2).sum((0, 2, 3)) + delta**2 * n * k / (n + k)
        mean = mean + delta * k / (n + k)
        n += k
    return mean.to(kind), (spread / n).sqrt().to(kind)


def _last_batch(batches):
    batches = list(batches)
    return _statistics(batches[-1:])


def _double_sums(batches):
    total, squares, n, kind = 0.0, 0.0, 0, torch.float32
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        x = batch.double()
        total = total + x.sum((0, 2, 3))
        squares = squares + torch.einsum("nchw,nchw->c", x, x)
        n += x.shape[0] * x.shape[2] * x.shape[3]
    mean = total / n
    return mean.to(kind), (squares / n - mean**2).clamp(min=0).sqrt().to(kind)


def _welford(batches):
    """Welford's update, an image at a time, around a running mean."""
    n, mean, spread, kind = 0, None, None, torch.float32
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        for image in batch.double():
            pixels = image.flatten(1)
            k = pixels.shape[1]
            if mean is None:
                mean, spread = torch.zeros_like(pixels[:, 0]), torch.zeros_like(pixels[:, 0])
            delta = pixels - mean[:, None]
            shift = delta.sum(1) / (n + k)
            mean = mean + shift
            spread = spread + (delta * (pixels - mean[:, None])).sum(1)
            n += k
    return mean.to(kind), (spread / n).sqrt().to(kind)


def _numpy(batches):
    import numpy as np

    columns, kind = [], torch.float32
    device = "cpu"
    for batch in batches:
        kind = batch.dtype if batch.is_floating_point() else torch.float32
        device = batch.device
        columns.append(np.moveaxis(batch.cpu().numpy(), 1, 0).reshape(batch.shape[1], -1).astype(np.float64))
    rows = np.concatenate(columns, axis=1)
    mean, std = (torch.from_numpy(v).to(device, kind) for v in (rows.mean(1), rows.std(1)))
    return mean, std


STREAMING = Exercise(
    id="streaming_statistics",
    topic="preprocessing",
    title="Statistics of a data set that does not fit in memory",
    reference=reference.streaming_statistics,
    minutes=20,
    difficulty=3,
    properties=(
        Property(
            "every_pixel",
            "batches of any number of images, one or more: every pixel counts the same",
            1.0,
            _unequal,
            _pair,
        ),
        Property("any_size", "H and W may differ from batch to batch", 0.75, _different_sizes, _pair),
        Property(
            "large_offset",
            "float32 data around a million with a spread of 1 stays accurate to two figures",
            1.0,
            _far_from_zero,
            _near,
            # Merging means and squared deviations in float32 loses about a hundredth, and is no mistake.
            tolerance=(4e-2, 2e-2),
            examples=4,
            tried="two figures of the mean and the std are compared",
        ),
        Property("bytes", "uint8 pixels do not overflow", 0.75, _bytes, _pair),
        Property(
            "kinds",
            "two tensors of shape (C,): floats keep their dtype, integers give float32; nothing in place",
            0.5,
            _kinds,
            _kinds_of_statistics,
            examples=4,
            tried="streaming_statistics(batches) for uint8, int64, float32 and float64",
        ),
    ),
    misconceptions=(
        Misconception(
            "average_of_batches",
            "You averaged the means and the stds of the batches.",
            "Sum over pixels and divide once at the end; spreads of batches do not average to the spread of all.",
            ("every_pixel", "any_size", "large_offset"),
            _average_of_batches,
        ),
        Misconception(
            "images_counted_not_pixels",
            "You weighed each batch by its number of images.",
            "Weigh by pixels, n·H·W: images of different size hold different numbers of them.",
            ("every_pixel", "any_size"),
            _count_images,
        ),
        Misconception(
            "within_batches_only",
            "Your variance is the average of the batches' own variances.",
            "Batches whose means differ add to the spread: each contributes count·(its mean − total mean)² as well.",
            ("every_pixel", "any_size", "large_offset"),
            _within_batches,
        ),
        Misconception(
            "divided_by_one_less",
            "You divided by the number of pixels minus one.",
            "These are population statistics: divide by the number of pixels.",
            ("every_pixel", "any_size", "bytes"),
            _unbiased,
        ),
        Misconception(
            "squares_in_single_precision",
            "You took E[x²] − E[x]² in float32: two numbers near 10¹² whose difference is 1.",
            "Accumulate in float64, or merge means and squared deviations batch by batch.",
            ("large_offset",),
            _single_precision,
        ),
        Misconception(
            "second_pass",
            "You walked through the batches twice, but the second time nothing is left.",
            "An iterator can be read once: keep what you need (count, mean, squared deviations) as you go.",
            ("every_pixel", "any_size", "large_offset", "bytes"),
            _two_passes,
        ),
        Misconception(
            "bytes_squared",
            "You squared uint8 pixels: 200·200 does not fit into a byte.",
            "Convert the batch to float64 before any arithmetic.",
            ("bytes",),
            _bytes_squared,
        ),
        Misconception(
            "centered_in_place",
            "You subtracted the mean from the caller's batch: double() of a float64 tensor is that tensor.",
            "Write x = x - mean, which makes a new one, and not x -= mean.",
            ("kinds",),
            _centered_in_place,
        ),
        Misconception(
            "last_batch_only",
            "Your result is that of the last batch.",
            "Carry count, mean and spread from batch to batch.",
            ("every_pixel", "any_size", "large_offset"),
            _last_batch,
        ),
    ),
    right=(
        Variant("sums in float64", _double_sums),
        Variant("Welford, an image at a time", _welford),
        Variant("numpy, collected", _numpy),
    ),
    hints=(
        Hint(
            "I don't know what to keep",
            "What would you have to remember of all batches so far, to be able to forget their pixels?",
        ),
        Hint(
            "The std is a little off",
            "A batch whose mean differs from the others' adds to the spread of all.",
        ),
        Hint(
            "It breaks far from zero",
            "Keep n, mean and m2 per channel in float64. For a batch with k pixels, mean b and squared deviations q: delta = b − mean; m2 += q + delta²·n·k/(n+k); mean += delta·k/(n+k); n += k. std = sqrt(m2 / n).",
        ),
    ),
)

# -- zca_whiten ---------------------------------------------------------------------------------------------


def _mixed(d: Any, n: int, dims: int, low: float = 0.5, high: float = 2.0) -> torch.Tensor:
    """Correlated samples, their mean away from 0, whose covariance has no eigenvalue below low²."""
    z = d.tensor(n, dims)
    z = torch.linalg.qr(z - z.mean(0)).Q * n**0.5
    turn = torch.linalg.qr(d.tensor(dims, dims)).Q
    x = (z * torch.linspace(low, high, dims, dtype=torch.float64)) @ turn + d.tensor(dims, shift=2.0)
    return (x * 1000).round() / 1000


def _samples(d: Any) -> Case:
    dims = d.integer(2, 5)
    return Case((d.layout(_mixed(d, dims + d.integer(3, 8), dims)),))


def _small_samples(d: Any) -> Case:
    dims = d.integer(2, 4)
    eps = d.choice([0.1, 0.5, 0.02])
    return Case((_mixed(d, dims + d.integer(3, 8), dims, 0.3, 0.8), eps))


def _dependent(d: Any) -> Case:
    """More features than samples, or the same feature twice."""
    dims = d.integer(3, 5)
    if d.flag():
        return Case((d.tensor(dims - 1, dims, shift=1.0), d.choice([0.1, 0.02])))
    x = _mixed(d, dims + 5, dims)
    return Case((torch.cat([x, x[:, :1]], 1), d.choice([0.1, 0.02])))


def _whole_samples(d: Any) -> Case:
    dims = d.integer(2, 3)
    corners = torch.cat([torch.zeros(1, dims), 4 * torch.eye(dims)]).long()
    return Case((torch.cat([corners, d.integers(4, dims, low=0, high=9)]),))


def _zca_kinds(subject: Any, case: Case) -> Any:
    seen = {}
    for dtype in (torch.int64, torch.float32, torch.float64):
        x = case.args[0].to(dtype)
        seen[f"for {str(dtype).removeprefix('torch.')} samples"] = described(subject(x))
        seen["modified in place"] = bool(subject.changed(x)) or seen.get("modified in place", False)
    return seen


def _zca_part(index: int) -> Any:
    def observe(subject: Any, case: Case) -> Any:
        result = subject(*case.args)
        if not isinstance(result, list | tuple) or len(result) != 2:
            return result
        return as_double(result[index])

    return observe


def _zca_both(subject: Any, case: Case) -> Any:
    result = subject(*case.args)
    if not isinstance(result, list | tuple) or len(result) != 2:
        return result
    return {"whitened": as_double(result[0]), "W": as_double(result[1])}


def _zca(
    x, eps, *, center=True, apply_to=None, less=0, power=lambda s, eps: (s + eps) ** -0.5, back=True, axis=0
):
    """ZCA with a seam at each step, where the misconceptions put their mistake."""
    kind = _float_of(x)
    x = x.double()
    centered = x - x.mean(axis, keepdim=True) if center else x
    s, u = torch.linalg.eigh(centered.T @ centered / (len(x) - less))
    w = u * power(s.clamp(min=0), eps)
    w = w @ u.T if back else w
    return ((centered if apply_to is None else x) @ w).to(kind), w.to(kind)


def _zca_pca(x, eps=1e-5):
    return _zca(x, eps, back=False)


def _zca_pca_by_svd(x, eps=1e-5):
    centered = x.double() - x.double().mean(0)
    u, s, _ = torch.linalg.svd(centered.T @ centered / len(x))
    w = u @ torch.diag((s + eps) ** -0.5)
    return (centered @ w).to(_float_of(x)), w.to(_float_of(x))


def _zca_standardized_first(x, eps=1e-5):
    centered = x.double() - x.double().mean(0)
    return _zca((centered / centered.std(0, correction=0)).to(_float_of(x)), eps)


def _zca_of_integers(x, eps=1e-5):
    return _zca(x - x.mean(0), eps)


def _zca_not_centered(x, eps=1e-5):
    return _zca(x, eps, center=False)


def _zca_raw_applied(x, eps=1e-5):
    return _zca(x, eps, apply_to="x")


def _zca_one_less(x, eps=1e-5):
    return _zca(x, eps, less=1)


def _zca_eps_outside(x, eps=1e-5):
    return _zca(x, eps, power=lambda s, eps: 1 / (s.sqrt() + eps))


def _zca_eps_forgotten(x, eps=1e-5):
    return _zca(x, eps, power=lambda s, eps: s.clamp(min=1e-12) ** -0.5)


def _zca_no_root(x, eps=1e-5):
    return _zca(x, eps, power=lambda s, eps: 1 / (s + eps))


def _zca_colors(x, eps=1e-5):
    return _zca(x, eps, power=lambda s, eps: (s + eps).sqrt())


def _zca_sample_means(x, eps=1e-5):
    return _zca(x, eps, axis=1)


def _zca_feature_by_feature(x, eps=1e-5):
    centered = x.double() - x.double().mean(0)
    w = torch.diag((centered.square().mean(0) + eps) ** -0.5)
    return (centered @ w).to(_float_of(x)), w.to(_float_of(x))


def _zca_covariance_summed(x, eps=1e-5):
    return _zca(x, eps, less=len(x) - 1)


def _zca_in_place(x, eps=1e-5):
    if not x.is_floating_point():
        x = x.float()
    x -= x.mean(0)
    return _zca(x, eps)


def _zca_double(x, eps=1e-5):
    return _zca(x.double(), eps)


def _zca_by_svd(x, eps=1e-5):
    """Singular vectors of the samples in place of eigenvectors of the covariance."""
    centered = x.double() - x.double().mean(0)
    _, singular, v = torch.linalg.svd(centered, full_matrices=True)
    s = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    s[: len(singular)] = singular**2 / len(x)
    w = (v.T / torch.sqrt(s + eps)) @ v
    return (centered @ w).to(_float_of(x)), w.to(_float_of(x))


def _zca_cov(x, eps=1e-5):
    kind = x.dtype if x.is_floating_point() else torch.float32
    x = x.double()
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    w = torch.einsum("ik,k,jk->ij", vectors, 1 / torch.sqrt(values + eps), vectors)
    return torch.einsum("ni,ij->nj", x - x.mean(0), w).to(kind), w.to(kind)


def _zca_numpy(x, eps=1e-5):
    import numpy as np

    rows = x.cpu().numpy().astype(np.float64)
    rows = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False, bias=True))
    w = vectors @ np.diag((values + eps) ** -0.5) @ vectors.T
    kind = x.dtype if x.is_floating_point() else torch.float32
    return torch.from_numpy(rows @ w).to(x.device, kind), torch.from_numpy(w).to(x.device, kind)


_EVERY_ZCA = ("whitened", "matrix", "eps", "dependent")

ZCA = Exercise(
    id="zca_whiten",
    topic="preprocessing",
    title="Whitening that stays close to the image",
    reference=reference.zca_whiten,
    minutes=20,
    difficulty=3,
    properties=(
        Property(
            "whitened",
            "the samples, centered and multiplied by W",
            1.25,
            _samples,
            _zca_part(0),
            tolerance=(1e-3, 1e-4),
        ),
        Property(
            "matrix",
            "W = U (S + eps)^(−1/2) Uᵀ of the covariance (÷N), symmetric",
            1.0,
            _samples,
            _zca_part(1),
            tolerance=(1e-3, 1e-4),
        ),
        Property(
            "eps",
            "eps is added to every eigenvalue, inside the root",
            0.75,
            _small_samples,
            _zca_part(1),
            tolerance=(1e-4, 1e-5),
        ),
        Property(
            "dependent",
            "features that depend on each other, and fewer samples than features",
            0.5,
            _dependent,
            _zca_both,
            tolerance=(1e-3, 1e-4),
        ),
        Property(
            "kinds",
            "(N, D) and (D, D): floats keep their dtype, integers give float32; nothing in place",
            0.5,
            _whole_samples,
            _zca_kinds,
            examples=4,
            tried="zca_whiten(x) for int64, float32 and float64",
        ),
    ),
    misconceptions=(
        Misconception(
            "pca_whitening",
            "You stopped in the basis of the eigenvectors: this is PCA whitening.",
            "Turn back at the end, W = U (S + eps)^(−1/2) Uᵀ: that is what makes W symmetric.",
            _EVERY_ZCA,
            _zca_pca,
        ),
        Misconception(
            "pca_whitening_by_svd",
            "You stopped in the basis of the singular vectors: this is PCA whitening.",
            "Turn back at the end, W = U (S + eps)^(−1/2) Uᵀ: that is what makes W symmetric.",
            _EVERY_ZCA,
            _zca_pca_by_svd,
        ),
        Misconception(
            "standardized_first",
            "You divided the features by their own std before you took the covariance.",
            "Only the mean is subtracted: W itself takes care of the scale.",
            _EVERY_ZCA,
            _zca_standardized_first,
        ),
        Misconception(
            "not_centered",
            "You did not subtract the mean of the features.",
            "A covariance is taken around the mean: center x over axis 0 first.",
            _EVERY_ZCA,
            _zca_not_centered,
        ),
        Misconception(
            "centered_for_the_covariance_only",
            "You multiplied x itself by W, not the centered x.",
            "whitened = (x − mean) @ W.",
            ("whitened", "dependent"),
            _zca_raw_applied,
        ),
        Misconception(
            "mean_of_each_sample",
            "You subtracted the mean of each sample.",
            "Each feature has its own mean, over the samples: x.mean(0).",
            _EVERY_ZCA,
            _zca_sample_means,
        ),
        Misconception(
            "one_less",
            "You divided the covariance by N−1.",
            "Divide by N here; torch.cov needs correction=0 for it.",
            _EVERY_ZCA,
            _zca_one_less,
        ),
        Misconception(
            "covariance_not_divided",
            "You did not divide the covariance by N.",
            "The covariance is centeredᵀ @ centered / N.",
            _EVERY_ZCA,
            _zca_covariance_summed,
        ),
        Misconception(
            "without_root",
            "You divided by the eigenvalues.",
            "An eigenvalue is a variance: divide by its root.",
            _EVERY_ZCA,
            _zca_no_root,
        ),
        Misconception(
            "root_not_inverted",
            "You multiplied by the root of the eigenvalues instead of dividing by it.",
            "The exponent is −1/2: wide directions are made narrower.",
            _EVERY_ZCA,
            _zca_colors,
        ),
        Misconception(
            "feature_by_feature",
            "You divided each feature by its own std, which leaves the features correlated.",
            "Use the eigenvectors of the covariance, not its diagonal alone.",
            _EVERY_ZCA,
            _zca_feature_by_feature,
        ),
        Misconception(
            "eps_outside_root",
            "You added eps after the root.",
            "It belongs to the eigenvalue: (S + eps)^(−1/2).",
            ("eps", "dependent"),
            _zca_eps_outside,
        ),
        Misconception(
            "eps_ignored",
            "You did not use eps.",
            "Add it to the eigenvalues: where one is 0, there is nothing else to divide by.",
            ("eps", "dependent"),
            _zca_eps_forgotten,
        ),
        Misconception(
            "integers_not_converted",
            "You asked for the mean of integers, which torch does not take.",
            "Convert x first: x.double(), and the results back at the end.",
            ("kinds",),
            _zca_of_integers,
        ),
        Misconception(
            "in_place",
            "You modified x in place (-= or a method that ends in _).",
            "Write x - mean into a new name: the caller still needs x.",
            ("kinds",),
            _zca_in_place,
        ),
        Misconception(
            "always_double",
            "Your answer is float64 whatever x is.",
            "Compute in float64 if you like, then return the dtype of x (float32 for integers).",
            ("kinds",),
            _zca_double,
        ),
    ),
    right=(
        Variant("from the singular values", _zca_by_svd),
        Variant("torch.cov and einsum", _zca_cov),
        Variant("numpy", _zca_numpy),
    ),
    hints=(
        Hint(
            "My W is not symmetric",
            "U turns into the basis of the eigenvectors. What turns back?",
        ),
        Hint(
            "I get inf or NaN",
            "An eigenvalue of a covariance can be 0: that is what eps is for. Rounding in float32 can put one further below 0 than eps lifts it: compute in float64, and clamp at 0.",
        ),
        Hint(
            "I don't know how to start",
            "c = x.double() - x.double().mean(0); S, U = torch.linalg.eigh(c.T @ c / N); W = U @ torch.diag((S.clamp(min=0) + eps) ** -0.5) @ U.T; whitened = c @ W; then both .to(x.dtype), or float32 for integers.",
        ),
    ),
    forbidden=(Forbidden("sklearn.decomposition", ("sklearn.decomposition.",)),),
)


# -- Standardizer -------------------------------------------------------------------------------------------

_MODES = ("mean_image", "channel_mean", "channel_standard")


class _Standardizer(nn.Module):
    """The layer with a seam at each step, where the misconceptions put their mistake."""

    def __init__(self, mode="channel_standard"):
        super().__init__()
        self.mode = mode
        self.make_buffers()

    def make_buffers(self):
        self.register_buffer("mean", torch.empty(0))
        self.register_buffer("std", torch.empty(0))

    def keep(self, mean, std):
        self.mean, self.std = mean, std

    def statistics(self, images):
        x = images.double()
        if self.mode == "mean_image":
            mean = x.mean(0)
            return mean, torch.ones_like(mean)
        mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)
        std = self.guarded(std) if self.mode == "channel_standard" else torch.ones_like(std)
        return mean[:, None, None], std[:, None, None]

    def guarded(self, std):
        return torch.where(std > 1e-9, std, 1.0)

    def fit(self, images):
        self.keep(*(value.to(_float_of(images)) for value in self.statistics(images)))
        return self

    def refuse(self):
        if self.mean is None or self.mean.numel() == 0:
            raise RuntimeError("fit the statistics first, or load them")

    def forward(self, images):
        self.refuse()
        return (images - self.mean) / self.std

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        for name in ("mean", "std"):
            if name in self._buffers and prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class _StandardizerOwnBatch(_Standardizer):
    def forward(self, images):
        self.refuse()
        mean, std = self.statistics(images)
        return ((images - mean) / std).to(_float_of(images))


class _StandardizerPlain(_Standardizer):
    def make_buffers(self):
        self.mean = self.std = torch.empty(0)


class _StandardizerNotPersistent(_Standardizer):
    def make_buffers(self):
        for name in ("mean", "std"):
            self.register_buffer(name, torch.empty(0), persistent=False)


class _StandardizerByOneLess(_Standardizer):
    def statistics(self, images):
        mean, std = super().statistics(images)
        if self.mode != "channel_standard":
            return mean, std
        count = images.numel() // images.shape[1]
        return mean, torch.where(std == 1, std, std * (count / (count - 1)) ** 0.5)


class _StandardizerParameters(_Standardizer):
    def make_buffers(self):
        self.mean = nn.Parameter(torch.empty(0), requires_grad=False)
        self.std = nn.Parameter(torch.empty(0), requires_grad=False)

    def keep(self, mean, std):
        self.mean, self.std = (nn.Parameter(value, requires_grad=False) for value in (mean, std))

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        if prefix + "mean" in state_dict:
            self.keep(*(torch.empty_like(state_dict[prefix + name]) for name in ("mean", "std")))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class _StandardizerFlag(_Standardizer):
    def __init__(self, mode="channel_standard"):
        super().__init__(mode)
        self.fitted = False

    def fit(self, images):
        self.fitted = True
        return super().fit(images)

    def refuse(self):
        if not self.fitted:
            raise RuntimeError("not fitted")


class _StandardizerRegistersInFit(_Standardizer):
    def make_buffers(self):
        pass

    def keep(self, mean, std):
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def refuse(self):
        if "mean" not in self._buffers:
            raise RuntimeError("not fitted")


class _StandardizerNoGuard(_Standardizer):
    def guarded(self, std):
        return std


class _StandardizerAddsEps(_Standardizer):
    def guarded(self, std):
        return std + 1e-5


class _StandardizerOneMode(_Standardizer):
    def __init__(self, mode="channel_standard"):
        super().__init__("channel_standard")


class _StandardizerAlwaysDivides(_Standardizer):
    def statistics(self, images):
        x = images.double()
        axes = 0 if self.mode == "mean_image" else (0, 2, 3)
        keep = {"keepdim": True} if self.mode != "mean_image" else {}
        mean, std = x.mean(axes, **keep), x.std(axes, correction=0, **keep)
        return (v[0] if v.dim() == 4 else v for v in (mean, self.guarded(std)))


class _StandardizerVariance(_Standardizer):
    def guarded(self, std):
        return torch.where(std > 1e-9, std**2, 1.0)


class _StandardizerNeverRefuses(_Standardizer):
    def forward(self, images):
        if self.mean.numel() == 0:
            return images
        return super().forward(images)


class _StandardizerNone(_Standardizer):
    def make_buffers(self):
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    def refuse(self):
        pass


class _StandardizerFitReturnsNothing(_Standardizer):
    def fit(self, images):
        super().fit(images)


class _StandardizerInPlace(_Standardizer):
    def forward(self, images):
        self.refuse()
        if images.is_floating_point():
            images -= self.mean
            images /= self.std
            return images
        return super().forward(images)


class _StandardizerLastAxis(_Standardizer):
    def keep(self, mean, std):
        flat = self.mode != "mean_image"
        super().keep(*(v.flatten() if flat else v for v in (mean, std)))


class _StandardizerNoneThenSet(nn.Module):
    """Buffers that are None at first, shaped (C,), spread out when they are used."""

    def __init__(self, mode="channel_standard"):
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", None)
        self.register_buffer("std", None)

    def fit(self, images):
        kind = images.dtype if images.is_floating_point() else torch.float32
        if self.mode == "mean_image":
            self.mean = images.to(kind).mean(0)
            self.std = torch.ones((), dtype=kind, device=images.device)
            return self
        rows = images.double().transpose(0, 1).flatten(1)
        self.mean = rows.mean(1).to(kind)
        low, high = rows.min(1).values, rows.max(1).values
        if self.mode == "channel_mean":
            self.std = torch.ones_like(self.mean)
        else:
            self.std = torch.where(low == high, 1.0, rows.std(1, correction=0)).to(kind)
        return self

    def forward(self, images):
        if self.mean is None:
            raise RuntimeError("no statistics yet")
        if self.mode == "mean_image":
            return images - self.mean
        moved = images.movedim(1, -1)
        return ((moved - self.mean) / self.std).movedim(-1, 1)

    def load_state_dict(self, state_dict, *args, **kwargs):
        for name in ("mean", "std"):
            setattr(self, name, state_dict[name].clone())
        return super().load_state_dict(state_dict, *args, **kwargs)


class _StandardizerHook(nn.Module):
    """A flag that is a buffer too, and a hook that makes room before a load."""

    def __init__(self, mode="channel_standard"):
        super().__init__()
        self.mode = mode
        self.register_buffer("mean", torch.zeros(1, 1, 1, 1))
        self.register_buffer("std", torch.ones(1, 1, 1, 1))
        self.register_buffer("fitted", torch.tensor(False))
        self.register_load_state_dict_pre_hook(_make_room)

    def fit(self, images):
        axes = 0 if self.mode == "mean_image" else (0, 2, 3)
        x = images.double()
        mean = x.mean(axes, keepdim=True)
        std = torch.ones_like(mean)
        if self.mode == "channel_standard":
            spread = ((x - mean) ** 2).mean(axes, keepdim=True).sqrt()
            std = spread.masked_fill(spread < 1e-7, 1.0)
        self.mean, self.std = mean.to(_float_of(images)), std.to(_float_of(images))
        self.fitted.fill_(True)
        return self

    def forward(self, images):
        if not self.fitted:
            raise RuntimeError("call fit first")
        return torch.div(torch.sub(images, self.mean), self.std)


def _make_room(module, state_dict, prefix, *arguments):
    for name in ("mean", "std"):
        setattr(module, name, state_dict[prefix + name].clone())


def _to_fit(d: Any) -> Case:
    n, c, h, w = d.integer(2, 4), d.integer(2, 3), d.integer(2, 4), d.integer(4, 5)
    images = d.layout(_images(d, n, c, h, w)) * d.positive(c, 1, 1, low=1.5, high=4.0)
    images[:, -1] *= 0.02  # stds on both sides of 1
    others = d.tensor(d.integer(1, 3), c, h, w, shift=5.0)
    larger = d.tensor(1, c, h + 1, w + 2)
    return Case((), {}, {"images": images, "others": others, "larger": larger})


def _fit(layer: Any, images: torch.Tensor) -> Any:
    """What fit returns; a class without it is one that is not written yet."""
    try:
        return layer.do("fit", images)
    except Raised as error:
        if error.kinds[0] == "AttributeError" and "no attribute 'fit'" in error.message:
            raise Raised(("NotImplementedError",)) from error
        raise


def _fitted(subject: Any, mode: str, images: torch.Tensor) -> Any:
    layer = subject(mode=mode)
    _fit(layer, images)
    return layer


def _standardizes(subject: Any, case: Case) -> Any:
    seen = {}
    for mode in _MODES:
        layer = _fitted(subject, mode, case.extra["images"])
        seen[mode] = layer(case.extra["others"])
        if mode != "mean_image":
            seen[f"{mode}, larger images"] = layer(case.extra["larger"])
    default = subject()
    _fit(default, case.extra["others"])
    _fit(default, case.extra["images"])
    default.do("eval")
    return {**seen, "no mode given, fitted a second time, in eval mode": default(case.extra["others"])}


def _to_fit_flat(d: Any) -> Case:
    case = _to_fit(d)
    images = case.extra["images"].contiguous()
    images[:, 0] = d.choice(
        [0.5, 0.25, 2.0]
    )  # exact in binary, so that a std of 0 is 0 however it is computed
    return Case((), {}, {"images": images, "others": case.extra["others"]})


def _standardizes_flat(subject: Any, case: Case) -> Any:
    return _fitted(subject, "channel_standard", case.extra["images"])(case.extra["others"])


def _one_number(values: Any) -> Any:
    """A statistic flat, and as one number where it is the same everywhere: its shape is free."""
    if not isinstance(values, torch.Tensor) or values.numel() == 0:
        return values
    flat = values.double().flatten()
    return flat[:1] if bool((flat == flat[0]).all()) else flat


def _keeps(subject: Any, case: Case) -> Any:
    seen = {}
    for mode in _MODES:
        layer = _fitted(subject, mode, case.extra["images"])
        layer.do("double")
        found = layer.inspect()
        seen[mode] = {
            "buffers": {name: _one_number(found["buffers"].get(name)) for name in ("mean", "std")},
            "in the state dict": [name for name in ("mean", "std") if name in found["state"]],
            "parameters": len(found["parameters"]),
        }
    return seen


def _loads(subject: Any, case: Case) -> Any:
    seen = {}
    for mode in _MODES:
        state = _fitted(subject, mode, case.extra["images"]).do("state_dict")
        fresh = subject(mode=mode)
        # dtype and device of the images
        fresh.do("to", case.extra["others"])
        try:
            fresh.do("load_state_dict", state)
        except Raised as error:
            seen[mode] = f"load_state_dict raised a {error.kinds[0]}"
            continue
        try:
            seen[mode] = fresh(case.extra["others"])
        except Raised as error:
            if error.kinds[0] == "NotImplementedError":
                raise
            seen[mode] = f"forward raised a {error.kinds[0]} after the load"
    return seen


def _unfitted(subject: Any, case: Case) -> Any:
    layer = subject(mode=case.extra["mode"])
    layer.do("eval")
    try:
        answer = layer(case.extra["images"])
    except Raised:
        layer.do("train")
        answer = layer(case.extra["images"])
    return answer


def _to_refuse(d: Any) -> Case:
    return Case((), {}, {"mode": d.choice(_MODES[::-1]), "images": d.tensor(2, 3, 2, 4)})


def _standardizer_manners(subject: Any, case: Case) -> Any:
    seen = {}
    for dtype in _KINDS:
        images = case.args[0].to(dtype)
        layer = subject()
        back = _fit(layer, images)
        name = str(dtype).removeprefix("torch.")
        seen["fit returns the Standardizer itself"] = isinstance(back, Handle) and back.ref == layer.ref
        seen[f"for {name} images"] = described(layer(images))
        changed = bool(layer.changed(images))
        seen["images modified in place"] = changed or seen.get("images modified in place", False)
    return seen


STANDARDIZER = Exercise(
    id="Standardizer",
    topic="preprocessing",
    title="Statistics that travel with the model",
    reference=reference.Standardizer,
    minutes=20,
    difficulty=3,
    properties=(
        Property(
            "modes",
            "forward subtracts and divides by what fit has measured, in each of the three modes",
            1.25,
            _to_fit,
            _standardizes,
            tolerance=(1e-3, 1e-4),
            tried="fit(images), then forward on other images, in the channel modes on larger ones, and after a second fit",
        ),
        Property(
            "constant_channel",
            "a channel that was constant in fit is divided by 1",
            0.5,
            _to_fit_flat,
            _standardizes_flat,
            tolerance=(1e-3, 1e-4),
            tried="fit on images whose first channel never changes, then forward on others",
        ),
        Property(
            "buffers",
            "mean and std are buffers, in the state dict; std is 1 where the mode does not divide",
            0.75,
            _to_fit,
            _keeps,
            tolerance=(1e-3, 1e-4),
            examples=4,
            tried="fit, double(), then buffers, parameters and state dict looked at (any shape will do)",
        ),
        Property(
            "loadable",
            "an unfitted Standardizer loads the state of a fitted one, and then standardizes",
            0.75,
            _to_fit,
            _loads,
            tolerance=(1e-3, 1e-4),
            examples=4,
            tried="fit one; state_dict() loaded into another of the same mode; forward of that one",
        ),
        Property(
            "refuses_unfitted",
            "forward before fit or a load is refused with a RuntimeError",
            0.5,
            _to_refuse,
            _unfitted,
            examples=4,
            tried="forward of a Standardizer that was never fitted, in both modes of a module",
        ),
        Property(
            "kinds",
            "fit returns self; floats keep their dtype, integers give float32; nothing in place",
            0.25,
            _whole_numbers,
            _standardizer_manners,
            examples=4,
            tried="fit(images) and forward(images) for uint8, int64, float32 and float64",
        ),
    ),
    misconceptions=(
        Misconception(
            "statistics_of_the_batch",
            "Your forward measures the images it is given.",
            "It uses what fit has measured: an image's result must not depend on its neighbors.",
            ("modes", "constant_channel", "loadable"),
            _StandardizerOwnBatch,
        ),
        Misconception(
            "plain_attributes",
            "Your mean and std are plain attributes, so they are neither saved nor moved with the model.",
            "Register them in __init__: self.register_buffer('mean', torch.empty(0)).",
            ("buffers", "loadable"),
            _StandardizerPlain,
        ),
        Misconception(
            "not_persistent",
            "Your buffers are registered with persistent=False, which keeps them out of the state dict.",
            "Leave persistent as it is: statistics have to travel with the weights.",
            ("buffers", "loadable"),
            _StandardizerNotPersistent,
        ),
        Misconception(
            "divided_by_one_less",
            "Your std divides by the number of pixels minus one.",
            "These are population statistics, as in channel_statistics: std(..., correction=0).",
            ("modes", "constant_channel", "buffers", "loadable"),
            _StandardizerByOneLess,
        ),
        Misconception(
            "parameters",
            "Your mean and std are parameters, which an optimizer is handed along with the weights.",
            "Measured numbers are buffers: self.register_buffer(...).",
            ("buffers",),
            _StandardizerParameters,
        ),
        Misconception(
            "flag_not_in_the_state",
            "Whether it is fitted stands in an attribute that a load does not set.",
            "Ask the buffers themselves: an unfitted one has an empty mean.",
            ("loadable",),
            _StandardizerFlag,
        ),
        Misconception(
            "registered_in_fit",
            "Before fit, your buffers are not there, or not empty: a new Standardizer cannot take what it is to load.",
            "Register both in __init__ as torch.empty(0), and assign to self.mean and self.std in fit.",
            ("loadable",),
            _StandardizerRegistersInFit,
        ),
        Misconception(
            "mode_ignored",
            "You do the same in every mode.",
            "'mean_image' and 'channel_mean' only subtract; 'mean_image' subtracts a whole image.",
            ("modes", "buffers", "loadable"),
            _StandardizerOneMode,
        ),
        Misconception(
            "divides_in_every_mode",
            "You divide by the std in every mode.",
            "Only 'channel_standard' divides; the other two keep a std of 1.",
            ("modes", "buffers", "loadable"),
            _StandardizerAlwaysDivides,
        ),
        Misconception(
            "variance",
            "You divide by the variance.",
            "Divide by its root.",
            ("modes", "constant_channel", "buffers", "loadable"),
            _StandardizerVariance,
        ),
        Misconception(
            "divides_by_zero",
            "A constant channel has a std of 0, and you divide by it.",
            "Put 1 where the std is 0: torch.where(std == 0, 1, std).",
            ("constant_channel",),
            _StandardizerNoGuard,
        ),
        Misconception(
            "eps_added",
            "You added 0.00001 to the std: a channel that was constant in training is then multiplied by 100,000.",
            "Leave every other std as it is, and put 1 where it is 0.",
            ("constant_channel",),
            _StandardizerAddsEps,
        ),
        Misconception(
            "not_refused",
            "An unfitted Standardizer hands the images back as they came.",
            "Raise a RuntimeError: raw pixels in a model trained on standardized ones are a silent bug.",
            ("refuses_unfitted",),
            _StandardizerNeverRefuses,
        ),
        Misconception(
            "fails_on_none",
            "An unfitted Standardizer fails by accident, with a TypeError.",
            "Look first whether there are statistics, and raise a RuntimeError that says what to do.",
            ("refuses_unfitted",),
            _StandardizerNone,
        ),
        Misconception(
            "fit_returns_nothing",
            "Your fit does not return the Standardizer itself.",
            "End it with return self, so that Standardizer().fit(images) is a Standardizer.",
            ("kinds",),
            _StandardizerFitReturnsNothing,
        ),
        Misconception(
            "in_place",
            "Your forward modifies the images in place.",
            "Write (images - self.mean) / self.std, without -= and /=.",
            ("kinds",),
            _StandardizerInPlace,
        ),
        Misconception(
            "broadcast_on_the_last_axis",
            "Your statistics of shape (C,) meet the width of the images instead of their channels.",
            "Give them the shape (C, 1, 1): mean[:, None, None].",
            ("modes", "constant_channel", "loadable", "kinds"),
            _StandardizerLastAxis,
        ),
    ),
    right=(
        Variant("None at first, channels moved last", _StandardizerNoneThenSet),
        Variant("a flag among the buffers, and a hook", _StandardizerHook),
    ),
    hints=(
        Hint(
            "My statistics are not saved",
            "What does register_buffer do that an assignment in __init__ does not?",
        ),
        Hint(
            "Loading into a new one fails",
            "Register both names in __init__, empty. Then tell fitted from unfitted by the buffers alone, for no load sets any other attribute.",
        ),
        Hint(
            "I don't know how to start",
            "fit: mean, std = channel_statistics(images); self.mean = mean[:, None, None]; self.std = torch.where(std == 0, 1, std)[:, None, None] (ones in the other modes); return self. forward: if self.mean.numel() == 0, raise RuntimeError; else (images - self.mean) / self.std.",
        ),
    ),
    forbidden=(
        SCALERS,
        Forbidden(
            "torchvision's Normalize",
            ("torchvision.transforms.", "torchvision.transforms.functional.normalize"),
        ),
    ),
)


# -- split_then_standardize ---------------------------------------------------------------------------------


def _given(d: Any, n: int) -> torch.Tensor:
    """Images that can be told apart, of different brightness and contrast."""
    c, h, w = d.integer(1, 3), d.integer(2, 3), d.integer(4, 5)
    contrast = 1.0 + 0.5 * torch.arange(n, dtype=torch.float64).view(n, 1, 1, 1)
    return d.layout(_images(d, n, c, h, w) * contrast)


def _to_split(d: Any) -> Case:
    n, fraction = d.choice([8, 12, 16]), d.choice([0.25, 0.5])
    return Case((_given(d, n), fraction, d.generator()))


def _to_round(d: Any) -> Case:
    up, down = _given(d, d.choice([27, 31])), _given(d, d.choice([29, 33]))
    return Case((up, 0.25, d.generator()), {}, {"another set of images": down})


def _to_keep_whole(d: Any) -> Case:
    return Case((_given(d, d.integer(3, 6)), 0, d.generator()))


def _to_shuffle(d: Any) -> Case:
    others = [d.generator() for _ in range(3)]
    return Case((_given(d, 12), 0.5, d.generator()), {}, {"other generators": others})


def _whole_to_split(d: Any) -> Case:
    images = d.integers(4, d.integer(1, 3), 2, 3, low=0, high=255)
    return Case((images, 0.5, d.generator()))


def _is_split(result: Any) -> bool:
    parts = isinstance(result, list | tuple) and len(result) == 3 and result[:2]
    return bool(parts) and all(isinstance(part, torch.Tensor) and part.dim() == 4 for part in parts)


def _found(images: torch.Tensor, part: torch.Tensor) -> list[int]:
    """Which image each of a part is, −1 for none: what standardizing leaves of it is compared."""

    def pattern(x: torch.Tensor) -> torch.Tensor:
        x = x.double().flatten(2)
        x = x - x.mean(2, keepdim=True)
        return (x / x.norm(dim=2, keepdim=True)).flatten(1) / x.shape[1] ** 0.5

    if len(part) == 0 or part.shape[1:] != images.shape[1:]:
        return [-1] * len(part)
    likeness = pattern(part) @ pattern(images).T
    return [int(row.argmax()) if row.max() > 0.999 else -1 for row in likeness]


def _source_of(
    images: torch.Tensor, which: list[int], part: torch.Tensor, train: list[int], val: list[int]
) -> str:
    """In words, by which statistics a part has been standardized."""
    if -1 in [*which, *train, *val]:
        return "something else"
    x, part = images.double()[which], part.double()
    sets = {"the training images": train, "all images": [*train, *val], "the validation images": val}
    for name, members in sets.items():
        if members:
            some = images.double()[members]
            mean = some.mean((0, 2, 3)).view(1, -1, 1, 1)
            std = some.std((0, 2, 3), correction=0).view(1, -1, 1, 1)
            if torch.allclose(part, (x - mean) / std, rtol=1e-3, atol=1e-3):
                return name
            if torch.allclose(part, x - mean, rtol=1e-3, atol=1e-3):
                return f"{name}, by the mean alone"
    return "nothing: these are raw pixels" if torch.allclose(part, x) else "something else"


def _sizes(subject: Any, case: Case) -> Any:
    images, fraction, generator = case.args
    seen = {}
    for given in (images, case.extra["another set of images"]):
        result = subject(given, fraction, generator)
        if not _is_split(result):
            return result
        seen[f"{len(given)} images, val_fraction {fraction}"] = {
            "train": len(result[0]),
            "validation": len(result[1]),
        }
    return seen


def _parts(subject: Any, case: Case) -> Any:
    result = subject(*case.args)
    if not _is_split(result):
        return result
    found = [_found(case.args[0], part) for part in result[:2]]
    together = sorted(found[0] + found[1])
    return {
        "all of them images that were given": -1 not in together,
        "an image twice": len(set(together)) < len(together),
        "an image left out": bool(set(range(len(case.args[0]))) - set(together)),
    }


def _sources(subject: Any, case: Case) -> Any:
    result = subject(*case.args)
    if not _is_split(result):
        return result
    images = case.args[0]
    train, val = (_found(images, part) for part in result[:2])
    everything = list(range(len(images)))
    return {
        "train, standardized by": _source_of(images, train, result[0], train, val),
        "validation, standardized by": _source_of(images, val, result[1], train, val),
        "the standardizer has": _source_of(images, everything, result[2](images), train, val),
    }


def _unseen(subject: Any, case: Case) -> Any:
    images, fraction, generator = case.args
    before = subject(images, fraction, generator)
    if not _is_split(before):
        return before
    val = [i for i in _found(images, before[1]) if i >= 0]
    changed = images.clone()
    changed[val] = 3 * changed[val] + 50
    after = subject(changed, fraction, generator)
    if not _is_split(after):
        return after
    outputs = [split[2](images) for split in (before, after)]
    parts = [split[0] for split in (before, after)]
    return {
        f"changed with them: {name}": one.shape != other.shape or not torch.allclose(one, other, rtol=1e-4)
        for name, (one, other) in {"the standardizer": outputs, "the training images": parts}.items()
    }


def _shuffles(subject: Any, case: Case) -> Any:
    images, fraction, generator = case.args
    drawn = []
    for source in (generator, generator, *case.extra["other generators"]):
        result = subject(images, fraction, source)
        if not _is_split(result):
            return result
        drawn.append(frozenset(_found(images, result[1])))
    k = len(drawn[0])
    ends = (frozenset(range(k)), frozenset(range(len(images) - k, len(images))))
    return {
        "the same generator gives the same split": drawn[0] == drawn[1],
        "other generators give other splits": len(set(drawn[1:])) > 1,
        "validation is always the first or the last images": all(d in ends for d in drawn),
    }


def _keeps_all(subject: Any, case: Case) -> Any:
    result = subject(*case.args)
    if not _is_split(result):
        return result
    return {"train": described(result[0]), "validation": described(result[1])}


def _split_manners(subject: Any, case: Case) -> Any:
    images, *rest = case.args
    seen = {}
    for dtype in _KINDS:
        given = images.to(dtype)
        result = subject(given, *rest)
        if not _is_split(result):
            return result
        changed = bool(subject.changed(given, *rest))
        # How many they are is the business of other properties.
        each = [described(part.new_empty(part.shape[1:])) for part in result[:2]]
        seen[f"each of {str(dtype).removeprefix('torch.')} images"] = each
        seen["modified in place"] = changed or seen.get("modified in place", False)
        seen["the third is a module"] = _is_module(result[2])
    return seen


def _is_module(value: Any) -> bool:
    try:
        return isinstance(value, Handle) and bool(value.inspect())
    except Raised:
        return False


def _ordered(images, generator):
    order = torch.randperm(len(images), generator=generator, device=generator.device)
    return order.to(images.device)


def _split_wrong(images, val_fraction, generator, *, order=_ordered, size=round, fit_on="train"):
    num_val = size(len(images) * val_fraction)
    images = images[order(images, generator)]
    val, train = images[:num_val], images[num_val:]
    standardizer = _Standardizer().fit(images if fit_on == "all" else train)
    return standardizer(train), standardizer(val), standardizer


def _split_fit_on_all(images, val_fraction, generator):
    return _split_wrong(images, val_fraction, generator, fit_on="all")


def _split_fit_on_val(images, val_fraction, generator):
    num_val = round(len(images) * val_fraction)
    images = images[_ordered(images, generator)]
    val, train = images[:num_val], images[num_val:]
    standardizer = _Standardizer().fit(val if num_val else train)
    return standardizer(train), standardizer(val), standardizer


def _split_share_of_training(images, val_fraction, generator):
    return _split_wrong(images, val_fraction, generator, size=lambda share: len(images) - round(share))


def _split_each_its_own(images, val_fraction, generator):
    num_val = round(len(images) * val_fraction)
    images = images[_ordered(images, generator)]
    val, train = images[:num_val], images[num_val:]
    standardizer = _Standardizer().fit(train)
    own = _Standardizer().fit(val) if num_val else standardizer
    return standardizer(train), own(val), standardizer


def _split_fit_twice(images, val_fraction, generator):
    num_val = round(len(images) * val_fraction)
    images = images[_ordered(images, generator)]
    val, train = images[:num_val], images[num_val:]
    standardizer = _Standardizer()
    train = standardizer.fit(train)(train)
    val = standardizer.fit(val)(val) if num_val else val
    return train, val, standardizer


def _split_parts_swapped(images, val_fraction, generator):
    train, val, standardizer = _split_wrong(images, val_fraction, generator)
    return val, train, standardizer


def _split_truncated(images, val_fraction, generator):
    return _split_wrong(images, val_fraction, generator, size=int)


def _split_ceiled(images, val_fraction, generator):
    return _split_wrong(images, val_fraction, generator, size=math.ceil)


def _split_in_order(images, val_fraction, generator):
    return _split_wrong(images, val_fraction, generator, order=lambda images, _: torch.arange(len(images)))


def _split_global(images, val_fraction, generator):
    return _split_wrong(images, val_fraction, generator, order=lambda images, _: torch.randperm(len(images)))


def _split_minus_zero(images, val_fraction, generator):
    num_val = round(len(images) * val_fraction)
    order = _ordered(images, generator)
    train, val = images[order[:-num_val]], images[order[-num_val:]]
    standardizer = _Standardizer().fit(train)
    return standardizer(train), standardizer(val), standardizer


def _split_each_by_chance(images, val_fraction, generator):
    draws = torch.rand(len(images), generator=generator)
    chosen = draws < val_fraction
    chosen[draws.argmax()] = False
    standardizer = _Standardizer().fit(images[~chosen])
    return standardizer(images[~chosen]), standardizer(images[chosen]), standardizer


def _split_two_draws(images, val_fraction, generator):
    num_val = round(len(images) * val_fraction)
    val = images[_ordered(images, generator)[:num_val]]
    train = images[_ordered(images, generator)[num_val:]]
    standardizer = _Standardizer().fit(train)
    return standardizer(train), standardizer(val), standardizer


def _split_val_raw(images, val_fraction, generator):
    num_val = round(len(images) * val_fraction)
    images = images[_ordered(images, generator)]
    standardizer = _Standardizer().fit(images[num_val:])
    return standardizer(images[num_val:]), images[:num_val], standardizer


def _split_mean_only(images, val_fraction, generator):
    num_val = round(len(images) * val_fraction)
    images = images[_ordered(images, generator)]
    standardizer = _Standardizer("channel_mean").fit(images[num_val:])
    return standardizer(images[num_val:]), standardizer(images[:num_val]), standardizer


def _split_shuffles_in_place(images, val_fraction, generator):
    images[:] = images[_ordered(images, generator)]
    return _split_wrong(images, val_fraction, generator, order=lambda images, _: torch.arange(len(images)))


def _split_returns_numbers(images, val_fraction, generator):
    train, val, standardizer = _split_wrong(images, val_fraction, generator)
    return train, val, (standardizer.mean, standardizer.std)


def _split_last_part(images, val_fraction, generator):
    """Training images first, a layer that is its own statistics."""
    keep = len(images) - round(len(images) * val_fraction)
    order = torch.randperm(len(images), generator=generator).tolist()
    train, val = images[order[:keep]], images[order[keep:]]
    layer = _StandardizerHook().fit(train)
    return layer(train), layer(val), layer


def _split_by_mask(images, val_fraction, generator):
    """The images with the smallest random numbers are for validation; each part stays in order."""
    draws = torch.rand(len(images), generator=generator)
    chosen = torch.zeros(len(images), dtype=torch.bool)
    chosen[draws.argsort()[: round(len(images) * val_fraction)]] = True
    standardizer = _StandardizerNoneThenSet()
    standardizer.fit(images[~chosen.to(images.device)])
    train, val = (standardizer(images[mask.to(images.device)]) for mask in (~chosen, chosen))
    return train, val, standardizer


SPLIT = Exercise(
    id="split_then_standardize",
    topic="preprocessing",
    title="Split first",
    reference=reference.split_then_standardize,
    minutes=15,
    difficulty=2,
    properties=(
        Property(
            "sizes",
            "round(N · val_fraction) images for validation, the others for training",
            0.5,
            _to_round,
            _sizes,
            examples=4,
            tried="two splits, and the number of images in each part",
        ),
        Property(
            "parts",
            "every image is in one of the two parts, once",
            0.5,
            _to_split,
            _parts,
            tried="each image of the result looked up among the images given",
        ),
        Property(
            "statistics",
            "both parts are standardized by the mean and std of the training part alone",
            0.75,
            _to_split,
            _sources,
            tried="both parts, and standardizer(images), compared with what the parts' own pixels give",
        ),
        Property(
            "unseen",
            "changing the pixels of validation images changes nothing in the statistics",
            0.5,
            _to_split,
            _unseen,
            tried="the same split again, after the validation images were made brighter",
        ),
        Property(
            "shuffled",
            "the images are shuffled, by the generator that is handed in",
            0.25,
            _to_shuffle,
            _shuffles,
            examples=4,
            tried="the same images split with the same and with other generators",
        ),
        Property(
            "no_validation",
            "val_fraction = 0 leaves all images for training, and validation is (0, C, H, W)",
            0.25,
            _to_keep_whole,
            _keeps_all,
            examples=4,
        ),
        Property(
            "kinds",
            "two tensors and a module; floats keep their dtype, integers give float32; nothing in place",
            0.25,
            _whole_to_split,
            _split_manners,
            examples=4,
            tried="the call for uint8, int64, float32 and float64 images",
        ),
    ),
    misconceptions=(
        Misconception(
            "fitted_on_everything",
            "Your statistics were measured on all images, validation included.",
            "Split first, then fit on the training part alone.",
            ("statistics", "unseen"),
            _split_fit_on_all,
        ),
        Misconception(
            "fitted_on_validation",
            "Your statistics were measured on the validation images.",
            "Fit on the training part: validation only judges.",
            ("statistics", "unseen"),
            _split_fit_on_val,
        ),
        Misconception(
            "share_of_training",
            "You took val_fraction for the share of the training images.",
            "It is the share of the validation images: round(N · val_fraction) of them.",
            ("sizes", "no_validation"),
            _split_share_of_training,
        ),
        Misconception(
            "each_part_by_its_own",
            "You standardized the validation images by their own statistics.",
            "The model is fitted to one mean and one std, those of training: apply the same ones to both parts.",
            ("statistics",),
            _split_each_its_own,
        ),
        Misconception(
            "fitted_again",
            "You fitted the standardizer a second time, on the validation images.",
            "fit once, on train; then only call it.",
            ("statistics", "unseen"),
            _split_fit_twice,
        ),
        Misconception(
            "validation_left_raw",
            "You standardized the training images only.",
            "The model expects standardized images wherever it is used: standardizer(val) as well.",
            ("statistics", "kinds"),
            _split_val_raw,
        ),
        Misconception(
            "mean_only",
            "You subtracted the mean and did not divide by the std.",
            'The mode here is "channel_standard".',
            ("statistics",),
            _split_mean_only,
        ),
        Misconception(
            "parts_swapped",
            "You returned the validation part first.",
            "The order is train, validation, standardizer.",
            ("sizes", "statistics", "unseen", "no_validation"),
            _split_parts_swapped,
        ),
        Misconception(
            "rounded_down",
            "You rounded the number of validation images down.",
            "round(len(images) * val_fraction), not int(...) or //.",
            ("sizes",),
            _split_truncated,
        ),
        Misconception(
            "rounded_up",
            "You rounded the number of validation images up.",
            "round(len(images) * val_fraction).",
            ("sizes",),
            _split_ceiled,
        ),
        Misconception(
            "each_by_chance",
            "You drew for each image by itself, so that the number in validation is left to chance.",
            "Shuffle the numbers of the images, torch.randperm(N, generator=generator), and cut at round(N · val_fraction).",
            ("sizes",),
            _split_each_by_chance,
        ),
        Misconception(
            "not_shuffled",
            "You cut the images in the order they came.",
            "Data sets are often sorted by class: take torch.randperm(N, generator=generator) first.",
            ("shuffled",),
            _split_in_order,
        ),
        Misconception(
            "generator_ignored",
            "Your order does not come from the generator that is handed in.",
            "Hand the generator on, torch.randperm(N, generator=generator), and seed nothing.",
            ("shuffled",),
            _split_global,
        ),
        Misconception(
            "minus_zero",
            "Your slice ends at −0: for no validation images, order[:-0] is empty.",
            "Cut at a positive place: order[:num_val] and order[num_val:].",
            ("no_validation",),
            _split_minus_zero,
        ),
        Misconception(
            "two_draws",
            "Your two parts do not come from one permutation: an image can be in both, or in none.",
            "Draw one order, torch.randperm(N, generator=generator), and cut it in two.",
            ("parts", "unseen"),
            _split_two_draws,
        ),
        Misconception(
            "shuffled_in_place",
            "You changed the caller's images in place.",
            "images[order] is a new tensor: give it a new name, and write nothing into the one you were handed.",
            ("kinds",),
            _split_shuffles_in_place,
        ),
        Misconception(
            "numbers_returned",
            "You returned the statistics, not the standardizer.",
            "The third of the results is the fitted Standardizer, ready for images that come later.",
            ("statistics", "unseen", "kinds"),
            _split_returns_numbers,
        ),
    ),
    right=(
        Variant("training images first, as a list of numbers", _split_last_part),
        Variant("a random mask", _split_by_mask),
    ),
    hints=(
        Hint(
            "My validation images get into the statistics",
            "Go through your lines from the top: at which one do the two parts go separate ways, and where is fit?",
        ),
        Hint(
            "It breaks when nothing is left for validation",
            "What is order[:-0]? And how many images does order[:0] pick?",
        ),
        Hint(
            "I don't know how to start",
            "order = torch.randperm(N, generator=generator); num_val = round(N * val_fraction); val, train = images[order[:num_val]], images[order[num_val:]]; standardizer = Standardizer().fit(train); return standardizer(train), standardizer(val), standardizer.",
        ),
    ),
    forbidden=(SCALERS,),
)


EXERCISES = (MEAN_IMAGE, CHANNELS, STREAMING, ZCA, STANDARDIZER, SPLIT)
