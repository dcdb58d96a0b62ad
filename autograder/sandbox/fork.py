"""Kernels forked from a warm process: asked for from outside, and held by a descriptor that cannot mean another process."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from autograder.sandbox.kernel import base, environment
from autograder.sandbox.walls import Kernel, job_of, mounts_of, warm_command

log = logging.getLogger(__name__)

WARM_UP = 120.0
"""Seconds in which the warm process must have imported everything."""
ANSWER = 20.0
"""Seconds in which a forked kernel must stand behind its walls."""


class NoFork(Exception):
    """No kernel can be forked here; the message says why."""


class Forked:
    """A forked kernel, as :class:`subprocess.Popen` shows a process: the first of its namespace, with which all of it
    ends."""

    stdin = stdout = stderr = None

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self.pid = _pid_of(descriptor)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and self.wait_for(0.0):
            # Its code is known to its parent alone.
            self.returncode = 0
        return self.returncode

    def wait_for(self, seconds: float | None) -> bool:
        """Whether it has ended, after that time at the latest."""
        if self.returncode is not None:
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        return bool(poll.poll(None if seconds is None else seconds * 1000))

    def wait(self, timeout: float | None = None) -> int:
        if not self.wait_for(timeout):
            raise subprocess.TimeoutExpired("a forked kernel", timeout or 0.0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    # The first process of a namespace has no handler for anything gentler.
    terminate = kill

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


class Warm:
    """A process of this grader's that imports what kernels import, behind walls of its own.

    Raises :class:`NoFork` where it cannot be had, which :meth:`wait` is the first to know.
    """

    def __init__(self, data: Sequence[Path] = ()) -> None:
        self._up = False
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = subprocess.Popen(
                    warm_command(base(), theirs.fileno(), data),
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                )
        except OSError as error:
            raise NoFork(f"the warm process could not be started ({error})") from error

    def wait(self) -> None:
        """Return once everything is imported."""
        if self._up:
            return
        try:
            self._requests.settimeout(WARM_UP)
            said = self._requests.recv(500).decode(errors="replace")
        except OSError as error:
            self.end()
            raise NoFork(f"the warm process was not ready in time ({error})") from error
        if said != "warm":
            self.end()
            complaint = (
                self._process.stderr.read().decode(errors="replace").strip() if self._process.stderr else ""
            )
            raise NoFork(said or (complaint.splitlines() or ["the warm process ended at once"])[-1])
        self._requests.settimeout(ANSWER)
        self._up = True

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fork(
        self,
        kernel: Kernel,
        given: Mapping[str, str],
        *,
        join: Callable[[int], None] = lambda pid: None,
        out: int | None = None,
        err: int | None = None,
    ) -> Forked:
        """A kernel with that environment. ``join`` puts the process of that number into its control group; ``out`` and
        ``err`` are descriptors for what it prints."""
        job = {**job_of(kernel), "mounts": mounts_of(kernel, base()), "environment": dict(given)}
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near, contextlib.ExitStack() as stack:
            near.settimeout(ANSWER)
            with far, _nowhere() as nowhere, _in_memory(json.dumps(job).encode()) as text:
                descriptors = [
                    text,
                    far.fileno(),
                    nowhere if out is None else out,
                    nowhere if err is None else err,
                ]
                try:
                    socket.send_fds(self._requests, [b"f"], descriptors)
                except OSError as error:
                    raise NoFork(f"the warm process is gone ({error})") from error
            try:
                said, descriptors, *_ = socket.recv_fds(near, 500, 1)
                if said != b"ready" or not descriptors:
                    raise NoFork(_complaint(said))
                forked = Forked(descriptors[0])
                stack.callback(forked.kill)
                join(forked.pid)
                near.send(b"go")
                if (said := near.recv(500)) != b"up":
                    raise NoFork(_complaint(said))
            except OSError as error:
                raise NoFork(f"a forked kernel did not answer ({error})") from error
            stack.pop_all()
        return forked

    def end(self) -> None:
        self._requests.close()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.wait(2)
        if self.alive:
            self._process.kill()
            self._process.wait(10)


_of_thread = threading.local()


def warm(data: Sequence[Path] = ()) -> Warm:
    """The warm process of this thread, with which it would end; started where it is not there yet, or not any more.
    Its kernels can read ``data`` besides.

    Raises :class:`NoFork` where none can be had, which is tried once.
    """
    try:
        found = _started(data)
        found.wait()
    except NoFork as why:
        _known()[tuple(data)] = str(why)
        raise
    return found


def warm_up(data: Sequence[Path] = ()) -> None:
    """Have the warm process start while this thread does something else."""
    # Whoever asks for it is told what went wrong.
    with contextlib.suppress(NoFork):
        _started(data)


def _started(data: Sequence[Path]) -> Warm:
    found = _known().get(tuple(data))
    if isinstance(found, str):
        raise NoFork(found)
    if found is None or not found.alive:
        found = _known()[tuple(data)] = Warm(data)
        atexit.register(found.end)
    return found


def _known() -> dict[tuple[Path, ...], Warm | str]:
    known: dict[tuple[Path, ...], Warm | str] = _of_thread.__dict__.setdefault("known", {})
    return known


def _environment() -> dict[str, str]:
    """Of the warm process: as a kernel's, with nothing that would start a thread."""
    folder = base()
    given = environment(folder, folder)
    return {**given, "HOME": "/tmp", "TMPDIR": "/tmp", "IPYTHONDIR": "/tmp", "OPENBLAS_NUM_THREADS": "1"}


def _complaint(said: bytes) -> str:
    return said.decode(errors="replace") or "a forked kernel ended before it stood behind its walls"


def _pid_of(descriptor: int) -> int:
    """The number, here, of the process that a descriptor holds."""
    told = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    return next(int(line.split()[1]) for line in told.splitlines() if line.startswith("Pid:"))


@contextlib.contextmanager
def _nowhere() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[int]:
    """A file without a name, which opens at its beginning."""
    descriptor = os.memfd_create("job")
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
