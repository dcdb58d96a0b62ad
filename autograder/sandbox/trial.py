"""What a prisoner tries: each way out of a kernel's walls, with the true paths, from inside.

Runs where students' code would, with nothing but Python: ``python -m autograder.sandbox.trial JSON`` prints, as JSON, what
became of each try: "" where the wall held, else what was reached.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRISONER = "prisoner"
"""The file that a try at a folder makes."""

_libc = ctypes.CDLL(None, use_errno=True)


def read(target: str) -> str:
    """A file that is none of the kernel's."""
    path = Path(target)
    if path.is_dir():
        return f"{target} can be listed" if list(path.iterdir()) else ""
    return f"{target} was read" if path.read_bytes() else ""


def write(target: str) -> str:
    with open(target, "r+b") as file:
        file.write(b"x")
    return f"{target} was written"


def create(target: str) -> str:
    path = Path(target) / PRISONER
    path.write_text("x")
    return f"{path} was made"


def imported(target: str) -> str:
    __import__(target)
    return f"{target} was imported"


def connect(target: list[Any]) -> str:
    with socket.create_connection((target[0], target[1]), timeout=2):
        return f"{target} was reached"


def abstract(target: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + target)
        return f"the abstract socket {target} was reached"


def family(target: int) -> str:
    with socket.socket(target):
        return f"a socket of family {target} was made"


def processes(target: str) -> str:
    """Whether anything of a process outside can be seen: its environment holds the target."""
    for place in Path("/proc").iterdir():
        for name in ("environ", "cmdline"):
            with contextlib.suppress(OSError):
                if place.name.isdecimal() and target.encode() in (place / name).read_bytes():
                    return f"{place / name} holds {target}"
    return ""


def seen(target: list[Any]) -> str:
    """Whether a process outside, given by its number and its command line, can be seen."""
    pid, line = target
    return f"process {pid} can be seen" if Path(f"/proc/{pid}/cmdline").read_text() == line else ""


def killed(target: int) -> str:
    os.kill(target, 0)
    return f"process {target} can be signalled"


def called(target: list[Any]) -> str:
    """A system call that no notebook needs, by its name and number."""
    name, number = target
    ctypes.set_errno(0)
    result = _libc.syscall(number, -1, 0, 0, 0, 0, 0)
    error = ctypes.get_errno()
    return "" if result < 0 and error in (1, 38) else f"{name} gave {result} ({os.strerror(error)})"


def old_calls(target: None) -> str:
    """A system call in the way of 32-bit programs, which a filter by numbers would take for another one."""
    code = bytes((0x53, 0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0x5B, 0xC3))  # getpid
    child = os.fork()
    if not child:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        os._exit(7 if ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0 else 8)
    _, status = os.waitpid(child, 0)
    return "a 32-bit system call was made" if os.waitstatus_to_exitcode(status) == 7 else ""


def rights(target: None) -> str:
    status = Path("/proc/self/status").read_text()
    held = {
        line.partition(":")[0]: line.split()[-1]
        for line in status.splitlines()
        if ":" in line and line.split()[1:]
    }
    if int(held["CapEff"], 16) or int(held["CapPrm"], 16):
        return f"capabilities {held['CapEff']}"
    if held["NoNewPrivs"] != "1":
        return "new privileges can be had"
    return "" if held["Seccomp"] == "2" else "system calls are not filtered"


def identity(target: None) -> str:
    return "the kernel runs as root" if os.getuid() == 0 else ""


def room(target: list[Any]) -> str:
    """So many bytes in a folder that can be written."""
    folder, size = target
    with open(Path(folder) / "room", "wb") as file:
        for _ in range(size >> 20):
            file.write(bytes(2**20))
    return f"{size} bytes were written to {folder}"


def memory(target: int) -> str:
    _ = bytearray(target)
    return f"{target} bytes were had"


def file_size(target: int) -> str:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("/tmp/large", "wb") as file:
        file.truncate(target)
    return f"a file of {target} bytes was made"


def forks(target: int) -> str:
    """So many processes at a time."""
    children = []
    try:
        for _ in range(target):
            children.append(subprocess.Popen(["sleep", "60"]))
        return f"{target} processes were started"
    except OSError:
        return ""
    finally:
        for child in children:
            child.kill()
            child.wait()


def raised(target: str) -> str:
    kind = getattr(resource, f"RLIMIT_{target}")
    soft, _ = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft + 1, soft + 1))
    return f"the limit {target} was raised"


TRIES: dict[str, Callable[[Any], str]] = {
    f.__name__: f
    for f in (
        read, write, create, imported, connect, abstract, family, processes, seen, killed, called, old_calls, rights,
        identity, room, memory, file_size, forks, raised,
    )
}  # fmt: skip


def attempt(kind: str, target: Any) -> str:
    try:
        return TRIES[kind](target)
    except (OSError, ImportError, MemoryError, ValueError):
        return ""


if __name__ == "__main__":
    print(json.dumps([attempt(kind, target) for kind, target in json.loads(sys.argv[1])]))
