import pytest
import torch
from contract import Contract
from torch import nn

from autograder.exercise import Outcome
from autograder.oracle import evaluate
from coursekit.upsampling import bilinear_kernel


class TestSkipFCN(Contract):
    exercise_id = "SkipFCN"


VALUES = {"32s", "16s", "8s", "any_size"}


class Head(nn.Module):
    """As most people write it, but for where the layers are kept."""

    def __init__(self, num_classes, channels, variant):
        super().__init__()
        self.strides = {"32s": (32,), "16s": (32, 16), "8s": (32, 16, 8)}[variant]
        of_stride = dict(zip((8, 16, 32), channels, strict=True))
        factors = {s: s if s == self.strides[-1] else 2 for s in self.strides}
        self.keep(
            {s: self.score(of_stride[s], num_classes) for s in self.strides},
            {s: self.up(num_classes, f) for s, f in factors.items()},
        )

    def score(self, channels, classes):
        layer = nn.Conv2d(channels, classes, 1)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    def up(self, classes, factor):
        layer = nn.ConvTranspose2d(classes, classes, 2 * factor, factor, factor // 2, bias=False)
        layer.weight.data.copy_(bilinear_kernel(classes, factor))
        return layer

    def keep(self, scores, ups):
        for s in scores:
            self.add_module(f"score_{s}", scores[s])
            self.add_module(f"up_{s}", ups[s])

    def layers(self, stride):
        return getattr(self, f"score_{stride}"), getattr(self, f"up_{stride}")

    def forward(self, features, size):
        x = None
        for stride in self.strides:
            score, up = self.layers(stride)
            scores = score(features[stride])
            x = up(scores if x is None else scores + x[..., : scores.shape[2], : scores.shape[3]])
        return x[..., : size[0], : size[1]]


class WithABuffer(Head):
    def keep(self, scores, ups):
        super().keep(scores, ups)
        self.register_buffer("seen", torch.zeros(1), persistent=False)


class Dicts(Head):
    def keep(self, scores, ups):
        self.scores, self.ups = scores, ups

    def layers(self, stride):
        return self.scores[stride], self.ups[stride]


class ModuleLists(Dicts):
    """From fine to coarse, without a number of ours in any name."""

    def keep(self, scores, ups):
        self.scores, self.ups = (nn.ModuleList([*layers.values()][::-1]) for layers in (scores, ups))

    def layers(self, stride):
        number = len(self.strides) - 1 - self.strides.index(stride)
        return self.scores[number], self.ups[number]


class WithoutUnderscore(Head):
    def keep(self, scores, ups):
        for s in scores:
            setattr(self, f"score{s}", scores[s])
            setattr(self, f"up{s}", ups[s])

    def layers(self, stride):
        return getattr(self, f"score{stride}"), getattr(self, f"up{stride}")


class SkipsInAList(Head):
    def keep(self, scores, ups):
        super().keep({32: scores.pop(32)}, ups)
        for s in scores:
            self.add_module(f"up_{s}", ups[s])
        self.skips = [scores[s] for s in self.strides[1:]]

    def layers(self, stride):
        up = getattr(self, f"up_{stride}")
        return (self.score_32 if stride == 32 else self.skips[self.strides.index(stride) - 1]), up


class UpsInAList(Head):
    def keep(self, scores, ups):
        for s in scores:
            self.add_module(f"score_{s}", scores[s])
        self.ups = list(ups.values())

    def layers(self, stride):
        return getattr(self, f"score_{stride}"), self.ups[self.strides.index(stride)]


class NoSkips(Head):
    """Neither the layers nor the sums."""

    def keep(self, scores, ups):
        super().keep({32: scores[32]}, ups)
        for s in self.strides[1:]:
            self.add_module(f"up_{s}", ups[s])

    def layers(self, stride):
        zero = torch.zeros(())
        return (self.score_32 if stride == 32 else lambda x: zero.expand(1, 1, *x.shape[2:])), getattr(
            self, f"up_{stride}"
        )


class Interpolating(Head):
    def up(self, classes, factor):
        return nn.Upsample(scale_factor=factor, mode="bilinear")


class WithoutPadding(Head):
    """Transposed convolutions that are cut afterwards in the wrong place."""

    def up(self, classes, factor):
        layer = nn.ConvTranspose2d(classes, classes, 2 * factor, factor, bias=False)
        layer.weight.data.copy_(bilinear_kernel(classes, factor))
        return layer


class WithBias(Head):
    def up(self, classes, factor):
        layer = nn.ConvTranspose2d(classes, classes, 2 * factor, factor, factor // 2)
        layer.weight.data.copy_(bilinear_kernel(classes, factor))
        return layer


class Hundredth(Head):
    def up(self, classes, factor):
        layer = super().up(classes, factor)
        layer.weight.data.mul_(0.01)
        return layer


class OneKernel(Head):
    def up(self, classes, factor):
        layer = super().up(classes, factor)
        kernels = self.__dict__.setdefault("kernels", {})
        layer.weight = nn.Parameter(kernels.setdefault(factor, layer.weight.data))
        return layer


ALL = {"start", "bilinear", "gradients", *VALUES}


@pytest.mark.parametrize(
    ("answer", "lost", "names"),
    [
        (Head, set(), set()),
        (WithABuffer, set(), set()),
        (WithoutUnderscore, {"start"}, {"layers_renamed"}),
        (ModuleLists, {"start"}, {"layers_renamed"}),
        (Dicts, ALL, {"layers_in_a_dict"}),
        (SkipsInAList, {"start", "16s", "8s", "any_size", "gradients"}, {"skips_in_a_dict"}),
        (UpsInAList, {"start", "bilinear", "gradients"}, {"upsampling_in_a_dict"}),
        (Interpolating, ALL, {"interpolated"}),
        (WithoutPadding, {*VALUES, "gradients"}, {"padding_forgotten"}),
        (WithBias, {"bilinear"}, {"upsampling_with_bias"}),
        (Hundredth, {"bilinear"}, {"bilinear_times_a_hundredth"}),
        (OneKernel, {"bilinear"}, {"one_kernel_for_two"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_costs_its_own_claim_and_has_its_name(answer, lost, names):
    verdict = evaluate("SkipFCN", answer)
    assert {n for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT} == lost
    assert {finding.name for finding in verdict.findings} == names


def test_a_layer_that_is_not_there_is_not_said_to_be_in_a_list():
    verdict = evaluate("SkipFCN", NoSkips)
    assert not verdict.findings
    told = {r.name: r.message for r in verdict.results}
    assert "there is no 1×1 convolution of them" in told["16s"]
