"""The exercise UNet of lecture 07: down, up, and across."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.unet.draws import (
    LOOSE,
    Double,
    DoubleNormalized,
    DoublePadded,
    DoubleParameters,
    DoubleSequential,
    DoubleSingle,
    applied_gradients,
    cut,
    filled_network,
    floor,
    input_side,
    parameter_shapes,
    runs,
    skip_corner,
    skip_indexed,
    skip_narrowed,
    skip_negative_padding,
    skip_up_first,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import unet as reference


def _applied(subject: Subject, case: Case) -> Any:
    return filled_network(subject, case)(case.extra["x"])


def _net_input(d: Draw, depths: list[int], *, base: int = 3, classes: int = 4) -> Case:
    """in_channels is told apart from the network's own numbers of channels."""
    depth = d.choice(depths)
    h, w = (input_side(d.integer(4, 7 if depth == 1 else 5), depth) for _ in range(2))
    n = d.choice([1, 2]) if depth < 3 else 1
    config = {"base": base, "depth": depth}
    return Case((2, classes), config, {"x": d.tensor(n, 2, h, w), "seed": d.seed()})


def _net_sizes(d: Draw) -> Case:
    depth = d.choice([2, 3, 1])
    h, w = (input_side(d.integer(4, 6 if depth < 3 else 4), depth) for _ in range(2))
    n = d.choice([2, 1]) if depth < 3 else 1
    x = d.tensor(n, d.choice([1, 3]), h, w + 2**depth, dtype=torch.float32)
    return Case((x.shape[1], d.choice([2, 5])), {"base": d.choice([2, 1]), "depth": depth}, {"x": x})


def _net_configuration(d: Draw) -> Case:
    return Case((d.choice([1, 3]), d.integer(2, 4)), {"base": d.integer(2, 3), "depth": d.choice([4, 2, 1])})


class _Net(nn.Module):
    """The network with a seam at each step, where the misconceptions put their mistake."""

    block: type[nn.Module] = Double
    first_out = False

    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__()
        widths = self.widths(base, depth)
        down = [self.block(a, b) for a, b in zip([in_channels, *widths[:-1]], widths, strict=True)]
        ups = [self.upsampling(a, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)]
        outs = [self.expanding(a, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)]
        self.down, self.ups, self.outs = self.kept(down), self.kept(ups), self.kept(outs)
        self.top = self.last(widths[0], num_classes)

    def kept(self, layers):
        return nn.ModuleList(layers)

    def widths(self, base, depth):
        return [base * 2**level for level in range(depth + 1)]

    def upsampling(self, below, here):
        return nn.ConvTranspose2d(below, here, 2, stride=2)

    def expanding(self, below, here):
        return self.block(2 * here, here)

    def last(self, base, num_classes):
        return nn.Conv2d(base, num_classes, 1)

    def pool(self, x):
        return F.max_pool2d(x, 2)

    def join(self, skip, up):
        return skip_indexed(skip, up)

    def forward(self, x):
        skips = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for up, block in zip(self.ups, self.outs, strict=True):
            x = block(self.join(skips.pop(0 if self.first_out else -1), up(x)))
        return self.top(x)


class _NetPadded(_Net):
    block = DoublePadded


class _NetNormalized(_Net):
    block = DoubleNormalized


class _NetSingle(_Net):
    block = DoubleSingle


class _NetInterpolated(_Net):
    def upsampling(self, below, here):
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(below, here, 1))


class _NetNotHalved(_Net):
    def upsampling(self, below, here):
        return nn.ConvTranspose2d(below, below, 2, stride=2)

    def expanding(self, below, here):
        return self.block(below + here, here)


class _NetSummed(_Net):
    def expanding(self, below, here):
        return self.block(here, here)

    def join(self, skip, up):
        return cut(skip, up, floor) + up


class _NetNoSkips(_Net):
    def expanding(self, below, here):
        return self.block(here, here)

    def join(self, skip, up):
        return up


class _NetConstantWidth(_Net):
    def widths(self, base, depth):
        return [base] * (depth + 1)


class _NetShallow(_Net):
    def widths(self, base, depth):
        return [base * 2**level for level in range(depth)]


class _NetDeep(_Net):
    def widths(self, base, depth):
        return [base * 2**level for level in range(depth + 2)]


class _NetUpFirst(_Net):
    def join(self, skip, up):
        return skip_up_first(skip, up)


class _NetCorner(_Net):
    def join(self, skip, up):
        return skip_corner(skip, up)


class _NetFirstOut(_Net):
    first_out = True


class _NetUpsFromTheTop(_Net):
    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__(in_channels, num_classes, base, depth)
        self.ups, self.outs = self.ups[::-1], self.outs[::-1]


class _NetEnlarged(_Net):
    def forward(self, x):
        return F.interpolate(super().forward(x), size=x.shape[2:], mode="bilinear", align_corners=False)


class _NetAverage(_Net):
    def pool(self, x):
        return F.avg_pool2d(x, 2)


class _NetPooledSkips(_Net):
    def forward(self, x):
        skips = []
        for block in self.down[:-1]:
            x = self.pool(block(x))
            skips.append(x)
        x = self.down[-1](x)
        for up, block in zip(self.ups, self.outs, strict=True):
            x = block(self.join(skips.pop(), up(x)))
        return self.top(x)


class _NetReLUUp(_Net):
    def join(self, skip, up):
        return skip_indexed(skip, up.relu())


class _NetReLUTop(_Net):
    def forward(self, x):
        return super().forward(x).relu()


class _NetSoftmax(_Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


class _NetWideTop(_Net):
    def last(self, base, num_classes):
        return nn.Conv2d(base, num_classes, 3)


class _NetPlainLists(_Net):
    def kept(self, layers):
        return layers


class _NetDetachedSkips(_Net):
    def join(self, skip, up):
        return skip_indexed(skip.detach(), up)


class _NetCutOff(_Net):
    def forward(self, x):
        with torch.no_grad():
            features = self.down[0](x)
        skips = [features]
        for block in self.down[1:]:
            skips.append(block(self.pool(skips[-1])))
        x = skips.pop()
        for up, block in zip(self.ups, self.outs, strict=True):
            x = block(self.join(skips.pop(), up(x)))
        return self.top(x)


class _Level(nn.Module):
    """A level and everything below it."""

    def __init__(self, inputs, width, depth):
        super().__init__()
        self.before = DoubleSequential(inputs, width)
        self.below = _Level(width, 2 * width, depth - 1) if depth else None
        if depth:
            self.up = nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2)
            self.after = DoubleSequential(2 * width, width)

    def forward(self, x):
        here = self.before(x)
        if self.below is None:
            return here
        up = self.up(self.below(nn.functional.max_pool2d(here, kernel_size=2)))
        return self.after(skip_narrowed(here, up))


class _NetRecursive(nn.Module):
    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__()
        self.head = nn.Conv2d(base, num_classes, kernel_size=1)
        self.body = _Level(in_channels, base, depth)

    def forward(self, x):
        return self.head(self.body(x))


class _NetByName(nn.Module):
    """Layers set one by one under names, pooled by a view, joined by negative padding."""

    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__()
        self.depth = depth
        c = base
        self.add_module("enc0", DoubleParameters(in_channels, c))
        for level in range(1, depth + 1):
            self.add_module(f"enc{level}", DoubleParameters(c, 2 * c))
            c *= 2
        for level in reversed(range(depth)):
            self.add_module(f"up{level}", nn.ConvTranspose2d(c, c // 2, 2, 2))
            self.add_module(f"dec{level}", DoubleParameters(c, c // 2))
            c //= 2
        self.out = nn.Conv2d(c, num_classes, 1)

    def forward(self, x):
        kept = {}
        for level in range(self.depth + 1):
            x = getattr(self, f"enc{level}")(x)
            if level < self.depth:
                kept[level] = x
                x = x.unflatten(3, (-1, 2)).amax(4).unflatten(2, (-1, 2)).amax(3)
        for level in range(self.depth - 1, -1, -1):
            x = getattr(self, f"up{level}")(x)
            x = getattr(self, f"dec{level}")(skip_negative_padding(kept[level], x))
        return self.out(x)


COMPUTED = ("one_level", "deeper", "gradients")

EXERCISE = Exercise(
    id="UNet",
    topic="unet",
    title="Down, up, and across",
    reference=reference.UNet,
    minutes=30,
    difficulty=4,
    properties=(
        Property(
            "layers",
            "channels double on the way down and halve on the way up; 23 convolutions at depth 4, all with biases",
            1.0,
            _net_configuration,
            parameter_shapes,
            examples=2,
            tried="the parameters of a new network, counted by shape",
        ),
        Property(
            "sizes",
            "any legal size, square or not, gives a map of the size of unet_output_size",
            1.0,
            _net_sizes,
            runs,
            examples=2,
            tried="a new network, one call",
        ),
        Property(
            "one_level",
            "the map of a network with one pooling, its weights given",
            1.5,
            lambda d: _net_input(d, [1]),
            _applied,
            tolerance=LOOSE,
            examples=3,
            tried="double(), eval(), every parameter filled with numbers drawn for its shape, one call",
        ),
        Property(
            "deeper",
            "the map of a network with two poolings, its weights given",
            1.5,
            lambda d: _net_input(d, [2], base=2),
            _applied,
            tolerance=LOOSE,
            examples=2,
            tried="double(), eval(), every parameter filled with numbers drawn for its shape, one call",
        ),
        Property(
            "gradients",
            "gradients reach the input and every parameter, through the skips too",
            1.0,
            lambda d: _net_input(d, [2], base=2),
            applied_gradients,
            tolerance=LOOSE,
            examples=2,
            tried="as for the map, then the gradients, summed over parameters of one shape",
        ),
    ),
    # Those that fail most come first: a diagnosis has two seconds, and networks take long.
    misconceptions=(
        Misconception(
            "one_pooling_short",
            "Your network pools once too seldom: depth counts its levels.",
            "depth counts the poolings; the lowest level comes on top of them.",
            ("layers", "sizes", *COMPUTED),
            _NetShallow,
        ),
        Misconception(
            "one_pooling_too_many",
            "Your network pools once too often.",
            "depth poolings, with a block before each and one at the bottom: depth + 1 levels.",
            ("layers", "sizes", *COMPUTED),
            _NetDeep,
        ),
        Misconception(
            "one_convolution_a_level",
            "Each of your levels has one convolution.",
            "Two a level on both paths and two at the bottom: use DoubleConv.",
            ("layers", "sizes", *COMPUTED),
            _NetSingle,
        ),
        Misconception(
            "top_three_by_three",
            "Your top convolution is 3×3.",
            "It is 1×1: it maps the base channels of a pixel to its scores and costs no border.",
            ("layers", "sizes", *COMPUTED),
            _NetWideTop,
        ),
        Misconception(
            "padded",
            "Your convolutions are padded: the map is as large as the image.",
            "Leave padding at 0. The map is smaller than the image, and each of its pixels has seen only real ones.",
            ("sizes", *COMPUTED),
            _NetPadded,
        ),
        Misconception(
            "skips_after_pooling",
            "You kept the skips after pooling.",
            "Keep what a level computed before it is pooled: the skip carries what pooling throws away.",
            ("sizes", *COMPUTED),
            _NetPooledSkips,
        ),
        Misconception(
            "skips_added",
            "You added the skips, as the FCN does.",
            "Concatenate: the expanding convolutions take 2·c channels and learn how to weigh both.",
            ("layers", *COMPUTED),
            _NetSummed,
        ),
        Misconception(
            "skips_missing",
            "There are no skips.",
            "Keep the map before each pooling, and put it beside the upsampled one of its level.",
            ("layers", *COMPUTED),
            _NetNoSkips,
        ),
        Misconception(
            "interpolated",
            "You upsample by interpolation.",
            "Use nn.ConvTranspose2d(2·c, c, kernel_size=2, stride=2), which learns its weights.",
            ("layers", *COMPUTED),
            _NetInterpolated,
        ),
        Misconception(
            "upsampling_keeps_channels",
            "Your upsampling keeps the number of channels.",
            "It halves them: nn.ConvTranspose2d(2·c, c, ...), so that the skip and it have c each.",
            ("layers", *COMPUTED),
            _NetNotHalved,
        ),
        Misconception(
            "channels_never_double",
            "Every level has base channels.",
            "They double with every pooling: base · 2^level.",
            ("layers", *COMPUTED),
            _NetConstantWidth,
        ),
        Misconception(
            "batch_normalization_added",
            "You added batch normalization.",
            "This network has none: convolution, ReLU, convolution, ReLU.",
            ("layers", *COMPUTED),
            _NetNormalized,
        ),
        Misconception(
            "enlarged_to_the_image",
            "You enlarged the map to the size of the image.",
            "Return it as it is: it answers for the middle of the image, and the labels are cropped to that.",
            ("sizes", *COMPUTED),
            _NetEnlarged,
        ),
        Misconception(
            "plain_lists",
            "You keep layers in a plain list: the network does not know their parameters, and no optimizer will.",
            "Use nn.ModuleList.",
            ("layers", *COMPUTED),
            _NetPlainLists,
        ),
        Misconception(
            "up_first",
            "You put the upsampled channels in front of the skip's.",
            "torch.cat([skip, up], dim=1).",
            COMPUTED,
            _NetUpFirst,
        ),
        Misconception(
            "corner_cropped",
            "You cropped the skips at their corner, so the two halves of the channels do not lie on each other.",
            "Crop the middle, as crop_and_concat does.",
            COMPUTED,
            _NetCorner,
        ),
        Misconception(
            "first_skip_first",
            "Your expanding path begins with the first skip.",
            "It begins with the last one: skips.pop().",
            ("sizes", "deeper", "gradients"),
            _NetFirstOut,
        ),
        Misconception(
            "expanding_path_upside_down",
            "Your expanding path begins with the layers of the top level.",
            "After the bottom comes the level with the most channels: make these layers from deep to shallow.",
            ("sizes", "deeper", "gradients"),
            _NetUpsFromTheTop,
        ),
        Misconception(
            "average_pooling",
            "You pool by averages.",
            "F.max_pool2d(x, 2).",
            COMPUTED,
            _NetAverage,
        ),
        Misconception(
            "relu_after_upsampling",
            "There is a ReLU after your transposed convolutions.",
            "Only the 3×3 convolutions are followed by one.",
            COMPUTED,
            _NetReLUUp,
        ),
        Misconception(
            "relu_on_top",
            "There is a ReLU on top, so no score is negative.",
            "The 1×1 convolution comes last: its output are logits.",
            COMPUTED,
            _NetReLUTop,
        ),
        Misconception(
            "softmax_on_top",
            "You return probabilities.",
            "Return the logits of the 1×1 convolution: the loss takes the softmax.",
            COMPUTED,
            _NetSoftmax,
        ),
        Misconception(
            "skips_detached",
            "No gradient flows through the skips.",
            "Leave out detach() and .data: the contracting path learns through them.",
            ("gradients",),
            _NetDetachedSkips,
        ),
        Misconception(
            "first_level_cut_off",
            "No gradient reaches the first level.",
            "Leave out no_grad(), detach() and .data in forward.",
            ("gradients",),
            _NetCutOff,
        ),
    ),
    right=(
        Variant("level within level", _NetRecursive),
        Variant("layers by name, pooling by a view", _NetByName),
    ),
    hints=(
        Hint(
            "The numbers of channels do not fit",
            "Write down for every step how many channels come in and go out. An expanding block takes c from the skip and c from below.",
        ),
        Hint(
            "crop_and_concat refuses my sizes",
            "Which skip belongs to the first upsampling? And is it the map before or after its pooling?",
        ),
        Hint(
            "I don't know how to put it together",
            "Down: for each of depth blocks x = block(x), skips.append(x), x = F.max_pool2d(x, 2). With c = base·2^(depth−1), the channels of the last of them, the bottom block is DoubleConv(c, 2·c). Up: for each c from there down to base nn.ConvTranspose2d(2·c, c, 2, stride=2) and DoubleConv(2·c, c) x = block(crop_and_concat(skips.pop(), up(x))). Last nn.Conv2d(base, num_classes, 1). Layers in nn.ModuleList.",
        ),
    ),
)
