"""No answer gets more than it earned, breaks the check or changes the world."""

import functools
import itertools
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import hostile
import numpy as np
import pytest
import torch
from entries import forward, right, small
from torch import nn

from autograder import catalog, feedback
from autograder.attempt import Attempt, Odd
from autograder.exercise import Case, Outcome, Property, Training
from autograder.oracle import evaluate


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


@pytest.mark.parametrize("reply", [{"timed_out": True}, {"broken": "SystemError: so it is"}, {}, {"kind": 3}])
def test_what_could_not_be_looked_at_has_no_verdict_and_is_for_a_person(reply):
    attempt = Attempt(lambda request, limit: reply, "batchnorm_forward", remote=True, seconds=1.0)
    verdict = evaluate("batchnorm_forward", attempt)
    assert (verdict.outcome, verdict.points) == (Outcome.NO_VERDICT, 0)
    assert "could not be looked at" in verdict.flags[0]


# -- answers of any kind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hostile.RETURNED)
def test_whatever_is_returned_there_is_a_verdict(name):
    attempt = Attempt.local(forward(hostile.RETURNED[name]), "batchnorm_forward", seconds=3.0)
    verdict = evaluate("batchnorm_forward", attempt, seed=1)
    # Half precision is seen by its numbers first.
    assert verdict.outcome in (Outcome.WRONG_KIND, Outcome.WRONG_VALUES)
    assert verdict.points == 0
    assert all(len(text) <= 1000 for r in verdict.results for text in (r.message, r.expected, r.got))


@pytest.mark.parametrize("name", hostile.RAISED)
def test_whatever_is_raised_there_is_a_verdict(name):
    verdict = evaluate("batchnorm_forward", forward(hostile.RAISED[name]), seed=1)
    assert verdict.outcome is Outcome.RAISED
    assert verdict.points == 0
    assert len(verdict.results[0].message) <= 1000


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
    assert set(verdict.outcomes.values()) <= {*wrong, Outcome.WAITING}


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


# -- a far side that dies ------------------------------------------------------------------------------------


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


# -- answers that change the world ---------------------------------------------------------------------------


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
    # A profiler takes the place of the watch, and earns nothing.
    assert verdict.correct or name in ("no gradients", "a profiler")


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
    root = str(Path(catalog.__file__).parents[2])
    env |= {"PYTHONPATH": root, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env=env,
        check=True,
        capture_output=True,
    )
    assert list(tmp_path.iterdir()) == []


# -- nothing to judge ----------------------------------------------------------------------------------------


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


# -- faults of the check itself -----------------------------------------------------------------------------


def _breaks(case, *seen):
    raise ZeroDivisionError("a bug of ours")


def _of_even(subject, case):
    value = subject(*case.args)
    return value if value % 3 else _breaks(case)


@pytest.mark.parametrize("where", ["observe", "judge"])
@pytest.mark.parametrize("answer", [lambda n: 6 * n, lambda n: 6 * n + 3], ids=["right", "wrong"])
def test_a_fault_of_the_check_is_no_verdict_and_nobodys_mistake(known, caplog, where, answer):
    draw = lambda d: Case((d.integer(1, 9),))  # noqa: E731
    ways = {"observe": {"observe": _of_even}, "judge": {"judge": _breaks}}
    broken = Property("broken", "", 1, draw, **ways[where])
    known(
        small(
            lambda n: 6 * n, broken, Property("kind", "", 1, draw, observe=lambda s, c: str(type(s(*c.args))))
        )
    )
    verdict = evaluate("small", answer)
    assert verdict.outcomes == {"broken": Outcome.NO_VERDICT, "kind": Outcome.CORRECT}
    assert verdict.outcome is Outcome.NO_VERDICT
    assert verdict.points == 1
    assert verdict.diagnosis is None
    (flag,) = verdict.flags
    assert flag == "no verdict on broken: ZeroDivisionError: a bug of ours"
    assert "ZeroDivisionError" in caplog.text
    assert "in _breaks" in caplog.text


def test_an_answer_of_another_kind_is_the_learners_mistake(known, caplog):
    """Where the answer is not what the observation was written for, the observation may fail over it."""
    kinds = Property(
        "kinds", "", 1, lambda d: Case((d.integer(1, 9),)), observe=lambda s, c: s(*c.args).bit_length()
    )
    known(small(lambda n: n, kinds))
    verdict = evaluate("small", lambda n: [n])
    assert verdict.outcome is Outcome.WRONG_KIND
    assert not verdict.flags
    assert not caplog.text


# -- form beside substance ----------------------------------------------------------------------------------


def _refusing(*args, **kwargs):
    raise ValueError("nothing fits")


class _Refusing:
    __init__ = _refusing


class _Echo(nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, x, *rest):
        return x.clone()


def _echo(x, *rest, **kwargs):
    return x.clone()


@pytest.mark.parametrize(
    "exercise", [e for e in catalog.every() if not isinstance(e, Training)], ids=lambda e: e.id
)
def test_an_answer_that_refuses_everything_earns_nothing(exercise):
    verdict = evaluate(exercise.id, _Refusing if exercise.is_class else _refusing, devices=("cpu",))
    assert verdict.points == 0, verdict.outcomes


@pytest.mark.parametrize("exercise", catalog.topic("batchnorm"), ids=lambda e: e.id)
def test_an_answer_that_gives_back_its_argument_earns_nothing(exercise):
    verdict = evaluate(exercise.id, _Echo if exercise.is_class else _echo, devices=("cpu",))
    assert verdict.points == 0, verdict.outcomes


def test_a_claim_of_form_counts_as_soon_as_its_substance_holds_for_one_input(known):
    draw = lambda d: Case((d.integer(1, 9),))  # noqa: E731
    known(
        small(
            lambda n: n * n,
            Property("squares", "n·n", 2, draw),
            Property(
                "whole",
                "a whole number",
                1,
                draw,
                observe=lambda s, c: str(type(s(*c.args))),
                beside="squares",
            ),
        )
    )
    waiting = evaluate("small", lambda n: -n)
    assert waiting.outcomes == {"squares": Outcome.WRONG_VALUES, "whole": Outcome.WAITING}
    assert waiting.points == 0
    assert "n·n" in waiting.results[1].message
    assert evaluate("small", lambda n: n).points == 1  # right for 1
    assert evaluate("small", lambda n: n * n).points == 3
    assert evaluate("small", lambda n: n * float(n)).outcomes["whole"] is Outcome.WRONG_VALUES


def unwritten(x):
    raise NotImplementedError("later")


def batchnorm_forward(x, gamma, beta, eps=1e-5):
    raise NotImplementedError


def passed_on(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


class Unwritten:
    def __init__(self, x):
        raise NotImplementedError

    def made(self):
        return 0


def calls_a_stub(x, gamma, beta, eps=1e-5):
    return unwritten(x)


def calls_a_stub_class(x, gamma, beta, eps=1e-5):
    return Unwritten(x).made()


def with_a_stub_inside(x, gamma, beta, eps=1e-5):
    def inner():
        raise NotImplementedError

    return inner()


@pytest.mark.parametrize(
    ("answer", "waits_for"), [(calls_a_stub, "unwritten"), (calls_a_stub_class, "Unwritten")]
)
def test_an_answer_that_only_waits_for_another_function_is_there(answer, waits_for):
    verdict = evaluate("batchnorm_forward", {"batchnorm_forward": answer})
    assert verdict.outcome is Outcome.RAISED
    assert verdict.points == 0
    assert f"it calls {waits_for}, which is not written yet" in verdict.results[0].message
    assert "nothing to check" not in feedback.text(verdict)


@pytest.mark.parametrize("answer", [batchnorm_forward, passed_on(batchnorm_forward), with_a_stub_inside])
def test_a_stub_is_no_answer(answer):
    assert evaluate("batchnorm_forward", {"batchnorm_forward": answer}).outcome is Outcome.NOT_ATTEMPTED
