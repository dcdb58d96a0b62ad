"""A kernel watched from outside: what its processes take together, and what it writes to disk."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from autograder.sandbox.cgroup import Group
from autograder.sandbox.kernel import OWN
from autograder.sandbox.walls import Limits

EVERY = 0.25
"""Seconds between two looks."""
ENTRIES = 20_000
"""Files that are counted; more of them are too many."""


class Watch(threading.Thread):
    """Stops a kernel that takes more than it may; ``reached`` then says what, in words that follow "its kernel"."""

    def __init__(self, pid: int, place: Path, limits: Limits, group: Group | None):
        super().__init__(name=f"watching kernel {pid}", daemon=True)
        self._pid = pid
        self._place = place
        self._limits = limits
        self._group = group
        self._over = threading.Event()
        self._reached = ""

    @property
    def reached(self) -> str:
        if not self._reached and self._group is not None and self._group.out_of_memory:
            return self._memory()
        return self._reached

    def run(self) -> None:
        while not self._over.wait(EVERY):
            if sum(map(memory_of, processes(self._pid))) > self._limits.memory:
                self._kill(self._memory())
            elif disk_of(self._place) > self._limits.disk:
                self._kill(f"wrote more than {_size(self._limits.disk)} of files")

    def end(self) -> None:
        self._over.set()
        self.join()
        if self._group is not None:
            self._reached = self.reached
            self._group.remove()

    def _memory(self) -> str:
        return f"took more than {_size(self._limits.memory)} of memory"

    def _kill(self, why: str) -> None:
        self._reached = self._reached or why
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)


def processes(pid: int) -> Iterator[int]:
    """A process and all that came of it; behind walls nothing comes loose, since its first process is theirs."""
    yield pid
    for task in _listed(Path(f"/proc/{pid}/task")):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from processes(int(child))


def memory_of(pid: int) -> int:
    """Bytes of memory that a process has written to, its share of shared memory counted in full."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    told = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(1024 * int(told[name].split()[0]) for name in ("RssAnon", "RssShmem") if name in told)


def disk_of(place: Path) -> int:
    """Bytes in the folders that a kernel may change."""
    total = entries = 0
    for name in OWN:
        for folder, _, files in os.walk(place / name):
            for file in files:
                entries += 1
                if entries > ENTRIES:
                    return 2**62
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, file)).st_blocks * 512
    return total


def _listed(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []


def _size(count: int) -> str:
    return f"{count / 2**30:g} GiB" if count >= 2**30 else f"{count / 2**20:g} MiB"
