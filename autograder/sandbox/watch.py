"""The memory of a kernel watched from outside, all its processes together."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from autograder.sandbox.cgroup import Group
from autograder.sandbox.walls import Limits

log = logging.getLogger(__name__)

EVERY = 0.25
"""Seconds between two looks."""


class Watch(threading.Thread):
    """Stops a kernel that takes more than it may; ``reached`` then says what, in words that follow "its kernel"."""

    def __init__(self, process: subprocess.Popen[bytes], limits: Limits, group: Group | None):
        super().__init__(name=f"watching kernel {process.pid}", daemon=True)
        self._process = process
        self._limits = limits
        self._group = group
        self._over = threading.Event()
        self._reached = ""

    @property
    def reached(self) -> str:
        if not self._reached and self._group is not None and self._group.out_of_memory:
            self._reached = self._too_much()
        return self._reached

    def run(self) -> None:
        while not self._over.wait(EVERY) and not self._reached:
            try:
                over = sum(map(memory_of, processes(self._process.pid))) > self._limits.memory
            except Exception:
                log.exception("a kernel could not be watched")
                self._kill("could not be watched any more")
                return
            if over:
                self._kill(self._too_much())

    def end(self) -> None:
        """The kernel has ended."""
        self._over.set()
        self.join(10)
        if self._group is not None:
            self._reached = self.reached
            self._group.remove()

    def _too_much(self) -> str:
        return f"took more than {self._limits.memory / 2**30:.2g} GiB of memory"

    def _kill(self, why: str) -> None:
        self._reached = why
        # Not by its number, which may be another's by now.
        self._process.kill()


def processes(pid: int) -> Iterator[int]:
    """A process and all that came of it; behind walls nothing comes loose, since its first process is theirs."""
    left = [pid]
    while left:
        pid = left.pop()
        yield pid
        for task in _listed(Path(f"/proc/{pid}/task")):
            try:
                left += map(int, (task / "children").read_bytes().split())
            except OSError:
                continue


def memory_of(pid: int) -> int:
    """Bytes of memory that a process has, of what it shares with others its share."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_bytes()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in told.splitlines() if line.startswith(b"Pss:"))


def _listed(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []
