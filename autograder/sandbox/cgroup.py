"""A control group of its own for a kernel, where this machine lets us make one: Linux then counts what its processes
take together, shared memory too, and stops them at the limit."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autograder.sandbox.walls import Limits

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """Folders of one control group: one in version 2, one a controller in version 1."""

    folders: tuple[Path, ...]
    killed_in: Path

    def entered_by(self, command: Sequence[str]) -> list[str]:
        """The command, which joins the group before it begins."""
        joined = " && ".join(f"echo $$ > {folder}/cgroup.procs" for folder in self.folders)
        return ["/bin/sh", "-c", f'{joined} && exec "$@"', "sh", *command]

    def take(self, pid: int) -> None:
        """Have a process, and what it starts from now on, counted."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    @property
    def out_of_memory(self) -> bool:
        """Whether Linux has stopped a process for want of memory."""
        try:
            events = dict(line.split() for line in self.killed_in.read_text().splitlines())
        except (OSError, ValueError):
            return False
        return int(events.get("oom_kill", 0)) > 0

    def remove(self) -> None:
        for folder in self.folders:
            # It is empty a moment after its last process has ended.
            for _ in range(50):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)
                else:
                    break


def made(limits: Limits) -> Group | None:
    """A new group with these limits, each read back; None where none can be had."""
    name = f"coursekit-{os.getpid()}-{secrets.token_hex(4)}"
    version_2 = (ROOT / "cgroup.controllers").exists()
    settings = _settings_2(name, limits) if version_2 else _settings_1(name, limits)
    folders = tuple(dict.fromkeys(path.parent for path, _ in settings))
    group = Group(folders, folders[0] / ("memory.events" if version_2 else "memory.oom_control"))
    try:
        for folder in folders:
            folder.mkdir()
        for path, value in settings:
            path.write_text(str(value))
            # Where a controller is not delegated, writing may succeed and nothing happen.
            if abs(int(path.read_text()) - value) > os.sysconf("SC_PAGESIZE"):
                raise OSError(f"{path} did not take {value}")
    except (OSError, ValueError):
        group.remove()
        return None
    return group


def _settings_2(name: str, limits: Limits) -> list[tuple[Path, int]]:
    place = ROOT / name
    return [
        (place / "memory.max", limits.memory),
        (place / "memory.swap.max", 0),
        (place / "pids.max", limits.processes),
    ]


def _settings_1(name: str, limits: Limits) -> list[tuple[Path, int]]:
    memory = ROOT / "memory" / name
    swap = [(memory / "memory.memsw.limit_in_bytes", limits.memory)]
    return [
        (memory / "memory.limit_in_bytes", limits.memory),
        *(swap if (ROOT / "memory" / "memory.memsw.limit_in_bytes").exists() else []),
        (ROOT / "pids" / name / "pids.max", limits.processes),
    ]
