"""The process that grades, as :mod:`autograder.plugins.grading` starts it: each submission that it is told of."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autograder import lean

IDLE = 600.0
"""Seconds without a submission after which it ends by itself: formgrader's server lives on."""

Tell = Callable[[dict[str, Any]], None]


class Reporting(logging.Handler):
    """What is logged in the process, told to whoever watches it."""

    def __init__(self, tell: Tell):
        super().__init__(logging.INFO)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell({"log": [record.levelno, record.getMessage()]})


def _begin(told: dict[str, Any]) -> None:
    """Have the warm process import what it needs while this one does."""
    if not told["walled"] or not told["settings"].get("warm"):
        return
    from autograder.sandbox.fork import warm_up
    from autograder.sandbox.walls import data_of

    warm_up(data_of(os.environ))


def _work(told: dict[str, Any], tell: Tell) -> None:
    import nbformat

    from autograder import beside
    from autograder.plugins.course import exam_at
    from autograder.plugins.grading import Task
    from autograder.plugins.judge import Judge
    from autograder.sandbox import selftest

    task = Task(**told)
    judge = Judge(**task.settings)
    try:
        exams = exam_at(Path(task.exam), task.exercises, task.settings.get("seed"))
        if task.walled:
            selftest.recorded(Path(task.exam).with_suffix(".walls.json"), forked=judge.warm)
    except (ValueError, RuntimeError) as error:
        tell({"refused": str(error)})
        return
    notebook = nbformat.reads(task.notebook, as_version=4)
    release = nbformat.reads(task.release, as_version=4)
    handed_in, handed_out = map(Path, task.folders)
    judge.run(notebook, release, exams, beside.look(handed_in, handed_out), task.walled, tell)


def _tasks() -> Iterator[dict[str, Any]]:
    stream = sys.stdin.buffer
    while True:
        if os.name == "posix" and not select.select([stream], [], [], IDLE)[0]:
            return
        line = stream.readline()
        if not line:
            return
        yield json.loads(line)


def main() -> None:
    """Grade what is asked for, until nobody asks any more."""
    # Whatever prints in this process prints elsewhere.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lock, last = threading.Lock(), [0.0]

    def tell(message: dict[str, Any]) -> None:
        # Signs of life come twenty times a second, and one is enough.
        now = time.monotonic()
        if not message and now < last[0] + 1:
            return
        with lock:
            last[0] = now
            out.write(json.dumps(message).encode() + b"\n")
            out.flush()

    # Of a task that was given up nobody asks for the end. Printed whenever such tasks are swept up, in the midst of a parse
    # as well, its traceback is parsed too, which Python 3.11 then mistakes for a fault of the first.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logger = logging.getLogger("traitlets")
    logger.addHandler(Reporting(tell))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    lean.without_grammars()
    for told in _tasks():
        _begin(told)
        _work(told, tell)


if __name__ == "__main__":
    main()
