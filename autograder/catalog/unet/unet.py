"""The exercise UNet of lecture 07: down, up, and across."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Raised, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import described
from autograder.catalog.unet.double_conv import DoubleParameters, DoubleSequential
from autograder.catalog.unet.draws import (
    LOOSE,
    filled_anew,
    filled_network,
    input_side,
    parameter_shapes,
    summed_gradients,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Mismatch, Outcome
from coursekit import unet as reference


def _applied(subject: Subject, case: Case) -> Any:
    return filled_network(subject, case)(case.extra["x"])


def _net_input(d: Draw, depth: int, *, base: int = 3, classes: int = 4) -> Case:
    """in_channels is told apart from the network's own numbers of channels."""
    # On a small image some wrong networks run, on a large one others do: what they show tells them apart.
    bottoms = d.each([(4, 6), (7, 5), (6, 3)] if depth == 1 else [(4, 5), (5, 4)])
    h, w = (input_side(bottom, depth) for bottom in bottoms)
    config = {"base": base, "depth": depth}
    return Case((2, classes), config, {"x": d.tensor(d.choice([1, 2]), 2, h, w), "seed": d.seed()})


def _net_sizes(d: Draw) -> Case:
    depth, channels, classes, base = d.each([(2, 1, 2, 2), (1, 3, 1, 1), (3, 1, 5, 1), (1, 2, 3, 2)])
    side = input_side(d.integer(4, 5), depth)
    h, w = (side, side + 2**depth) if d.flag() else (side + 2 * 2**depth, side)
    if depth == 1:
        w = 3 * h
    x = d.tensor(d.choice([2, 1]), channels, h, w, dtype=torch.float32)
    return Case((channels, classes), {"base": base, "depth": depth}, {"x": x})


def _net_configuration(d: Draw) -> Case:
    channels, classes, base, depth = d.each([(1, 2, 2, 4), (3, 1, 3, 1), (2, 4, 1, 2)])
    return Case((channels, classes), {"base": base, "depth": depth})


TINY = 40


def _map_of(subject: Subject, case: Case) -> dict[str, str]:
    """What a new network makes of an image. Where it raises an error, also the first side, legal or not, that
    it takes: errors are alike, and what it takes tells why."""
    network, x = subject(*case.args, **case.kwargs), case.extra["x"]
    try:
        return {"map": described(network(x))}
    except Raised as raised:
        if "NotImplementedError" in raised.kinds:
            raise
        for side in range(4, TINY):
            try:
                found = described(network(x[:1, :, :1, :1].expand(-1, -1, side, side)))
            except Raised:
                continue
            return {"error": str(raised), "instead": f"of {side}×{side} pixels it makes a {found}"}
        return {
            "error": str(raised),
            "instead": f"it takes no square image of less than {TINY} pixels a side",
        }


def _judge_map(case: Case, expected: Any, got: Any) -> Mismatch | None:
    if "error" in got:
        kind, says = got["error"].partition(":")[0], f"{got['error']} ({got['instead']})"
        return Mismatch(Outcome.RAISED, says, "", expected["map"], kind, f"{kind} {got['instead']}")
    if got == expected:
        return None
    says = f"expected a {expected['map']}, got a {got['map']}"
    return Mismatch(Outcome.WRONG_KIND, says, "", expected["map"], got["map"], got["map"])


def _judge_layers(case: Case, expected: Any, got: Any) -> Mismatch | None:
    """Layers that the network does not know are one mistake, whichever they are."""
    if got == expected:
        return None
    missing, more = (
        {name: count - other.get(name, 0) for name, count in one.items() if count > other.get(name, 0)}
        for one, other in ((expected, got), (got, expected))
    )
    told = ((" missing", missing), (" not expected", more))
    says = " and".join(f"{what} {_counted(them)}" for what, them in told if them).strip()
    only_fewer = not more and any(name.startswith("weights") for name in missing)
    code = "fewer" if only_fewer else f"{missing} {more}"
    return Mismatch(Outcome.WRONG_KIND, says, "", _counted(expected), _counted(got) or "nothing", code)


def _counted(parameters: dict[str, int]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in parameters.items())


def _two_rounds(subject: Subject, case: Case) -> Any:
    """The gradients of a first image, and those of a second one after all parameters have changed."""
    network = filled_network(subject, case)
    first = summed_gradients(network, case.extra["x"])
    filled_anew(network, case.extra["seed"] + 1)
    return {"first": first, "second": summed_gradients(network, case.extra["x"].flip(0, 2).neg())}


CLAIMS = Exercise(
    id="UNet",
    topic="unet",
    title="Down, up, and across",
    reference=reference.UNet,
    minutes=30,
    difficulty=4,
    properties=claims(
        """
        layers (1): channels double on the way down and halve on the way up; 23 convolutions at depth 4, all
          with biases, and no other layer that has parameters
        tried: the parameters of a new network, counted by shape
        sizes (1): any legal size, square or not, gives a map of the size of unet_output_size, at depth 1 too
        tried: a new network, one call
        one_level (1.5): the map of a network with one pooling, its weights given
        tried: double(), eval(), every parameter filled with numbers drawn for its shape, one call
        deeper (1.5): the map of a network with two poolings, its weights given
        tried: double(), eval(), every parameter filled with numbers drawn for its shape, one call
        gradients (1): gradients reach the input and every parameter, through the skips too
        tried: as for the map, then the gradients, summed over parameters of one shape; once more for another
          image, after all parameters have changed
        """,
        layers=on(_net_configuration, parameter_shapes, judge=_judge_layers, examples=3),
        sizes=on(_net_sizes, _map_of, judge=_judge_map, examples=4),
        one_level=on(lambda d: _net_input(d, 1), _applied, tolerance=LOOSE, examples=3),
        deeper=on(lambda d: _net_input(d, 2, base=2), _applied, tolerance=LOOSE, examples=2),
        gradients=on(lambda d: _net_input(d, 2, base=2), _two_rounds, tolerance=LOOSE, examples=2),
    ),
    hints=hints("""
        The numbers of channels do not fit
        Write down for every step how many channels come in and go out. An expanding block takes c from the
          skip and c from below.

        crop_and_concat refuses my sizes
        Which skip belongs to the first upsampling? And is it the map before or after its pooling?

        I don't know how to put it together
        Down: for each of depth blocks x = block(x), skips.append(x), x = F.max_pool2d(x, 2). With c =
          base·2^(depth−1), the channels of the last of them, the bottom block is DoubleConv(c, 2·c). Up: for
          each c from there down to base nn.ConvTranspose2d(2·c, c, 2, stride=2) and DoubleConv(2·c, c) x =
          block(crop_and_concat(skips.pop(), up(x))). Last nn.Conv2d(base, num_classes, 1). Layers in
          nn.ModuleList.
        """),
)

answers = Answers(CLAIMS)


def double_conv(inputs, outputs):
    one = nn.Conv2d(inputs, outputs, 3)
    two = nn.Conv2d(outputs, outputs, 3)
    for conv in (one, two):
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
    return nn.Sequential(one, nn.ReLU(), two, nn.ReLU())


def joined(skip, up):
    h, w = up.shape[2:]
    top, left = (skip.shape[2] - h) // 2, (skip.shape[3] - w) // 2
    if top < 0 or left < 0:
        raise ValueError(f"up must be no larger than skip, got {tuple(up.shape)} and {tuple(skip.shape)}")
    cropped = skip[:, :, top : top + h, left : left + w]
    return torch.cat([cropped, up], dim=1)


@answers.right
class Lists(nn.Module):
    """lists of layers"""

    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__()
        widths = [base * 2**level for level in range(depth + 1)]
        self.down, self.ups, self.outs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        before = in_channels
        for c in widths:
            self.down.append(double_conv(before, c))
            before = c
        for c in reversed(widths[:-1]):
            self.ups.append(nn.ConvTranspose2d(before, c, 2, stride=2))
            self.outs.append(double_conv(2 * c, c))
            before = c
        self.top = nn.Conv2d(base, num_classes, 1)

    def forward(self, x):
        skips = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, block in zip(self.ups, self.outs, strict=True):
            x = block(joined(skips.pop(), up(x)))
        return self.top(x)


# Those that fail most come first: a diagnosis has two seconds, and networks take long.
answers.edits("""
one_pooling_short: all
- range(depth + 1)
+ range(depth)
Your network pools once too seldom: depth counts its levels.
depth counts the poolings; the lowest level comes on top of them.

one_pooling_too_many: all
- range(depth + 1)
+ range(depth + 2)
Your network pools once too often.
depth poolings, with a block before each and one at the bottom: depth + 1 levels.

one_convolution_a_level: all
- two = nn.Conv2d(outputs, outputs, 3)
- for conv in (one, two):
+ for conv in [one]:
- nn.Sequential(one, nn.ReLU(), two, nn.ReLU())
+ nn.Sequential(one, nn.ReLU())
Each of your levels has one convolution.
Two a level on both paths and two at the bottom: use DoubleConv.

top_three_by_three: all
- nn.Conv2d(base, num_classes, 1)
+ nn.Conv2d(base, num_classes, 3)
Your top convolution is 3×3.
It is 1×1: it maps the base channels of a pixel to its scores and costs no border.

padded: all but layers
- nn.Conv2d(inputs, outputs, 3)
+ nn.Conv2d(inputs, outputs, 3, padding=1)
- nn.Conv2d(outputs, outputs, 3)
+ nn.Conv2d(outputs, outputs, 3, padding=1)
Your convolutions are padded: the map is as large as the image.
Leave padding at 0. The map is smaller than the image, and each of its pixels has seen only real ones.

last_pooling_missing: all but layers
- skips = []
- for block in self.down[:-1]:
+ skips, depth = [], len(self.ups)
+ for level, block in enumerate(self.down[:-1]):
- x = F.max_pool2d(x, 2)
+ if level < depth - 1:
+     x = F.max_pool2d(x, 2)
The map is not pooled before the bottom block, so that the first upsampling makes it larger than its skip.
depth counts the poolings: there is one after each block of the way down but the bottom one.

up_padded: all but layers
- h, w = up.shape[2:]
- top, left = (skip.shape[2] - h) // 2, (skip.shape[3] - w) // 2
- if top < 0 or left < 0:
-     raise ValueError(f"up must be no larger than skip, got {tuple(up.shape)} and {tuple(skip.shape)}")
- cropped = skip[:, :, top : top + h, left : left + w]
- return torch.cat([cropped, up], dim=1)
+ rows, columns = skip.shape[2] - up.shape[2], skip.shape[3] - up.shape[3]
+ padded = F.pad(up, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
+ return torch.cat([skip, padded], dim=1)
You padded the upsampled map with zeros to the size of the skip.
Crop the skip to the size of the upsampled map, as crop_and_concat does: the padded border is not in any
  image.

up_resized: all but layers
- cropped = skip[:, :, top : top + h, left : left + w]
- return torch.cat([cropped, up], dim=1)
+ resized = F.interpolate(up, size=skip.shape[2:], mode="bilinear")
+ return torch.cat([skip, resized], dim=1)
You enlarged the upsampled map to the size of the skip.
Crop the skip to the size of the upsampled map, as crop_and_concat does: enlarged, it lies elsewhere.

skips_after_pooling: all but layers
- x = block(x)
- skips.append(x)
- x = F.max_pool2d(x, 2)
+ x = F.max_pool2d(block(x), 2)
+ skips.append(x)
You kept the skips after pooling.
Keep what a level computed before it is pooled: the skip carries what pooling throws away.

skips_added: all but sizes
- torch.cat([cropped, up], dim=1)
+ cropped + up
- double_conv(2 * c, c)
+ double_conv(c, c)
You added the skips, as the FCN does.
Concatenate: the expanding convolutions take 2·c channels and learn how to weigh both.

skips_missing: all but sizes
- double_conv(2 * c, c)
+ double_conv(c, c)
- skips = []
...
- skips.append(x)
...
- x = block(joined(skips.pop(), up(x)))
+ x = block(up(x))
There are no skips.
Keep the map before each pooling, and put it beside the upsampled one of its level.

interpolated: all but sizes
- nn.ConvTranspose2d(before, c, 2, stride=2)
+ nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(before, c, 1))
You upsample by interpolation.
Use nn.ConvTranspose2d(2·c, c, kernel_size=2, stride=2), which learns its weights.

upsampling_keeps_channels: all but sizes
- nn.ConvTranspose2d(before, c, 2, stride=2)
+ nn.ConvTranspose2d(before, before, 2, stride=2)
- double_conv(2 * c, c)
+ double_conv(before + c, c)
Your upsampling keeps the number of channels.
It halves them: nn.ConvTranspose2d(2·c, c, ...), so that the skip and it have c each.

channels_never_double: all but sizes
- base * 2**level for level
+ base for level
Every level has base channels.
They double with every pooling: base · 2^level.

interpolated_smoothly: all but sizes
- nn.ConvTranspose2d(before, c, 2, stride=2)
+ nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(before, c, 1))
You upsample by bilinear interpolation.
Use nn.ConvTranspose2d(2·c, c, kernel_size=2, stride=2), which learns its weights.

upsampling_without_biases: all but sizes
- nn.ConvTranspose2d(before, c, 2, stride=2)
+ nn.ConvTranspose2d(before, c, 2, stride=2, bias=False)
Your transposed convolutions have no biases.
Leave bias=True: all 23 convolutions have biases.

batch_normalization_added: all but sizes
- return nn.Sequential(one, nn.ReLU(), two, nn.ReLU())
+ norm_one, norm_two = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
+ return nn.Sequential(one, norm_one, nn.ReLU(), two, norm_two, nn.ReLU())
You added batch normalization.
This network has none: convolution, ReLU, convolution, ReLU.

enlarged_to_the_image: all but layers
- skips = []
+ skips, size = [], x.shape[2:]
- return self.top(x)
+ return F.interpolate(self.top(x), size=size, mode="bilinear")
You enlarged the map to the size of the image.
Return it as it is: it answers for the middle of the image, and the labels are cropped to that.

plain_lists: all but sizes
- self.down, self.ups, self.outs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
+ self.down, self.ups, self.outs = [], [], []
The network does not know some of its layers: they are in a plain list or dict, or made anew in forward. No
  optimizer will train them.
Make all layers in __init__, and keep several of them in an nn.ModuleList.

upsamplings_in_a_list: all but sizes
- self.down, self.ups, self.outs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
+ self.down, self.ups, self.outs = nn.ModuleList(), [], nn.ModuleList()
The network does not know some of its layers, transposed convolutions among them: they are in a plain list or
  dict, or made anew in forward. No optimizer will train them.
Make all layers in __init__, and keep several of them in an nn.ModuleList.

up_first: all but layers sizes
- [cropped, up]
+ [up, cropped]
You put the upsampled channels in front of the skip's.
torch.cat([skip, up], dim=1).

corner_cropped: all but layers sizes
- cropped = skip[:, :, top : top + h, left : left + w]
+ cropped = skip[:, :, :h, :w]
You cropped the skips at their corner, so the two halves of the channels do not lie on each other.
Crop the middle, as crop_and_concat does.

first_skip_first: sizes deeper gradients
- skips.pop()
+ skips.pop(0)
Your expanding path begins with the first skip.
It begins with the last one: skips.pop().

expanding_path_upside_down: sizes deeper gradients
- zip(self.ups, self.outs, strict=True)
+ zip(self.ups[::-1], self.outs[::-1], strict=True)
Your expanding path begins with the layers of the top level.
After the bottom comes the level with the most channels: make these layers from deep to shallow.

average_pooling: all but layers sizes
- F.max_pool2d(x, 2)
+ F.avg_pool2d(x, 2)
You pool by averages.
F.max_pool2d(x, 2).

relu_after_upsampling: all but layers sizes
- joined(skips.pop(), up(x))
+ joined(skips.pop(), F.relu(up(x)))
There is a ReLU after your transposed convolutions.
Only the 3×3 convolutions are followed by one.

relu_on_top: all but layers sizes
- return self.top(x)
+ return F.relu(self.top(x))
There is a ReLU on top, so no score is negative.
The 1×1 convolution comes last: its output are logits.

softmax_on_top: all but layers sizes
- return self.top(x)
+ return self.top(x).softmax(1)
You return probabilities.
Return the logits of the 1×1 convolution: the loss takes the softmax.

skips_kept_for_good: gradients
- self.top = nn.Conv2d(base, num_classes, 1)
+ self.top = nn.Conv2d(base, num_classes, 1)
+ self.skips = []
- skips = []
...
- skips.append(x)
+ self.skips.append(x)
- for up, block in zip(self.ups, self.outs, strict=True):
-     x = block(joined(skips.pop(), up(x)))
+ for level, (up, block) in enumerate(zip(self.ups, self.outs, strict=True)):
+     x = block(joined(self.skips[len(self.ups) - 1 - level], up(x)))
Your network keeps its skips from one call to the next, and the second call uses those of the first.
Make the list anew in each forward: skips = [], a local variable.

skips_detached: gradients
- skips.append(x)
+ skips.append(x.detach())
No gradient flows through the skips.
Leave out detach() and .data: the contracting path learns through them.

first_level_cut_off: gradients
- skips = []
- for block in self.down[:-1]:
+ with torch.no_grad():
+     skips = [self.down[0](x)]
+ x = F.max_pool2d(skips[0], 2)
+ for block in self.down[1:-1]:
No gradient reaches the first level.
Leave out no_grad(), detach() and .data in forward.
""")


class Level(nn.Module):
    def __init__(self, inputs, width, depth):
        super().__init__()
        self.before = DoubleSequential(inputs, width)
        self.below = Level(width, 2 * width, depth - 1) if depth else None
        if depth:
            self.up = nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2)
            self.after = DoubleSequential(2 * width, width)

    def forward(self, x):
        here = self.before(x)
        if self.below is None:
            return here
        up = self.up(self.below(nn.functional.max_pool2d(here, kernel_size=2)))
        for axis in (2, 3):
            here = here.narrow(axis, (here.size(axis) - up.size(axis)) // 2, up.size(axis))
        return self.after(torch.concatenate((here, up), dim=1))


@answers.right
class Recursive(nn.Module):
    """level within level"""

    def __init__(self, in_channels, num_classes, base=64, depth=4):
        super().__init__()
        self.head = nn.Conv2d(base, num_classes, kernel_size=1)
        self.body = Level(in_channels, base, depth)

    def forward(self, x):
        return self.head(self.body(x))


@answers.right
class ByName(nn.Module):
    """layers by name, pooling by a view"""

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
            rows, columns = kept[level].shape[-2] - x.shape[-2], kept[level].shape[-1] - x.shape[-1]
            top, left = rows // 2, columns // 2
            skip = F.pad(kept[level], (-left, left - columns, -top, top - rows))
            x = getattr(self, f"dec{level}")(torch.cat([skip, x], dim=1))
        return self.out(x)


EXERCISE = answers.exercise()
