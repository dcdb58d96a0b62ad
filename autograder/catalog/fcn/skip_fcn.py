"""The exercise SkipFCN of lecture 06: the head of FCN-32s, 16s and 8s."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Odd, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import filled, parameters_of
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from coursekit import fcn as reference
from coursekit.upsampling import bilinear_kernel


def _head_case(*variants: str, ragged: bool = False) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        classes, channels = d.integer(2, 3), (d.integer(1, 2), d.integer(2, 3), d.integer(3, 4))
        variant = d.choice(variants)
        if ragged:
            size = d.choice([(37, 50), (70, 41), (9, 100), (51, 3)])
        else:
            size = d.choice([(32, 64), (64, 32), (32, 32)])
        filled_head = filled(d, reference.SkipFCN(classes, channels, variant))
        state = {name: p.detach() for name, p in filled_head.named_parameters()}
        n = d.choice([1, 2])
        features = {
            s: d.tensor(n, c, -(-size[0] // s), -(-size[1] // s))
            for s, c in zip((8, 16, 32), channels, strict=True)
        }
        return Case((classes, channels, variant), {}, {"weights": state, "features": features, "size": size})

    return draw


def _fresh_case(d: Draw) -> Case:
    variant = d.choice(["16s", "8s", "32s"])
    return Case((d.integer(2, 3), (d.integer(1, 2), d.integer(2, 3), d.integer(3, 4)), variant))


def _parameters(prefix: str) -> Callable[[Subject, Case], Any]:
    """Parameters whose names begin so, as they are at the start, and whether they learn."""

    def observe(subject: Subject, case: Case) -> Any:
        head = subject(*case.args)
        parameters = parameters_of(head, {}, (1, 1))
        learns = head.inspect("requires_grad")["requires_grad"]
        return {
            name: {"start": value, "learns": learns[name]}
            for name, value in sorted(parameters.items())
            if name.startswith(prefix)
        }

    return observe


def _head(subject: Subject, case: Case) -> Any:
    head = subject(*case.args)
    head.then("double")
    own, weights = parameters_of(head, {}, (1, 1)), case.extra["weights"]
    for name, tensor in weights.items():
        if name not in own:
            has = f"its parameters are {', '.join(own)}" if own else "it has no parameters"
            raise Odd(f"the head of variant {case.args[2]!r} has no {name}; {has}")
        if own[name].shape != tensor.shape:
            raise Odd(
                f"{name} has the shape {tuple(own[name].shape)}; for variant {case.args[2]!r} and"
                f" channels={case.args[1]}, those of strides 8, 16 and 32, it is {tuple(tensor.shape)}"
            )
    # Not strict: what a head has beyond that is the business of the properties about the start.
    head.then("load_state_dict", weights, strict=False)
    return head


def _scores_of_image(subject: Subject, case: Case) -> Any:
    return _head(subject, case)(case.extra["features"], case.extra["size"])


def _head_gradients(subject: Subject, case: Case) -> Any:
    head = _head(subject, case)
    return head.vjp(case.extra["features"], case.extra["size"], wrt=[0, head])["grads"]


CLAIMS = Exercise(
    id="SkipFCN",
    topic="fcn",
    title="Coarse scores, finer scores, one sum",
    reference=reference.SkipFCN,
    minutes=30,
    difficulty=4,
    properties=claims(
        """
        start (0.5): score_32, score_16, score_8, as many as the variant asks for: 1×1, with bias, all zero at
          the start
        tried: the parameters of a new head whose names begin with score_
        bilinear (1): up_32, up_16, up_8: bilinear at the start, without bias, and they learn
        tried: the parameters of a new head whose names begin with up_
        32s (0.75): FCN-32s: scores of stride 32, enlarged at once
        tried: a head with these weights, called on features and size
        16s (1): FCN-16s: enlarged by 2, scores of stride 16 added, enlarged by 16
        tried: a head with these weights, called on features and size
        8s (1): FCN-8s: the same with one step more
        tried: a head with these weights, called on features and size
        any_size (1): sizes that no stride divides: cropped top-left to the finer map, at last to size
        tried: a head with these weights, called on features and size
        gradients (0.75): gradients reach every feature, score and upsampling weight
        tried: gradients with respect to the features and all parameters
        """,
        start=on(_fresh_case, _parameters("score_"), examples=5),
        bilinear=on(_fresh_case, _parameters("up_"), examples=5),
        **{"32s": on(_head_case("32s"), _scores_of_image, examples=4)},
        **{"16s": on(_head_case("16s"), _scores_of_image, examples=4)},
        **{"8s": on(_head_case("8s"), _scores_of_image, examples=4)},
        any_size=on(_head_case("16s", "8s", "32s", ragged=True), _scores_of_image, examples=10),
        gradients=on(_head_case("8s"), _head_gradients, examples=3),
    ),
    hints=hints("""
        I lose track of the strides
        Draw it: score_32 → up_32 (×2) → + score_16 → up_16 (×2) → + score_8 → up_8 (×8). In a variant that
          ends earlier, the last up takes all that is left.

        Two maps differ by a row
        An image of 37 rows has 2 cells at stride 32 and 3 at stride 16; enlarged by 2, the 2 become 4. Cut
          the coarse one at the bottom.

        I don't know how to start
        strides = {'32s': (32,), '16s': (32, 16), '8s': (32, 16, 8)}[variant]. For each: score = nn.Conv2d(c,
          L, 1), zeroed; up = nn.ConvTranspose2d(L, L, 2 · factor, stride=factor, padding=factor // 2,
          bias=False) with bilinear weights, factor 2 or, at the last stride, the stride.
          self.add_module(f'up_{stride}', up).
        """),
    # The kernel is lecture 5's exercise, and one may have skipped that.
    uses=("coursekit.upsampling.bilinear_kernel",),
)

answers = Answers(CLAIMS)


@answers.right
class Looped(nn.Module):
    """a loop over the strides"""

    def __init__(self, num_classes, channels, variant):
        super().__init__()
        c8, c16, c32 = channels
        self.strides = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
        for stride in self.strides:
            score = nn.Conv2d({8: c8, 16: c16, 32: c32}[stride], num_classes, 1)
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)
            self.add_module(f"score_{stride}", score)
            factor = stride if stride == self.strides[-1] else 2
            padding = factor // 2
            up = nn.ConvTranspose2d(num_classes, num_classes, 2 * factor, factor, padding, bias=False)
            up.weight = nn.Parameter(bilinear_kernel(num_classes, factor))
            self.add_module(f"up_{stride}", up)

    def crop(self, maps, size):
        return maps[..., : size[0], : size[1]]

    def forward(self, features, size):
        up = None
        for stride in self.strides:
            score = getattr(self, f"score_{stride}")(features[stride])
            total = score if up is None else score + self.crop(up, score.shape[-2:])
            up = getattr(self, f"up_{stride}")(total)
        return self.crop(up, size)


answers.edits("""
scores_not_zero: start
- nn.init.zeros_(score.weight)
- nn.init.zeros_(score.bias)
Your score layers start with random weights.
Set weight and bias to zero: a skip that says nothing at first cannot spoil what is there.

upsampling_not_bilinear: bilinear
- up.weight = nn.Parameter(bilinear_kernel(num_classes, factor))
Your transposed convolutions start with random weights.
Copy bilinear_kernel(num_classes, factor) into their weight.

classes_mixed: bilinear
- bilinear_kernel(num_classes, factor)
+ bilinear_kernel(1, factor).repeat(num_classes, num_classes, 1, 1)
Your bilinear kernel goes from every class to every class: all scores become their sum.
Only the diagonal: each class is interpolated from itself.

upsampling_with_bias: all but start
- bias=False
+ bias=True
Your transposed convolutions have a bias.
nn.ConvTranspose2d(…, bias=False): the scores have one already.

upsampling_fixed: bilinear gradients
- nn.Parameter(bilinear_kernel(num_classes, factor))
+ nn.Parameter(bilinear_kernel(num_classes, factor), requires_grad=False)
Your transposed convolutions do not learn.
Leave requires_grad at True: bilinear is where they start.

interpolated: all but start
- factor = stride if stride == self.strides[-1] else 2
- padding = factor // 2
- up = nn.ConvTranspose2d(num_classes, num_classes, 2 * factor, factor, padding, bias=False)
- up.weight = nn.Parameter(bilinear_kernel(num_classes, factor))
- self.add_module(f"up_{stride}", up)
...
- up = getattr(self, f"up_{stride}")(total)
+ factor = stride if stride == self.strides[-1] else 2
+ up = F.interpolate(total, scale_factor=factor, mode="bilinear")
You enlarged by F.interpolate, which has nothing to learn.
nn.ConvTranspose2d with stride factor, as up_32, up_16, up_8.

cropped_at_the_center: any_size
- return maps[..., : size[0], : size[1]]
+ top, left = (maps.shape[-2] - size[0]) // 2, (maps.shape[-1] - size[1]) // 2
+ return maps[..., top : top + size[0], left : left + size[1]]
You cropped at the center.
All maps begin at the same top left corner; what is too much lies at the bottom and right.

not_cropped: any_size
- maps[..., : size[0], : size[1]]
+ maps
Your maps are not cropped.
⌈size / stride⌉ cells enlarged may be more than the finer map has: cut [..., :h, :w].

squeezed: any_size
- maps[..., : size[0], : size[1]]
+ F.interpolate(maps, tuple(size), mode="bilinear")
You squeezed maps to their size where they had to be cropped.
The grid stays; only the surplus at the bottom and right goes.

coarse_forgotten: 16s 8s any_size gradients
- score if up is None else score + self.crop(up, score.shape[-2:])
+ score
You went on with the finer scores alone: what the coarse ones say is lost.
Add them up: score_16(…) + cropped up_32(…).

skips_forgotten: 16s 8s any_size gradients
- score + self.crop(up, score.shape[-2:])
+ self.crop(up, score.shape[-2:])
You enlarged the coarse scores and never added the finer ones.
Add them up: score_16(…) + cropped up_32(…).

channels_reversed: all but bilinear
- c8, c16, c32 = channels
+ c32, c16, c8 = channels
You read channels from the back.
channels = (c8, c16, c32): score_32 takes the last of them.

enlarged_by_the_stride: all but start 32s
- factor = stride if stride == self.strides[-1] else 2
+ factor = stride
Your up layers all enlarge by their stride.
Only the last one enlarges to the image; those before it enlarge by 2, to the next finer map.

averaged_skips: 16s 8s any_size gradients
- score + self.crop(up, score.shape[-2:])
+ (score + self.crop(up, score.shape[-2:])) / 2
You averaged the two scores.
Skips are summed.

scores_rectified: all but start bilinear
- (features[stride])
+ (features[stride]).relu()
A ReLU follows your scores: none of them can speak against a class.
Scores are logits: leave them as the 1×1 convolution gives them.

probabilities: all but start bilinear
- return self.crop(up, size)
+ return self.crop(up, size).softmax(1)
Your head returns probabilities: the softmax is in it.
Return logits: the loss takes the softmax, and the largest is the same.

padding_forgotten: all but start bilinear
- padding = factor // 2
+ padding = 0
Your maps are shifted down and right by half a cell: the transposed convolutions have no padding.
padding = factor // 2 puts factor × factor pixels around the center of each cell.

always_8s: all but 8s gradients
- {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
+ (32, 16, 8)
Your head scores all three strides whatever the variant.
32s scores stride 32 alone and enlarges at once; 16s adds stride 16.
""")


def interpolating(channels, factor):
    k = 2 * factor - factor % 2
    ramp = 1 - (torch.arange(k) - (k - 1) / 2).abs() / factor
    return torch.eye(channels)[:, :, None, None] * torch.outer(ramp, ramp)


class Scored(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return torch.einsum("nchw,lc->nlhw", x, self.weight[:, :, 0, 0]) + self.bias[:, None, None]


class Enlarged(nn.Module):
    def __init__(self, classes, factor):
        super().__init__()
        self.weight = nn.Parameter(interpolating(classes, factor))
        self.factor = factor

    def forward(self, x):
        n, _, h, w = x.shape
        copies = torch.einsum("nchw,cokl->noklhw", x, self.weight).reshape(n, -1, h * w)
        f = self.factor
        return F.fold(copies, (f * h, f * w), self.weight.shape[-1], padding=f // 2, stride=f)


@answers.right
class Folded(nn.Module):
    """matrix products and fold"""

    def __init__(self, num_classes, channels, variant):
        super().__init__()
        self.last = int(variant[:-1])
        for stride, c in zip((32, 16, 8), channels[::-1], strict=True):
            if stride >= self.last:
                setattr(self, f"score_{stride}", Scored(c, num_classes))
                setattr(self, f"up_{stride}", Enlarged(num_classes, 2 if stride > self.last else stride))

    def forward(self, features, size):
        total, stride = self.score_32(features[32]), 32
        while stride > self.last:
            larger = getattr(self, f"up_{stride}")(total)
            stride //= 2
            finer = getattr(self, f"score_{stride}")(features[stride])
            total = finer + larger[:, :, : finer.shape[2], : finer.shape[3]]
        return getattr(self, f"up_{stride}")(total)[:, :, : size[0], : size[1]]


@answers.right
class WrittenOut(nn.Module):
    """the three variants written out"""

    def __init__(self, num_classes, channels, variant):
        super().__init__()
        c8, c16, c32 = channels
        self.variant = variant
        self.score_32 = self._zeros(c32, num_classes)
        if variant == "32s":
            self.up_32 = self._up(num_classes, 32)
        elif variant == "16s":
            self.score_16, self.up_32 = self._zeros(c16, num_classes), self._up(num_classes, 2)
            self.up_16 = self._up(num_classes, 16)
        else:
            self.score_16, self.up_32 = self._zeros(c16, num_classes), self._up(num_classes, 2)
            self.score_8, self.up_16 = self._zeros(c8, num_classes), self._up(num_classes, 2)
            self.up_8 = self._up(num_classes, 8)

    def _zeros(self, channels, classes):
        layer = nn.Conv2d(channels, classes, 1)
        layer.weight.data.zero_()
        layer.bias.data.zero_()
        return layer

    def _up(self, classes, factor):
        layer = nn.ConvTranspose2d(classes, classes, 2 * factor, stride=factor, bias=False)
        layer.weight.data = interpolating(classes, factor)
        return layer

    def _enlarged(self, layer, x, size):
        p = layer.stride[0] // 2
        return layer(x)[:, :, p : p + size[0], p : p + size[1]]

    def forward(self, features, size):
        x = self.score_32(features[32])
        if self.variant == "32s":
            return self._enlarged(self.up_32, x, size)
        x = self._enlarged(self.up_32, x, features[16].shape[2:]) + self.score_16(features[16])
        if self.variant == "16s":
            return self._enlarged(self.up_16, x, size)
        x = self._enlarged(self.up_16, x, features[8].shape[2:]) + self.score_8(features[8])
        return self._enlarged(self.up_8, x, size)


EXERCISE = answers.exercise()
