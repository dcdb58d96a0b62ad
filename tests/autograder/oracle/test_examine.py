"""Inputs that are shown, and answers that change their mind or do not come back."""

import itertools
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from entries import forward, right, small

from autograder import catalog
from autograder.attempt import Attempt
from autograder.exercise import Case, Outcome, Property, Verdict
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam
from autograder.oracle.examine import examination_of


def test_the_input_shown_is_smaller_than_a_typical_one(known):
    sizes = []

    def draw(d):
        x = d.tensor(d.integer(1, 12), d.integer(1, 12))
        sizes.append(x.numel())
        return Case((x,))

    def fails_from_three_rows_on(x):
        return x + 1 if len(x) < 3 else x

    known(small(lambda x: x + 1, Property("adds", "", 1, draw, examples=20)))
    for seed in range(4):
        sizes.clear()
        verdict = evaluate("small", fails_from_three_rows_on, seed=seed)
        (shown,) = verdict.results[0].tried
        assert eval(shown.removeprefix("x = "), {"torch": torch}).shape == (3, 1)
        assert sum(sizes[:20]) / 20 > 3


def test_shrinking_keeps_to_the_kind_of_failure(known, monkeypatch):
    def draw(d):
        return Case((d.integer(0, 100),))

    def answer(n):
        if n > 50:
            raise RuntimeError(n)
        return n + (n in (21, 22))

    known(small(lambda n: n, Property("same", "", 1, draw, examples=30)))
    for seed in range(6):
        monkeypatch.setattr("autograder.oracle.examine.SHRINK_SECONDS", 0.0)
        outcome = evaluate("small", answer, seed=seed).outcome
        monkeypatch.setattr("autograder.oracle.examine.SHRINK_SECONDS", 60.0)
        result = evaluate("small", answer, seed=seed).results[0]
        assert result.outcome is outcome
        smallest = {Outcome.RAISED: "n = 51", Outcome.WRONG_VALUES: "n = 21"}[result.outcome]
        assert result.tried == (smallest,)


def test_other_seeds_draw_other_inputs():
    answer = catalog.find("batchnorm_forward").misconception("whole_tensor").answer
    shown = {evaluate("batchnorm_forward", answer, seed=seed).results[0].tried for seed in range(3)}
    assert len(shown) == 3


def test_a_verdict_survives_json():
    verdict = evaluate("batchnorm_forward", forward(lambda x: x), seed=3)
    assert Verdict.from_json(verdict.to_json()) == verdict


def test_the_seed_of_a_verdict_replays_it():
    first = evaluate("batchnorm_forward", forward(lambda x: x))
    again = evaluate("batchnorm_forward", forward(lambda x: x), seed=first.seed)
    assert [r.tried for r in again.results] == [r.tried for r in first.results]


# -- answers that change their mind --------------------------------------------------------------------------


def drifting():
    counter = itertools.count()

    def batchnorm_forward(x, gamma, beta, eps=1e-5):
        return right(x, gamma, beta, eps) + (1.0 if next(counter) % 2 else 0.0)

    return batchnorm_forward


@pytest.mark.parametrize(
    "answer",
    [
        lambda x, gamma, beta, eps=1e-5: right(x, gamma, beta, eps) + torch.rand(()).round(),
        lambda x, gamma, beta, eps=1e-5: right(x, gamma, beta, eps) + np.random.randint(2),
        lambda x, gamma, beta, eps=1e-5: right(x, gamma, beta, eps) + time.perf_counter_ns() % 2,
        drifting(),
    ],
    ids=["torch's numbers", "numpy's numbers", "the clock", "a counter"],
)
def test_an_unstable_answer_is_an_outcome(answer):
    outcomes = set()
    for seed in range(3):
        verdict = evaluate("batchnorm_forward", answer, seed=seed)
        assert not verdict.correct
        outcomes |= set(verdict.outcomes.values())
    assert outcomes <= {Outcome.UNSTABLE, Outcome.WRONG_VALUES, Outcome.CORRECT, Outcome.WAITING}


def test_right_once_and_then_wrong_is_unstable(known):
    counter = itertools.count()
    known(small(lambda n: n, Property("same", "", 1, lambda d: Case((d.integer(0, 9),)))))
    verdict = evaluate("small", lambda n: n + (next(counter) == 1), seed=1)
    assert verdict.outcome is Outcome.UNSTABLE
    assert "right once and then not" in verdict.results[0].message


# -- answers that do not come back ---------------------------------------------------------------------------


def loops(x, gamma, beta, eps=1e-5):
    while True:
        pass


def sleeps(x, gamma, beta, eps=1e-5):
    time.sleep(1000)


def swallows(x, gamma, beta, eps=1e-5):
    while True:
        try:  # noqa: SIM105
            time.sleep(0.05)
        except BaseException:
            pass


def computes(x, gamma, beta, eps=1e-5):
    while True:
        try:  # noqa: SIM105
            x = x + x * 0
        except Exception:
            pass


def raises_slowly(x, gamma, beta, eps=1e-5):
    class Slow(Exception):
        def __str__(self):
            while True:
                pass

    raise Slow


@pytest.mark.parametrize(
    "answer", [loops, sleeps, swallows, computes, raises_slowly], ids=lambda f: f.__name__
)
def test_an_endless_answer_is_timed_out(answer):
    start = time.monotonic()
    verdict = evaluate("batchnorm_forward", Attempt.local(answer, "batchnorm_forward", seconds=1.0), seed=1)
    assert time.monotonic() - start < 20
    assert verdict.outcome is Outcome.TIMED_OUT
    assert verdict.points == 0
    assert verdict.diagnosis is None


def busy(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def same(*, seconds):
    properties = [
        Property(name, "", 1, lambda d: Case((d.integer(0, 9),)), examples=4) for name in ("one", "other")
    ]
    return small(lambda n: n, *properties, seconds=seconds)


def test_a_right_answer_that_is_slow_has_the_time_that_so_many_calls_take(known):
    def slow(n):
        busy(0.15)
        return n

    known(same(seconds=0.6))
    verdict = evaluate("small", slow, seed=1, devices=["cpu"])
    assert verdict.learner_seconds > 2 * 0.6
    assert verdict.outcome is Outcome.CORRECT
    assert verdict.flags == ()


def test_an_answer_without_end_does_not_have_it_and_is_flagged_with_what_was_judged(known):
    def endless(n):
        while n > 5:
            pass
        return n

    known(same(seconds=2.0))
    verdict = evaluate("small", endless, seed=2, devices=["cpu"])
    assert verdict.outcome is Outcome.TIMED_OUT
    assert 1.0 < verdict.learner_seconds < 2.5
    judged = sum(
        case.args[0] <= 5 for cases in Exam(catalog.find("small"), 2).every().values() for case in cases
    )
    assert 0 < judged < 8
    (flag,) = verdict.flags
    assert flag == verdict.message
    assert flag.startswith("the time was used up, ")
    assert flag.endswith("of 8 inputs were judged: still running after 1 s of processor time")


def test_a_long_print_is_cut():
    def answer(x, gamma, beta, eps=1e-5):
        for _ in range(10):
            print("x" * 10_000)
        return x

    result = evaluate("batchnorm_forward", answer, seed=1).results[0]
    assert 0 < len(result.printed) <= 1000


def test_prints_and_warnings_are_kept_out_of_the_notebook(capsys, recwarn):
    def answer(x, gamma, beta, eps=1e-5):
        print("hello")
        print("oops", file=sys.stderr)
        warnings.warn("careful", stacklevel=1)
        return x

    verdict = evaluate("batchnorm_forward", answer, seed=1)
    assert capsys.readouterr() == ("", "")
    assert not [w for w in recwarn if "careful" in str(w.message)]
    assert "hello" in verdict.results[0].printed
    assert "oops" in verdict.results[0].printed


def test_a_right_answer_may_talk_and_warn():
    def answer(x, gamma, beta, eps=1e-5):
        print(x)
        warnings.warn("careful", stacklevel=1)
        return right(x, gamma, beta, eps)

    assert evaluate("batchnorm_forward", answer, seed=1).correct


def test_ctrl_c_is_the_learners_own():
    def answer(x, gamma, beta, eps=1e-5):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate("batchnorm_forward", answer, seed=1)


@pytest.mark.parametrize("watched", [True, False])
def test_what_an_answer_calls_is_noted_where_it_is_watched(watched):
    exercise = small(lambda x: x + 1, Property("adds", "", 1, lambda d: Case((d.tensor(2, 3),)), examples=4))
    attempt = Attempt.local(lambda x: torch.add(x, 1), exercise.id)
    examination = examination_of(Exam(exercise, 1), attempt, ("cpu",), watched)
    assert not examination.of(exercise.properties[0]).failed
    assert ("aten.add" in examination.calls) == watched
