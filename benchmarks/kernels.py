"""What a kernel behind walls costs, warm, beside a fresh one without any."""

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import zmq
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode

from autograder import sample_class
from autograder.plugins.client import PromptClient
from autograder.sample_class import Sample
from autograder.sandbox import SANDBOX
from autograder.sandbox.kernel import ORACLE, environment, scratch
from benchmarks.measure import Row, at_least

ROOT = Path(__file__).parents[1]
FIRST_CELL = "import torch\nprint(torch.ones(2).sum())"
STARTS = 7
LECTURE, STUDENTS = "02_batchnorm", 12
HONEST = ("solved", "partial", "right", "mistaken", "mix")
"""Of the sample class: those that nothing has to wait for."""
BARE = ["--Judge.unsafe_no_sandbox=True", "--Judge.warm=False"]


def kernels() -> Iterator[Row]:
    yield from kernel_start()
    yield from stock_in_sandbox()


def kernel_start() -> Iterator[Row]:
    """To the end of the first cell, which uses torch; the first warm one pays for the warm process, and is left out."""
    asyncio.run(_started(walled=True))
    ours, peer = [], []
    for turn in range(STARTS):
        ours.append(asyncio.run(_started(walled=True)))
        if turn % 2:
            peer.append(asyncio.run(_started(walled=False)))
    warm, fresh = statistics.median(ours), statistics.median(peer)
    yield at_least("kernel_start", warm, fresh, 15)
    yield Row("kernel_start, alone", warm, 0.12, warm / 0.12, "s", "≤ 0.12 s", warm <= 0.12)


async def _started(*, walled: bool) -> float:
    with scratch() as place:
        manager = AsyncKernelManager()
        if walled:
            manager.client_class = f"{PromptClient.__module__}.{PromptClient.__name__}"
            manager.context.setsockopt(zmq.RECONNECT_IVL, 3)
            manager.kernel_spec.metadata["kernel_provisioner"] = {"provisioner_name": SANDBOX}
        manager.transport, manager.ip = "ipc", str(place / "io" / "k")
        manager.connection_file = str(place / "kernel.json")
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        start = time.perf_counter()
        await manager.start_kernel(env=environment(place, place / ORACLE / "s"), **silent)
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        reply = await client.execute_interactive(FIRST_CELL, timeout=60, output_hook=lambda message: None)
        taken = time.perf_counter() - start
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
    assert reply["content"]["status"] == "ok", reply["content"]
    return taken


def stock_in_sandbox() -> Iterator[Row]:
    """Stock ``nbgrader autograde`` on a class, behind walls and warm, and without both; the exam is drawn anew in each."""
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder) / "course"
        # nbgrader calls alembic by its name, which lies beside this Python.
        os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")
        sample_class.prepare(ROOT, course, LECTURE, _honest)
        peer, ours = _graded(course, BARE), _graded(course, [])
    yield at_least("stock_in_sandbox", ours, peer, 4)


def _honest(release: NotebookNode, solved: NotebookNode, topic: str) -> list[Sample]:
    made = sample_class.samples()(release, solved, topic)
    return [sample for sample in made if sample.student.startswith(HONEST)][:STUDENTS]


def _graded(course: Path, options: list[str]) -> float:
    """Seconds a submission."""
    shutil.rmtree(course / "autograded", ignore_errors=True)
    start = time.perf_counter()
    sample_class.nbgrader(course, "autograde", LECTURE, "--force", *options)
    return (time.perf_counter() - start) / STUDENTS
