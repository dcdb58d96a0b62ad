"""The Jupyter kernel provisioner ``coursekit-sandbox``: a kernel behind walls, started by whoever starts kernels."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

from autograder.sandbox import cgroup
from autograder.sandbox.filter import program
from autograder.sandbox.kernel import furnish
from autograder.sandbox.walls import Kernel, Limits, command, data_of, give, landlock_here
from autograder.sandbox.watch import Watch


class SandboxProvisioner(LocalProvisioner):
    """Starts what the kernelspec names inside bubblewrap. The kernel manager's connection file lies in the kernel's
    private folder, and its sockets in `io` there."""

    limits = Limits()
    _watch: Watch | None = None
    _group: cgroup.Group | None = None

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
        kernel = Kernel(
            place, module, argv, user, program(), landlock_here(), self.limits, data_of(kwargs["env"])
        )
        walled = command(kernel)
        self._group = cgroup.made(self.limits)
        kwargs["cmd"] = self._group.entered_by(walled) if self._group else walled
        kwargs["cwd"] = "/"
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        info = await super().launch_kernel(cmd, **kwargs)
        assert self.process is not None
        self._watch = Watch(self.process, self.limits, self._group)
        self._watch.start()
        return info

    @property
    def reached(self) -> str:
        """Which limit ended the kernel, in words that follow "its kernel"; "" where none did."""
        return self._watch.reached if self._watch is not None else ""

    async def cleanup(self, restart: bool = False) -> None:
        # Called more than once.
        if self._watch is not None:
            self._watch.end()
        elif self._group is not None:
            self._group.remove()
        await super().cleanup(restart)

    async def send_signal(self, signum: int) -> None:
        if signum == signal.SIGINT and self.process is not None:
            # To bubblewrap it would end the kernel, which must go on after an interrupt.
            for pid in _leaves(self.process.pid):
                os.kill(pid, signum)
            return
        await super().send_signal(signum)


def _launched(cmd: list[str]) -> tuple[str, list[str]]:
    """The module that a kernelspec's command runs, and its arguments."""
    at = cmd.index("-m")
    return cmd[at + 1], cmd[at + 2 :]


def _leaves(pid: int) -> list[int]:
    """The kernel behind bubblewrap's two processes."""
    for _ in range(2):
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        if not children:
            return []
        pid = int(children[0])
    return [pid]
