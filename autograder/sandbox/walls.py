"""Bubblewrap's command line for one kernel: what it can see of this machine, and what it can change."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import site
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autograder.sandbox.kernel import ORACLE, OWN

GIB = 2**30

SYSTEM = ("/usr", "/opt/conda")
"""Programs and libraries."""
LINKED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "fonts",
    "alternatives",
    "localtime",
    "nsswitch.conf",
    "mime.types",
)
LOADED = ("__init__.py", "agent", "learner.py", "sandbox", "values.py", "wire.py")
"""What a kernel loads of the autograder; where the answers are, or how they are judged, stays outside."""
FIRST_USER = 61_000
USERS = 4_000
"""Kernels started by root belong to users from here on, so many of them, whom nobody else is."""


@dataclass(frozen=True)
class Limits:
    """What one kernel may take.

    Attributes:
        memory: bytes of memory that its processes may have together, and each alone.
        disk: bytes of files in the folders that it may change; half of that in `/tmp`, and in shared memory.
        file: bytes that one file may have.
        processes: how many there may be at a time, threads included; of users other than root.
        open_files: how many files may be open.
    """

    memory: int = 4 * GIB
    disk: int = GIB
    file: int = GIB
    processes: int = 256
    open_files: int = 1024

    def by_name(self) -> dict[str, int]:
        return {
            "DATA": self.memory,
            "FSIZE": self.file,
            "NPROC": self.processes,
            "NOFILE": self.open_files,
            "CORE": 0,
        }


@dataclass(frozen=True)
class Kernel:
    """One kernel to come, and what it is given.

    Attributes:
        place: its private folder, with `work` (where it runs), `io` (sockets) and `ipython` in it.
        module, argv: what is run in it.
        user: whom it belongs to where root starts it, or 0.
        program: the filter of system calls, or b"" for none.
        landlock: whether Landlock stands inside.
        data: folders that it may read besides.
    """

    place: Path
    module: str
    argv: Sequence[str]
    user: int = 0
    program: bytes = b""
    landlock: bool = True
    limits: Limits = field(default_factory=Limits)
    data: Sequence[Path] = ()


def command(kernel: Kernel) -> list[str]:
    """What starts the kernel behind its walls; writes the kernel's job into its place."""
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise FileNotFoundError("bwrap")
    job = _job(kernel)
    # As a file, since as a module it would bring the whole package, and torch, before the walls stand.
    inner = [sys.executable, "-P", str(_package("autograder") / "sandbox" / "inside.py"), str(job)]
    return [bubblewrap, *_namespaces(kernel), *_files(kernel), "--chdir", "/", "--", *inner]


def _job(kernel: Kernel) -> Path:
    filtered = kernel.place / "filter"
    filtered.write_bytes(kernel.program)
    job = {
        "module": kernel.module,
        "argv": [kernel.module, *kernel.argv],
        "folder": str(kernel.place / "work"),
        "limits": kernel.limits.by_name(),
        "user": kernel.user,
        "landlock": kernel.landlock,
        "writable": [*map(str, _own(kernel)), "/tmp", "/dev"],
        "filter": str(filtered) if kernel.program else "",
    }
    path = kernel.place / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    return path


def _namespaces(kernel: Kernel) -> Iterator[str]:
    yield from ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try")
    yield from ("--die-with-parent", "--new-session", "--hostname", "kernel")
    yield from ("--cap-drop", "ALL")
    if kernel.user:
        # Root needs no user namespace to make the others, and a user of its own for each kernel afterwards.
        yield from ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    else:
        yield "--unshare-user"


def _files(kernel: Kernel) -> Iterator[str]:
    yield from ("--proc", "/proc", "--dev", "/dev")
    for name in ("/dev/shm", "/tmp"):
        yield from ("--perms", "1777", "--size", str(kernel.limits.disk // 2), "--tmpfs", name)
    made: set[Path] = {Path("/"), Path("/tmp"), Path("/proc"), Path("/dev")}
    for path in _readable(kernel):
        yield from _parents(path, made)
        yield from ("--ro-bind", str(path), str(path))
    for name in LINKED:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", os.readlink(path), name)
        elif path.exists():
            yield from ("--ro-bind", name, name)
    package = _package("autograder")
    yield from _parents(package, made)
    yield from ("--perms", "0755", "--tmpfs", str(package))
    for name in LOADED:
        yield from ("--ro-bind", str(package / name), str(package / name))
    yield from ("--remount-ro", str(package))
    yield from _parents(kernel.place, made)
    yield from ("--perms", "0755", "--dir", str(kernel.place))
    for path in (kernel.place / name for name in ("job.json", "filter", "kernel.json", ORACLE)):
        if path.exists():
            yield from ("--ro-bind", str(path), str(path))
    for path in _own(kernel):
        yield from ("--bind", str(path), str(path))


def _own(kernel: Kernel) -> list[Path]:
    return [kernel.place / name for name in OWN]


def _parents(path: Path, made: set[Path]) -> Iterator[str]:
    """The folders above a path, which bubblewrap would make for root alone."""
    for parent in reversed(path.parents):
        if parent not in made:
            made.add(parent)
            yield from ("--perms", "0755", "--dir", str(parent))


def _readable(kernel: Kernel) -> list[Path]:
    """The Python environment, the system's programs and the course's public library; the outer folders first."""
    python = [sys.prefix, sys.base_prefix, *site.getsitepackages(), *_outside_the_environment()]
    etc = [f"/etc/{name}" for name in ETC]
    wanted = [Path(name) for name in (*SYSTEM, *etc, *python)] + [_package("coursekit"), *kernel.data]
    found = {path for path in wanted if path.exists()}
    return [path for path in sorted(found) if not any(parent in found for parent in path.parents)]


def _outside_the_environment() -> Iterable[str]:
    """Folders of packages that lie elsewhere: a user's own, or those that a path file names."""
    return (entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages"))


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


_given = 0


def give(place: Path) -> int:
    """Give a kernel's own folders to a user whom nobody else is; the user's number. Only root can."""
    global _given
    _given += 1
    user = FIRST_USER + (os.getpid() * 31 + _given) % USERS
    for name in OWN:
        for path in (place / name, *(place / name).rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)
    return user
