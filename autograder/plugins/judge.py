"""Running a submission, and writing into its check cells what the oracle said and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import zmq
from nbclient.client import NotebookClient
from nbclient.exceptions import CellExecutionComplete, DeadKernelError
from nbclient.util import ensure_async, run_sync
from nbformat import NotebookNode
from nbgrader.preprocessors import Execute
from traitlets import Bool, Float, Integer

from autograder import catalog, doctor
from autograder.beside import Beside
from autograder.cells import ADDED, KEY, about, definitions, exercise_of, grade_id_of, is_check, role_of
from autograder.exercise import Exercise, Outcome, Verdict, without_verdict
from autograder.feedback import nbgrader_outputs
from autograder.plugins.audit import audit, audited
from autograder.plugins.client import PromptClient
from autograder.plugins.consent import Consent, walled
from autograder.plugins.course import exam_path, folders_beside, release_of
from autograder.plugins.deaths import Deaths
from autograder.plugins.grading import GRADING, Blocked, Task
from autograder.plugins.hearing import Hearing
from autograder.plugins.outputs import harmless
from autograder.plugins.stops import Stop, line_of, named, stop, told
from autograder.sandbox import SANDBOX
from autograder.sandbox.kernel import ORACLE, environment, scratch
from autograder.statements import after, assigned, mended, needed

if TYPE_CHECKING:
    from autograder.oracle.exam import Exam

OUTPUT_BYTES = 200_000
FAREWELL = 0.4
"""Seconds in which a kernel that was asked to end does."""
MESSAGE_BYTES, MESSAGES = 16 * 2**20, 64
SETTINGS = (
    "timeout",
    "total_timeout",
    "patience",
    "warm",
    "memory",
    "seed",
    "kernel_name",
    "startup_timeout",
)
"""What of its configuration a Judge takes along into the process that grades."""
Tell = Callable[[dict[str, Any]], None]
# The learner may have given `check` another meaning: an import statement asks no name of the notebook.
CALL = "from autograder.learner import check as _graded_check\n_graded_check({!r})"


class Judge(Consent, Execute):
    """In place of nbgrader's ``Execute``: runs what is judged, and has each exercise judged from outside.

    Of story cells runs what they define, imports, functions, classes, constants, and what the learner's cells need
    by name. Where a statement fails, those below it still run; where a cell ends its kernel, a new one goes on below it.
    A check cell's outputs are the oracle's verdict on its exercise, made while that cell ran, or 0 points and a reason.
    """

    timeout = Integer(120, allow_none=True, help="Seconds that one cell may run.").tag(config=True)
    total_timeout = Integer(1800, help="Seconds that one notebook may take in all.").tag(config=True)
    patience = Integer(5, help="Seconds a kernel is given to react before the next, harsher step.").tag(
        config=True
    )

    warm = Bool(
        True, help="Fork the kernels behind walls from a process that has imported what they need."
    ).tag(config=True)

    memory = Float(4.0, help="Gibibytes of memory that a submission's kernel may take behind walls.").tag(
        config=True
    )

    seed = Integer(
        None, allow_none=True, help="Fixes what a new exam draws; a fresh one where it is None."
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._exams: Mapping[str, Exam] = {}
        self._died = ""
        self._deaths = Deaths((), ())
        self._walled = True
        self._written: dict[int, int] = {}
        self._tell: Tell = lambda message: None
        self._error: Mapping[str, Any] | None = None
        self._stops: list[Stop] = []
        self._hiding: Sequence[str] = ()

    def __call__(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        # `--no-execute` switches Execute off, and would leave the grade to outputs the student sent.
        return self.preprocess(nb, resources)

    def preprocess(self, nb: NotebookNode, resources: Any = None, km: Any = None) -> tuple[NotebookNode, Any]:
        behind_walls = walled(self)
        release = release_of(self, resources)
        unreadable = about(nb).get("unreadable")
        verdicts: dict[str, Verdict] = {}
        reason = f"the file could not be read: {unreadable}"
        if not unreadable:
            task = Task(
                nbformat.writes(nb),
                nbformat.writes(release),
                str(exam_path(self, resources)),
                sorted(set(map(exercise_of, filter(is_check, release.cells)))),
                behind_walls,
                list(map(str, folders_beside(self, resources))),
                {name: getattr(self, name) for name in SETTINGS},
            )
            try:
                nb, verdicts = GRADING.graded(task, self.log)
            except Blocked as blocked:
                reason = str(blocked)
                self._settle_as(nb, blocked.verdicts, verdicts)
        for cell in filter(is_check, nb.cells):
            if grade_id_of(cell) not in verdicts:
                self._settle(cell, verdicts, None, reason)
        resources[KEY] = {"verdicts": verdicts}
        return nb, resources

    def _settle_as(
        self, nb: NotebookNode, found: Mapping[str, Verdict], verdicts: dict[str, Verdict]
    ) -> None:
        for cell in filter(is_check, nb.cells):
            if grade_id_of(cell) in found:
                self._settle(cell, verdicts, found[grade_id_of(cell)], "")

    def run(
        self,
        nb: NotebookNode,
        release: NotebookNode,
        exams: Mapping[str, Exam],
        files: Beside,
        walled: bool,
        tell: Tell,
    ) -> None:
        """Run a submission in this process, with the files that were handed in beside it, and write the verdicts into its
        checks; ``tell`` is told each, and that this goes on, and at last the notebook."""
        self._walled, self._exams, self._tell = walled, exams, tell
        NotebookClient.__init__(self, nb)
        self._configure()
        self._hiding = audit(nb.cells, release.cells, files.given.values())
        with scratch() as place:
            files.copy_into(place / "work")
            self._run_notebook(nb, release, place, {})

    def _configure(self) -> None:
        self.reset_execution_trackers()
        self._died, self._written = "", {}
        self._deaths = Deaths((), ())
        self._error, self._stops = None, []
        self.on_cell_error = self._keep_error
        self.allow_errors = True
        self.record_timing = False
        self.store_widget_state = False
        self.comm_open_handlers.clear()
        self.skip_cells_with_tag = "\0never"
        self.shutdown_kernel = "immediate"
        self.raise_on_iopub_timeout = False
        # A cell's time is kept here, and a check may take longer than a cell: nbclient would interrupt it half-way.
        self.timeout_func = lambda cell: None

    # --- one notebook -------------------------------------------------------------------------------------

    def _run_notebook(
        self, nb: NotebookNode, release: NotebookNode, place: Path, verdicts: dict[str, Verdict]
    ) -> None:
        sources = {
            role: [c.source for c in nb.cells if role_of(c) == role] for role in ("story", "exercise", ADDED)
        }
        exercises = set(map(exercise_of, nb.cells))
        wanted = needed(sources["story"], sources["exercise"] + sources[ADDED], exercises)
        wanted &= assigned(sources["story"])
        address = place / ORACLE / "s"
        end = time.monotonic() + self.total_timeout
        self._deaths = Deaths(nb.cells, [self._source(cell, wanted) for cell in nb.cells])
        begin = 0
        while begin < len(nb.cells) and not self._deaths.too_many and time.monotonic() < end:
            self._died = ""
            with self._kernel(place, address):
                if self._run_again(nb, begin, end):
                    begin = self._run_from(nb, begin, address, end, verdicts)
                if begin == len(nb.cells):
                    # Whoever waits for the notebook need not wait for its kernel's end.
                    self._tell({"done": nbformat.writes(nb)})
                    return
        for index in range(begin, len(nb.cells)):
            if is_check(nb.cells[index]):
                self._settle(nb.cells[index], verdicts, *self._check(nb.cells[index], index, address, end))
        self._tell({"done": nbformat.writes(nb)})

    def _source(self, cell: NotebookNode, wanted: set[str]) -> str:
        """What of a cell runs: all that can be read, and of the lecture's story what others need."""
        if cell.cell_type != "code" or is_check(cell):
            return ""
        source = mended(cell.source)
        return definitions(source, wanted) if role_of(cell) == "story" else source

    def _run_from(
        self, nb: NotebookNode, begin: int, address: Path, end: float, verdicts: dict[str, Verdict]
    ) -> int:
        """Run the cells from ``begin`` on. Returns the number of the first that is left, behind one that ended the kernel."""
        lingers = self._deaths.expected
        for index in range(begin, len(nb.cells)):
            cell, source = nb.cells[index], self._deaths.sources[index]
            if not (is_check(cell) or source.strip()):
                continue
            start = time.monotonic()
            if is_check(cell):
                verdict, reason = self._check(cell, index, address, end)
                verdict = verdict and audited(told(verdict, self._stops, nb.cells), self._hiding)
                self._settle(cell, verdicts, verdict, reason)
            else:
                self._run_on(cell, index, source, min(self.timeout or 60, end - start))
                self._deaths.ran(index, time.monotonic() - start)
            if lingers and not self._died:
                run_sync(self._async_linger)()
            if self._died:
                self._deaths.died(index, self._died)
                return index + 1
        return len(nb.cells)

    def _run_again(self, nb: NotebookNode, until: int, end: float) -> bool:
        """Run again in a new kernel what stands above, with no trace in the notebook. False where that ended it, too."""
        for index in self._deaths.again(until):
            cell, source = nb.cells[index], self._deaths.source(index)
            if not source.strip():
                continue
            outputs, count, stops = cell.outputs, cell.execution_count, list(self._stops)
            self._run_on(cell, index, source, min(self.timeout or 60, end - time.monotonic()))
            cell.outputs, cell.execution_count, self._stops = outputs, count, stops
            if self._died:
                self._deaths.died(index, self._died)
                return False
        return True

    @contextlib.contextmanager
    def _kernel(self, place: Path, address: Path) -> Iterator[None]:
        group = None
        # What the student's process writes past its notebook is for nobody's terminal.
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.create_kernel_manager()
        self.km.client_class = f"{PromptClient.__module__}.{PromptClient.__name__}"
        # The kernel listens within a tenth of a second, which is how long a vain call is repeated after otherwise.
        self.km.context.setsockopt(zmq.RECONNECT_IVL, 3)
        # What it has sent and nobody has read yet lies in the grader's memory.
        self.km.context.setsockopt(zmq.RCVHWM, MESSAGES)
        # A kernel that has spoilt its own sockets takes nothing any more; to wait for it would be for ever.
        self.km.context.setsockopt(zmq.SNDTIMEO, 1000 * self.patience)
        # What a kernel sends is read into the grader's own memory.
        self.km.context.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES)
        # Sockets in the private folder instead of ports that every process of this machine can reach.
        self.km.transport, self.km.ip = "ipc", str(place / "io" / "k")
        self.km.connection_file = str(place / "kernel.json")
        if self._walled:
            # Whatever kernelspec was chosen, nothing of a student's runs outside.
            provisioner = {"provisioner_name": SANDBOX, "config": {"warm": self.warm, "memory": self.memory}}
            self.km.kernel_spec.metadata["kernel_provisioner"] = provisioner
        with self.setup_kernel(cwd=str(place / "work"), env=environment(place, address), **silent):
            group = getattr(getattr(self.km, "provisioner", None), "pgid", None)
            try:
                yield
            finally:
                with contextlib.suppress(Exception):
                    run_sync(self._async_kill)()
        if group and not self._walled and hasattr(os, "killpg"):
            # What the student's code started and left behind.
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)

    def _check(self, cell: NotebookNode, index: int, address: Path, end: float) -> tuple[Verdict | None, str]:
        """The oracle's verdict on one check cell, or None and why there is none."""
        from autograder.attempt import longest

        left = end - time.monotonic()
        if self._died or left <= 0:
            return None, self._died or f"the notebook took more than {self.total_timeout} s"
        if reason := self._deaths.ended.get(exercise_of(cell)):
            return None, reason
        try:
            exercise = catalog.find(exercise_of(cell))
        except (KeyError, ValueError) as error:
            return None, f"unknown exercise: {error}"
        exam = self._exam(exercise)
        # The oracle counts the learner's processor time itself, and gives up a far side that is slow for ever.
        limit = min(longest(exam.seconds), left)
        with Hearing(exercise, address, exam) as hearing:
            ended = self._run_cell(cell, index, CALL.format(exercise.id), limit, hearing.finished)
            hearing.conclude(self.patience)
        verdict = hearing.verdict
        if self._died and (verdict is None or verdict.outcome is Outcome.NO_VERDICT):
            # That the other side hung up is only how it looked from here.
            return None, self._died
        return verdict, hearing.trouble or ended or "its check never asked for a verdict"

    def _exam(self, exercise: Exercise) -> Exam:
        """The class's exam; of an exercise that its file lacks, what the same seed draws."""
        from autograder.oracle.exam import Exam

        if exercise.id in self._exams:
            return self._exams[exercise.id]
        return Exam(exercise, next((exam.seed for exam in self._exams.values()), self.seed))

    def _settle(
        self, cell: NotebookNode, verdicts: dict[str, Verdict], verdict: Verdict | None, reason: str
    ) -> None:
        """Write the verdict, or its absence, as the cell's only outputs."""
        name = exercise_of(cell)
        if verdict is None:
            self.log.warning("No verdict on %s: %s", name, reason)
            try:
                verdict = without_verdict(catalog.find(name), reason)
            except (KeyError, ValueError):
                cell.outputs = [
                    nbformat.v4.new_output("execute_result", {"text/plain": "0.0"}, execution_count=1)
                ]
                return  # Flag finds no verdict here
        verdicts[grade_id_of(cell)] = verdict = self._deaths.remarked(verdict)
        self._tell({"verdict": [grade_id_of(cell), verdict.to_json()]})
        cell.outputs = nbgrader_outputs(verdict)
        cell.execution_count = None

    # --- one cell -----------------------------------------------------------------------------------------

    def _run_on(self, cell: NotebookNode, index: int, source: str, seconds: float) -> None:
        """Run ``source`` in the cell's place, and after a statement that fails those below it."""
        end = time.monotonic() + seconds
        left, outputs, late = source, [], False
        while left.strip() and not self._died:
            self._run_cell(cell, index, left, end - time.monotonic())
            outputs += cell.outputs
            if self._error is None or late:
                break
            line = line_of(self._error, left)
            self._stops.append(stop(cell, left, named(self._error), line))
            below = after(left, line) if line else definitions(left)
            if time.monotonic() > end:
                # The time is used up: what is only defined takes none.
                late, end = True, time.monotonic() + self.patience
                below = definitions(below)
            left = "" if below == left else below
        cell.outputs = outputs

    def _keep_error(self, execute_reply: Mapping[str, Any], **_: Any) -> None:
        self._error = execute_reply["content"]

    def _run_cell(
        self, cell: NotebookNode, index: int, source: str, seconds: float, done: threading.Event | None = None
    ) -> str:
        """Run ``source`` in the cell's place. Returns "" or why it did not run to its end."""
        self._error = None
        shown = NotebookNode(cell, source=source, outputs=[])
        ended = run_sync(self._async_watch)(shown, index, seconds, done)
        # What a kernel sends need be no output, and no JSON.
        kept = () if role_of(cell) == "story" else doctor.outputs_in(shown.outputs)
        cell.outputs = [output for output in map(harmless, kept) if output]
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
            self._tell({})
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
            self._died = self._death("the process ended while a cell ran")
            return self._died
        except zmq.Again:
            return await self._async_give_up("the kernel no longer takes what it is sent")
        except Exception as error:
            # Whether the cell ran is anybody's guess, and the next answer may be as bad.
            return await self._async_give_up(
                f"the kernel's answers cannot be read ({type(error).__name__}: {error})"[:300]
            )
        return reason

    async def _async_give_up(self, why: str) -> str:
        self._died = why
        await self._async_kill()
        return why

    def _death(self, seen: str) -> str:
        reached = getattr(getattr(self.km, "provisioner", None), "reached", "")
        return f"the kernel died ({f'its kernel {reached}' if reached else seen})"

    async def _async_linger(self) -> None:
        """Wait for the end that a cell may have asked for: it comes a tenth of a second later, in the midst of the next."""
        await asyncio.sleep(FAREWELL)
        try:
            await ensure_async(self.kc.wait_for_ready(timeout=self.patience))
        except RuntimeError:
            self._died = self._death("a cell asked for its end")

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
