"""Verdicts: what is told apart, what is shown, and that no answer gets more than it earned or breaks the check."""

import itertools
import os
import subprocess
import sys
import textwrap
import time
import warnings
from dataclasses import replace

import hostile
import numpy as np
import pytest
import torch
from torch import nn

from autograder import catalog, oracle
from autograder.attempt import Attempt, Odd, Raised, TimedOut
from autograder.exercise import Case, Exercise, Misconception, Outcome, Property, Verdict
from autograder.oracle import compare, evaluate
from autograder.values import Foreign, Network, Ref

EXERCISES = catalog.every()
LOOP = catalog.find("batchnorm_forward").right[0].answer
FUNCTIONS = [e for e in EXERCISES if not e.is_class]
nan, inf = float("nan"), float("inf")


def ids(exercises):
    return {"argvalues": exercises, "ids": [e.id for e in exercises]}


def forward(of_x):
    """An answer to batchnorm_forward that makes something of x."""

    def batchnorm_forward(x, gamma, beta, eps=1e-5):
        return of_x(x)

    return batchnorm_forward


def right(x, gamma, beta, eps=1e-5):
    return LOOP(x, gamma, beta, eps)


def small(reference, *properties, **changes) -> Exercise:
    """A catalogue entry of a few properties, which nobody looks up."""
    changes = {"id": "small", "topic": "batchnorm", "title": "", "misconceptions": (), "right": ()} | changes
    return Exercise(
        reference=reference, properties=properties, hints=("", "", ""), minutes=1, difficulty=1, **changes
    )


@pytest.fixture
def known(monkeypatch):
    """Makes an exercise the one that is found."""

    def know(exercise):
        monkeypatch.setattr(catalog, "find", lambda exercise_id: exercise)
        return exercise

    return know


# -- comparing ----------------------------------------------------------------------------------------------

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


# -- the smallest failing input, and the same again ---------------------------------------------------------


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
        assert "shape (3, 1)" in verdict.results[0].tried[0]
        assert sum(sizes[:20]) / 20 > 3


def test_an_observation_may_say_what_it_cannot_use(known):
    def observe(subject, case):
        answer = subject(*case.args)
        if isinstance(answer, str):
            raise Odd(f"{answer!r} is no number")
        return answer

    known(small(lambda n: n, Property("same", "", 1, lambda d: Case((d.integer(0, 9),)), observe)))
    verdict = evaluate("small", lambda n: "seven")
    assert verdict.outcome is Outcome.WRONG_KIND
    assert verdict.results[0].message == "'seven' is no number"
    assert evaluate("small", lambda n: n + 0).correct


def test_shrinking_keeps_to_the_kind_of_failure(known, monkeypatch):
    def draw(d):
        return Case((d.integer(0, 100),))

    def answer(n):
        if n > 50:
            raise RuntimeError(n)
        return n + (n in (21, 22))

    known(small(lambda n: n, Property("same", "", 1, draw, examples=30)))
    for seed in range(6):
        monkeypatch.setattr(oracle, "SHRINK_SECONDS", 0.0)
        outcome = evaluate("small", answer, seed=seed).outcome
        monkeypatch.setattr(oracle, "SHRINK_SECONDS", 60.0)
        result = evaluate("small", answer, seed=seed).results[0]
        assert result.outcome is outcome
        smallest = {Outcome.RAISED: "n = 51", Outcome.WRONG_VALUES: "n = 21"}[result.outcome]
        assert result.tried == (smallest,)


def without_times(verdict: Verdict) -> Verdict:
    return replace(verdict, seconds=0.0, learner_seconds=0.0)


@pytest.mark.parametrize("exercise", **ids(EXERCISES))
def test_the_same_seed_gives_the_same_verdict(exercise, monkeypatch):
    # Searches are ended by their number of calls here, since a busy machine would end them by time.
    monkeypatch.setattr(oracle, "SHRINK_SECONDS", 60.0)
    monkeypatch.setattr(oracle, "DIAGNOSIS_SECONDS", 60.0)
    answer = exercise.misconceptions[1].answer
    one, other = (evaluate(exercise.id, answer, seed=11) for _ in range(2))
    assert without_times(one) == without_times(other)
    assert one.points < one.max_points


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


# -- answers that change their mind -------------------------------------------------------------------------


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
    assert outcomes <= {Outcome.UNSTABLE, Outcome.WRONG_VALUES, Outcome.CORRECT}


def test_right_once_and_then_wrong_is_unstable(known):
    counter = itertools.count()
    known(small(lambda n: n, Property("same", "", 1, lambda d: Case((d.integer(0, 9),)))))
    verdict = evaluate("small", lambda n: n + (next(counter) == 1), seed=1)
    assert verdict.outcome is Outcome.UNSTABLE
    assert "right once and then not" in verdict.results[0].message


# -- answers that do not come back --------------------------------------------------------------------------


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


# -- answers of any kind ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hostile.RETURNED)
def test_whatever_is_returned_there_is_a_verdict(name):
    attempt = Attempt.local(forward(hostile.RETURNED[name]), "batchnorm_forward", seconds=3.0)
    verdict = evaluate("batchnorm_forward", attempt, seed=1)
    assert verdict.outcome is Outcome.WRONG_KIND
    assert verdict.points == 0
    assert all(len(text) <= 1000 for r in verdict.results for text in (r.message, r.expected, r.got))


@pytest.mark.parametrize("name", hostile.RAISED)
def test_whatever_is_raised_there_is_a_verdict(name):
    verdict = evaluate("batchnorm_forward", forward(hostile.RAISED[name]), seed=1)
    assert verdict.outcome is Outcome.RAISED
    assert verdict.points == 0
    assert len(verdict.results[0].message) <= 1000


ODD = ("None", "a lambda", "a namedtuple", "a dict that hides", "a large number", "a module", "a numpy array")


@pytest.mark.parametrize("exercise", **ids(FUNCTIONS))
def test_no_function_exercise_gives_full_points_or_breaks_for_an_odd_answer(exercise):
    for name in ODD:
        verdict = evaluate(
            exercise.id, lambda *a, _n=name, **k: hostile.RETURNED[_n](torch.ones(2, 2)), seed=1
        )
        assert verdict.points < verdict.max_points / 4, name
        assert verdict.outcome in (Outcome.WRONG_KIND, Outcome.RAISED), name


@pytest.mark.parametrize(
    "name", ["None", "a lambda", "a namedtuple", "half precision", "a large number", "a module"]
)
def test_a_class_may_make_anything(name):
    class BatchNorm:
        def __new__(cls, *args, **kwargs):
            return hostile.RETURNED[name](torch.ones(2, 2))

    verdict = evaluate("BatchNorm", BatchNorm, seed=1)
    assert verdict.points == 0
    wrong = {Outcome.WRONG_KIND, Outcome.RAISED, Outcome.RAISED_OTHER, Outcome.WRONG_VALUES}
    assert set(verdict.outcomes.values()) <= wrong


def test_a_class_that_is_no_module_is_told_so():
    class BatchNorm:
        def __init__(self, num_features, eps=1e-5, momentum=0.1):
            pass

        def __call__(self, x):
            return x

    verdict = evaluate("BatchNorm", BatchNorm, seed=1)
    assert verdict.points == 0
    assert "double" in verdict.results[0].message


@pytest.mark.parametrize(
    ("thing", "outcome"),
    [
        (3, Outcome.WRONG_KIND),
        (None, Outcome.WRONG_KIND),
        (torch.ones(3), Outcome.WRONG_KIND),
        ("text", Outcome.WRONG_KIND),
        (hostile.Mute(), Outcome.WRONG_KIND),
        (hostile.Disguised(), Outcome.WRONG_KIND),
        (nn.Conv2d(1, 1, 1), Outcome.RAISED),
        (dict, Outcome.RAISED),
        (len, Outcome.RAISED),
        (lambda: 1, Outcome.RAISED),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_bears_the_name_may_be_anything(thing, outcome):
    verdict = evaluate("batchnorm_forward", thing, seed=1)
    assert verdict.outcome is outcome
    assert verdict.points == 0


def test_a_function_where_a_class_is_due():
    verdict = evaluate("BatchNorm", lambda *args: nn.Identity(), seed=1)
    assert verdict.outcome is Outcome.WRONG_KIND
    assert "must be a class, got a function" in verdict.message


def test_a_misplaced_answer_is_of_the_wrong_kind(monkeypatch):
    attempt = Attempt.local(right, "batchnorm_forward")
    exchange = attempt._exchange
    monkeypatch.setattr(attempt, "_exchange", lambda r, s: exchange(r, s) | {"devices": ["cuda"]})
    verdict = evaluate("batchnorm_forward", attempt, seed=1)
    assert verdict.outcome is Outcome.WRONG_KIND
    assert "the inputs were on cpu, the answer on cuda" in verdict.results[0].message


# -- a far side that lies -----------------------------------------------------------------------------------

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


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: str(lie)[:40])
@pytest.mark.parametrize("exercise", **ids(EXERCISES))
def test_a_far_side_that_lies_gets_no_points_and_breaks_nothing(exercise, lie):
    honest = Attempt.local(exercise.reference, exercise.id)._exchange

    def exchange(request, seconds):
        return honest(request, seconds) if request["op"] == "look" and "kind" not in lie else dict(lie)

    verdict = evaluate(exercise.id, Attempt(exchange, exercise.id, remote=True), seed=1, allow_reference=True)
    assert verdict.points == 0
    assert verdict.outcome is not Outcome.CORRECT


@pytest.mark.parametrize("after", [0, 1, 2, 9, 40])
def test_a_far_side_that_dies_leaves_no_verdict(after):
    from autograder.attempt import Gone

    honest = Attempt.local(right, "batchnorm_forward")._exchange
    calls = itertools.count()

    def exchange(request, seconds):
        if next(calls) >= after:
            raise Gone("killed")
        return honest(request, seconds)

    verdict = evaluate("batchnorm_forward", Attempt(exchange, "batchnorm_forward", remote=True), seed=1)
    assert verdict.outcome is Outcome.NO_VERDICT
    assert verdict.points == 0
    assert verdict.flags


def test_a_reference_that_fails_by_accident_judges_nobody(known):
    """Whatever broke it may break every answer in the same way."""

    def broken(n):
        return n.nothing_of_the_kind

    known(small(broken, Property("same", "", 1, lambda d: Case((d.integer(0, 9),)))))
    for answer in (lambda n: n.nothing_of_the_kind, lambda n: n):
        verdict = evaluate("small", answer, seed=1)
        assert verdict.outcome is Outcome.NO_VERDICT
        assert verdict.points == 0
        assert "the reference fails" in verdict.message


def test_a_reference_that_refuses_is_followed(known):
    def refuses(n):
        raise ValueError(f"n must be something else, got {n}")

    def another(n):
        raise TypeError

    known(small(refuses, Property("refuses", "", 1, lambda d: Case((d.integer(0, 9),)))))
    assert evaluate("small", lambda n: refuses(n), seed=1).correct
    assert evaluate("small", another, seed=1).outcome is Outcome.RAISED_OTHER
    assert evaluate("small", lambda n: n, seed=1).outcome is Outcome.WRONG_VALUES


# -- answers that change the world --------------------------------------------------------------------------


def numpy_breaks():
    np.seterr(all="raise")


CHANGES = {
    "default dtype": lambda: torch.set_default_dtype(torch.float16),
    "default device": lambda: torch.set_default_device("meta"),
    "no gradients": lambda: torch.set_grad_enabled(False),
    "a seed": lambda: torch.manual_seed(0),
    "other seeds": lambda: (np.random.seed(0), __import__("random").seed(0)),
    "threads": lambda: torch.set_num_threads(3),
    "numpy's errors": numpy_breaks,
    "warnings": lambda: warnings.simplefilter("error"),
    "the folder": lambda: os.chdir("/"),
    "determinism": lambda: torch.use_deterministic_algorithms(True),
    "recursion": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 500),
    "the output": lambda: setattr(sys, "stdout", None),
    "a profiler": lambda: sys.setprofile(lambda *args: None),
}


def world():
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "random": __import__("random").getstate(),
        "errors": np.geterr(),
        "filters": list(warnings.filters),
        "folder": os.getcwd(),
        "strict": torch.are_deterministic_algorithms_enabled(),
        "depth": sys.getrecursionlimit(),
        "stdout": sys.stdout,
        "profile": sys.getprofile(),
    }


@pytest.mark.parametrize("name", CHANGES)
def test_what_an_answer_changes_is_put_back(name):
    def answer(x, gamma, beta, eps=1e-5):
        y = right(x, gamma, beta, eps)
        CHANGES[name]()
        return y

    before = world()
    verdict = evaluate("batchnorm_forward", answer, seed=1)
    assert world() == before
    assert verdict.correct or name == "no gradients"


@pytest.mark.parametrize("name", CHANGES)
def test_what_an_answer_changes_does_not_help_it(name):
    detached = catalog.find("batchnorm_forward").misconception("detached_statistics").answer

    def answer(x, gamma, beta, eps=1e-5):
        CHANGES[name]()
        return detached(x, gamma, beta, eps)

    verdict = evaluate("batchnorm_forward", answer, seed=1)
    assert verdict.outcomes["gradients"] is not Outcome.CORRECT


@pytest.mark.parametrize(
    "set_up",
    [
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_device("meta"),
        lambda: torch.set_grad_enabled(False),
        lambda: np.seterr(all="raise"),
    ],
    ids=["float64", "meta", "no_grad", "numpy raises"],
)
@pytest.mark.parametrize("exercise_id", ["BatchNorm", "batchnorm_forward"])
def test_the_learners_own_settings_change_no_verdict(set_up, exercise_id):
    answer = catalog.find(exercise_id).right[0].answer
    before = torch.get_default_dtype(), torch.is_grad_enabled(), np.geterr()
    set_up()
    try:
        during = world()
        assert evaluate(exercise_id, answer, seed=1).correct
        cut = catalog.find(exercise_id).misconception("detached_statistics")
        verdict = evaluate(exercise_id, cut.answer, seed=1)
        assert verdict.outcomes["gradients"] is not Outcome.CORRECT
        assert verdict.diagnosis == cut.name
        assert world() == during
    finally:
        torch.set_default_dtype(before[0])
        torch.set_default_device(None)
        torch.set_grad_enabled(before[1])
        np.seterr(**before[2])


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
    assert "dtype=x.dtype" in verdict.repair
    # Where the values are wrong too, this is still true; another shape says nothing about the dtype.
    assert evaluate(exercise.id, lambda x, factor: -answer(x, factor), seed=1).diagnosis == "default_dtype"
    assert evaluate(exercise.id, lambda x, factor: answer(x, factor)[..., 1:], seed=1).diagnosis is None


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


def test_an_answer_may_write_into_its_arguments_without_touching_the_comparison():
    def answer(x, gamma, beta, eps=1e-5):
        y = right(x.detach(), gamma.detach(), beta.detach(), eps) * 0
        for argument in (x, gamma, beta):
            argument.detach().zero_()
        return y

    verdict = evaluate("batchnorm_forward", answer, seed=1)
    assert verdict.points == 0


def test_nothing_is_written_into_the_learners_folder(tmp_path):
    program = """
        import torch
        from autograder import check
        from autograder.oracle import evaluate
        def batchnorm_forward(x, gamma, beta, eps=1e-5):
            return x * (x.shape[0] < 3)
        check("batchnorm_forward")
        evaluate("elastic_deformation", lambda *args, **kwargs: None)
        evaluate("BatchNorm", torch.nn.Identity)
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith("HYPOTHESIS")}
    root = str(os.path.dirname(os.path.dirname(oracle.__file__)))
    env |= {"PYTHONPATH": root, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env=env,
        check=True,
        capture_output=True,
    )
    assert list(tmp_path.iterdir()) == []


# -- nothing to judge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("exercise", **ids(EXERCISES))
def test_a_missing_name_is_not_attempted(exercise):
    verdict = evaluate(exercise.id, {}, seed=1)
    assert verdict.outcome is Outcome.NOT_ATTEMPTED
    assert set(verdict.outcomes.values()) == {Outcome.NOT_ATTEMPTED}
    assert verdict.points == 0
    assert not verdict.flags


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


@pytest.mark.parametrize("exercise", **ids(FUNCTIONS))
def test_an_untouched_function_is_not_attempted(exercise):
    verdict = evaluate(exercise.id, stub, seed=1)
    assert set(verdict.outcomes.values()) == {Outcome.NOT_ATTEMPTED}
    assert verdict.outcome is Outcome.NOT_ATTEMPTED
    assert verdict.points == 0
    assert verdict.diagnosis is None


@pytest.mark.parametrize("answer", [Stub, Half, Bare])
@pytest.mark.parametrize("exercise", **ids([e for e in EXERCISES if e.is_class]))
def test_an_untouched_class_is_not_attempted(exercise, answer):
    verdict = evaluate(exercise.id, answer, seed=1)
    assert set(verdict.outcomes.values()) == {Outcome.NOT_ATTEMPTED}
    assert verdict.outcome is Outcome.NOT_ATTEMPTED
    assert verdict.points == 0


def test_a_partly_written_class_gets_what_it_earned():
    class BatchNorm(catalog.find("BatchNorm").right[0].answer):
        def forward(self, x):
            if not self.training:
                raise NotImplementedError
            return super().forward(x)

    verdict = evaluate("BatchNorm", BatchNorm, seed=1)
    wrong = {n for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT}
    assert wrong == {"eval_mode", "gradients"}
    assert verdict.outcomes["eval_mode"] is Outcome.NOT_ATTEMPTED
    assert verdict.points == 4.0


def test_a_partly_written_function_gets_what_it_earned():
    def batchnorm_forward(x, gamma, beta, eps=1e-5):
        if x.dim() == 4:
            raise NotImplementedError
        return right(x, gamma, beta, eps)

    verdict = evaluate("batchnorm_forward", batchnorm_forward, seed=1)
    assert {n for n, o in verdict.outcomes.items() if o is not Outcome.CORRECT} == {"images", "gradients"}
    assert verdict.points == 2.0
    assert verdict.outcome is Outcome.RAISED


@pytest.mark.parametrize(
    ("arguments", "says"), [({"exercise_id": "nope"}, "nope"), ({"devices": ["tpu"]}, "tpu")]
)
def test_a_slip_in_the_call_is_a_value_error(arguments, says):
    with pytest.raises(ValueError, match=says):
        evaluate(**({"exercise_id": "batchnorm_forward", "attempt": right} | arguments))


# -- false accusations --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("exercise", **ids(EXERCISES))
def test_no_right_answer_is_ever_called_wrong(exercise, seed):
    for variant in exercise.right:
        verdict = evaluate(exercise.id, variant.answer, seed=1000 + seed)
        assert verdict.correct, (variant.name, verdict.outcomes, verdict.message)
    assert evaluate(exercise.id, exercise.reference, seed=1000 + seed, allow_reference=True).correct


@pytest.mark.parametrize(
    ("kind", "one", "other", "alike"),
    [
        ("RuntimeError", "size 3 must match size 12", "size 5 must match size 4", True),
        ("RuntimeError", "input of shape [1, 2, -3]", "input of shape [4, 5]", True),
        ("RuntimeError", "size 3 must match size 12", "padding is larger than the input", False),
        ("ValueError", "too small", "larger than skip", True),
    ],
)
def test_errors_of_torch_are_alike_in_their_words_and_others_in_their_kind(kind, one, other, alike):
    assert oracle._alike(Raised((kind,), one), Raised((kind,), other)) is alike
