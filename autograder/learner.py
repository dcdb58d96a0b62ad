"""What a notebook cell calls: ``check("batchnorm_forward")``, ``hint("batchnorm_forward")``, ``progress()``.

At home the oracle judges in this process and its feedback appears under the cell. When a class is graded the
environment names a socket: then this process only answers the oracle's questions, and says nothing itself.
"""

from __future__ import annotations

import inspect
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

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


def hint(exercise_id: str, number: int | None = None) -> None:
    """Show the next hint of an exercise, or the one of that number (1 to 3)."""
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
    """Show what has been checked in this session: exercise, points, outcome."""
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
        sock.connect(path)
        agent.Agent(namespace).serve(wire.Channel(sock))
