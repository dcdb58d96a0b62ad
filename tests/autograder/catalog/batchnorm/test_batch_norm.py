import pytest
import torch
from contract import Contract
from torch import nn

from autograder.exercise import Outcome
from autograder.oracle import evaluate

HOLDS = (Outcome.CORRECT, Outcome.WAITING)


class Right(nn.Module):
    """What the mistakes below change; `names` are those of its parameters and buffers."""

    names = ("weight", "bias", "running_mean", "running_var")
    shape = (-1,)

    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        starts = (torch.ones, torch.zeros, torch.zeros, torch.ones)
        gamma, beta, mean, var = (start(num_features).reshape(self.shape) for start in starts)
        setattr(self, self.names[0], nn.Parameter(gamma))
        setattr(self, self.names[1], nn.Parameter(beta))
        self.keep(self.names[2], mean)
        self.keep(self.names[3], var)
        self.keep("num_batches_tracked", torch.tensor(0))

    def keep(self, name, tensor):
        self.register_buffer(name, tensor)

    def forward(self, x):
        axes, along = [0, 2, 3][: x.dim() - 1], (-1, 1, 1)[: max(1, x.dim() - 1)]
        gamma, beta, mean, var = (getattr(self, name).reshape(along) for name in self.names)
        if self.training:
            self.check(x)
            self.num_batches_tracked += 1
            self.update(x.mean(axes), x.var(axes))
            mean, var = x.mean(axes).reshape(along), x.var(axes, correction=0).reshape(along)
        return (x - mean) * gamma / torch.sqrt(var + self.eps) + beta

    def check(self, x):
        if x.numel() == x.shape[1]:
            raise ValueError(f"x must have more than one value per channel, got {tuple(x.shape)}")

    def update(self, mean, var):
        with torch.no_grad():
            m = self.step()
            for name, new in zip(self.names[2:], (mean, var), strict=True):
                old = getattr(self, name)
                old.lerp_(new.reshape(old.shape).to(old.dtype), m)

    def step(self):
        return 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum


class MoreBuffers(Right):
    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__(num_features, eps, momentum)
        self.register_buffer("inverse", torch.ones(num_features), persistent=False)


class FloatCount(Right):
    def keep(self, name, tensor):
        super().keep(name, tensor.float().reshape(-1))


class Detached(Right):
    def update(self, mean, var):
        m = self.step()
        self.running_mean = (1 - m) * self.running_mean + m * mean.detach()
        self.running_var = (1 - m) * self.running_var + m * var.detach()


class OtherNames(Right):
    names = ("gamma", "beta", "moving_mean", "moving_var")


class ShapedForImages(Right):
    shape = (1, -1, 1, 1)


class PlainAttributes(Right):
    def keep(self, name, tensor):
        setattr(self, name, tensor)


class Parameters(Right):
    def keep(self, name, tensor):
        setattr(self, name, nn.Parameter(tensor, requires_grad=False))


class WithItsGraph(Right):
    def update(self, mean, var):
        m = self.step()
        self.running_mean = (1 - m) * self.running_mean + m * mean
        self.running_var = (1 - m) * self.running_var + m * var


class Remembers(Right):
    def forward(self, x):
        self.y = super().forward(x)
        return self.y


class MomentumOr(Right):
    def step(self):
        return self.momentum or 1 / self.num_batches_tracked.item()


class CountsByItself(Right):
    seen = 0

    def step(self):
        self.seen += 1
        return 1 / self.seen if self.momentum is None else self.momentum


class NotOneImage(Right):
    def check(self, x):
        if x.shape[0] == 1:
            raise ValueError("x must have more than one image")


class CountsInEval(Right):
    def forward(self, x):
        self.num_batches_tracked += not self.training
        return super().forward(x)


class RefusesInEval(Right):
    def forward(self, x):
        self.check(x)
        return super().forward(x)


class OneEps(Right):
    def __init__(self, num_features, eps=1e-5, momentum=0.1):
        super().__init__(num_features, momentum=momentum)


class Double(Right):
    def forward(self, x):
        return super().forward(x).double()


class InPlace(Right):
    def forward(self, x):
        return x.copy_(super().forward(x))


class TestBatchNorm(Contract):
    exercise_id = "BatchNorm"

    @pytest.mark.parametrize("answer", [Right, MoreBuffers, FloatCount, Detached])
    def test_what_is_not_asked_costs_nothing(self, exam, answer):
        verdict = evaluate("BatchNorm", answer, exam=exam)
        assert verdict.correct, verdict.outcomes

    @pytest.mark.parametrize(
        "answer", [OtherNames, ShapedForImages, PlainAttributes, Parameters, WithItsGraph]
    )
    def test_how_it_is_kept_costs_its_own_claim(self, exam, answer):
        verdict = evaluate("BatchNorm", answer, exam=exam)
        assert [claim for claim, outcome in verdict.outcomes.items() if outcome != "correct"] == ["state"]

    @pytest.mark.parametrize(
        ("answer", "failed", "name"),
        [
            (PlainAttributes, {"state"}, "plain_attributes"),
            (WithItsGraph, {"state"}, "statistics_in_the_graph"),
            (Remembers, {"state"}, "kept_for_later"),
            (MomentumOr, {"running_statistics"}, "zero_momentum_as_none"),
            (CountsByItself, {"cumulative"}, "counts_by_itself"),
            (NotOneImage, {"training_output"}, "refuses_one_image"),
            (CountsInEval, {"eval_mode"}, "eval_counts"),
            (RefusesInEval, {"eval_mode"}, "refuses_in_eval"),
            (OneEps, {"training_output", "eval_mode"}, "eps_fixed"),
            (Double, {"carries"}, "float64_returned"),
            (InPlace, {"gradients", "carries"}, "in_place"),
        ],
    )
    def test_a_mistake_costs_what_it_touches_and_bears_its_name(self, exam, answer, failed, name):
        verdict = evaluate("BatchNorm", answer, exam=exam)
        assert {claim for claim, outcome in verdict.outcomes.items() if outcome not in HOLDS} == failed
        assert verdict.diagnosis == name

    def test_a_gradient_that_is_missing_is_called_by_its_name(self, exam):
        class Cut(Right):
            def forward(self, x):
                return super().forward(x.detach())

        (gradients,) = (r for r in evaluate("BatchNorm", Cut, exam=exam).results if r.name == "gradients")
        assert gradients.described == (
            "No gradient reaches x in eval mode, x in training mode: the graph is cut on the way there."
        )

    def test_channels_found_by_their_number_are_named_in_every_exam(self):
        class BatchNorm(Right):
            def forward(self, x):
                place = list(x.shape).index(len(self.weight))
                return super().forward(x.transpose(place, 1)).transpose(place, 1)

            def check(self, x):
                if x.numel() == len(self.weight):
                    raise ValueError(f"x has one value per channel, got {tuple(x.shape)}")

        for seed in range(3):
            (finding,) = evaluate("BatchNorm", BatchNorm, seed=seed).findings
            assert finding.name == "axis_found_by_length"
            assert set(finding.claims) == {"training_output", "gradients"}
