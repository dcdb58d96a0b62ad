"""The exercise SkipFCN of lecture 06: the head of FCN-32s, 16s and 8s."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Odd, Subject
from autograder.catalog.observations import filled, parameters_of
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import fcn as reference

STRIDES = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}


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
        parameters_of(head, {}, (1, 1))
        seen = head.inspect()
        return {
            name: {"start": value, "learns": seen["requires_grad"][name]}
            for name, value in sorted(seen["parameters"].items())
            if name.startswith(prefix)
        }

    return observe


def _head(subject: Subject, case: Case) -> Any:
    head = subject(*case.args)
    head.do("double")
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
    head.do("load_state_dict", weights, strict=False)
    return head


def _scores_of_image(subject: Subject, case: Case) -> Any:
    return _head(subject, case)(case.extra["features"], case.extra["size"])


def _head_gradients(subject: Subject, case: Case) -> Any:
    head = _head(subject, case)
    return head.vjp(case.extra["features"], case.extra["size"], wrt=[0, head])["grads"]


def _interpolating(channels, factor):
    k = 2 * factor - factor % 2
    ramp = 1 - (torch.arange(k) - (k - 1) / 2).abs() / factor
    return torch.eye(channels)[:, :, None, None] * torch.outer(ramp, ramp)


class _Head(nn.Module):
    """The head with a seam at each step, where the misconceptions put their mistake."""

    bias = False

    def __init__(self, num_classes, channels, variant):
        super().__init__()
        self.strides = self.scored(variant)
        by_stride = dict(zip((8, 16, 32), channels, strict=True))
        for stride in self.strides:
            self.add_module(f"score_{stride}", self.score(by_stride[stride], num_classes))
            self.add_module(f"up_{stride}", self.up(num_classes, stride if stride == self.strides[-1] else 2))

    def scored(self, variant):
        return STRIDES[variant]

    def score(self, channels, classes):
        layer = nn.Conv2d(channels, classes, 1)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def padding(self, factor):
        return factor // 2

    def up(self, classes, factor):
        padding = self.padding(factor)
        layer = nn.ConvTranspose2d(
            classes, classes, 2 * factor, stride=factor, padding=padding, bias=self.bias
        )
        with torch.no_grad():
            layer.weight.copy_(self.kernel(classes, factor))
        return layer

    def kernel(self, classes, factor):
        return _interpolating(classes, factor)

    def crop(self, maps, size):
        return maps[..., : size[0], : size[1]]

    def join(self, up, score):
        return up + score

    def enlarge(self, stride, maps):
        return getattr(self, f"up_{stride}")(maps)

    def scores(self, stride, features):
        return getattr(self, f"score_{stride}")(features[stride])

    def forward(self, features, size):
        maps = self.scores(32, features)
        for coarse, fine in zip(self.strides, self.strides[1:], strict=False):
            score = self.scores(fine, features)
            maps = self.join(self.crop(self.enlarge(coarse, maps), score.shape[-2:]), score)
        return self.crop(self.enlarge(self.strides[-1], maps), size)


class _HeadRandomScores(_Head):
    def score(self, channels, classes):
        return nn.Conv2d(channels, classes, 1)


class _HeadRandomUp(_Head):
    def up(self, classes, factor):
        return nn.ConvTranspose2d(
            classes, classes, 2 * factor, stride=factor, padding=factor // 2, bias=False
        )


class _HeadMixed(_Head):
    def kernel(self, classes, factor):
        return _interpolating(1, factor).expand(classes, classes, -1, -1)


class _HeadBias(_Head):
    bias = True


class _HeadFixed(_Head):
    def up(self, classes, factor):
        return super().up(classes, factor).requires_grad_(False)


class _HeadCentered(_Head):
    def crop(self, maps, size):
        top, left = ((maps.shape[-2] - size[0]) // 2, (maps.shape[-1] - size[1]) // 2)
        return maps[..., top : top + size[0], left : left + size[1]]


class _HeadReversed(_Head):
    def __init__(self, num_classes, channels, variant):
        super().__init__(num_classes, channels[::-1], variant)


class _HeadByStride(_Head):
    def __init__(self, num_classes, channels, variant):
        super().__init__(num_classes, channels, variant)
        for stride in self.strides:
            self.add_module(f"up_{stride}", self.up(num_classes, stride))


class _HeadWithoutSkips(_Head):
    def join(self, up, score):
        return up


class _HeadReplaced(_Head):
    def join(self, up, score):
        return score


class _HeadInterpolated(_Head):
    def up(self, classes, factor):
        return nn.Identity()

    def enlarge(self, stride, maps):
        factor = stride if stride == self.strides[-1] else 2
        return F.interpolate(maps, scale_factor=factor, mode="bilinear")


class _HeadShifted(_Head):
    def padding(self, factor):
        return 0


class _HeadAlways8(_Head):
    def scored(self, variant):
        return STRIDES["8s"]


class _HeadUncropped(_Head):
    def crop(self, maps, size):
        return maps


class _HeadSquashed(_Head):
    """Squeezed to size where it had to be cropped."""

    def crop(self, maps, size):
        return maps if maps.shape[-2:] == tuple(size) else F.interpolate(maps, tuple(size), mode="bilinear")


class _HeadAveraged(_Head):
    def join(self, up, score):
        return (up + score) / 2


class _HeadRectified(_Head):
    def scores(self, stride, features):
        return super().scores(stride, features).relu()


class _HeadProbabilities(_Head):
    def forward(self, features, size):
        return super().forward(features, size).softmax(1)


class _Scored(nn.Module):
    """A 1×1 convolution as a product of matrices."""

    def __init__(self, channels, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return torch.einsum("nchw,lc->nlhw", x, self.weight[:, :, 0, 0]) + self.bias[:, None, None]


class _Enlarged(nn.Module):
    """A transposed convolution as copies of the kernel that are folded together."""

    def __init__(self, classes, factor):
        super().__init__()
        self.weight = nn.Parameter(_interpolating(classes, factor))
        self.factor = factor

    def forward(self, x):
        n, _, h, w = x.shape
        copies = torch.einsum("nchw,cokl->noklhw", x, self.weight).reshape(n, -1, h * w)
        f = self.factor
        return F.fold(copies, (f * h, f * w), self.weight.shape[-1], padding=f // 2, stride=f)


class _HeadFolded(nn.Module):
    def __init__(self, num_classes, channels, variant):
        super().__init__()
        self.last = int(variant[:-1])
        for stride, c in zip((32, 16, 8), channels[::-1], strict=True):
            if stride >= self.last:
                setattr(self, f"score_{stride}", _Scored(c, num_classes))
                setattr(self, f"up_{stride}", _Enlarged(num_classes, 2 if stride > self.last else stride))

    def forward(self, features, size):
        total, stride = self.score_32(features[32]), 32
        while stride > self.last:
            larger = getattr(self, f"up_{stride}")(total)
            stride //= 2
            finer = getattr(self, f"score_{stride}")(features[stride])
            total = finer + larger[:, :, : finer.shape[2], : finer.shape[3]]
        return getattr(self, f"up_{stride}")(total)[:, :, : size[0], : size[1]]


class _HeadWrittenOut(nn.Module):
    """The three variants written one by one; padding as a crop of the larger result."""

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
        layer.weight.data = _interpolating(classes, factor)
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


FORWARD = ("32s", "16s", "8s", "any_size", "gradients")

EXERCISE = Exercise(
    id="SkipFCN",
    topic="fcn",
    title="Coarse scores, finer scores, one sum",
    reference=reference.SkipFCN,
    minutes=30,
    difficulty=4,
    properties=(
        Property(
            "start",
            "score_32, score_16, score_8, as many as the variant asks for: 1×1, with bias, all zero at the start",
            0.5,
            _fresh_case,
            _parameters("score_"),
            examples=5,
            tried="the parameters of a new head whose names begin with score_",
        ),
        Property(
            "bilinear",
            "up_32, up_16, up_8: bilinear at the start, without bias, and they learn",
            1.0,
            _fresh_case,
            _parameters("up_"),
            examples=5,
            tried="the parameters of a new head whose names begin with up_",
        ),
        Property(
            "32s",
            "FCN-32s: scores of stride 32, enlarged at once",
            0.75,
            _head_case("32s"),
            _scores_of_image,
            examples=4,
            tried="a head with these weights, called on features and size",
        ),
        Property(
            "16s",
            "FCN-16s: enlarged by 2, scores of stride 16 added, enlarged by 16",
            1.0,
            _head_case("16s"),
            _scores_of_image,
            examples=4,
            tried="a head with these weights, called on features and size",
        ),
        Property(
            "8s",
            "FCN-8s: the same with one step more",
            1.0,
            _head_case("8s"),
            _scores_of_image,
            examples=4,
            tried="a head with these weights, called on features and size",
        ),
        Property(
            "any_size",
            "sizes that no stride divides: cropped top-left to the finer map, at last to size",
            1.0,
            _head_case("16s", "8s", "32s", ragged=True),
            _scores_of_image,
            examples=10,
            tried="a head with these weights, called on features and size",
        ),
        Property(
            "gradients",
            "gradients reach every feature, score and upsampling weight",
            0.75,
            _head_case("8s"),
            _head_gradients,
            examples=3,
            tried="gradients with respect to the features and all parameters",
        ),
    ),
    misconceptions=(
        Misconception(
            "scores_not_zero",
            "Your score layers start with random weights.",
            "Set weight and bias to zero: a skip that says nothing at first cannot spoil what is there.",
            ("start",),
            _HeadRandomScores,
        ),
        Misconception(
            "upsampling_not_bilinear",
            "Your transposed convolutions start with random weights.",
            "Copy bilinear_kernel(num_classes, factor) into their weight.",
            ("bilinear",),
            _HeadRandomUp,
        ),
        Misconception(
            "classes_mixed",
            "Your bilinear kernel goes from every class to every class: all scores become their sum.",
            "Only the diagonal: each class is interpolated from itself.",
            ("bilinear",),
            _HeadMixed,
        ),
        Misconception(
            "upsampling_with_bias",
            "Your transposed convolutions have a bias.",
            "nn.ConvTranspose2d(…, bias=False): the scores have one already.",
            ("bilinear", *FORWARD),
            _HeadBias,
        ),
        Misconception(
            "upsampling_fixed",
            "Your transposed convolutions do not learn.",
            "Leave requires_grad at True: bilinear is where they start.",
            ("bilinear", "gradients"),
            _HeadFixed,
        ),
        Misconception(
            "interpolated",
            "You enlarged by F.interpolate, which has nothing to learn.",
            "nn.ConvTranspose2d with stride factor, as up_32, up_16, up_8.",
            ("bilinear", *FORWARD),
            _HeadInterpolated,
        ),
        Misconception(
            "cropped_at_the_center",
            "You cropped at the center.",
            "All maps begin at the same top left corner; what is too much lies at the bottom and right.",
            ("any_size",),
            _HeadCentered,
        ),
        Misconception(
            "not_cropped",
            "Your maps are not cropped.",
            "⌈size / stride⌉ cells enlarged may be more than the finer map has: cut [..., :h, :w].",
            ("any_size",),
            _HeadUncropped,
        ),
        Misconception(
            "squeezed",
            "You squeezed maps to their size where they had to be cropped.",
            "The grid stays; only the surplus at the bottom and right goes.",
            ("any_size",),
            _HeadSquashed,
        ),
        Misconception(
            "coarse_forgotten",
            "You went on with the finer scores alone: what the coarse ones say is lost.",
            "Add them up: score_16(…) + cropped up_32(…).",
            ("16s", "8s", "any_size", "gradients"),
            _HeadReplaced,
        ),
        Misconception(
            "skips_forgotten",
            "You enlarged the coarse scores and never added the finer ones.",
            "Add them up: score_16(…) + cropped up_32(…).",
            ("16s", "8s", "any_size", "gradients"),
            _HeadWithoutSkips,
        ),
        Misconception(
            "channels_reversed",
            "You read channels from the back.",
            "channels = (c8, c16, c32): score_32 takes the last of them.",
            ("start", *FORWARD),
            _HeadReversed,
        ),
        Misconception(
            "enlarged_by_the_stride",
            "Your up layers all enlarge by their stride.",
            "Only the last one enlarges to the image; those before it enlarge by 2, to the next finer map.",
            ("bilinear", "16s", "8s", "any_size", "gradients"),
            _HeadByStride,
        ),
        Misconception(
            "averaged_skips",
            "You averaged the two scores.",
            "Skips are summed.",
            ("16s", "8s", "any_size", "gradients"),
            _HeadAveraged,
        ),
        Misconception(
            "scores_rectified",
            "A ReLU follows your scores: none of them can speak against a class.",
            "Scores are logits: leave them as the 1×1 convolution gives them.",
            FORWARD,
            _HeadRectified,
        ),
        Misconception(
            "probabilities",
            "Your head returns probabilities: the softmax is in it.",
            "Return logits: the loss takes the softmax, and the largest is the same.",
            FORWARD,
            _HeadProbabilities,
        ),
        Misconception(
            "padding_forgotten",
            "Your maps are shifted down and right by half a cell: the transposed convolutions have no padding.",
            "padding = factor // 2 puts factor × factor pixels around the center of each cell.",
            FORWARD,
            _HeadShifted,
        ),
        Misconception(
            "always_8s",
            "Your head scores all three strides whatever the variant.",
            "32s scores stride 32 alone and enlarges at once; 16s adds stride 16.",
            ("start", "bilinear", "32s", "16s", "any_size"),
            _HeadAlways8,
        ),
    ),
    right=(
        Variant("matrix products and fold", _HeadFolded),
        Variant("the three variants written out", _HeadWrittenOut),
    ),
    hints=(
        Hint(
            "I lose track of the strides",
            "Draw it: score_32 → up_32 (×2) → + score_16 → up_16 (×2) → + score_8 → up_8 (×8). In a variant that ends earlier, the last up takes all that is left.",
        ),
        Hint(
            "Two maps differ by a row",
            "An image of 37 rows has 2 cells at stride 32 and 3 at stride 16; enlarged by 2, the 2 become 4. Cut the coarse one at the bottom.",
        ),
        Hint(
            "I don't know how to start",
            "strides = {'32s': (32,), '16s': (32, 16), '8s': (32, 16, 8)}[variant]. For each: score = nn.Conv2d(c, L, 1), zeroed; up = nn.ConvTranspose2d(L, L, 2 · factor, stride=factor, padding=factor // 2, bias=False) with bilinear weights, factor 2 or, at the last stride, the stride. self.add_module(f'up_{stride}', up).",
        ),
    ),
    # The kernel is lecture 5's exercise, and one may have skipped that.
    uses=("coursekit.upsampling.bilinear_kernel",),
)
