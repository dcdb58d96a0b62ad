"""One conversation with a student's kernel, out of which a verdict comes."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from autograder.exercise import Exercise, Verdict

if TYPE_CHECKING:
    from autograder.oracle.exam import Exam


class Hearing:
    """Listens while one check cell runs, and has the oracle question whoever connects first about one exercise.

    The answer sits that ``exam``. ``verdict`` is the oracle's, or None; ``trouble`` then says why where something went
    wrong here.
    """

    def __init__(self, exercise: Exercise, address: Path, exam: Exam):
        self.exercise = exercise
        self._exam = exam
        self.verdict: Verdict | None = None
        self.trouble = ""
        self.finished = threading.Event()
        self._address = address
        self._over = threading.Event()
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._work, name=f"hearing-{exercise.id}", daemon=True)

    def __enter__(self) -> Hearing:
        try:
            if self._address.is_dir():
                shutil.rmtree(self._address)
            self._address.unlink(missing_ok=True)
            self._listener.bind(str(self._address))
            # A kernel behind walls belongs to a user of its own.
            self._address.chmod(0o666)
            self._listener.listen(1)
            self._listener.settimeout(0.1)
        except OSError as error:
            # Without a sandbox the student's code can spoil the place: that costs it the verdict.
            self.trouble = f"the oracle could not listen ({error})"
            self._over.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.conclude(0)

    def conclude(self, seconds: float) -> None:
        """The cell has ended: a conversation under way is given ``seconds``, a later one is not served."""
        self._over.set()
        self.finished.wait(seconds if self._connection is not None else 1.0)
        if self._connection is not None and not self.finished.is_set():
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        if not self.finished.is_set():
            self.trouble = "the check did not come to an end"
        self._listener.close()
        with contextlib.suppress(OSError):
            self._address.unlink(missing_ok=True)

    def _work(self) -> None:
        try:
            self._connection = self._accept()
            if self._connection is not None:
                with self._connection:
                    self.verdict = _evaluated(self.exercise, self._connection, self._exam)
        except Exception as error:
            self.trouble = f"the check broke off ({type(error).__name__}: {error})"
        finally:
            self.finished.set()

    def _accept(self) -> socket.socket | None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            # One conversation a check: nobody else is let in behind it.
            self._listener.close()
            return connection
        return None


def _evaluated(exercise: Exercise, connection: socket.socket, exam: Exam) -> Verdict:
    from autograder.attempt import Attempt
    from autograder.oracle import evaluate

    attempt = Attempt.remote(connection, exercise.id, seconds=exercise.seconds)
    return evaluate(exercise.id, attempt, exam=exam)
