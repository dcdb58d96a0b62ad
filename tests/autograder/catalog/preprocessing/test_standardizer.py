import pytest
import torch
from contract import Contract
from torch import nn

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class Right(nn.Module):
    """Attributes of its own, and more than is asked for: a buffer that is not saved, a parameter."""

    names = ("mean", "std")

    def __init__(self, mode="channel_standard"):
        super().__init__()
        self.what = mode
        for name in self.names:
            self.register_buffer(name, torch.empty(0))
        self.register_buffer("seen", torch.tensor(0), persistent=False)
        self.gain = nn.Parameter(torch.ones(1), requires_grad=False)

    def fit(self, images):
        x = images if images.is_floating_point() else images.float()
        mean = x.mean(0) if self.what == "mean_image" else x.mean((0, 2, 3))[:, None, None]
        self.store(mean, self.deviation(x) if self.what == "channel_standard" else torch.ones_like(mean))
        return self

    def deviation(self, x):
        std = x.std((0, 2, 3), correction=0)[:, None, None]
        return torch.where(std == 0, 1, std)

    def store(self, *values):
        for name, value in zip(self.names, values, strict=True):
            setattr(self, name, value)

    def forward(self, images):
        mean, std = (getattr(self, name) for name in self.names)
        if mean.numel() == 0:
            raise RuntimeError("fit first")
        return (images - mean) / std

    def _load_from_state_dict(self, state_dict, prefix, *arguments):
        for name in self.names:
            setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class OtherNames(Right):
    names = ("mu", "sigma")


class SmallEps(Right):
    def deviation(self, x):
        return x.std((0, 2, 3), correction=0)[:, None, None] + 1e-8


class Clamped(Right):
    def deviation(self, x):
        return x.std((0, 2, 3), correction=0)[:, None, None].clamp(min=1e-6)


class FaintAsConstant(Right):
    def deviation(self, x):
        variance = x.var((0, 2, 3), correction=0)[:, None, None]
        return variance.sqrt().masked_fill(variance < 1e-8, 1.0)


class GuardedAgainstRounding(Right):
    def deviation(self, x):
        std = super().deviation(x.float())
        return torch.where(std < 1e-6, 1, std)


class AddedToOthers(Right):
    def deviation(self, x):
        std = x.std((0, 2, 3), correction=0)[:, None, None]
        return torch.where(std == 0, 1, std + 1e-5)


class InPlace(Right):
    def fit(self, images):
        super().fit(images)
        if images.is_floating_point():
            images -= images.mean()
        return self


class NotOne(Right):
    def fit(self, images):
        super().fit(images)
        x = images if images.is_floating_point() else images.float()
        self.std = self.deviation(x)
        return self

    def forward(self, images):
        if self.mean.numel() == 0:
            raise RuntimeError("fit first")
        return (images - self.mean) / (self.std if self.what == "channel_standard" else 1)


class OnPurpose(Right):
    def forward(self, images):
        if self.mean.numel() == 0:
            raise TypeError("fit first")
        return super().forward(images)


class InBytes(Right):
    def forward(self, images):
        if self.mean.numel() == 0:
            raise RuntimeError("fit first")
        return (images - self.mean.to(images.dtype)) / self.std


class EachPixel(Right):
    def deviation(self, x):
        std = x.std(0, correction=0)
        return torch.where(std == 0, 1, std)


def lost(verdict):
    return [name for name, o in verdict.outcomes.items() if o is not Outcome.CORRECT]


class TestStandardizer(Contract):
    exercise_id = "Standardizer"

    @pytest.mark.parametrize("answer", [Right, GuardedAgainstRounding])
    def test_what_the_card_does_not_ask_costs_nothing(self, answer):
        assert evaluate("Standardizer", answer).correct

    def test_a_faint_channel_is_divided_by_its_own_std(self):
        verdict = evaluate("Standardizer", AddedToOthers)
        assert lost(verdict) == ["constant_channel"]
        assert not verdict.findings

    @pytest.mark.parametrize(
        ("name", "claim", "answer"),
        [
            ("other_names", "buffers", OtherNames),
            ("not_one", "buffers", NotOne),
            ("eps_added", "constant_channel", SmallEps),
            ("eps_added", "constant_channel", Clamped),
            ("small_std_as_zero", "constant_channel", FaintAsConstant),
            ("in_place_in_fit", "kinds", InPlace),
            ("integers_subtracted", "kinds", InBytes),
            ("fails_on_none", "refuses_unfitted", OnPurpose),
        ],
    )
    def test_a_mistake_is_named_and_costs_its_own_claim(self, name, claim, answer):
        verdict = evaluate("Standardizer", answer)
        assert lost(verdict) == [claim]
        assert [finding.name for finding in verdict.findings] == [name]

    def test_an_error_alone_makes_no_name(self):
        # On larger images it raises what others raise after a second fit.
        verdict = evaluate("Standardizer", EachPixel)
        assert lost(verdict) == ["modes", "constant_channel", "buffers", "loadable"]
        assert not verdict.findings

    def test_another_name_is_not_told_as_a_missing_gradient(self):
        verdict = evaluate("Standardizer", OtherNames)
        assert not any("gradient" in result.described for result in verdict.results)
