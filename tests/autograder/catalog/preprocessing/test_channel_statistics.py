import pytest
import torch
from contract import Contract

from autograder.oracle import evaluate

AXES = (0, 2, 3)


def floats(images):
    return images if images.is_floating_point() else images.float()


def as_a_list(images):
    return [floats(images).mean(AXES), floats(images).std(AXES, correction=0)]


def torchs_std(images):
    return floats(images).mean(AXES), floats(images).std(AXES)


def torchs_std_mean(images):
    return torch.std_mean(floats(images), AXES)


def with_eps(images):
    x = floats(images)
    return x.mean(AXES), (x.var(AXES, correction=0) + 1e-7).sqrt()


def over_255(images):
    x = floats(images) / 255
    return x.mean(AXES), x.std(AXES, correction=0)


def centered_in_place(images):
    x = images.double()
    mean = x.mean(AXES, keepdim=True)
    x -= mean
    dtype = images.dtype if images.is_floating_point() else torch.float32
    return mean.flatten().to(dtype), x.square().mean(AXES).sqrt().to(dtype)


class TestChannelStatistics(Contract):
    exercise_id = "channel_statistics"

    def test_two_tensors_may_come_as_a_list(self):
        assert evaluate("channel_statistics", as_a_list).correct

    @pytest.mark.parametrize(
        ("name", "claims", "answer"),
        [
            ("divided_by_one_less", ("std",), torchs_std),
            ("std_mean_returned", ("mean", "std", "large_offset", "bytes", "constant"), torchs_std_mean),
            ("eps_added", ("constant",), with_eps),
            ("divided_by_255", ("mean", "std", "large_offset", "bytes"), over_255),
            ("in_place", ("kinds",), centered_in_place),
        ],
    )
    def test_public_mistakes_have_names(self, name, claims, answer):
        (finding,) = evaluate("channel_statistics", answer).findings
        assert (finding.name, finding.claims) == (name, claims)

    def test_a_spread_around_one_mean_of_all_channels_costs_the_same_in_every_exam(self):
        def channel_statistics(images):
            x = images.double()
            std = (x - x.mean()).square().mean(AXES).sqrt()
            return tuple(t.to(floats(images).dtype) for t in (x.mean(AXES), std))

        for seed in range(6):
            (finding,) = evaluate("channel_statistics", channel_statistics, seed=seed).findings
            assert (finding.name, finding.claims) == ("spread_around_one_mean", ("std", "constant"))

    def test_eps_is_not_told_where_nothing_was_added(self):
        def channel_statistics(images):
            x = images.double()
            n = x.numel() / x.shape[1]
            std = ((x - x.mean()).square().sum(AXES) / (n - 1)).sqrt()
            return tuple(t.to(floats(images).dtype) for t in (x.mean(AXES), std))

        assert not evaluate("channel_statistics", channel_statistics).findings
