"""What is said of a slip that is small: the slip, at the price of the claim that asks for it."""

import inspect
from pathlib import Path

import pytest

from autograder import catalog
from autograder.catalog.training import readings
from autograder.exercise import Case, Outcome
from autograder.oracle import evaluate


@pytest.mark.parametrize("score", [0.3499, 0.345, 0.34])
def test_a_score_that_falls_short_is_not_called_as_large_as_what_is_asked_for(score):
    lowest = readings("mean IoU", {"low": (0.35, 1.0), "high": (0.5, 1.0)}, lambda seen: "")[0]
    found = lowest.judge(Case(), {"score": score})
    assert (found.expected, found.got) == ("mean IoU of at least 0.35", "mean IoU 0.34")
    assert "0.34" in found.message


def test_a_score_that_reaches_what_is_asked_for_is_enough():
    lowest = readings("mean IoU", {"low": (0.35, 1.0), "high": (0.5, 1.0)}, lambda seen: "")[0]
    assert lowest.judge(Case(), {"score": 0.35}) is None


def test_a_low_score_says_nothing_of_how_the_network_was_left():
    *_, usable, repeatable = readings("F1", {"low": (0.35, 1.0), "high": (0.5, 1.0)}, lambda seen: "")
    seen = {"score": 0.1, "usable": None, "drawn": True}
    assert usable.judge(Case(), seen) is repeatable.judge(Case(), seen) is None
    assert usable.beside == repeatable.beside == "low"


@pytest.mark.parametrize(
    ("exercise_id", "keyword", "claims"),
    [
        ("batchnorm_forward", "eps", {"eps"}),
        ("group_norm", "eps", {"eps"}),
        ("conv_transpose2d", "output_padding", {"output_padding"}),
    ],
)
def test_a_keyword_of_another_name_costs_the_claim_that_gives_it(exercise_id, keyword, claims):
    exercise = catalog.find(exercise_id)
    right, names = exercise.right[0].answer, [*inspect.signature(exercise.reference).parameters]

    def answer(*args, **kwargs):
        if keyword in kwargs:
            raise TypeError(f"{exercise_id}() got an unexpected keyword argument {keyword!r}")
        return right(*args, **kwargs)

    assert keyword in names
    verdict = evaluate(exercise_id, answer)
    held = (Outcome.CORRECT, Outcome.WAITING)
    assert {name for name, outcome in verdict.outcomes.items() if outcome not in held} == claims
    (told,) = (r.message for r in verdict.results if r.name in claims)
    assert f"unexpected keyword argument {keyword!r}" in told


def test_the_stub_says_which_cubic_kernel_is_meant():
    lecture = (Path(__file__).parents[3] / "solutions" / "07_unet.py").read_text()
    docstring = lecture.split("def elastic_deformation(")[1].split('"""')[1]
    assert "bicubic between them, with the kernel of F.interpolate" in docstring
