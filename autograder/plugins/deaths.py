"""What one notebook's dead kernels cost: a new one goes on behind the cell that ended the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nbformat import NotebookNode

from autograder.cells import defines, definitions, exercise_of, is_check, role_of
from autograder.endings import ends_process
from autograder.exercise import Outcome, Verdict

RESTARTS = 5
"""New kernels that one notebook is given."""
LONG = 5.0
"""Seconds past which of a cell only its definitions run again."""


@dataclass
class Deaths:
    """The kernels of one notebook that ended before it did.

    In a new kernel the cells above run again. Of one that ended a kernel, or took long, only what it defines does; and
    nothing of one whose definitions ended a kernel, too.
    """

    cells: Sequence[NotebookNode]
    sources: Sequence[str]
    """What of each cell runs."""
    reasons: list[str] = field(default_factory=list)
    ended: dict[str, str] = field(default_factory=dict)
    """Exercise → why it is not judged: its cell ended the kernel."""
    _ran: dict[int, float] = field(default_factory=dict)
    _weakened: dict[int, int] = field(default_factory=dict)

    @property
    def too_many(self) -> bool:
        return len(self.reasons) > RESTARTS

    @property
    def expected(self) -> bool:
        """Whether some cell asks for its kernel's end: that comes a moment after the cell has run."""
        return any(cell.cell_type == "code" and ends_process(cell.source) for cell in self.cells)

    def ran(self, index: int, seconds: float) -> None:
        self._ran.setdefault(index, seconds)

    def died(self, index: int, reason: str) -> None:
        """The kernel ended while this cell ran."""
        cell = self.cells[index]
        self.reasons.append(f"cell {index + 1}: {reason}")
        self._weakened[index] = self._weakened.get(index, 0) + 1
        if role_of(cell) == "exercise":
            self.ended.setdefault(exercise_of(cell), reason)

    def again(self, until: int) -> list[int]:
        """The cells above one that run again in a new kernel."""
        return [i for i in sorted(self._ran) if i < until and not is_check(self.cells[i])]

    def source(self, index: int) -> str:
        """What of a cell runs again."""
        weakened, source = self._weakened.get(index, 0), self.sources[index]
        if weakened > 1:
            return ""
        return definitions(source) if weakened or self._ran[index] > LONG else source

    def remarked(self, verdict: Verdict) -> Verdict:
        """A verdict behind a death: where points are missing a person is asked, for they may have gone with the kernel."""
        if not self.reasons or verdict.correct:
            return verdict
        lost = any(verdict.exercise in defines(self.cells[index].source) for index in self._weakened)
        if verdict.outcome is Outcome.NOT_ATTEMPTED and not lost:
            return verdict
        return replace(verdict, flags=(*verdict.flags, f"graded in a new kernel ({'; '.join(self.reasons)})"))
