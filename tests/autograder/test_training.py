"""The exercises that train: one look at one network, points in steps, symptoms, and the gate's memory."""

import os

import pytest
import torch
from torch import nn

from autograder import catalog, gate
from autograder.catalog.training import MEMORY, claims, remembered
from autograder.catalog.unet.train_unet import symptom
from autograder.exercise import Outcome, Training
from autograder.oracle import evaluate
from coursekit.data.scenes import CLASSES

TRAINED = [e for e in catalog.every() if isinstance(e, Training)]


@pytest.mark.parametrize("exercise", TRAINED, ids=lambda e: e.id)
def test_an_untouched_stub_is_not_attempted(exercise):
    def stub(dataset, generator):
        raise NotImplementedError

    verdict = evaluate(exercise.id, stub)
    assert verdict.points == 0
    assert verdict.outcome is Outcome.NOT_ATTEMPTED


class _Constant(nn.Module):
    """The class that most pixels have, whatever is shown."""

    def __init__(self, classes, margin):
        super().__init__()
        self.scores = nn.Parameter(torch.eye(classes)[0])
        self.margin = margin

    def forward(self, x):
        height, width = (side - self.margin for side in x.shape[2:])
        return self.scores[None, :, None, None].expand(len(x), -1, height, width)


@pytest.mark.parametrize(("exercise", "classes", "margin"), [("train_fcn", 6, 0), ("train_unet", 2, 40)])
def test_a_constant_predictor_gets_nothing_and_is_named(exercise, classes, margin):
    def constant(dataset, generator):
        torch.rand(1, generator=generator)
        return _Constant(classes, margin).eval()

    verdict = evaluate(exercise, constant)
    assert verdict.points == 0
    assert verdict.diagnosis == "never_updated"
    assert {r.outcome for r in verdict.results} == {Outcome.WRONG_VALUES}


@pytest.mark.parametrize("answer", [None, 3, torch.zeros(2)], ids=["None", "a number", "a tensor"])
def test_what_is_no_network_gets_nothing(answer):
    verdict = evaluate("train_fcn", lambda dataset, generator: answer)
    assert verdict.points == 0
    assert "must return a network" in verdict.results[0].message


def test_an_answer_that_calls_the_reference_is_a_shortcut():
    from coursekit.fcn import train_fcn

    class Small:
        """Few images, so that the shortcut is a short one."""

        classes = CLASSES

        def __init__(self, dataset):
            self.dataset = dataset
            self.name = dataset.name

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {name: value[..., :32, :32] for name, value in self.dataset[index].items()}

    def shortcut(dataset, generator):
        return train_fcn(Small(dataset), generator)

    verdict = evaluate("train_fcn", shortcut)
    assert verdict.outcome is Outcome.SHORTCUT
    assert "coursekit.fcn.train_fcn" in verdict.message


# Which images a seed draws is as much chance as which weights: both are new in each run.
SEEDS = range(20)
BUDGET = 30  # seconds, on two quiet cores


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("exercise", TRAINED, ids=lambda e: e.id)
def test_the_reference_gets_every_point_in_its_time(exercise, seed):
    verdict = evaluate(exercise.id, exercise.reference, seed=seed, allow_reference=True)
    print(f"\n{exercise.id}, seed {seed}: {verdict.learner_seconds:.0f} s of {BUDGET}")
    assert verdict.correct, verdict.message
    # As for the notebooks: a test machine may be slower than the two cores that are meant.
    assert verdict.learner_seconds < 2 * BUDGET


def test_points_grow_with_the_score():
    levels = {"low": (0.2, 1.0), "high": (0.6, 2.0)}
    properties = claims("accuracy", levels, lambda seen: "named")

    def points(**seen):
        return sum(p.points for p in properties if p.judge(None, seen) is None)

    well_made = {"usable": None, "drawn": True}
    scores = (0.0, 0.19, 0.2, 0.59, 0.6, 1.0)
    assert [points(score=s, **well_made) for s in scores] == [0, 0, 2.0, 2.0, 4.0, 4.0]
    assert points(score=0.7, usable=("left", "as it should not be"), drawn=True) == 3.5
    assert points(score=0.7, usable=None, drawn=False) == 3.5
    # Manners alone earn nothing.
    assert points(score=0.1, **well_made) == 0
    assert points(kind="no module", says="no network") == 0


def test_symptoms_of_a_unet_that_merges_cells():
    seen = {
        "score": 0.4,
        "on bytes": 0.0,
        "swapped": 0.0,
        "foreground": 0.5,
        "pieces": 0.6,
        "right pixels": 0.9,
    }
    assert symptom(seen) == "cells_merged"
    assert symptom({**seen, "right pixels": 0.6, "score": 0.1}) == "too_short"
    assert symptom({**seen, "pieces": 1.1}) == ""


class _Data:
    def __init__(self, seed):
        self.seed = seed


def test_what_is_remembered_trains_once_for_each_data_set_and_seed():
    calls = []

    @remembered
    def train(dataset, generator):
        calls.append((dataset.seed, generator.initial_seed()))
        net = nn.Linear(2, 2)
        with torch.no_grad():
            net.weight.copy_(torch.randn(2, 2, generator=generator))
        return net

    def trained(data, seed):
        generator = torch.Generator().manual_seed(seed)
        return train(_Data(data), generator).weight, generator.get_state()

    with gate._memory():
        first, again = trained(1, 1), trained(1, 1)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(trained(1, 2)[0], first[0])
        trained(2, 1)
        assert calls == [(1, 1), (1, 2), (2, 1)]
    # Nothing is kept where the gate does not run.
    trained(1, 1)
    assert calls == [(1, 1), (1, 2), (2, 1), (1, 1)]


def test_the_gate_s_memory_is_gone_afterwards(monkeypatch):
    monkeypatch.delenv(MEMORY, raising=False)

    with gate._memory():
        folder = os.environ[MEMORY]
        with gate._memory():
            assert os.environ[MEMORY] == folder
        assert os.path.isdir(folder)
    assert MEMORY not in os.environ
    assert not os.path.exists(folder)
