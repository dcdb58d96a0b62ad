"""What is told apart, and in which words."""

import numpy as np
import pytest
import torch

from autograder.attempt import Odd, Raised, TimedOut
from autograder.exercise import Outcome
from autograder.oracle.compare import compare
from autograder.values import Foreign

nan, inf = float("nan"), float("inf")


t = torch.tensor
X = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        (X, X.clone()),
        (X, X + 1e-9),
        (X.float(), X.float() + 1e-5),
        (X.half(), X.half() + 5e-3),
        (X, X.T.contiguous().T),
        (t([nan, 1.0]), t([nan, 1.0])),
        (t([inf, -inf]), t([inf, -inf])),
        (t(3), t(3)),
        (torch.zeros(0, 2), torch.zeros(0, 2)),
        (t([1 + 2j]), t([1 + 2j])),
        (np.arange(3.0), np.arange(3.0)),
        (1.0, 1.0 + 1e-9),
        (1.0, 1),
        (nan, nan),
        (inf, inf),
        (3, 3),
        (None, None),
        ("a", "a"),
        (True, True),
        ((1, 2), [1, 2]),
        ({"a": X, "b": 1}, {"b": 1, "a": X}),
        ({1, 2}, {2, 1}),
        (Raised(("ValueError", "Exception")), Raised(("ValueError", "Exception"), "another message")),
        (Raised(("ValueError",)), Raised(("UnicodeError", "ValueError", "Exception"))),
    ],
)
def test_what_agrees(expected, got):
    assert compare(expected, got) is None


KIND, VALUES = Outcome.WRONG_KIND, Outcome.WRONG_VALUES


@pytest.mark.parametrize(
    ("expected", "got", "outcome", "says"),
    [
        (X, X[:1], KIND, "expected shape (2, 3), got (1, 3)"),
        (X, X.T, KIND, "expected shape (2, 3), got (3, 2)"),
        (t(1.0), t([1.0]), KIND, "expected shape (), got (1,)"),
        (X, X.float(), KIND, "expected dtype float64, got float32"),
        (X.long(), X, KIND, "expected dtype int64, got float64"),
        (X, X.numpy(), KIND, "expected a torch tensor, got a ndarray"),
        (t(1.0), 1.0, KIND, "expected a torch tensor, got a float"),
        (X, None, KIND, "expected a torch tensor, got None"),
        (X, Foreign("generator"), KIND, "expected a torch tensor, got a generator"),
        (X, [1, 2], KIND, "expected a torch tensor, got a list"),
        (np.zeros(2), torch.zeros(2), KIND, "expected a numpy array, got a tensor"),
        (1.0, t(1.0), KIND, "expected a float, got a tensor"),
        (1.0, True, KIND, "expected a float, got a bool"),
        (1, 1.0, KIND, "expected an int, got a float"),
        (True, 1, KIND, "expected True, got an int"),
        (None, 0, KIND, "expected None, got an int"),
        ("a", "b", VALUES, "expected 'a', got 'b'"),
        ({"a": 1, "b": 2}, {"a": 1}, KIND, "missing ['b']"),
        ({"a": 1}, {"a": 1, "c": 2}, KIND, "not expected ['c']"),
        ({"a": 1}, {1: 1}, KIND, "missing ['a'], not expected [1]"),
        ({"a": 1}, [("a", 1)], KIND, "expected a dict, got a list"),
        ({1, 2}, {1, 3}, VALUES, "the sets differ"),
        ({1, 2}, [1, 2], KIND, "expected a set, got a list"),
        ((1, 2), (1, 2, 3), KIND, "expected 2 entries, got 3"),
        ((1, 2), 1, KIND, "expected a tuple, got an int"),
        (X, X + 1e-3, VALUES, "6 of 6 values differ"),
        (t([nan, 1.0]), t([1.0, 1.0]), VALUES, "1 of 2 values differ, most at [0]: expected nan, got 1"),
        (t([1.0, 1.0]), t([1.0, nan]), VALUES, "1 of 2 values differ, most at [1]: expected 1, got nan"),
        (t([1.0]), t([inf]), VALUES, "expected 1, got inf"),
        (t([inf]), t([1.0]), VALUES, "expected inf, got 1"),
        (t([inf]), t([-inf]), VALUES, "expected inf, got -inf"),
        (t([inf]), t([nan]), VALUES, "expected inf, got nan"),
        (t([True, False]), t([True, True]), VALUES, "1 of 2 values differ"),
        (t([2**60]), t([2**60 + 1]), VALUES, "the value differs"),
        (t([1 + 2j]), t([1 - 2j]), VALUES, "the value differs"),
        (nan, 1.0, VALUES, "expected nan, got 1"),
        (1.0, nan, VALUES, "expected 1, got nan"),
        (inf, 1.0, VALUES, "expected inf, got 1"),
        (1.0, 1.001, VALUES, "expected 1, got 1.001"),
        (2**200, 2**200 + 1, VALUES, "expected"),
        (1.5, 2**255, VALUES, "expected 1.5"),
        (X, Raised(("ValueError",), "no"), Outcome.RAISED, "ValueError: no"),
        (X, Raised(("NotImplementedError", "RuntimeError")), Outcome.NOT_ATTEMPTED, "NotImplementedError"),
        (
            X,
            Raised(("NotImplementedError",), "later", "raise NotImplementedError('later')"),
            Outcome.NOT_ATTEMPTED,
            "later",
        ),
        (
            X,
            Raised(("NotImplementedError",), "mean(): needs floats", "return x.mean(0)"),
            Outcome.RAISED,
            "needs floats",
        ),
        (X, TimedOut("late"), Outcome.TIMED_OUT, "late"),
        (X, Odd("odd"), KIND, "odd"),
        (Raised(("ValueError",)), X, VALUES, "expected a ValueError, but the call went through"),
        (
            Raised(("ValueError",)),
            Raised(("TypeError",)),
            Outcome.RAISED_OTHER,
            "expected a ValueError, got TypeError",
        ),
        (Raised(("ValueError",)), Raised(("NotImplementedError",)), Outcome.NOT_ATTEMPTED, "NotImpl"),
        (Raised(("ValueError",)), Odd("odd"), KIND, "odd"),
    ],
)  # fmt: skip
def test_each_difference_is_named(expected, got, outcome, says):
    found = compare(expected, got)
    assert found is not None
    assert found.outcome is outcome
    assert says in found.message


def test_the_place_of_a_difference_is_told():
    found = compare({"a": [X, {"b": X}]}, {"a": [X, {"b": X + 1}]})
    assert found.where == "a[1].b"


def test_kinds_come_before_values():
    assert compare({"a": X, "b": X}, {"a": X + 1, "b": X.float()}).outcome is KIND


def test_large_tensors_are_shown_by_single_numbers():
    expected = torch.zeros(100, 100)
    got = expected.clone()
    got[3, 7] = 2.0
    found = compare(expected, got)
    assert "1 of 10000 values differ, most at [3, 7]: expected 0, got 2" in found.message
    assert len(found.message + found.expected + found.got) < 200


def test_small_tensors_are_shown_whole():
    found = compare(t([1.0, 2.0]), t([1.0, 3.0]))
    assert found.expected.startswith("[1, 2]")
    assert found.got.startswith("[1, 3]")


@pytest.mark.parametrize("wrap", [float, t], ids=["floats", "tensors"])
def test_numbers_that_differ_late_are_shown_so_far(wrap):
    one, other = 0.010493, 0.010493 * (1 + 3e-7)
    found = compare(wrap(one), wrap(other), (0.0, 0.0))
    assert found.expected != found.got
    for shown, number in ((found.expected, wrap(one)), (found.got, wrap(other))):
        assert shown in found.message
        assert float(shown) == pytest.approx(float(number), rel=1e-7)
    assert compare(1.0, 2.0).message == "expected 1, got 2"


def test_a_tolerance_of_the_property_counts():
    assert compare(X, X + 1e-3, (0.0, 1e-2)) is None
    assert compare(X, X + 1e-3, (0.0, 1e-5)) is not None


def test_an_observation_of_an_unknown_kind_is_a_slip_of_the_catalogue():
    with pytest.raises(TypeError):
        compare(object(), 1)
