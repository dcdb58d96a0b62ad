"""A kernel's client that waits for its kernel, and not longer."""

from __future__ import annotations

import time
from queue import Empty

from jupyter_client.asynchronous.client import AsyncKernelClient


class PromptClient(AsyncKernelClient):
    """As its base, but for the fifth of a second by which that one makes sure that nothing more is to come."""

    async def wait_for_ready(self, timeout: float | None = None) -> None:  # type: ignore[override]
        """Return once the kernel has answered, and what it sends to all arrives here. Raises RuntimeError where it has
        ended or does not answer in ``timeout`` seconds."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        patience = 0.005
        while not await self._answered(self.kernel_info(), patience):
            patience = min(2 * patience, 1.0)
            if not await self.is_alive():
                raise RuntimeError("the kernel ended before it was ready")
            if time.monotonic() > end:
                raise RuntimeError(f"the kernel was not ready in {timeout:g} s")

    async def _answered(self, question: str, patience: float) -> bool:
        try:
            while (await self.get_shell_msg(timeout=1))["msg_type"] != "kernel_info_reply":
                pass
            # To an earlier question what is sent to all may have gone before anybody listened: one is asked again then.
            while (await self.get_iopub_msg(timeout=patience))["parent_header"].get("msg_id") != question:
                pass
        except Empty:
            return False
        return True
