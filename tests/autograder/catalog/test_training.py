"""What is seen of a training beside its score."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Attempt, Conditions
from autograder.catalog.training import MEMORY, remembered, trained_network
from autograder.exercise import Case
from autograder.values import Generator, Named
from coursekit.data.scenes import Scenes
from coursekit.training import drawn_from


def training(weights=drawn_from, order="theirs", step=True):
    """A training of three steps that takes its chance from the generator, or from elsewhere."""

    def train(dataset, generator):
        images = torch.stack([item["image"] for item in (dataset[i] for i in range(len(dataset)))]) / 255
        with weights(generator):
            net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(3):
            place = {
                "theirs": lambda: int(torch.randint(len(images), (), generator=generator)),
                "torch": lambda: int(torch.randint(len(images), ())),
                "numpy": lambda: np.random.randint(len(images)),
                "python": lambda: random.randrange(len(images)),
            }[order]()
            loss = F.cross_entropy(net(images[place : place + 1]), torch.tensor([place % 2]))
            optimizer.zero_grad()
            loss.backward()
            if step:
                optimizer.step()
        return net

    return train


def seeded(generator):
    """Legal as well: everything global follows the generator."""
    seed = int(torch.randint(2**31, (), generator=generator))
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    return torch.enable_grad()


def by_chance(train):
    case = Case((Named("scenes", {"count": 12, "size": 32, "seed": 5}), Generator(3)))
    seen = Attempt.local(train, "train").ask(trained_network, case, Conditions(watch="samples"))
    return seen.value["by chance"]


@pytest.mark.parametrize("order", ["torch", "numpy", "python"])
def test_what_a_training_draws_from_elsewhere_is_seen(order):
    assert by_chance(training(order=order)) == "gradients"


def test_first_weights_from_elsewhere_are_seen():
    assert by_chance(training(lambda generator: torch.enable_grad())) == "weights"


@pytest.mark.parametrize("order", ["theirs", "torch", "numpy", "python"])
def test_global_numbers_that_follow_the_generator_are_no_chance(order):
    assert by_chance(training(seeded, order)) == ""


def test_what_follows_the_generator_is_no_chance_whatever_was_drawn_in_vain():
    def train(dataset, generator):
        nn.Linear(2, 2)
        return training()(dataset, generator)

    assert by_chance(training()) == ""
    assert by_chance(train) == ""


def test_without_a_step_nothing_is_claimed():
    assert by_chance(training(order="torch", step=False)) == ""


@pytest.mark.parametrize(("order", "times"), [("theirs", 1), ("torch", 2)])
def test_only_a_training_that_follows_its_generator_is_remembered(tmp_path, monkeypatch, order, times):
    monkeypatch.setenv(MEMORY, str(tmp_path))
    runs = []

    def train(dataset, generator):
        runs.append(1)
        return training(order=order)(dataset, generator)

    once = remembered(train)
    for _ in range(2):
        once(Scenes(4, 32, seed=5), torch.Generator().manual_seed(3))
    assert len(runs) == times
