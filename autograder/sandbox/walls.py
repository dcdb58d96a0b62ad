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
from typing import Any

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
FILES = ("filter", "kernel.json", ORACLE)
"""What a kernel may read in its place besides."""
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


def warm_command(base: Path, descriptor: int, data: Sequence[Path] = ()) -> list[str]:
    """What starts the warm process behind bubblewrap's walls: it sees what every kernel sees, and the folder in which the
    private ones lie, and may make namespaces and mounts."""
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        raise FileNotFoundError("bwrap")
    root = os.geteuid() == 0
    rights = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", *(["CAP_SETUID", "CAP_SETGID"] if root else [])]
    granted = [word for right in rights for word in ("--cap-add", right)]
    made = {Path("/"), Path("/tmp"), Path("/proc"), Path("/dev")}
    files = [
        *_outer_files(Limits().disk // 2, data, made),
        *_parents(base, made),
        "--bind",
        str(base),
        str(base),
    ]
    inner = [sys.executable, "-P", "-s", "-m", "autograder.sandbox.warm", str(descriptor)]
    own = ["--unshare-user"] * (not root)
    return [
        bubblewrap, *NAMESPACES, *own, "--cap-drop", "ALL", *granted, *files, "--remount-ro", "/", "--chdir", "/", "--",
        *inner,
    ]  # fmt: skip


OWN = ("mount", "uts", "ipc", "net")
"""The namespaces of a forked kernel, besides that of its processes."""


def mounts_of(kernel: Kernel, base: Path) -> dict[str, Any]:
    """What a forked kernel mounts for itself; the same as :func:`command` has bubblewrap mount."""
    half = kernel.limits.disk // 2
    own = {str(kernel.place / name): kernel.limits.disk if name == "work" else half for name in COPIED}
    files = [name for name in FILES if (kernel.place / name).exists()]
    visible = _outermost({*_readable(kernel.data), _package("autograder")})
    return {
        "namespaces": list(OWN),
        "base": str(base),
        "place": str(kernel.place),
        "in_memory": {"/tmp": half, "/dev/shm": half, **own},
        "kept": [
            str(path) for path in visible if path.is_relative_to("/tmp") or path.is_relative_to("/dev/shm")
        ],
        "bound": [
            *((name, name, False) for name in files),
            *((name, _given_in(kernel, name).name, False) for name in COPIED),
            ("io", "io", True),
        ],
    }


def job_of(kernel: Kernel) -> dict[str, Any]:
    """What the process is told that becomes the kernel; writes the filter into the kernel's place."""
    filtered = kernel.place / "filter"
    filtered.write_bytes(kernel.program)
    return {
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


def _job(kernel: Kernel) -> Path:
    path = kernel.place / "job.json"
    path.write_text(json.dumps(job_of(kernel)), encoding="utf-8")
    return path


NAMESPACES = (
    "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try",
    "--die-with-parent", "--new-session", "--hostname", "kernel",
)  # fmt: skip


def _namespaces(kernel: Kernel) -> Iterator[str]:
    yield from NAMESPACES
    yield from ("--cap-drop", "ALL")
    if kernel.user:
        # Root needs no user namespace to make the others, and a user of its own for each kernel afterwards.
        yield from ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    else:
        yield "--unshare-user"


def _files(kernel: Kernel) -> Iterator[str]:
    half = kernel.limits.disk // 2
    made: set[Path] = {Path("/"), Path("/tmp"), Path("/proc"), Path("/dev")}
    yield from _outer_files(half, kernel.data, made)
    yield from _parents(kernel.place, made)
    yield from ("--perms", "0755", "--dir", str(kernel.place))
    for path in (kernel.place / name for name in ("job.json", *FILES)):
        if path.exists():
            yield from ("--ro-bind", str(path), str(path))
    for name in COPIED:
        yield from ("--ro-bind", str(kernel.place / name), str(_given_in(kernel, name)))
        yield from _in_memory(str(kernel.place / name), kernel.limits.disk if name == "work" else half)
    yield from ("--bind", str(kernel.place / "io"), str(kernel.place / "io"))


def _outer_files(half: int, data: Sequence[Path], made: set[Path]) -> Iterator[str]:
    """What every kernel sees: the system, the Python environment, what students may read of this package."""
    yield from ("--proc", "/proc", "--dev", "/dev")
    for name in ("/dev/shm", "/tmp"):
        yield from _in_memory(name, half)
    # Its other files would have no bound.
    yield from ("--remount-ro", "/dev")
    readable = _readable(data)
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


def _readable(data: Sequence[Path]) -> list[Path]:
    """The Python environment, the system's programs and the course's public library; the outer folders first."""
    prefixes = (*SYSTEM, sys.prefix, sys.base_prefix)
    wanted = [Path(prefix) / part for prefix in prefixes for part in PARTS]
    wanted += [Path("/etc") / name for name in ETC]
    wanted += [Path(entry) for entry in sys.path if Path(entry).name in PACKAGES]
    found = {path for path in (*wanted, _package("coursekit"), *data) if path.exists()}
    return _outermost(found)


def _outermost(paths: set[Path]) -> list[Path]:
    return [path for path in sorted(paths) if not any(parent in paths for parent in path.parents)]


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
