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
