"""Running a submission, and writing into its check cells what the oracle said and nothing else."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient.client import NotebookClient
from nbclient.exceptions import CellExecutionComplete, DeadKernelError
from nbclient.util import ensure_async, run_sync
from nbformat import NotebookNode
from nbgrader import utils
from nbgrader.preprocessors import Execute
from traitlets import Bool, Integer

from autograder import catalog
from autograder.doctor import exercise_of, role_of
from autograder.exercise import Exercise, Verdict, without_verdict
from autograder.plugins.course import release_of

ENVIRONMENT = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "PYTHONPATH",
    "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "OMP_NUM_THREADS",
    "MKL_NUM_THREADS", "COURSEKIT_DATA", "JUPYTER_PATH", "JUPYTER_DATA_DIR",
)  # fmt: skip
"""All that a kernel is given of the grader's environment: tokens and settings of the grader stay out."""

OUTPUT_BYTES = 200_000
ALLOWED = ("text/plain", "image/png", "image/jpeg")


class Refused(RuntimeError):
    """Grading was not agreed to under these conditions."""


class Judge(Execute):
    """In place of nbgrader's ``Execute``: runs what is judged, and has each exercise judged from outside.

    Of story cells only what they define runs: imports, functions, classes, constants. A check cell's outputs
    are the oracle's verdict on its exercise, made while that cell ran, or 0 points and a reason.
    """

    unsafe_no_sandbox = Bool(
        False,
        help=(
            "Grade without a sandbox. The students' code then runs as the user who grades: it can read and "
            "change that user's files, the gradebook and other submissions, and use the network. Verdicts "
            "are still made outside its process."
        ),
    ).tag(config=True)

    timeout = Integer(60, allow_none=True, help="Seconds that one cell may run.").tag(config=True)
    total_timeout = Integer(900, help="Seconds that one notebook may take in all.").tag(config=True)
    patience = Integer(5, help="Seconds a kernel is given to react before the next, harsher step.").tag(
        config=True
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._died = ""
        self._written: dict[int, int] = {}

    def demand_consent(self) -> None:
        """Raise :class:`Refused` unless the instructor has agreed to grade without a sandbox."""
        if not self.unsafe_no_sandbox:
            raise Refused(
                "Grading refused, nothing was graded: there is no sandbox, so the students' code would run "
                "as you, with your files, the gradebook and the network within its reach. To grade all the "
                "same, set c.Judge.unsafe_no_sandbox = True in nbgrader_config.py, or pass "
                "--Judge.unsafe_no_sandbox=True."
            )

    def __call__(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        # `--no-execute` switches Execute off, and would leave the grade to outputs the student sent.
        return self.preprocess(nb, resources)

    def preprocess(self, nb: NotebookNode, resources: Any = None, km: Any = None) -> tuple[NotebookNode, Any]:
        self.demand_consent()
        release = release_of(self, resources)
        unreadable = (nb.metadata.get("coursekit") or {}).get("unreadable")
        verdicts: dict[str, Verdict] = {}
        if unreadable:
            for cell in filter(is_check, nb.cells):
                self._settle(cell, verdicts, None, f"the file could not be read: {unreadable}")
        else:
            NotebookClient.__init__(self, nb, km)
            self._configure()
            with scratch() as place:
                self._run_notebook(nb, release, place, verdicts)
        resources["coursekit"] = {"verdicts": verdicts}
        return nb, resources

    def _configure(self) -> None:
        self.reset_execution_trackers()
        self._died, self._written = "", {}
        self.allow_errors = True
        self.record_timing = False
        self.store_widget_state = False
        self.comm_open_handlers.clear()
        self.skip_cells_with_tag = "\0never"
        self.shutdown_kernel = "immediate"
        self.raise_on_iopub_timeout = False

    # --- one notebook -------------------------------------------------------------------------------------

    def _run_notebook(
        self, nb: NotebookNode, release: NotebookNode, place: Path, verdicts: dict[str, Verdict]
    ) -> None:
        sources = {cell.id: cell.source for cell in release.cells if role_of(cell) == "check"}
        address = place / "s"
        end = time.monotonic() + self.total_timeout
        with self._kernel(place, address):
            for index, cell in enumerate(nb.cells):
                if cell.cell_type != "code":
                    continue
                if is_check(cell):
                    verdict, reason = self._check(cell, index, sources, address, end)
                    self._settle(cell, verdicts, verdict, reason)
                    continue
                source = cell.source
                if role_of(cell) == "story":
                    source = definitions(source)
                if source.strip() and not self._died:
                    self._run_cell(cell, index, source, min(self.timeout or 60, end - time.monotonic()))

    @contextlib.contextmanager
    def _kernel(self, place: Path, address: Path) -> Iterator[None]:
        group = None
        # What the student's process writes past its notebook is for nobody's terminal.
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.create_kernel_manager()
        # Sockets in the private folder instead of ports that every process of this machine can reach.
        self.km.transport, self.km.ip = "ipc", str(place / "k")
        self.km.connection_file = str(place / "kernel.json")
        with self.setup_kernel(cwd=str(place / "work"), env=environment(place, address), **silent):
            group = getattr(getattr(self.km, "provisioner", None), "pgid", None)
            try:
                yield
            finally:
                with contextlib.suppress(Exception):
                    run_sync(self._async_kill)()
        if group and hasattr(os, "killpg"):
            # What the student's code started and left behind.
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)

    def _check(
        self, cell: NotebookNode, index: int, sources: dict[str, str], address: Path, end: float
    ) -> tuple[Verdict | None, str]:
        """The oracle's verdict on one check cell, or None and why there is none."""
        left = end - time.monotonic()
        if self._died or left <= 0:
            return None, self._died or f"the notebook took more than {self.total_timeout} s"
        try:
            exercise = catalog.find(exercise_of(cell) or cell.metadata.nbgrader["grade_id"])
        except (KeyError, ValueError) as error:
            return None, f"unknown exercise: {error}"
        source = sources.get(cell.id, f'check("{exercise.id}")')
        limit = min(2 * exercise.seconds + 30, left)
        with Oracle(exercise, address) as oracle:
            ended = self._run_cell(cell, index, source, limit, oracle.finished)
            oracle.conclude(self.patience)
        return oracle.verdict, oracle.trouble or ended or "its check never asked for a verdict"

    def _settle(
        self, cell: NotebookNode, verdicts: dict[str, Verdict], verdict: Verdict | None, reason: str
    ) -> None:
        """Write the verdict, or its absence, as the cell's only outputs."""
        name = exercise_of(cell) or cell.metadata.nbgrader["grade_id"]
        if verdict is None:
            self.log.warning("No verdict on %s: %s", name, reason)
            try:
                verdict = without_verdict(catalog.find(name), reason)
            except (KeyError, ValueError):
                cell.outputs = [
                    nbformat.v4.new_output("execute_result", {"text/plain": "0.0"}, execution_count=1)
                ]
                return  # Flag finds no verdict here
        verdicts[cell.metadata.nbgrader["grade_id"]] = verdict
        cell.outputs = _outputs(verdict)
        cell.execution_count = None

    # --- one cell -----------------------------------------------------------------------------------------

    def _run_cell(
        self, cell: NotebookNode, index: int, source: str, seconds: float, done: threading.Event | None = None
    ) -> str:
        """Run ``source`` in the cell's place. Returns "" or why it did not run to its end."""
        shown = NotebookNode(cell, source=source, outputs=[])
        ended = run_sync(self._async_watch)(shown, index, seconds, done)
        cell.outputs = [] if source != cell.source else [o for o in map(harmless, shown.outputs) if o]
        self.nb.cells[index] = cell
        return ended

    async def _async_watch(
        self, cell: NotebookNode, index: int, seconds: float, done: threading.Event | None
    ) -> str:
        """Run a cell; past its time, or well after its verdict, interrupt the kernel, then kill it."""
        task = asyncio.ensure_future(self.async_execute_cell(cell, index))
        deadline = time.monotonic() + max(seconds, 0)
        verdict_at = interrupted_at = None
        reason = ""
        while not (await asyncio.wait({task}, timeout=0.05))[0]:
            now = time.monotonic()
            if done is not None and done.is_set() and verdict_at is None:
                verdict_at = now
            if interrupted_at is not None:
                if now > interrupted_at + self.patience:
                    self._died = f"{reason}, and its kernel had to be stopped"
                    await self._async_kill()
                    task.cancel()
                    with contextlib.suppress(BaseException):
                        await asyncio.wait({task}, timeout=self.patience)
                    return self._died
            elif now > deadline or (verdict_at is not None and now > verdict_at + self.patience):
                reason = (
                    f"the cell ran for more than {seconds:.0f} s"
                    if now > deadline
                    else "the check did not end"
                )
                interrupted_at = now
                with contextlib.suppress(Exception):
                    await ensure_async(self.km.interrupt_kernel())
        try:
            await task
        except DeadKernelError:
            self._died = "the kernel died (the process ended while a cell ran)"
            return self._died
        except Exception as error:
            self.log.warning("%s while running a cell: %s", type(error).__name__, error)
        return reason

    async def _async_kill(self) -> None:
        if self.km is not None:
            with contextlib.suppress(Exception):
                await ensure_async(self.km.shutdown_kernel(now=True))

    def process_message(
        self, msg: dict[str, Any], cell: NotebookNode, cell_index: int
    ) -> NotebookNode | None:
        """As nbclient's, but bounded, and no message can break the run."""
        kind = msg.get("msg_type", "")
        if kind.startswith("comm"):
            return None
        if kind != "status":
            content = msg.get("content")
            size = self._written.get(cell_index, 0) + len(str(content))
            self._written[cell_index] = size
            if size > OUTPUT_BYTES:
                return None
        try:
            return super().process_message(msg, cell, cell_index)
        except CellExecutionComplete:
            raise
        except Exception as error:
            self.log.debug("A message that could not be used: %s", error)
            return None


class Oracle:
    """Listens while one check cell runs, and questions whoever connects first about one exercise."""

    def __init__(self, exercise: Exercise, address: Path):
        self.exercise = exercise
        self.verdict: Verdict | None = None
        self.trouble = ""
        self.finished = threading.Event()
        self._address = address
        self._over = threading.Event()
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._work, name=f"oracle-{exercise.id}", daemon=True)

    def __enter__(self) -> Oracle:
        try:
            if self._address.is_dir():
                shutil.rmtree(self._address)
            self._address.unlink(missing_ok=True)
            self._listener.bind(str(self._address))
            self._listener.listen(1)
            self._listener.settimeout(0.1)
        except OSError as error:
            # Without a sandbox the student's code can spoil the place: that costs it the verdict.
            self.trouble = f"the oracle could not listen ({error})"
            self._over.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.conclude(0)

    def conclude(self, seconds: float) -> None:
        """The cell has ended: a conversation under way is given ``seconds``, a later one is not served."""
        self._over.set()
        self.finished.wait(seconds if self._connection is not None else 1.0)
        if self._connection is not None and not self.finished.is_set():
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)
        if not self.finished.is_set():
            self.trouble = "the check did not come to an end"
        self._listener.close()
        with contextlib.suppress(OSError):
            self._address.unlink(missing_ok=True)

    def _work(self) -> None:
        try:
            self._connection = self._accept()
            if self._connection is not None:
                with self._connection:
                    self.verdict = _judge(self.exercise, self._connection)
        except Exception as error:
            self.trouble = f"the check broke off ({type(error).__name__}: {error})"
        finally:
            self.finished.set()

    def _accept(self) -> socket.socket | None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            # One conversation a check: nobody else is let in behind it.
            self._listener.close()
            return connection
        return None


def _judge(exercise: Exercise, connection: socket.socket) -> Verdict:
    from autograder.attempt import Attempt
    from autograder.oracle import evaluate

    return evaluate(exercise.id, Attempt.remote(connection, exercise.id, seconds=exercise.seconds))


def _outputs(verdict: Verdict) -> list[NotebookNode]:
    from autograder.feedback import nbgrader_outputs

    return nbgrader_outputs(verdict)


def is_check(cell: NotebookNode) -> bool:
    """Whether a code cell is graded automatically."""
    return cell.cell_type == "code" and utils.is_grade(cell) and not utils.is_solution(cell)


def definitions(source: str) -> str:
    """The imports, functions, classes and constants of a cell, each on its own: where one fails the others hold."""
    try:
        found = [node for node in ast.parse(source).body if _defines(node)]
        failed = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [ast.Pass()])
        parts = [ast.Try([node], [failed], [], []) for node in found]
        return "\n\n".join(ast.unparse(ast.fix_missing_locations(part)) for part in parts)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""


def _defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        try:
            ast.literal_eval(node.value)
        except (ValueError, TypeError):
            return False
        return all(isinstance(target, ast.Name) for target in targets)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    return isinstance(node, kinds)


def harmless(output: NotebookNode) -> NotebookNode | None:
    """An output without the formats that run code where the feedback is read."""
    if "data" in output:
        output.data = NotebookNode({k: v for k, v in output.data.items() if k in ALLOWED})
        output.metadata = NotebookNode()
        return output if output.data else None
    return output


def environment(place: Path, address: Path) -> dict[str, str]:
    """The kernel's environment: what it needs to run, and where the oracle listens."""
    given = {k: v for k, v in os.environ.items() if k in ENVIRONMENT or k.startswith("LC_")}
    own = {"IPYTHONDIR": str(place / "ipython"), "AUTOGRADER_SOCKET": str(address)}
    return given | own


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A private folder for one notebook: its working directory, IPython's profile and the oracle's socket."""
    place = Path(tempfile.mkdtemp(prefix="judge-"))
    if len(str(place)) > 80:  # a socket's path has room for about 100 characters
        shutil.rmtree(place)
        place = Path(tempfile.mkdtemp(prefix="judge-", dir="/tmp"))
    try:
        (place / "work").mkdir()
        (place / "ipython").mkdir()
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
