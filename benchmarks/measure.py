"""How long something takes and how much memory it needs, always beside a peer in the same run."""

import json
import multiprocessing
import os
import resource
import sys
import time
import unittest.mock
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

Thunk = Callable[[], object]
A, R = TypeVar("A"), TypeVar("R")


@dataclass(frozen=True)
class Row:
    """One claim, measured.

    Attributes:
        name: of the claim.
        ours: what this project's code takes.
        peer: what the peer takes.
        ratio: what the goal speaks of.
        unit: of `ours` and `peer`.
        goal: bound on the ratio, as "≤ 2" or "≥ 30".
        met: whether the ratio keeps it.
        taken: the largest part of a core that other programs took just before or after.
    """

    name: str
    ours: float
    peer: float
    ratio: float
    unit: str
    goal: str
    met: bool
    taken: float = 0.0


def at_most(name: str, ours: float, peer: float, bound: float, unit: str = "s") -> Row:
    """Ours may take `bound` times what the peer takes."""
    ratio = ours / peer
    return Row(name, ours, peer, ratio, unit, f"≤ {bound:g}", ratio <= bound)


def at_least(name: str, ours: float, peer: float, bound: float, unit: str = "s") -> Row:
    """The peer has to take `bound` times what ours takes."""
    ratio = peer / ours
    return Row(name, ours, peer, ratio, unit, f"≥ {bound:g}", ratio >= bound)


def rate(name: str, ours: float, bound: float, unit: str) -> Row:
    """A speed of ours against the speed that is asked for."""
    return Row(name, ours, bound, ours / bound, unit, "≥ 1", ours >= bound)


SHORT = 0.1


def seconds(*calls: Thunk, repeats: int = 5, at_least: float = 8.0) -> list[float]:
    """The least time of each call, taken in turns, so that a busy moment of the machine meets all of them.

    A short call is made twice in its turn: the first one pays for the memory that the others left cold.

    Args:
        calls: what to time.
        repeats: how many turns at least.
        at_least: seconds that the turns take together at least: short calls need many to meet a quiet moment.
    """
    least = [float("inf")] * len(calls)
    for call in calls:  # to warm up
        call()
    started = time.perf_counter()
    turns = 0
    while turns < repeats or time.perf_counter() - started < at_least:
        for index, call in enumerate(calls):
            taken = _time(call)
            if taken < SHORT:
                taken = min(taken, _time(call))
            least[index] = min(least[index], taken)
        turns += 1
    return least


def _time(call: Thunk) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


# A process that gives freed memory back and asks for it again is timed on the kernel's zeroing of pages, which
# differs from one process to the next by more than the arithmetic of two implementations does.
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}


def apart(function: Callable[[A], R], argument: A, memory: Mapping[str, str] = MappingProxyType({})) -> R:
    """A call in a process of its own, where nothing that ran before left memory behind, warm or cold.

    Args:
        function: at the top of a module, as its argument if that is one.
        argument: what it is called with.
        memory: environment variables for the C library's allocator, for instance `KEPT`.
    """
    with (
        unittest.mock.patch.dict(os.environ, memory),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        return pool.submit(function, argument).result()


def listed(benchmark: Callable[[], Iterable[Row]]) -> list[Row]:
    return list(benchmark())


def peak_memory(prepare: Callable[[], Thunk]) -> float:
    """Megabytes that a call needs at its highest beyond what was there before it.

    Args:
        prepare: a function at the top of a module, which builds the inputs and returns the call to measure.
    """
    return apart(_growth, prepare)


def _growth(prepare: Callable[[], Thunk]) -> float:
    call = prepare()
    before = _high_water()
    call()
    return (_high_water() - before) / 1024


def _high_water() -> int:
    """The most memory that this process ever held, in KiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage says begins with the parent's own peak.
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def as_json(rows: list[Row]) -> str:
    return json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False) + "\n"
