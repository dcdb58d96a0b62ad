"""An exam: one seed, the same inputs for all who sit it, and the reference asked once."""

import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
from entries import small

from autograder import catalog
from autograder.exercise import Case, Misconception, Outcome, Property
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam


def doubled():
    """An exercise that notes what its reference was asked."""
    asked = []

    def reference(n):
        asked.append(n)
        return 2 * n

    wrong = Misconception("squared", "You squared.", "Double.", ("same",), lambda n: n * n)
    same = Property("same", "", 1, lambda d: Case((d.integer(3, 99),)), examples=6)
    return small(reference, same, misconceptions=(wrong,)), asked


def test_the_reference_is_asked_once_for_all_who_sit_an_exam(known):
    exercise, asked = doubled()
    exam = Exam(known(exercise), 5)
    first = evaluate("small", lambda n: n + n, exam=exam)
    assert first.correct
    assert asked == [case.args[0] for case in exam.cases(exercise.properties[0])]
    again = evaluate("small", lambda n: sum([n, n]), exam=exam)
    assert again.correct
    assert len(asked) == 6


@pytest.mark.parametrize("answer", [lambda n: n * n, lambda n: n + n, lambda n: 7])
def test_an_exam_gives_the_verdict_of_its_seed(known, answer):
    exercise, _ = doubled()
    exam = Exam(known(exercise), 11)
    evaluate("small", exercise.misconceptions[0].answer, exam=exam)
    one, other = evaluate("small", answer, exam=exam), evaluate("small", answer, seed=11)
    assert replace(one, seconds=0, learner_seconds=0) == replace(other, seconds=0, learner_seconds=0)


def test_the_simplest_case_comes_first_and_a_fresh_exam_has_other_ones():
    exercise, _ = doubled()
    drawn = [[case.args[0] for case in Exam(exercise).cases(exercise.properties[0])] for _ in range(5)]
    assert {cases[0] for cases in drawn} == {3}
    assert len({tuple(cases) for cases in drawn}) > 1


@pytest.mark.parametrize("loaded", ["catalog.find('batchnorm_forward')", "catalog.every()"])
def test_a_seed_draws_the_same_inputs_in_every_process(loaded):
    """Whatever else is loaded there."""
    program = f"""
        from autograder import catalog
        from autograder.oracle.exam import Exam
        {loaded}
        exercise = catalog.find("batchnorm_forward")
        for seed in range(40):
            print([c.args[0].sum().item() for c in Exam(exercise, seed).cases(exercise.property("rows"))])
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    exercise = catalog.find("batchnorm_forward")
    here = [
        [c.args[0].sum().item() for c in Exam(exercise, seed).cases(exercise.property("rows"))]
        for seed in range(40)
    ]
    assert found.stdout.splitlines() == [str(sums) for sums in here]


def test_what_a_layer_returned_is_asked_for_anew():
    """A handle is good for one question only."""
    exercise = catalog.find("BatchNorm")
    made = Property(
        "made", "", 1, lambda d: Case((3,)), lambda subject, case: subject(*case.args), examples=1
    )
    exam = Exam(replace(exercise, properties=(made,)), 1)
    (case,) = exam.cases(made)
    assert exam.expected(made, case) is not exam.expected(made, case)


def test_a_reference_that_fails_by_accident_makes_no_verdict(known):
    exercise, _ = doubled()
    known(replace(exercise, reference=lambda n: n / 0))
    verdict = evaluate("small", lambda n: 2 * n)
    assert verdict.outcome is Outcome.NO_VERDICT
    assert "the reference fails" in verdict.message


def test_another_exercise_s_exam_is_a_value_error():
    exam = Exam(catalog.find("group_norm"), 3)
    with pytest.raises(
        ValueError, match="exam must be one of BatchNorm with the seed 3, got one of group_norm"
    ):
        evaluate("BatchNorm", object, exam=exam)
    with pytest.raises(ValueError, match="with the seed 4, got one of group_norm with 3"):
        evaluate("group_norm", object, exam=exam, seed=4)
