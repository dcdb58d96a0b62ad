"""The watch over the process in which submissions are graded, one after the other.

Whatever blocks that process (a kernel that does not take what it is sent, a check without end, a fault of our own) costs
the submission in hand: it is ended, and another one goes on with the next. Both sides speak JSON, a line a message, through
the process's standard input and output.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, field
from typing import Any

import nbformat
from nbformat import NotebookNode

from autograder.exercise import Verdict

COMMAND = ("-m", "autograder.plugins.work")
SILENT = 90.0
"""Seconds without a sign of life after which the process is ended. Starting a kernel may take 60 of them."""
FAREWELL = 5.0
"""Seconds in which the process, told that nothing is left to do, ends by itself."""


class Blocked(RuntimeError):
    """A submission's grading did not come to an end; the message says why, ``verdicts`` holds what was judged before."""

    def __init__(self, why: str, verdicts: dict[str, Verdict]):
        super().__init__(why)
        self.verdicts = verdicts


@dataclass(frozen=True)
class Task:
    """One submission to grade.

    Attributes:
        notebook, release: as JSON.
        exam: the path of the exam's file, made there where there is none.
        exercises: that are graded.
        folders: where it was handed in and handed out; other files may lie beside it there.
        walled: whether kernels stand behind walls.
        settings: of the :class:`~autograder.plugins.Judge`, by their names.
    """

    notebook: str
    release: str
    exam: str
    exercises: list[str]
    walled: bool
    folders: list[str]
    settings: dict[str, Any] = field(default_factory=dict)


class Grading:
    """The process, seen from outside."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._heard: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._lock = threading.Lock()
        atexit.register(self.end)

    def graded(self, task: Task, log: Any) -> tuple[NotebookNode, dict[str, Verdict]]:
        """The graded notebook, and the verdicts by their cells' names. What the process has to say goes to ``log``.

        Raises :class:`Blocked` where it did not come to an end, ValueError for an exam that cannot be sat.
        """
        with self._lock:
            try:
                return self._graded(task, log)
            except ValueError:
                raise
            except BaseException:
                # Interrupted, it would go on with what nobody waits for.
                self.end(busy=True)
                raise

    def _graded(self, task: Task, log: Any) -> tuple[NotebookNode, dict[str, Verdict]]:
        verdicts: dict[str, Verdict] = {}
        self._begin(task)
        while True:
            try:
                said = self._heard.get(timeout=SILENT)
            except queue.Empty:
                raise Blocked(
                    f"its grading was blocked, and stopped after {SILENT:.0f} s without a sign of life",
                    verdicts,
                ) from None
            match said:
                case None:
                    raise Blocked("its grading ended before it was done", verdicts)
                case {"log": [level, text]}:
                    log.log(level, "%s", text)
                case {"verdict": [name, verdict]}:
                    verdicts[name] = Verdict.from_json(verdict)
                case {"refused": reason}:
                    raise ValueError(reason)
                case {"done": notebook}:
                    return nbformat.reads(notebook, as_version=4), verdicts

    def _begin(self, task: Task) -> None:
        text = json.dumps(asdict(task)).encode() + b"\n"
        for _ in range(2):
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(text)
                process.stdin.flush()
                return
            except OSError:
                # It has ended meanwhile, for want of work.
                self.end()
        raise Blocked("no process to grade in could be started", {})

    def _running(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, *COMMAND]
        if self._process is None or self._process.poll() is not None or self._process.args != command:
            self.end()
            self._heard = queue.Queue()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            threading.Thread(
                target=_listen,
                args=(self._process, self._heard),
                name="listening to the grading",
                daemon=True,
            ).start()
        return self._process

    def end(self, *, busy: bool = False) -> None:
        """End the process, and all that it has started; at once where it is ``busy``."""
        process, self._process = self._process, None
        if process is None:
            return
        if not busy and process.stdin is not None:
            # Without anything to do it ends by itself, and leaves no folder behind.
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                process.stdin.close()
                process.wait(FAREWELL)
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()


def _listen(process: subprocess.Popen[bytes], heard: queue.Queue[dict[str, Any] | None]) -> None:
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        for line in process.stdout:
            heard.put(json.loads(line))
    heard.put(None)


GRADING = Grading()
"""Of this process."""
