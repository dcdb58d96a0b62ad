"""What a notebook cell calls: ``check("batchnorm_forward")``, ``hint("batchnorm_forward")``, ``progress()``, and
``example("batchnorm_forward", seed=123)`` for the input that a check shows.

At home the oracle judges in this process and its feedback appears under the cell. When a class is graded the
environment names a socket: then this process only answers the oracle's questions, and says nothing itself.
"""

from __future__ import annotations

import inspect
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from autograder import agent, wire
from coursekit import TOPICS

SOCKET = "AUTOGRADER_SOCKET"

_verdicts: dict[str, Any] = {}
_hints: dict[str, int] = {}
_NOTHING = object()


def check(exercise_id: str, answer: Any = _NOTHING, *, seed: int | None = None) -> Any:
    """Check the function or class of that name and show what came of it.

    In a notebook the object is looked up by its name; elsewhere hand it over as ``answer``. ``seed`` replays
    the inputs that an earlier feedback names. Returns the verdict outside a notebook; in one, shows it.

    Raises ValueError for an unknown exercise.
    """
    thing = _namespace() if answer is _NOTHING else answer
    if SOCKET in os.environ and answer is _NOTHING:
        return _serve(os.environ[SOCKET], thing)
    from autograder.oracle import evaluate

    verdict = evaluate(exercise_id, thing, seed=seed)
    _verdicts[exercise_id] = verdict
    return _show(verdict)


class Example(NamedTuple):
    """An input on which an answer fails: call it again with ``f(*e.args, **e.kwargs)``, under a debugger if you like.

    Attributes:
        claim: what does not hold.
        args: positional arguments, as objects.
        kwargs: keyword arguments.
        beside: what else the check uses, by name: a batch to feed to a layer, for instance.
        expected: what the check would have to see.
        got: what it saw.
    """

    claim: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    beside: dict[str, Any]
    expected: Any
    got: Any


def example(exercise_id: str, answer: Any = _NOTHING, *, seed: int | None = None) -> Example | None:
    """The smallest input on which your answer fails, as objects; None where no check fails.

    ``seed`` is the one that the feedback names: the input is then the one that it shows.

    Of an exercise that trains a network: the data set and the generator it is handed. Raises ValueError for an unknown
    exercise.
    """
    if SOCKET in os.environ:
        return None
    from autograder.oracle import first_failure
    from autograder.values import realize

    found = first_failure(exercise_id, _namespace() if answer is _NOTHING else answer, seed=seed)
    if found is None:
        print(f"No check of {exercise_id} fails.")
        return None
    claim, failure = found
    case = failure.case
    args, kwargs, beside = (realize(v, {}) for v in (case.args, dict(case.kwargs), dict(case.extra)))
    return Example(claim.says, args, kwargs, beside, failure.expected, failure.got)


def hint(exercise_id: str, number: int | None = None) -> None:
    """Show the next hint of an exercise, or the one of that number (1 to 3). Silent where a class is graded."""
    if SOCKET in os.environ:
        return
    from autograder import catalog

    exercise = catalog.find(exercise_id)
    if number is None:
        number = min(_hints.get(exercise_id, 0) + 1, len(exercise.hints))
    if not 1 <= number <= len(exercise.hints):
        raise ValueError(f"number must be 1 to {len(exercise.hints)}, got {number}")
    _hints[exercise_id] = max(number, _hints.get(exercise_id, 0))
    chosen = exercise.hints[number - 1]
    print(f"Hint {number} of {len(exercise.hints)} · {chosen.symptom}\n{chosen.help}")


def progress() -> None:
    """Show what has been checked in this session: exercise, points, outcome. Silent where a class is graded."""
    if SOCKET in os.environ:
        return
    from autograder import catalog

    if not _verdicts:
        print("Nothing has been checked yet.")
        return
    topics = {catalog.find(name).topic for name in _verdicts}
    exercises = [e for t in TOPICS if t in topics for e in catalog.topic(t)]
    total = sum(_verdicts[e.id].points for e in exercises if e.id in _verdicts)
    width = max(len(e.id) for e in exercises)
    for e in exercises:
        verdict = _verdicts.get(e.id)
        points = f"{verdict.points:g}" if verdict else "–"
        print(
            f"{e.id:<{width}}  {points:>4} of {e.points:<4g}  {verdict.outcome if verdict else 'not checked yet'}"
        )
    print(f"{'together':<{width}}  {total:>4g} of {sum(e.points for e in exercises):g}")


def _namespace() -> Mapping[str, Any]:
    shell = _shell()
    if shell is not None:
        return shell.user_ns
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    caller = frame.f_back.f_back
    return caller.f_globals if caller is not None else {}


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _show(verdict: Any) -> Any:
    from autograder import feedback

    if _shell() is None:
        print(feedback.text(verdict))
        return verdict
    from IPython.display import display

    display({"text/html": feedback.html(verdict), "text/plain": feedback.text(verdict)}, raw=True)
    return None


def _serve(path: str, namespace: Mapping[str, Any]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            # Nobody listens but while a check cell runs: one that a learner makes elsewhere says nothing.
            return
        agent.Agent(namespace).serve(wire.Channel(sock))
