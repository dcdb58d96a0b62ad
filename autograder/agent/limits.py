"""How long the learner's code may run, and on how many threads."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DEFERRED = 400

FAR = 4.0
"""How many times its limit of processor time code may take by the clock: as others use the machine, or as it sleeps."""


class TimeUp(BaseException):
    """The learner's code used up its time; not an Exception, so that ``except Exception`` lets it through."""


class Limit:
    """Interrupt the learner's code after so many seconds of the thread's processor time, and after ``FAR`` times as many by
    the clock, where the platform and the thread allow it."""

    def __init__(self, seconds: float | None):
        self._seconds = seconds
        self._on = False
        self._rings = 0
        self._deferred = 0

    def __enter__(self) -> None:
        if (
            self._seconds is None
            or not hasattr(signal, "setitimer")
            or threading.current_thread() is not threading.main_thread()
        ):
            return
        self._on = True
        self._old = signal.signal(signal.SIGALRM, self._ring)
        self._processor, self._clock = time.thread_time(), time.perf_counter()
        # Rings again and again, since code that swallows the first one would otherwise run for ever.
        signal.setitimer(signal.ITIMER_REAL, max(self._seconds, 0.01), 0.25)

    def __exit__(self, *exception: Any) -> None:
        if self._on:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._old)

    def _ring(self, signum: int, frame: types.FrameType | None) -> None:
        if frame is None or frame.f_code is Limit.__exit__.__code__:
            return
        if self._left() > 0:
            signal.setitimer(signal.ITIMER_REAL, max(self._left(), 0.01), 0.25)
            return
        if _importing(frame) and self._deferred < DEFERRED:
            # torch imports a lot late: a module that is interrupted half-way stays broken for every later cell.
            self._deferred += 1
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.25)
            return
        self._rings += 1
        # The first exception is on its way out, and must not be overtaken where things are put back.
        if self._rings > 1 and not _learning(frame):
            return
        if self._rings > 2:
            # `while True: try: … except: …` is left only by an exception that comes between two rounds,
            # microseconds after the last.
            signal.setitimer(signal.ITIMER_REAL, random.SystemRandom().uniform(2e-6, 6e-5), 0.001)
        raise TimeUp

    def _left(self) -> float:
        assert self._seconds is not None
        return min(
            self._seconds - (time.thread_time() - self._processor),
            FAR * self._seconds - (time.perf_counter() - self._clock),
        )


def _importing(frame: types.FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _learning(frame: types.FrameType) -> bool:
    """Whether the learner's code runs, and not what is done before and after it."""
    outer: types.FrameType | None = frame
    while outer is not None and not _kept(outer.f_code.co_filename):
        outer = outer.f_back
    return outer is not None and outer is not frame and outer.f_code.co_name in _ASKING


def _kept(file: str) -> bool:
    """Whether a file's code stands around the learner's: the agent's own, and what it enters and leaves."""
    return os.path.dirname(file) == _HERE or file in _AROUND


_HERE = os.path.dirname(__file__)
_AROUND = {contextlib.__file__, sys.modules[TorchDispatchMode.__module__].__file__}
_ASKING = {
    "_compiled_late",
    "looked",
    "<lambda>",
    "<dictcomp>",
    "_guarded",
    "_exported",
    "_export",
    "_message",
    "_raised",
    "_look",
    "gradients",
}


@contextlib.contextmanager
def threads_of(count: int) -> Iterator[None]:
    """So many threads for torch inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
