"""What the exercises that train share: points in steps, and the gate's memory."""

import os

import torch
from torch import nn

from autograder import gate
from autograder.catalog.training import MEMORY, readings, remembered


def test_points_grow_with_the_score():
    levels = {"low": (0.2, 1.0), "high": (0.6, 2.0)}
    properties = readings("accuracy", levels, lambda seen: "named")

    def points(**seen):
        held = {p.name: p for p in properties if p.judge(None, seen) is None}
        return sum(p.points for p in held.values() if not p.beside or p.beside in held)

    well_made = {"usable": None, "drawn": True}
    scores = (0.0, 0.19, 0.2, 0.59, 0.6, 1.0)
    assert [points(score=s, **well_made) for s in scores] == [0, 0, 2.0, 2.0, 4.0, 4.0]
    assert points(score=0.7, usable=("left", "as it should not be"), drawn=True) == 3.5
    assert points(score=0.7, usable=None, drawn=False) == 3.5
    # Manners alone earn nothing.
    assert points(score=0.1, **well_made) == 0
    assert points(kind="no module", says="no network") == 0


def test_nothing_is_said_of_what_held():
    levels = {"low": (0.2, 1.0), "high": (0.35, 2.0)}
    properties = {p.name: p for p in readings("accuracy", levels, lambda seen: "named")}
    seen = {"score": 0.3499, "usable": None, "drawn": True}
    short = properties["high"].judge(None, seen)
    assert (short.expected, short.got) == ("accuracy of at least 0.35", "accuracy 0.34")
    # A low score says nothing of how the network was left.
    for name in ("usable", "repeatable"):
        assert properties[name].beside == "low"
        assert properties[name].judge(None, {**seen, "score": 0.1}) is None


class _Data:
    def __init__(self, seed):
        self.seed = seed


def test_what_is_remembered_trains_once_for_each_data_set_and_seed(monkeypatch):
    monkeypatch.delenv(MEMORY, raising=False)
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
