"""How long something takes and how much memory it needs, always beside a peer in the same run."""

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

Thunk = Callable[[], object]


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
    """

    name: str
    ours: float
    peer: float
    ratio: float
    unit: str
    goal: str
    met: bool


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


def seconds(*calls: Thunk, repeats: int = 5) -> list[float]:
    """The least time of each call, taken in turns, so that a busy moment of the machine meets all of them.

    A short call is made twice in its turn: the first one pays for the memory that the others left cold.
    """
    least = [float("inf")] * len(calls)
    for turn in range(repeats + 1):
        for index, call in enumerate(calls):
            taken = _time(call)
            if taken < SHORT:
                taken = min(taken, _time(call))
            if turn:  # the first turn warms up
                least[index] = min(least[index], taken)
    return least


def _time(call: Thunk) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def peak_memory(prepare: Callable[[], Thunk]) -> float:
    """Megabytes that a call needs at its highest beyond what was there before it, in a process of its own.

    Args:
        prepare: a function at the top of a module, which builds the inputs and returns the call to measure.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(prepare, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        raise RuntimeError(f"measuring {prepare.__name__} failed") from error
    finally:
        process.join()


def _measured(prepare: Callable[[], Thunk], sender: "multiprocessing.connection.Connection") -> None:
    call = prepare()
    before = _high_water()
    call()
    sender.send((_high_water() - before) / 1024)


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
