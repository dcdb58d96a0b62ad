import pytest
import torch
from contract import Contract
from torch import nn

from autograder.exercise import Outcome
from autograder.oracle import evaluate


class Standardizer(nn.Module):
    def __init__(self, axes=(0, 2, 3), correction=0):
        super().__init__()
        self.axes, self.correction = axes, correction

    def fit(self, images):
        x = images if images.is_floating_point() else images.float()
        self.mean = x.mean(self.axes, keepdim=True)
        self.std = 1 if self.axes == 0 else x.std(self.axes, correction=self.correction, keepdim=True)
        return self

    def forward(self, images):
        return (images - self.mean) / self.std


def split(make=Standardizer, order=torch.randperm, third=lambda layer: layer):
    def answer(images, val_fraction, generator):
        numbers = order(len(images), generator=generator)
        count = round(len(images) * val_fraction)
        layer = make().fit(images[numbers[count:]])
        return layer(images[numbers[count:]]), layer(images[numbers[:count]]), third(layer)

    return answer


def reseeded(n, generator):
    return torch.randperm(n, generator=torch.Generator().manual_seed(generator.initial_seed()))


def own_seed(n, generator):
    return torch.randperm(n, generator=generator.manual_seed(0))


class TestSplitThenStandardize(Contract):
    exercise_id = "split_then_standardize"

    def test_what_the_others_are_changes_of_is_right(self):
        assert evaluate("split_then_standardize", split()).correct

    @pytest.mark.parametrize(
        ("name", "claim", "answer"),
        [
            ("numbers_returned", "kinds", split(third=lambda layer: (layer.mean, layer.std))),
            ("mean_image_subtracted", "statistics", split(lambda: Standardizer(0))),
            ("divided_by_one_less", "statistics", split(lambda: Standardizer(correction=1))),
            ("seed_taken_from_the_generator", "shuffled", split(order=reseeded)),
            ("generator_ignored", "shuffled", split(order=own_seed)),
        ],
    )
    def test_a_mistake_is_named_and_costs_its_own_claim(self, name, claim, answer):
        verdict = evaluate("split_then_standardize", answer)
        assert [n for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT] == [claim]
        assert [finding.name for finding in verdict.findings] == [name]
