"""The Jupyter kernel provisioner ``coursekit-sandbox``: a kernel behind walls, started by whoever starts kernels."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner
from traitlets import Bool, Float

from autograder.sandbox import cgroup
from autograder.sandbox.filter import program
from autograder.sandbox.fork import Forked, NoFork, warm
from autograder.sandbox.kernel import furnish
from autograder.sandbox.walls import GIB, Kernel, Limits, command, data_of, give, landlock_here
from autograder.sandbox.watch import Watch


class SandboxProvisioner(LocalProvisioner):
    """Starts what the kernelspec names behind walls: forked from a warm process, or inside a bubblewrap of its own. The
    kernel manager's connection file lies in the kernel's private folder, and its sockets in `io` there."""

    warm = Bool(True, help="Fork kernels from a process that has imported what they need.").tag(config=True)

    memory = Float(None, allow_none=True, help="Gibibytes that a kernel may take.").tag(config=True)

    limits = Limits()
    process: Any = None
    _watch: Watch | None = None
    _group: cgroup.Group | None = None
    _kernel: Kernel | None = None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        kwargs = await super().pre_launch(**kwargs)
        manager: Any = self.parent
        place = Path(manager.connection_file).parent
        module, argv = _launched(kwargs["cmd"])
        kwargs["env"] = {**kwargs.get("env", {}), **furnish(place)}
        user = 0
        if os.geteuid() == 0:
            user = give(place)
            os.chown(manager.connection_file, user, user)
        if self.memory is not None:
            self.limits = replace(self.limits, memory=int(self.memory * GIB))
        self._kernel = Kernel(
            place, module, argv, user, program(), landlock_here(), self.limits, data_of(kwargs["env"])
        )
        self._group = cgroup.made(self.limits)
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        if not self.warm or not self._forked(kwargs["env"]):
            assert self._kernel is not None
            walled = command(self._kernel)
            cmd = self._group.entered_by(walled) if self._group else walled
            await super().launch_kernel(cmd, **{**kwargs, "cwd": "/"})
        self._watch = Watch(self.process, self.limits, self._group)
        self._watch.start()
        return self.connection_info

    def _forked(self, given: dict[str, str]) -> bool:
        """Whether the kernel was forked from the warm process; it is started directly otherwise."""
        assert self._kernel is not None
        join = self._group.take if self._group else lambda pid: None
        try:
            self.process = warm(self._kernel.data).fork(self._kernel, given, join=join)
        except NoFork as why:
            self.log.warning("This kernel is started without a warm process: %s", why)
            return False
        self.pid, self.pgid = self.process.pid, None
        return True

    @property
    def reached(self) -> str:
        """Which limit ended the kernel, in words that follow "its kernel"; "" where none did."""
        return self._watch.reached if self._watch is not None else ""

    async def kill(self, restart: bool = False) -> None:
        await super().kill(restart)
        # The manager looks ten times a second, which is half of what a forked kernel takes in all.
        for _ in range(100):
            if await self.poll() is not None:
                return
            await asyncio.sleep(0.005)

    async def cleanup(self, restart: bool = False) -> None:
        # Called more than once.
        if self._watch is not None:
            self._watch.end()
        elif self._group is not None:
            self._group.remove()
        await super().cleanup(restart)

    async def send_signal(self, signum: int) -> None:
        if signum == signal.SIGINT and self.process is not None:
            # To the first process of its namespaces it would end the kernel, which must go on after an interrupt.
            for pid in _leaves(self.process.pid, 1 if isinstance(self.process, Forked) else 2):
                os.kill(pid, signum)
            return
        await super().send_signal(signum)


def _launched(cmd: list[str]) -> tuple[str, list[str]]:
    """The module that a kernelspec's command runs, and its arguments."""
    at = cmd.index("-m")
    return cmd[at + 1], cmd[at + 2 :]


def _leaves(pid: int, generations: int) -> list[int]:
    """The kernel behind the processes that keep its namespaces."""
    for _ in range(generations):
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        if not children:
            return []
        pid = int(children[0])
    return [pid]
