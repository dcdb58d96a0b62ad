"""What an exercise takes and returns beyond tensors: described here, built there, the same on both ways."""

import inspect
import socket
import threading
from collections import OrderedDict

import pytest
import torch
from alike import same
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autograder import catalog, values, wire
from autograder.agent import Agent
from autograder.attempt import Attempt
from autograder.exercise import Case, Exercise, Misconception, Mismatch, Outcome, Property
from autograder.oracle import evaluate
from autograder.values import (
    Batches,
    Foreign,
    Generator,
    Named,
    Network,
    Ref,
    assigned,
    maker,
    realize,
    short,
    typed,
)

NETWORKS = {
    "one layer": lambda: nn.Sequential(nn.Conv2d(3, 4, 3)),
    "a layer alone": lambda: nn.Conv2d(3, 4, (3, 2), stride=2, padding=(1, 0), dilation=2, bias=False),
    "a padded one": lambda: nn.Conv2d(3, 3, 3, padding="same", groups=3, padding_mode="reflect"),
    "up again": lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1),
    "nested": lambda: nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.3)),
        nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        nn.Linear(4, 2, bias=False),
        nn.Softmax(1),
    ),
    "normalized": lambda: nn.Sequential(
        nn.BatchNorm2d(3, eps=0.1, momentum=None, affine=False), nn.Conv2d(3, 2, 1), nn.Dropout2d(0.4)
    ),
    "without statistics": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "averaged": lambda: nn.Sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False, divisor_override=5)),
    "named layers": lambda: nn.Sequential().append(nn.Tanh()).append(nn.Identity()).append(nn.Sigmoid()),
    "flat": lambda: nn.Sequential(nn.Flatten(1, 2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(300, 5), nn.BatchNorm1d(5)),
}  # fmt: skip


def filled(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.1)
    return module


def travelled(network: Network) -> Network:
    return wire.load(wire.dump(network))


# -- networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_built_as_it_was_described(name, training, dtype):
    module = filled(NETWORKS[name]()).to(dtype).train(training)
    twin = travelled(Network.describe(module)).build()
    x = torch.randn(2, 3, 10, 10, dtype=dtype)

    assert repr(twin) == repr(module)
    assert [p for p, _ in twin.named_modules()] == [p for p, _ in module.named_modules()]
    assert {p: m.training for p, m in twin.named_modules()} == {
        p: m.training for p, m in module.named_modules()
    }
    for name, tensor in module.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor)
        assert twin.state_dict()[name].dtype == tensor.dtype
    torch.manual_seed(0)
    expected = module(x)
    torch.manual_seed(0)
    got = twin(x)
    assert torch.equal(got, expected)
    assert {n: p.requires_grad for n, p in twin.named_parameters()} == {
        n: p.requires_grad for n, p in module.named_parameters()
    }
    assert torch.equal(next(iter(twin.parameters()), x), next(iter(module.parameters()), x))


def test_every_known_layer_is_among_them():
    used = {type(m).__name__ for make in NETWORKS.values() for m in make().modules()}
    assert used >= set(values.LAYERS) - {"ReLU"}


def test_a_description_holds_all_that_a_layer_is_made_of():
    newer = {"ConvTranspose2d": {"padding_mode"}, "BatchNorm1d": {"bias"}, "BatchNorm2d": {"bias"}}
    for kind, known in values.LAYERS.items():
        taken = set(inspect.signature(getattr(nn, kind).__init__).parameters)
        left_out = taken - set(known) - {"self", "args", "kwargs", "device", "dtype"}
        assert left_out <= newer.get(kind, set()), kind


def test_modes_of_single_layers_are_kept():
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.Dropout(), nn.BatchNorm2d(1))).train()
    module[1][1].eval()
    twin = travelled(Network.describe(module)).build()
    assert [m.training for m in twin.modules()] == [True, True, True, True, False]


def test_layers_of_different_dtypes_keep_theirs():
    module = nn.Sequential(nn.Conv2d(1, 2, 1).half(), nn.Conv2d(2, 1, 1).double())
    twin = travelled(Network.describe(module)).build()
    assert [p.dtype for p in twin.parameters()] == [torch.half, torch.half, torch.double, torch.double]


def test_a_layer_that_stands_at_two_places_stands_there_twice():
    relu = nn.ReLU()
    module = nn.Sequential(relu, nn.Conv2d(1, 1, 1), relu).train()
    twin = travelled(Network.describe(module)).build()
    assert len(twin) == 3
    assert all(m.training for m in twin.modules())


def test_a_description_shares_nothing_with_its_module_or_with_what_is_built():
    module = filled(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))
    description = Network.describe(module)
    one, other = description.build(), description.build()
    with torch.no_grad():
        for p in [*module.parameters(), *one.parameters()]:
            p.zero_()
    one.train()(torch.randn(2, 1, 2, 2))
    assert other[0].weight.item() != 0
    assert int(other[1].num_batches_tracked) == 0
    assert description.build()[0].weight.item() != 0


class Own(nn.Sequential):
    pass


class Conv2d(nn.Module):
    """Bears the name of a layer in the table, and is none."""


@pytest.mark.parametrize(
    "module", [nn.LSTM(1, 1), nn.Sequential(nn.GELU()), Own(), Conv2d()], ids=lambda m: type(m).__name__
)
def test_unknown_layers_are_not_described(module):
    with pytest.raises(
        ValueError, match=type(module[0] if type(module) is nn.Sequential else module).__name__
    ):
        Network.describe(module)


@pytest.mark.parametrize(
    "layers",
    [["LSTM", {}], ["Module", {}], ["__class__", {}], ["functional", {}], ["Sequential", [["0", ["Bilinear", {}]]]],
     ["Conv2d", {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "device": "meta"}]],
)  # fmt: skip
def test_unknown_layers_are_not_built(layers):
    with pytest.raises(ValueError, match=r"must be one of|takes"):
        Network(layers, {}).build()


# -- the other descriptions ---------------------------------------------------------------------------------


def test_batches_can_be_walked_once():
    walk = realize(Batches((torch.zeros(1), torch.ones(1))), {})
    assert len(list(walk)) == 2
    assert list(walk) == []
    assert not hasattr(walk, "__len__")


@given(st.integers(0, 2**63 - 1))
def test_a_generator_is_fresh_every_time(seed):
    one, other = (realize(Generator(seed), {}) for _ in range(2))
    assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=other))
    assert one.initial_seed() == seed


@maker
def _counted(start: int, step: torch.Tensor):
    return [start + int(step) * n for n in range(3)]


def test_a_layer_that_is_called_twice_is_made_by_name():
    inner, last = filled(nn.Conv2d(2, 2, 2)), filled(nn.Conv2d(2, 1, 1), 1)
    described = Named("twice", {"inner": Network.describe(inner), "last": Network.describe(last)})
    model = realize(travelled(described), {})
    x = torch.rand(1, 2, 4, 4)
    assert [name for name, _ in model.named_modules()] == ["", "inner", "last"]
    assert torch.equal(model(x), last(inner(inner(x))))


def test_a_maker_is_asked_by_name():
    assert realize(travelled(Named("_counted", {"start": 2, "step": torch.tensor(3)})), {}) == [2, 5, 8]
    with pytest.raises(ValueError, match="nobody"):
        realize(Named("nobody"), {})


def test_what_is_inside_structures_is_built_too():
    kept = object()
    given = {
        "a": [Generator(1), (Ref(4, "x"),)],
        "b": Batches((Named("_counted", {"start": 0, "step": torch.tensor(1)}),)),
    }
    made = realize(given, {4: kept})
    assert isinstance(made["a"][0], torch.Generator)
    assert made["a"][1][0] is kept
    assert list(made["b"]) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor(1.25), "1.25"),
        (torch.tensor([1.0, 2.0], dtype=torch.float64), "[1, 2]  shape (2,)"),
        (torch.tensor([1, 2]), "[1, 2]  shape (2,), int64"),
        (torch.zeros(4, 5), "tensor of shape (4, 5), float32"),
        (0.1 + 0.2, "0.3"),
        ((1,), "(1,)"),
        ([0] * 40, "list of 40"),
        ({n: n for n in range(40)}, "dict of 40"),
        ({"a": [1.0]}, "{'a': [1]}"),
        (Generator(3), "torch.Generator().manual_seed(3)"),
        (Batches((torch.zeros(1, 2),)), "an iterator over 1 batches of shapes [(1, 2)]"),
        (Named("cells", {"count": 3}), "cells(count=3)"),
        (Ref(1, "Conv2d"), "a Conv2d"),
        (Foreign("generator"), "a generator"),
        (Network.describe(nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU())), "Sequential(Conv2d(1, 2, kernel_size=(3, 3), stride=(2, 2)), ReLU())"),
        (None, "None"),
        ("x" * 500, "'" + "x" * 116 + "..."),
    ],
    ids=lambda v: str(v)[:20],
)  # fmt: skip
def test_values_are_shown_in_a_line(value, text):
    assert short(value) == text


# -- a trained model that stays and is called ---------------------------------------------------------------


@maker
def _stripes(count: int, seed: int):
    """Images whose class is the direction of their stripes, as (images, labels)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    ramp = torch.arange(8.0).expand(count, 1, 8, 8) + torch.rand(count, 1, 1, 1, generator=generator) * 4
    images = (ramp * 2).sin()
    images = torch.where(labels.view(-1, 1, 1, 1) == 0, images, images.transpose(2, 3))
    return images + 0.1 * torch.randn(images.shape, generator=generator), labels


def _trained(dataset, generator, steps=30):
    images, labels = dataset
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()


def train_stripes(dataset, generator):
    return _trained(dataset, generator)


def _untrained(dataset, generator):
    return _trained(dataset, generator, steps=0)


def _constant(dataset, generator):
    class Always(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    return Always()


def _no_network(dataset, generator):
    return dataset[1]


def _returns_text(dataset, generator):
    return lambda images: "stripes"


def _accuracy(subject, case):
    net = subject(*case.args)
    images, labels = values.MAKERS["_stripes"](**case.extra["test"].kwargs)
    scores = net(images) if callable(net) else net
    if not isinstance(scores, torch.Tensor) or scores.shape != (len(labels), 2):
        return scores
    return float((scores.argmax(1) == labels).double().mean())


def _good_enough(case, expected, got):
    if isinstance(got, float) and got >= 0.9:
        return None
    return Mismatch(
        Outcome.WRONG_VALUES, f"accuracy {got if isinstance(got, float) else 'unknown'}", code="accuracy"
    )


def _drawn(d):
    train = Named("_stripes", {"count": 40, "seed": d.seed()})
    return Case((train, d.generator()), {}, {"test": Named("_stripes", {"count": 30, "seed": d.seed()})})


STRIPES = Exercise(
    id="train_stripes",
    topic="fcn",
    title="",
    reference=train_stripes,
    properties=(Property("accuracy", "most stripes are told apart", 3.0, _drawn, _accuracy, judge=_good_enough, examples=2),),
    misconceptions=(Misconception("untrained", "You did not train.", "Do.", ("accuracy",), _constant),),
    right=(),
    hints=("", "", ""),
    minutes=1,
    difficulty=1,
)  # fmt: skip


@pytest.fixture
def stripes(monkeypatch):
    monkeypatch.setattr(catalog, "find", lambda exercise_id: STRIPES)


def across(answer, name="train_stripes"):
    """Judge through a socket, the agent in a thread."""
    near, far = socket.socketpair()
    agent = threading.Thread(target=Agent({name: answer}).serve, args=(wire.Channel(far),))
    agent.start()
    try:
        return evaluate(name, Attempt.remote(near, name), seed=4)
    finally:
        near.close()
        agent.join()
        far.close()


@pytest.mark.parametrize(
    ("answer", "points"),
    [(train_stripes, 3), (_untrained, 0), (_constant, 0), (_no_network, 0), (_returns_text, 0)],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_a_trained_network_is_judged_by_what_it_can_do(stripes, answer, points):
    here = evaluate("train_stripes", lambda *args: answer(*args), seed=4)
    there = across(lambda *args: answer(*args))
    assert here.points == there.points == points
    assert here.outcomes == there.outcomes
    assert here.diagnosis == there.diagnosis
    assert here.results == there.results


def test_a_network_that_comes_back_stays_and_changes_where_it_is():
    agent = Attempt.local(lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), "make")
    net = agent.subject()()
    before = net.inspect()
    net(torch.randn(3, 1, 2, 2))
    after = net.inspect()
    assert int(before["buffers"]["1.num_batches_tracked"]) == 0
    assert int(after["buffers"]["1.num_batches_tracked"]) == 1
    net.do("eval")
    assert not any(net.inspect()["training"].values())
    assert net.inspect()["config"][0] == "Sequential"
    assert net.inspect()["kinds"] == {"": "Sequential", "0": "Conv2d", "1": "BatchNorm2d"}


# -- code that makes a value again --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([[1.25, -3.5], [0.0, 1e-9]], dtype=torch.float64),
        torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(1)),
        torch.randn(3, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(2)),
        torch.tensor([0.1, 1 / 3, 1e20]),
        torch.tensor([1, -2, 300]),
        torch.tensor([True, False]),
        torch.tensor(3, dtype=torch.uint8),
        torch.tensor([float("nan"), float("inf"), -float("inf")]),
        torch.zeros(0, 3),
        [1, 2.5, (torch.ones(2),)],
        {"a": torch.ones(1), "b": None},
        {3: "x", 4: True},
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_is_typed_makes_the_value(value):
    text = typed(value)
    made = eval(text, {"torch": torch})
    assert wire.dump(made) == wire.dump(value)
    assert max(map(len, text.split("\n"))) < 140


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(1, 2, (2, 3), stride=(1, 2), bias=False), nn.ReLU(inplace=True)).double(),
        nn.Sequential(
            OrderedDict(
                features=nn.Sequential(
                    nn.Conv2d(2, 4, 3, groups=2, padding=1), nn.MaxPool2d(2, 3, ceil_mode=True)
                ),
                flat=nn.Flatten(),
                head=nn.Linear(4, 2).eval(),
            )
        ),
        nn.Sequential(nn.BatchNorm2d(3, eps=0.5, momentum=None), nn.Dropout(0.25), nn.AvgPool2d(2)).eval(),
        nn.ConvTranspose2d(2, 3, 2, stride=2, output_padding=1).double().eval(),
        nn.BatchNorm2d(2, affine=False),
    ],
    ids=lambda network: type(network[0] if isinstance(network, nn.Sequential) else network).__name__,
)
def test_what_is_assigned_makes_the_network(network):
    described = Network.describe(network)
    names = {"torch": torch, "nn": nn, "OrderedDict": OrderedDict}
    exec(assigned("net", described), names)
    assert same(Network.describe(names["net"]), described)


def test_what_no_expression_makes_is_refused():
    for value in (Ref(1, "x"), Foreign("x"), Named("twice"), [Named("twice")], nn.ReLU()):
        with pytest.raises(ValueError, match="no expression makes a"):
            assigned("x", value)


def test_a_sum_s_last_bit_is_not_shown():
    assert typed([4 - 0.53, 1 / 3, 1e-12, 5.0]) == f"[3.47, {1 / 3!r}, 1e-12, 5.0]"


def test_many_short_rows_share_lines():
    many = torch.arange(120.0).reshape(30, 2, 2)
    text = typed(many)
    assert text.count("\n") < 12
    assert torch.equal(eval(text, {"torch": torch}), many)


def test_a_long_row_is_cut_between_two_numbers():
    row = torch.full((1, 60), -1.25, dtype=torch.float64)
    assert all(line.count("-1.25") * 7 <= len(line) + 30 for line in typed(row).split("\n"))
    assert torch.equal(eval(typed(row), {"torch": torch}), row)
