"""The arguments of a case as text: where they are shown as statements, the statements make them."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from autograder import catalog
from autograder.exercise import SCREEN, Case, Training
from autograder.oracle import arguments
from autograder.oracle.exam import Exam
from autograder.values import Generator, Network, realize

# Fields of displacements show on maps of some size alone.
LARGE = {"elastic_deformation"}
DRAWN = [e.id for e in catalog.every() if not isinstance(e, Training)]


def alike(one, other):
    """Equal, but for the last bits that a reader is spared."""
    match one:
        case torch.Tensor():
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            torch.testing.assert_close(one, other, rtol=1e-15, atol=0, equal_nan=True)
        case nn.Module():
            assert repr(one) == repr(other)
            assert [m.training for m in one.modules()] == [m.training for m in other.modules()]
            alike(dict(one.state_dict()), dict(other.state_dict()))
        case torch.Generator():
            assert one.get_state().equal(other.get_state())
        case dict():
            assert one.keys() == other.keys()
            for key in one:
                alike(one[key], other[key])
        case list() | tuple():
            assert type(one) is type(other)
            assert len(one) == len(other)
            for a, b in zip(one, other, strict=True):
                alike(a, b)
        case float():
            assert one == pytest.approx(other, rel=1e-15, nan_ok=True)
        case _ if hasattr(one, "__next__"):
            alike(list(one), list(other))
        case _:
            assert (type(one), one) == (type(other), other)


@pytest.mark.parametrize("exercise_id", DRAWN)
def test_statements_make_the_case(exercise_id):
    exercise = catalog.find(exercise_id)
    exam = Exam(exercise)
    shown = 0
    for prop in exercise.properties:
        case = exam.cases(prop)[0]
        made = {"torch": torch, "nn": nn, "OrderedDict": OrderedDict}
        statements = arguments.statements(exercise, case)
        assert sum(s.count("\n") + 1 for s in statements) <= SCREEN
        if not statements:
            continue
        shown += 1
        exec("\n".join(statements), made)
        for name, value in arguments.named(exercise, case).items():
            alike(realize(value, {}), made[arguments.identifier(name)])
    assert shown or exercise_id in LARGE, "no claim's simplest case fits on a screen"


def test_what_does_not_fit_is_told_in_words():
    exercise = catalog.find("nearest_upsample")
    large = Case((torch.ones(1, 3, 40, 40), 2))
    assert arguments.statements(exercise, large) == []
    assert arguments.lines(exercise, large)[0].startswith("x = tensor of shape (1, 3, 40, 40)")
    small = Case((torch.ones(1, 1, 2, 2), 2))
    assert arguments.lines(exercise, small)[0] == "x = torch.tensor([[[[1.0, 1.0], [1.0, 1.0]]]])"


def test_what_stands_beside_a_case_is_named():
    exercise = catalog.find("nearest_upsample")
    case = Case((torch.ones(1), 2), {}, {"net": Network.describe(nn.ReLU()), "g": Generator(3)})
    assert [line.partition(" =")[0] for line in arguments.lines(exercise, case)] == [
        "x",
        "factor",
        "net",
        "g",
    ]
