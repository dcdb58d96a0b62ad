"""What the checks of every exercise promise; each exercise's test file in catalog/ makes it a promise of its own."""

import functools
from dataclasses import replace
from typing import ClassVar

import hostile
import pytest
import torch
from torch import nn

from autograder import gate
from autograder.attempt import Attempt
from autograder.exercise import Outcome, Training
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam
from autograder.values import Network, Ref

LIES = [
    {},
    {"value": Network("x", {})},
    {"value": Network(["Sequential", 3], {"w": torch.ones(1)})},
    {"value": Ref(7, "x" * 500)},
    {"value": {"image": Network(None, {}), "labels": [Ref(1, "a")]}},
    {"value": None, "seen": 5, "devices": 7, "grads": "x", "changed": 3},
    {"value": torch.ones(2, 2), "grads": Network(None, {}), "changed": [1]},
    {"raised": None},
    {"raised": {"kinds": []}},
    {"raised": {"kinds": 3, "message": 1}},
    {"raised": {"kinds": [[1]], "message": {}, "line": 7}},
    {"broken": {"x": 1}},
    {"timed_out": 1},
    {"kind": ["function"], "module": torch.ones(3), "bases": 4},
    {"kind": "class", "bases": [1, None], "source": 3, "fingerprint": []},
]
ODD = ("None", "a lambda", "a namedtuple", "a dict that hides", "a large number", "a module", "a numpy array")


def stub(*args, **kwargs):
    raise NotImplementedError


class Stub(nn.Module):
    def __init__(self, *args, **kwargs):
        raise NotImplementedError

    def forward(self, *args):
        raise NotImplementedError


class Half(nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, *args):
        raise NotImplementedError


class Bare(nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()


class Contract:
    """The promises. All answers sit one exam, drawn afresh in each run (`exercise`, `exam` and `few`: conftest.py)."""

    exercise_id: ClassVar[str]

    def test_every_answer_gets_what_it_deserves_here_and_through_the_wire(
        self, exercise, exam, far_side, setup, pytestconfig
    ):
        # The misconceptions all go through the wire in `autograder gate`, a sample of them here; every training
        # has a turn in the slow half only.
        some = 1 if isinstance(exercise, Training) else 3
        sample = None if pytestconfig.getoption("--slow") else some
        # Here they are what a learner would have typed below the lecture's setup cell.
        row = gate.examine(exercise, far_side, exam, sample, here=lambda wrong: wrong.code.below(setup))
        assert row["problems"] == []
        assert row["same_through_wire"]

    def test_the_same_seed_gives_the_same_verdict(self, exercise, exam, monkeypatch):
        # Searches are ended by their number of calls here, since a busy machine would end them by time.
        monkeypatch.setattr("autograder.oracle.examine.SHRINK_SECONDS", 60.0)
        monkeypatch.setattr("autograder.oracle.diagnose.DIAGNOSIS_SECONDS", 60.0)
        answer = exercise.misconceptions[1].answer
        one = evaluate(exercise.id, answer, exam=exam)
        other = evaluate(exercise.id, answer, seed=exam.seed)
        assert replace(one, seconds=0, learner_seconds=0) == replace(other, seconds=0, learner_seconds=0)
        assert one.points < one.max_points

    @pytest.mark.parametrize("name", ODD)
    def test_no_odd_answer_gets_much_or_breaks_the_check(self, exercise, few, name):
        def odd(*args, **kwargs):
            return hostile.RETURNED[name](torch.ones(2, 2))

        made = type(exercise.id, (), {"__new__": odd})
        verdict = evaluate(exercise.id, made if exercise.is_class else odd, exam=few)
        assert verdict.points < verdict.max_points / 4
        assert exercise.is_class or verdict.outcome in (Outcome.WRONG_KIND, Outcome.RAISED)

    @pytest.mark.parametrize("lie", LIES, ids=lambda lie: str(lie)[:40])
    def test_a_far_side_that_lies_gets_no_points_and_breaks_nothing(self, exercise, few, lie):
        honest = Attempt.local(exercise.reference, exercise.id)._exchange

        def exchange(request, seconds):
            return honest(request, seconds) if request["op"] == "look" and "kind" not in lie else dict(lie)

        attempt = Attempt(exchange, exercise.id, remote=True)
        verdict = evaluate(exercise.id, attempt, exam=few, allow_reference=True)
        assert verdict.points == 0
        assert verdict.outcome is not Outcome.CORRECT

    def test_a_missing_name_is_not_attempted(self, exercise, few):
        verdict = evaluate(exercise.id, {}, exam=few)
        assert verdict.outcome is Outcome.NOT_ATTEMPTED
        assert set(verdict.outcomes.values()) == {Outcome.NOT_ATTEMPTED}
        assert verdict.points == 0
        assert not verdict.flags

    def test_an_untouched_stub_is_not_attempted(self, exercise, few):
        for answer in (Stub, Half, Bare) if exercise.is_class else (stub,):
            verdict = evaluate(exercise.id, answer, exam=few)
            assert set(verdict.outcomes.values()) == {Outcome.NOT_ATTEMPTED}
            assert verdict.outcome is Outcome.NOT_ATTEMPTED
            assert verdict.points == 0
            assert verdict.diagnosis is None

    def test_the_reference_and_what_calls_it_are_shortcuts(self, exercise, few):
        answers = [exercise.reference]
        # A training may call the lecture's other references; what calls its own is tried with its exercise.
        if not exercise.is_class and not isinstance(exercise, Training):

            def calling(*args, **kwargs):
                return exercise.reference(*args, **kwargs)

            answers += [calling, functools.partial(exercise.reference), functools.cache(exercise.reference)]
        for answer in answers:
            verdict = evaluate(exercise.id, answer, exam=few)
            assert verdict.outcome is Outcome.SHORTCUT
            assert verdict.points == 0
            assert "the reference" in verdict.message

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(1000, 1010))
    def test_no_right_answer_is_ever_called_wrong(self, exercise, seed):
        exam = Exam(exercise, seed)
        for variant in exercise.right:
            verdict = evaluate(exercise.id, variant.answer, exam=exam)
            assert verdict.correct, (variant.name, verdict.outcomes, verdict.message)
        assert evaluate(exercise.id, exercise.reference, exam=exam, allow_reference=True).correct


class Constant(nn.Module):
    """The class that most pixels have, whatever is shown."""

    def __init__(self, classes, margin):
        super().__init__()
        self.scores = nn.Parameter(torch.eye(classes)[0])
        self.margin = margin

    def forward(self, x):
        height, width = (side - self.margin for side in x.shape[2:])
        return self.scores[None, :, None, None].expand(len(x), -1, height, width)


class TrainingContract(Contract):
    """The promises of an exercise that trains, beside the common ones."""

    classes: ClassVar[int]
    margin: ClassVar[int]
    """Rows that a legal map has less than its image."""
    """What a network that says one class everywhere is told."""

    def test_a_constant_predictor_gets_nothing_and_is_named(self, exercise):
        def constant(dataset, generator):
            torch.rand(1, generator=generator)
            return Constant(self.classes, self.margin).eval()

        verdict = evaluate(exercise.id, constant)
        assert verdict.points == 0
        assert verdict.diagnosis == "one_class_everywhere"
        assert {r.outcome for r in verdict.results} == {Outcome.WRONG_VALUES, Outcome.WAITING}

    @pytest.mark.parametrize("answer", [None, 3, torch.zeros(2)], ids=["None", "a number", "a tensor"])
    def test_what_is_no_network_gets_nothing(self, exercise, answer):
        verdict = evaluate(exercise.id, lambda dataset, generator: answer)
        assert verdict.points == 0
        assert "must return a network" in verdict.results[0].message

    # Which images a seed draws is as much chance as which weights: both are new in each run.
    @pytest.mark.slow
    @pytest.mark.alone
    @pytest.mark.parametrize("seed", range(20))
    def test_the_reference_gets_every_point_in_its_time(self, exercise, seed):
        budget = 30  # seconds, on two quiet cores
        verdict = evaluate(exercise.id, exercise.reference, seed=seed, allow_reference=True)
        print(f"\n{exercise.id}, seed {seed}: {verdict.learner_seconds:.0f} s of {budget}")
        assert verdict.correct, verdict.message
        # As for the notebooks: a test machine may be slower than the two cores that are meant.
        assert verdict.learner_seconds < 2 * budget
