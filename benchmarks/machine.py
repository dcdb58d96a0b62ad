"""The machine that figures come from: how fast one of its cores is, and whether others were at work on it."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

MEGABYTE = bytes(2**20)
# What a quiet machine's own chores come to stays below this.
BUSY = 0.15


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def calibration() -> float:
    """Seconds of one core for a fixed piece of work, by which figures of two machines compare: a hash of 200 MB."""

    def hashed() -> float:
        worked = time.thread_time()
        for _ in range(200):
            hashlib.blake2b(MEGABYTE)
        return time.thread_time() - worked

    return min(hashed() for _ in range(3))


def taken_by_others(seconds: float = 0.2) -> float:
    """The largest part of a core that went to other programs, while this one had work for every core.

    On a quiet machine it is next to 0, however many cores there are; one busy process makes it a quarter or more.
    Work on one core alone would not see it: the other program has another core to go to.
    """

    def share(_: int) -> float:
        began, worked = time.perf_counter(), time.thread_time()
        while time.perf_counter() - began < seconds:
            hashlib.blake2b(MEGABYTE)  # without the interpreter's lock
        return (time.thread_time() - worked) / (time.perf_counter() - began)

    with ThreadPoolExecutor(cores()) as pool:
        return max(0.0, 1 - min(pool.map(share, range(cores()))))
