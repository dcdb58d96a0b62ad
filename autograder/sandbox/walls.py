"""Bubblewrap's command line for one kernel: what it can see of this machine, and what it can change."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autograder.sandbox import inside
from autograder.sandbox.kernel import COPIED, ORACLE

GIB = 2**30

PARTS = ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "include", "share", "pyvenv.cfg", "ssl")
"""What is needed of a prefix, of the system's or of Python's: never its `etc`, where passwords lie, and nothing of a
course that an environment was made in."""
SYSTEM = ("/usr", "/usr/local")
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
PACKAGES = ("site-packages", "dist-packages")
LOADED = ("__init__.py", "agent", "learner.py", "sandbox", "values.py", "wire.py")
"""What a kernel loads of the autograder; where the answers are, or how they are judged, stays outside."""
FIRST_USER = 60_578
USERS = 606
"""Kernels started by root belong to users from here on, so many of them; systemd's own begin behind them."""


@dataclass(frozen=True)
class Limits:
    """What one kernel may take.

    Attributes:
        memory: bytes of memory that its processes may have together, and each alone.
        disk: bytes of files where it runs; half of that in each other folder that it may change. They lie in memory.
        file: bytes that one file may have.
        processes: how many there may be at a time, threads included; of users other than root.
        open_files: how many files may be open.
    """

    memory: int = 4 * GIB
    disk: int = GIB
    file: int = GIB
    processes: int = 512
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
        place: its private folder, with :func:`~autograder.sandbox.kernel.scratch`'s parts in it; of `work`, `ipython` and `home` it gets copies.
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
    inner = [sys.executable, "-P", "-s", str(_package("autograder") / "sandbox" / "inside.py"), str(job)]
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
        "copied": {str(_given_in(kernel, name)): str(kernel.place / name) for name in COPIED},
        "writable": [*(str(kernel.place / name) for name in COPIED), "/tmp", "/dev"],
        "sockets": str(kernel.place / "io"),
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
    half = kernel.limits.disk // 2
    for name in ("/dev/shm", "/tmp"):
        yield from _in_memory(name, half)
    # Its other files would have no bound.
    yield from ("--remount-ro", "/dev")
    made: set[Path] = {Path("/"), Path("/tmp"), Path("/proc"), Path("/dev")}
    readable = _readable(kernel)
    for path in readable:
        yield from _parents(path, made)
        yield from ("--ro-bind", str(path), str(path))
    for name in LINKED:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", os.readlink(path), name)
        elif path.exists():
            yield from ("--ro-bind", name, name)
    package = _package("autograder")
    for other in _installed(readable) - {package}:
        yield from ("--tmpfs", str(other), "--remount-ro", str(other))
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
    for name in COPIED:
        yield from ("--ro-bind", str(kernel.place / name), str(_given_in(kernel, name)))
        yield from _in_memory(str(kernel.place / name), kernel.limits.disk if name == "work" else half)
    yield from ("--bind", str(kernel.place / "io"), str(kernel.place / "io"))


def _in_memory(name: str, size: int) -> Iterator[str]:
    """A folder for everybody, of bounded size, that is gone with its kernel."""
    yield from ("--perms", "1777", "--size", str(size), "--tmpfs", name)


def _given_in(kernel: Kernel, name: str) -> Path:
    return kernel.place / f"{name} as given"


def _installed(readable: Iterable[Path]) -> set[Path]:
    """Every autograder that lies in a folder of packages which can be seen: another one's answers are answers, too."""
    places = [path for path in readable if path.name in PACKAGES]
    places += [found for path in readable for kind in PACKAGES for found in path.glob(f"python*/{kind}")]
    return {place / "autograder" for place in places if (place / "autograder").is_dir()}


def _parents(path: Path, made: set[Path]) -> Iterator[str]:
    """The folders above a path, which bubblewrap would make for root alone."""
    for parent in reversed(path.parents):
        if parent not in made:
            made.add(parent)
            yield from ("--perms", "0755", "--dir", str(parent))


def _readable(kernel: Kernel) -> list[Path]:
    """The Python environment, the system's programs and the course's public library; the outer folders first."""
    prefixes = (*SYSTEM, sys.prefix, sys.base_prefix)
    wanted = [Path(prefix) / part for prefix in prefixes for part in PARTS]
    wanted += [Path("/etc") / name for name in ETC]
    wanted += [Path(entry) for entry in sys.path if Path(entry).name in PACKAGES]
    found = {path for path in (*wanted, _package("coursekit"), *kernel.data) if path.exists()}
    return [path for path in sorted(found) if not any(parent in found for parent in path.parents)]


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


_given = 0


def give(place: Path) -> int:
    """Give the folder of a kernel's sockets to a user whom nobody else is; the user's number. Only root can."""
    global _given
    _given += 1
    user = FIRST_USER + (os.getpid() * 31 + _given) % USERS
    os.chown(place / "io", user, user)
    return user


def landlock_here() -> bool:
    """Whether this Linux has Landlock."""
    return inside.landlock() > 0


def data_of(environment: Mapping[str, str]) -> list[Path]:
    """The folder of the real data sets, which a kernel may read where the grader has one."""
    return [Path(environment["COURSEKIT_DATA"])] if environment.get("COURSEKIT_DATA") else []
