"""The walls tried from inside, with what really is to be kept out, and a table of what held."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from autograder.sandbox.filter import NoFilter, program, system_call
from autograder.sandbox.fork import NoFork, warm
from autograder.sandbox.kernel import ORACLE, environment, scratch
from autograder.sandbox.trial import PRISONER
from autograder.sandbox.walls import Kernel, Limits, command, data_of, give, landlock_here

SECONDS = 60.0
OUTSIDE = "outside-"
CALLS = ("keyctl", "add_key"), ("shmget", "semget", "msgget", "mq_open"), ("ptrace", "process_vm_readv")
BEYOND = (
    ("unshare", "setns", "mount", "pivot_root", "chroot"),
    ("bpf", "io_uring_setup", "perf_event_open", "userfaultfd"),
)


class Wall(NamedTuple):
    """One wall: what it keeps out, and the tries at it as pairs of a kind and its target."""

    keeps: str
    tries: tuple[tuple[str, Any], ...]


class Held(NamedTuple):
    """What became of the tries at one wall: "" where it held."""

    keeps: str
    reached: str


def tried(small: Limits | None = None, *, forked: bool = False, **changed: Any) -> list[Held]:
    """Try every wall, with limits as ``small`` as that, from a kernel that is started directly or ``forked`` from a warm
    process. ``changed`` takes parts of a :class:`Kernel` away, to see that the trial would notice.

    Raises RuntimeError where the kernel that tries could not be started, with what it said.
    """
    limits = small or Limits()
    with _outside() as walls, scratch() as place:
        # Where nothing is to be tried, nothing is said to hold.
        walls = [wall for wall in (*walls, *_limits(limits)) if wall.tries]
        tries = [one for wall in walls for one in wall.tries]
        kernel = _kernel(place, limits, tries, changed)
        given = environment(place, place / ORACLE / "s")
        said = (_forked if forked else _direct)(kernel, given)
        reached = iter([_outside_too(*one) for one in zip(tries, json.loads(said), strict=True)])
    return [Held(wall.keeps, next(filter(None, [next(reached) for _ in wall.tries]), "")) for wall in walls]


class Fallen(ValueError):
    """A wall does not hold on this machine."""


def recorded(path: Path, *, forked: bool) -> None:
    """Keep in a file what the trial of this machine's walls has shown; it is made anew where the file tells of another
    machine, start or version. Raises :class:`Fallen` where one does not hold."""
    here = {"kernels": "forked" if forked else "started directly", **_here()}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if json.loads(path.read_text(encoding="utf-8")).get("machine") == here:
            return
    try:
        held = tried(forked=forked)
    except RuntimeError:
        # Kernels are started directly then.
        if not forked:
            raise
        return recorded(path, forked=False)
    if fallen := [f"{wall.keeps}: {wall.reached}" for wall in held if wall.reached]:
        raise Fallen(f"Grading refused, nothing was graded: a wall does not hold here ({'; '.join(fallen)}).")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"tried": now, "machine": here, "held": [wall.keeps for wall in held]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _here() -> dict[str, str]:
    """What the walls depend on: this machine since its start, its user, and the versions that stand on it."""
    return {
        "started": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "linux": platform.release(),
        "user": str(os.geteuid()),
        "python": sys.version.split()[0],
        "segmentation-course": version("segmentation-course"),
    }


def _direct(kernel: Kernel, given: dict[str, str]) -> str:
    ended = subprocess.run(command(kernel), env=given, capture_output=True, text=True, timeout=SECONDS)
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip() or f"the trial ended with code {ended.returncode}")
    return ended.stdout


def _forked(kernel: Kernel, given: dict[str, str]) -> str:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            process = warm(kernel.data).fork(kernel, given, out=out.fileno(), err=err.fileno())
        except NoFork as why:
            raise RuntimeError(str(why)) from why
        try:
            process.wait(SECONDS)
        finally:
            process.kill()
        for file in (out, err):
            file.seek(0)
        said = out.read()
        if not said:
            raise RuntimeError(err.read().strip() or "the trial ended without a word")
        return said


def _outside_too(one: tuple[str, Any], reached: str) -> str:
    """What was made in a folder counts where it came out of the kernel's private copy of that folder."""
    kind, target = one
    if kind != "create":
        return reached
    made = Path(target) / PRISONER
    there = made.exists()
    if there:
        made.unlink()
    return reached if there else ""


def _kernel(place: Path, limits: Limits, tries: Sequence[Any], changed: dict[str, Any]) -> Kernel:
    user = give(place) if os.geteuid() == 0 else 0
    try:
        filtered = program()
    except NoFilter:
        filtered = b""
    given = {
        "user": user,
        "program": filtered,
        "landlock": landlock_here(),
        "limits": limits,
        "data": data_of(os.environ),
        **changed,
    }
    return Kernel(place, "autograder.sandbox.trial", [json.dumps(tries)], **given)


@contextlib.contextmanager
def _outside() -> Iterator[list[Wall]]:
    """What stands outside, for as long as it is tried to be reached: files, sockets, a secret."""
    secret = secrets.token_hex(8)
    package = Path(__file__).parents[1]
    course = package.parent
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=OUTSIDE)))
        for name in ("gradebook.db", "another submission"):
            (folder / name).write_text(secret)
            (folder / name).chmod(0o666)
        folder.chmod(0o777)
        shared = Path("/dev/shm") / secret
        shared.write_text(secret)
        shared.chmod(0o666)
        stack.callback(shared.unlink)
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        named = stack.enter_context(socket.socket(socket.AF_UNIX))
        named.bind("\0" + secret)
        named.listen()
        os.environ["AUTOGRADER_TRIAL"] = secret
        stack.callback(os.environ.pop, "AUTOGRADER_TRIAL")
        solutions = [("read", str(p)) for p in (course / "solutions", course / "lectures") if p.exists()]
        yield [
            Wall(
                "the gradebook",
                (("read", str(folder / "gradebook.db")), ("write", str(folder / "gradebook.db"))),
            ),
            Wall(
                "other submissions", (("read", str(folder / "another submission")), ("create", str(folder)))
            ),
            Wall(
                "the catalogue",
                (("imported", "autograder.catalog"), ("read", str(package / "catalog" / "__init__.py"))),
            ),
            Wall(
                "the oracle",
                (("imported", "autograder.oracle"), ("read", str(package / "oracle" / "__init__.py"))),
            ),
            Wall("the solutions", tuple(solutions)),
            Wall("the home folder", (("read", str(Path.home() / ".bashrc")), ("create", str(Path.home())))),
            Wall(
                "the Python environment",
                (("create", sys.prefix), ("create", str(package)), ("write", __file__)),
            ),
            Wall(
                "the system's files",
                (("create", "/usr"), ("create", "/etc"), ("read", "/etc/shadow"), ("read", "/etc/passwd")),
            ),
            Wall(
                "the network",
                (("connect", ["127.0.0.1", server.getsockname()[1]]), ("connect", ["1.1.1.1", 80])),
            ),
            Wall("sockets without a path", (("abstract", secret), ("family", 40))),
            Wall(
                "the grader's processes", (("processes", secret), ("seen", _self()), ("killed", os.getpid()))
            ),
            Wall("shared memory", (("read", str(shared)), ("write", str(shared)))),
            Wall("keyrings", _called(*CALLS[0])),
            Wall("System V and message queues", _called(*CALLS[1])),
            Wall("looking into processes", _called(*CALLS[2])),
            Wall("namespaces and mounts", _called(*BEYOND[0])),
            Wall("the rest of Linux", _called(*BEYOND[1])),
            Wall("32-bit system calls", (("old_calls", None),) * (platform.machine() == "x86_64")),
            Wall("rights", (("rights", None), ("identity", None))),
        ]


def _called(*names: str) -> tuple[tuple[str, Any], ...]:
    numbers = {name: system_call(name) for name in names}
    return tuple(("called", [name, number]) for name, number in numbers.items() if number >= 0)


def _self() -> list[Any]:
    return [os.getpid(), Path("/proc/self/cmdline").read_text()]


def _limits(limits: Limits) -> list[Wall]:
    raised = tuple(("raised", name) for name in limits.by_name())
    return [
        Wall("memory", (("memory", limits.memory + 2**20),)),
        Wall(
            "room for files",
            (("room", ["/tmp", limits.disk]), ("room", ["/dev/shm", limits.disk]), ("room", ["/dev", 2**20])),
        ),
        Wall("the size of a file", (("file_size", limits.file + 1),)),
        Wall("the number of processes", (("forks", limits.processes + 1),)),
        Wall("the limits themselves", raised),
    ]
