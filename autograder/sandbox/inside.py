"""What runs first in a student's kernel, when the namespaces stand and nothing of the student has: limits, an identity
without rights, Landlock, the filter of system calls, and then the kernel itself.

``python inside.py JOB`` reads its job, a JSON file, and ends with exit code 90 and a sentence on
stderr where one of the walls cannot be had.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import runpy
import shutil
import struct
import sys
from typing import Any

REFUSED = 90

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 38, 22
_SECCOMP_MODE_FILTER = 2
_LANDLOCK = {"create_ruleset": 444, "add_rule": 445, "restrict_self": 446}
_READ = 0b1101  # execute, read a file, list a folder
_SOCKETS = _READ | 1 << 5 | 1 << 9  # remove a file, make a socket
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights over files each version of Landlock knows."""
_SCOPES = 0b11
"""No connection to abstract sockets and no signal that leads out; since version 6."""

_libc = ctypes.CDLL(None, use_errno=True)


class Missing(Exception):
    """A wall that could not be had."""


def main(job: dict[str, Any]) -> None:
    """Put up the walls of this process; all of what ``job`` asks for, or :class:`Missing`."""
    limit(job["limits"])
    if job.get("user"):
        become(job["user"])
    for given, own in job["copied"].items():
        copy(given, own)
    drop()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if job.get("landlock"):
        fence(job["writable"], job["sockets"])
    if job.get("filter"):
        with open(job["filter"], "rb") as file:
            narrow(file.read())


def limit(limits: dict[str, int]) -> None:
    """Set each limit for good, and read it back."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (least, least))
        if resource.getrlimit(kind) != (least, least):
            raise Missing(f"the limit {name} was set to {least} and is {resource.getrlimit(kind)}")


def become(user: int) -> None:
    """Give up the rights of root for those of a user that nobody is."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if os.getresuid() != (user, user, user):
        raise Missing(f"the process still belongs to user {os.getresuid()}")


def drop() -> None:
    """Give up every capability."""
    # Of this process (number 0), in the third version of the header: three sets of 64 bits, each in two parts.
    header, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    _checked(_libc.capset(header, none), "giving up capabilities")


def run(job: dict[str, Any]) -> None:
    """Run the job's module, as ``python -m`` does."""
    # The kernel would look for its starter, whom it cannot see from here, and end.
    os.environ.pop("JPY_PARENT_PID", None)
    sys.argv = job["argv"]
    os.chdir(job["folder"])
    # Where IPython has it at home: what lies beside a notebook can be imported, and stands for no module of Python's.
    sys.path.insert(_first_of_packages(), "")
    runpy.run_module(job["module"], run_name="__main__", alter_sys=True)


def _first_of_packages() -> int:
    names = [os.path.basename(entry) for entry in sys.path]
    return next(
        (at for at, name in enumerate(names) if name in ("site-packages", "dist-packages")), len(names)
    )


def copy(given: str, own: str) -> None:
    """What lies in a folder, into a folder that belongs to somebody else; links stay links."""
    for folder, folders, files in os.walk(given):
        there = os.path.join(own, os.path.relpath(folder, given))
        for name in folders:
            os.mkdir(os.path.join(there, name))
        for name in files:
            shutil.copyfile(os.path.join(folder, name), os.path.join(there, name), follow_symlinks=False)


def landlock() -> int:
    """The version of Linux's Landlock, or less than 1 where there is none."""
    return int(_libc.syscall(_LANDLOCK["create_ruleset"], None, 0, 1))


def fence(writable: list[str], sockets: str) -> None:
    """Landlock: every file may be read, and only those under ``writable`` be changed, whoever owns them; in ``sockets``
    there can be sockets and nothing else."""
    version = landlock()
    if version < 1:
        raise Missing("this Linux has no Landlock")
    rights = (1 << _RIGHTS.get(version, 16)) - 1
    rules = struct.pack("QQQ", rights, 0, _SCOPES if version >= 6 else 0)[: 24 if version >= 6 else 8]
    ruleset = _checked(_libc.syscall(_LANDLOCK["create_ruleset"], rules, len(rules), 0), "Landlock's rules")
    for path, allowed in [("/", _READ), (sockets, _SOCKETS), *((path, rights) for path in writable)]:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", allowed & rights, folder)
        _checked(_libc.syscall(_LANDLOCK["add_rule"], ruleset, 1, rule, 0), f"Landlock's rule for {path}")
        os.close(folder)
    _checked(_libc.syscall(_LANDLOCK["restrict_self"], ruleset, 0), "Landlock")
    os.close(ruleset)


def narrow(program: bytes) -> None:
    """Let this process make only the system calls that the filter allows, from now on."""
    instructions = ctypes.create_string_buffer(program, len(program))

    class Filter(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))

    whole = Filter(len(program) // 8, ctypes.cast(instructions, ctypes.c_void_p))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(whole))


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(pointer), 0, 0), f"prctl {option}")


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise Missing(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as _file:
        _job = json.load(_file)
    try:
        main(_job)
    except (Missing, OSError, ValueError) as _error:
        print(f"The walls around the kernel could not be put up: {_error}", file=sys.stderr)
        sys.exit(REFUSED)
    run(_job)
