"""The exercise mean_image of lecture 01: the mean of all images, pixel by pixel."""

import torch

from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import numbers
from autograder.catalog.preprocessing.draws import (
    bright_bytes,
    kinds_of_answers,
    varied_images,
    whole_numbers,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import preprocessing as reference


def _some_images(d: Draw) -> Case:
    h, w = d.each([(2, 3), (1, 6), (4, 2), (3, 3)])
    n, c = d.choice([3, 1, 2, 4]), d.choice([2, 3, 1])
    return Case((d.layout(varied_images(d, n, c, h, w)),))


CLAIMS = Exercise(
    id="mean_image",
    topic="preprocessing",
    title="The mean image",
    reference=reference.mean_image,
    minutes=5,
    difficulty=1,
    properties=claims(
        """
        average (1): the average over all images, pixel by pixel, of shape (C, H, W)
        bytes (0.5): uint8 pixels do not overflow, and the mean keeps its fraction
        kinds (0.5): floats keep their dtype, integers give float32, and the images are not modified in place
        tried: mean_image(images) for uint8, int64, float32 and float64
        """,
        average=on(_some_images, numbers, tolerance=(1e-4, 1e-5)),
        bytes=on(bright_bytes, numbers, tolerance=(1e-4, 1e-5)),
        kinds=on(whole_numbers, kinds_of_answers, examples=4, beside="average"),
    ),
    hints=hints("""
        My shape is wrong
        Which one of the four axes should be gone in the result?

        My numbers are far too small for bytes
        A byte holds 0 to 255. What is the sum of two bright pixels?

        mean() refuses my images
        torch takes no mean of integers. With images.float() (only if they are not floats already), the answer
          is .mean(0).
        """),
)

answers = Answers(CLAIMS)


@answers.right
def plain(images):
    """in float64, then back"""
    mean = images.double().mean(0)
    return mean.to(images.dtype if images.is_floating_point() else torch.float32)


answers.edits("""
mean_of_channels: all
- .mean(0)
+ .mean((0, 2, 3))
You averaged over the pixels as well: this is one number per channel.
Reduce over axis 0 alone; the mean image is as large as an image.

mean_of_each_image: all
- .mean(0)
+ .mean((1, 2, 3))
You took the mean of each image by itself.
Average over the images, axis 0, and keep channels and pixels.

mean_over_channels: all
- .mean(0)
+ .mean(1)
You averaged over axis 1, the channels.
Axis 0 counts the images: images.mean(0).

axis_kept: all
- .mean(0)
+ .mean(0, keepdim=True)
Your mean image still has an axis of length 1 in front.
Leave keepdim=True out here: the result has the shape of an image, (C, H, W).

halved_each_time: average bytes
- mean = images.double().mean(0)
+ mean = images[0].double()
+ for image in images[1:]:
+     mean = (mean + image) / 2
You averaged the mean so far with the next image: the last image then counts one half.
Add all images up and divide once, or move by 1/n: mean += (image − mean) / n.

one_less: average bytes
- images.double().mean(0)
+ images.double().sum(0) / (len(images) - 1)
You divided by N−1.
That divisor is for variances; a mean divides by the number of images.

integers_not_converted: bytes kinds
- images.double().mean(0)
+ images.mean(0)
You asked for the mean of integers, which torch does not take.
Convert them first: images.float(), unless they are floats already.

only_bytes_converted: kinds
- mean = images.double().mean(0)
+ images = images.float() if images.dtype == torch.uint8 else images
+ mean = images.mean(0)
You turn bytes into floats, but int64 images reach mean() as they are, and torch takes no mean of integers.
Ask whether they are floats, images.is_floating_point(), and not whether they are bytes.

summed_in_bytes: bytes
- images.double().mean(0)
+ sum(images) / len(images)
You added bytes up in a byte: 200 + 200 is 144 there.
Convert to floats before you add.

first_image_overwritten: bytes kinds
- mean = images.double().mean(0)
+ total = images[0]
+ for image in images[1:]:
+     total += image
+ mean = total / len(images)
You added the other images into the first one: images[0] is a view, and += writes through it.
Begin with zeros, or write total = total + image.

added_in_place: kinds
- mean = images.double().mean(0)
+ total = images[0].double()
+ for image in images[1:]:
+     total += image
+ mean = total / len(images)
You wrote into the images that you were handed.
images[0] is a view, and .double() of a float64 tensor is that tensor: begin with zeros, or write
  total = total + image.

divided_by_255: average bytes
- images.double().mean(0)
+ images.double().mean(0) / 255
You divided the images by 255.
The mean image is in the unit of the images, whatever that is.

bytes_divided_by_255: bytes
- images.double().mean(0)
+ images.double().mean(0) / (1 if images.is_floating_point() else 255)
You divided whole numbers by 255.
The mean image is in the unit of the images: from 0 to 255 here.

rounded_to_bytes: bytes kinds
- images.dtype if images.is_floating_point() else torch.float32
+ images.dtype
You converted the mean back to bytes, which cuts its fraction off.
The result is float32 for integer images.

always_single: kinds
- images.dtype if images.is_floating_point() else torch.float32
+ torch.float32
Your answer is float32 even for float64 images.
Only integers become float32; floats keep their own dtype.

always_double: kinds
- .to(images.dtype if images.is_floating_point() else torch.float32)
Your answer is float64 whatever the images are.
Compute in float64 if you like, then return the dtype of the images (float32 for integers).
""")


@answers.right
def added_up(images):
    """a loop that adds up"""
    total = torch.zeros(images.shape[1:], dtype=torch.float64, device=images.device)
    for image in images:
        total += image
    return (total / images.shape[0]).to(images.dtype if images.is_floating_point() else torch.float32)


@answers.right
def weighted(images):
    """a row of weights times a matrix"""
    rows = images.reshape(len(images), -1).double()
    weights = torch.full((1, len(images)), 1 / len(images), dtype=torch.float64, device=images.device)
    mean = (weights @ rows).reshape(images.shape[1:])
    return mean.to(images.dtype if images.is_floating_point() else torch.float32)


@answers.right
def running(images):
    """a running mean"""
    kind = images.dtype if images.is_floating_point() else torch.float32
    mean = torch.zeros_like(images[0], dtype=kind)
    for n, image in enumerate(images.unbind(0), start=1):
        mean = mean + (image.to(kind) - mean) / n
    return mean


EXERCISE = answers.exercise()
