"""Mistakes that are named, and errors that are alike."""

import pytest
import torch
from entries import small

from autograder import catalog
from autograder.attempt import Raised
from autograder.exercise import Case, Misconception, Outcome, Property
from autograder.oracle import evaluate
from autograder.oracle.diagnose import alike


def test_a_result_of_the_default_dtype_is_named_where_nothing_else_is():
    def answer(x, factor):
        out = torch.zeros(*x.shape[:2], x.shape[2] * factor, x.shape[3] * factor)
        for row in range(factor):
            for column in range(factor):
                out[..., row::factor, column::factor] = x
        return out

    exercise = catalog.find("nearest_upsample")
    assert "default_dtype" not in [m.name for m in exercise.misconceptions]
    verdict = evaluate(exercise.id, answer, seed=1)
    assert verdict.diagnosis == "default_dtype"
    assert "dtype=x.dtype" in verdict.findings[0].repair
    # Where the values or the shape are wrong too, this is still true.
    assert evaluate(exercise.id, lambda x, factor: -answer(x, factor), seed=1).diagnosis == "default_dtype"
    assert (
        evaluate(exercise.id, lambda x, factor: answer(x, factor)[..., 1:], seed=1).diagnosis
        == "default_dtype"
    )


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (lambda x: x.reshape(7), True),
        (lambda x: x.reshape(9), True),
        (lambda x: x @ x, False),
        (lambda x: {"rows": x}["row"], False),
    ],
    ids=["the same", "other numbers", "another of torch's", "another class"],
)
def test_an_error_of_torch_is_diagnosed_by_its_words(known, answer, named):
    def reference(x):
        return x.sum()

    seen = Property("total", "the sum", 1.0, lambda d: Case((d.tensor(2, 3),)))
    flat = Misconception("flat", "You took seven values.", "Take all.", ("total",), lambda x: x.reshape(7))
    exercise = known(small(reference, seen, misconceptions=(flat,)))
    verdict = evaluate(exercise.id, answer, seed=1)
    assert verdict.outcome is Outcome.RAISED
    assert verdict.diagnosis == ("flat" if named else None)


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        ("RuntimeError", "size 3 must match size 12", "size 5 must match size 4", True),
        ("RuntimeError", "input of shape [1, 2, -3]", "input of shape [4, 5]", True),
        ("RuntimeError", "size 3 must match size 12", "padding is larger than the input", False),
        ("ValueError", "too small", "larger than skip", False),
        ("TypeError", "unsupported operand: 'NoneType' and 'Tensor'", "'NoneType' has no len()", True),
    ],
)
def test_errors_are_alike_in_their_words(kind, one, other, same):
    assert alike(Raised((kind,), one), Raised((kind,), other)) is same


def test_errors_raised_on_purpose_are_alike_in_their_kind():
    small = Raised(("ValueError",), "too small", "raise ValueError('too small')")
    assert alike(small, Raised(("ValueError",), "larger", "raise ValueError('larger')"))
    assert alike(small, Raised(("ValueError",), "by accident"))
    assert not alike(small, Raised(("TypeError",), "too small", "raise TypeError('too small')"))
