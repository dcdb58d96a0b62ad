"""The warm process: it has imported what notebooks import, and becomes a new kernel whenever it is asked to.

``python -m autograder.sandbox.warm DESCRIPTOR`` runs behind bubblewrap's walls, with the rights that making namespaces takes,
and listens at a socket. A request is one byte and descriptors; what they hold is read by the process that is forked for
it. So nothing of a student, and no secret, ever lies in the memory that all kernels come from.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import random
import signal
import socket
import struct
import sys
import tempfile
import traceback
from collections.abc import Mapping
from typing import Any

import coursekit
from autograder.sandbox import inside

IMPORTED = (
    "ipykernel.debugger",
    "ipykernel.ipkernel",
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "sqlite3",
    "tornado.platform.asyncio",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "ipywidgets",
    "numpy.random",
    "torch.nn.functional",
    "torch.utils.data",
    "torch.utils._python_dispatch",
    "torch._dynamo",
    "torchvision.transforms.v2",
    "scipy.ndimage",
    "autograder.agent",
    "autograder.learner",
)
"""What the notebooks and their kernels import, together with all that these bring; what is not installed is left out."""

DESCRIPTORS = 4
"""Of a request: the job, the talk about it, and where the kernel's output and complaints go."""

_CLONE = {"mount": 0x00020000, "uts": 0x04000000, "ipc": 0x08000000, "net": 0x40000000, "pid": 0x20000000}
_CLONE_CALL = {"x86_64": 56, "aarch64": 220}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def serve(requests: socket.socket) -> None:
    """Fork a kernel for each request, until whoever asks is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        asked, descriptors, *_ = socket.recv_fds(requests, 1, DESCRIPTORS)
        if not asked:
            return
        if not _forked_apart():
            requests.close()
            _become(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _forked_apart() -> int:
    """As ``os.fork``, and the child is the first process of a namespace of its own."""
    # What unshare offers instead holds for all later children together, and takes one fork more.
    ctypes.pythonapi.PyOS_BeforeFork()
    child = _libc.syscall(_CLONE_CALL[os.uname().machine], _CLONE["pid"] | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    _checked(child, "a process in a namespace of its own")
    return int(child)


def _become(job: int, talk: int, out: int, err: int) -> None:
    """What the forked process does: the first of its namespace, it puts up the walls and starts the kernel in them."""
    code = inside.REFUSED
    with socket.socket(fileno=talk) as talking:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            socket.send_fds(talking, [b"ready"], [os.pidfd_open(os.getpid())])
            # Whoever asked puts this process into its control group first, which what it forks inherits.
            if talking.recv(8) != b"go":
                os._exit(inside.REFUSED)
            with open(job, encoding="utf-8") as file:
                given = json.load(file)
            os.setsid()
            for descriptor, standard in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
                os.dup2(descriptor, standard)
                os.close(descriptor)
            _apart(given["mounts"])
            kernel = os.fork()
            if kernel:
                talking.close()
                code = _reap(kernel, given.get("user", 0))
            else:
                code = _run(given, talking)
        except BaseException as error:
            with contextlib.suppress(OSError):
                talking.send(f"{type(error).__name__}: {error}".encode()[:500])
    os._exit(code)


def _reap(kernel: int, user: int) -> int:
    """Be the first process of a namespace: collect what ends in it, until its kernel does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if user:
        inside.become(user)
    inside.drop()
    while True:
        pid, status = os.wait()
        if pid == kernel:
            return os.waitstatus_to_exitcode(status) % 256


def _run(job: dict[str, Any], talking: socket.socket) -> int:
    """Be the kernel, and end as a process of its own would; its exit code."""
    os.environ.clear()
    os.environ.update(job["environment"])
    # Found anew, in the folders that are this kernel's own.
    tempfile.tempdir = None
    inside.main(job)
    reseed()
    talking.send(b"up")
    talking.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    code = 0
    try:
        inside.run(job)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    return code


def reseed() -> None:
    """Global random numbers of its own for each kernel."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()


def _apart(mounts: Mapping[str, Any]) -> None:
    """Namespaces of its own for this process, and in them the private folders of its kernel and no other's."""
    _checked(_libc.unshare(sum(_CLONE[name] for name in mounts["namespaces"])), "namespaces")
    socket.sethostname("kernel")
    _loopback()
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _mount("devpts", "/dev/pts", "devpts", _MS_NOSUID | _MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    place, base = mounts["place"], mounts["base"]
    # Opened before other folders come to lie over them.
    kept = {path: os.open(path, os.O_PATH) for path in mounts["kept"]}
    bound = [
        (os.open(os.path.join(place, source), os.O_PATH), name, rw) for source, name, rw in mounts["bound"]
    ]
    # Over the folder in which the other kernels' lie, too.
    _in_memory(base, 2**20, "0755")
    os.mkdir(place, 0o755)
    for name, size in mounts["in_memory"].items():
        os.makedirs(name, exist_ok=True)
        _in_memory(name, size, "1777")
    for path, descriptor in kept.items():
        _bind(descriptor, path, _MS_REC)
    for descriptor, name, writable in bound:
        there = os.path.join(place, name)
        _bind(descriptor, there)
        if not writable:
            _read_only(there)
    _read_only(base)


def _bind(descriptor: int, there: str, flags: int = 0) -> None:
    """Have an open file or folder lie in a place that is not there yet."""
    opened = f"/proc/self/fd/{descriptor}"
    if os.path.isdir(opened):
        os.makedirs(there)
    else:
        os.makedirs(os.path.dirname(there), exist_ok=True)
        os.close(os.open(there, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(opened, there, "", _MS_BIND | flags)
    os.close(descriptor)


def _read_only(there: str) -> None:
    _mount("none", there, "", _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)


def _in_memory(name: str, size: int, mode: str) -> None:
    _mount("tmpfs", name, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size},mode={mode}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _checked(result, f"mounting {kind or source} on {target}")


def _loopback() -> None:
    """Switch on the network's way to itself, where nobody else is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(sock, _SIOCGIFFLAGS, asked), 16)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise inside.Missing(f"{what}: {os.strerror(ctypes.get_errno())}")


def warm_up() -> None:
    """Import what kernels import; raises :class:`~autograder.sandbox.inside.Missing` where that left more than one thread."""
    if os.uname().machine not in _CLONE_CALL:
        raise inside.Missing(f"processes are not forked apart on {os.uname().machine}")
    library = [f"coursekit.{module.name}" for module in pkgutil.iter_modules(coursekit.__path__)]
    for name in (*IMPORTED, *library):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        raise inside.Missing(f"{threads} threads run, and a fork would take only one along")
    gc.collect()
    # What was imported is not looked through again, and stays shared memory.
    gc.freeze()


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        try:
            warm_up()
        except inside.Missing as error:
            requests.send(str(error).encode())
            return
        requests.send(b"warm")
        serve(requests)


if __name__ == "__main__":
    main()
