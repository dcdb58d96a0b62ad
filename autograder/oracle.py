"""Verdicts: fresh inputs are drawn here, the learner's object is asked, and the comparison is made here.

``evaluate("batchnorm_forward", fn)`` judges a function or class of this process; an
:class:`~autograder.attempt.Attempt` judges one at the far end of a wire in exactly the same way.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import math
import os
import re
import secrets
import tempfile
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from autograder import agent, catalog
from autograder.attempt import Attempt, Gone, Handle, Odd, Raised, TimedOut, Trouble, kind_of
from autograder.draw import Draw
from autograder.exercise import (
    Case,
    Exercise,
    Misconception,
    Mismatch,
    Outcome,
    Property,
    PropertyResult,
    Verdict,
    without_verdict,
)
from autograder.values import Batches, Foreign, Network, short

SHRINK_SECONDS = 1.0
SHRINK_CALLS = 100
DIAGNOSIS_SECONDS = 2.0
EVIDENCE = 4
WATCH_ALL_BELOW = 0.05
COPY_NODES = 60
TEXT = 1000


# -- drawing ------------------------------------------------------------------------------------------------


def _entropy(seed: int, name: str) -> int:
    return zlib.crc32(f"{seed}/{name}".encode())


def _explore(
    prop: Property, seed: int, visit: Callable[[Case], None], *, shrink: bool, examples: int
) -> None:
    """Call ``visit`` on drawn cases; with ``shrink`` an exception from it starts the search for smaller ones."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, Verbosity, settings, strategies

    entropy = _entropy(seed, prop.name)

    @strategies.composite
    def cases(draw: Any) -> Case:
        return prop.draw(Draw(draw, entropy))

    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]

    @hypothesis.seed(entropy)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
    )
    @hypothesis.given(cases())
    def run(case: Case) -> None:
        visit(case)

    with _elsewhere():
        run()


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """Hypothesis keeps small caches; they belong in the temporary folder and not in the learner's."""
    from hypothesis import configuration

    # The home is asked for at the first use, and an explicit choice of the learner's is left alone.
    if "HYPOTHESIS_STORAGE_DIRECTORY" not in os.environ:
        configuration.set_hypothesis_home_dir(os.path.join(tempfile.gettempdir(), "coursekit-hypothesis"))
    try:
        yield
    finally:
        if "HYPOTHESIS_STORAGE_DIRECTORY" not in os.environ:
            configuration.set_hypothesis_home_dir(None)


# -- comparing ----------------------------------------------------------------------------------------------


def tolerance_of(dtype: torch.dtype, given: tuple[float, float] | None) -> tuple[float, float]:
    """(rtol, atol): the property's own, or what the dtype leaves after a few operations."""
    if given is not None:
        return given
    if dtype == torch.float64:
        return 1e-6, 1e-8
    if dtype == torch.float32:
        return 1e-3, 1e-4
    return 2e-2, 1e-2


def compare(
    expected: Any, got: Any, tolerance: tuple[float, float] | None = None, where: str = ""
) -> Mismatch | None:
    """The first difference between two observations, or None. Kinds are looked at before values."""
    found = list(_differences(expected, got, tolerance, where))
    kinds = [m for m in found if m.outcome is Outcome.WRONG_KIND]
    return next(iter(kinds or found), None)


def _differences(expected: Any, got: Any, tol: tuple[float, float] | None, where: str) -> Iterator[Mismatch]:
    def wrong(message: str, outcome: Outcome = Outcome.WRONG_KIND) -> Mismatch:
        return Mismatch(outcome, message, where, short(expected), short(got))

    if isinstance(expected, Trouble) or isinstance(got, Trouble):
        yield from _troubles(expected, got, where)
    elif isinstance(expected, torch.Tensor):
        if not isinstance(got, torch.Tensor):
            yield wrong(f"expected a torch tensor, got {_a(kind_of(got))}")
        elif tuple(got.shape) != tuple(expected.shape):
            message = f"expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
            yield Mismatch(
                Outcome.WRONG_KIND, message, where, str(tuple(expected.shape)), str(tuple(got.shape)), "shape"
            )
        elif got.dtype != expected.dtype:
            one, other = (str(t.dtype).removeprefix("torch.") for t in (expected, got))
            message = f"expected dtype {one}, got {other}"
            yield Mismatch(Outcome.WRONG_KIND, message, where, one, other, "dtype")
        else:
            yield from _values(expected, got, tol, where)
    elif isinstance(expected, np.ndarray):
        if not isinstance(got, np.ndarray):
            yield wrong(f"expected a numpy array, got {_a(kind_of(got))}")
        else:
            yield from _differences(torch.from_numpy(expected), torch.from_numpy(got), tol, where)
    elif isinstance(expected, bool) or expected is None or isinstance(expected, str):
        if type(got) is not type(expected):
            yield wrong(f"expected {short(expected)}, got {_a(kind_of(got))}")
        elif got != expected:
            yield wrong(f"expected {short(expected)}, got {short(got)}", Outcome.WRONG_VALUES)
    elif isinstance(expected, int | float):
        yield from _numbers(expected, got, tol, where)
    elif isinstance(expected, dict):
        if not isinstance(got, dict):
            yield wrong(f"expected a dict, got {_a(kind_of(got))}")
            return
        missing, extra = [k for k in expected if k not in got], [k for k in got if k not in expected]
        if missing or extra:
            parts = [f"missing {missing}"] * bool(missing) + [f"not expected {extra}"] * bool(extra)
            yield Mismatch(
                Outcome.WRONG_KIND,
                f"the keys differ: {', '.join(parts)}",
                where,
                str(list(expected)),
                str(list(got)),
            )
        for key in expected:
            if key in got:
                yield from _differences(expected[key], got[key], tol, _join(where, key))
    elif isinstance(expected, list | tuple):
        if not isinstance(got, list | tuple):
            yield wrong(f"expected a {type(expected).__name__}, got {_a(kind_of(got))}")
        elif len(got) != len(expected):
            yield wrong(f"expected {len(expected)} entries, got {len(got)}")
        else:
            for number, (e, g) in enumerate(zip(expected, got, strict=True)):
                yield from _differences(e, g, tol, f"{where}[{number}]")
    elif isinstance(expected, set | frozenset):
        if not isinstance(got, set | frozenset):
            yield wrong(f"expected a set, got {_a(kind_of(got))}")
        elif got != expected:
            yield wrong("the sets differ", Outcome.WRONG_VALUES)
    elif isinstance(expected, Handle):
        if not isinstance(got, Handle):
            yield wrong(f"expected a module, got {_a(kind_of(got))}")
    else:
        raise TypeError(f"an observation cannot hold a {type(expected).__name__}")


def _troubles(expected: Any, got: Any, where: str) -> Iterator[Mismatch]:
    if isinstance(got, TimedOut):
        yield Mismatch(Outcome.TIMED_OUT, str(got), where)
    elif isinstance(got, Odd):
        yield Mismatch(Outcome.WRONG_KIND, str(got), where, code="kind")
    elif isinstance(got, Raised) and _unwritten(got):
        # A stub refuses everything, also what is to be refused.
        shown = "" if expected is None or isinstance(expected, Trouble) else _shape(expected)
        yield Mismatch(Outcome.NOT_ATTEMPTED, _at(got), where, shown, got.kinds[0], got.kinds[0])
    elif isinstance(got, Raised) and isinstance(expected, Raised):
        if expected.kinds[0] not in got.kinds:
            message = f"expected a {expected.kinds[0]}, got {got}"
            yield Mismatch(Outcome.RAISED_OTHER, message, where, str(expected), str(got), got.kinds[0])
    elif isinstance(got, Raised):
        shown = "" if expected is None else _shape(expected)
        yield Mismatch(Outcome.RAISED, _at(got), where, shown, got.kinds[0], got.kinds[0])
    elif isinstance(expected, Raised):
        message = f"expected a {expected.kinds[0]}, but the call went through"
        yield Mismatch(Outcome.WRONG_VALUES, message, where, str(expected), short(got), "not refused")
    else:
        raise got if isinstance(got, Trouble) else expected


def _unwritten(raised: Raised) -> bool:
    """Whether a stub spoke, or torch for a module without forward. torch raises the same error, with another
    message, for what it cannot do with an input."""
    stub = raised.line.startswith("raise ") or not raised.message
    bare = 'missing the required "forward"' in raised.message
    return raised.kinds[0] == "NotImplementedError" and (stub or bare)


def _at(raised: Raised) -> str:
    return f"{raised} (in `{raised.line}`)" if raised.line else str(raised)


def _shape(value: Any) -> str:
    return short(value, 12)


def _values(
    expected: torch.Tensor, got: torch.Tensor, tol: tuple[float, float] | None, where: str
) -> Iterator[Mismatch]:
    if expected.numel() == 0:
        return
    rtol, atol = tolerance_of(expected.dtype, tol)
    if expected.is_complex():
        e, g = expected.to(torch.complex128), got.to(torch.complex128)
    else:
        e, g = expected.to(torch.float64), got.to(torch.float64)
    if not (expected.is_floating_point() or expected.is_complex()):
        off = expected != got
        error = (e - g).abs()
    else:
        finite = e[torch.isfinite(e)]
        scale = max(1.0, float(finite.abs().max()) if finite.numel() else 1.0)
        error = (e - g).abs()
        same = (e == g) | (torch.isnan(e) & torch.isnan(g))
        # Written so that NaN on the learner's side counts as off.
        off = ~(same | (torch.isfinite(e) & (error <= atol * scale + rtol * e.abs())))
    if not bool(off.any()):
        return
    count = int(off.sum())
    ranked = torch.where(
        off, torch.nan_to_num(error.double(), nan=math.inf), torch.full_like(error, -1.0).double()
    )
    worst = np.unravel_index(int(ranked.argmax()), expected.shape) if expected.dim() else ()
    index = "" if not worst else f"[{', '.join(map(str, map(int, worst)))}]"
    a, b = expected[worst].item(), got[worst].item()
    total = expected.numel()
    share = "the value differs" if total == 1 else f"{count} of {total} values differ"
    at = "" if total == 1 else f", most at {index}"
    shown, came = _told_apart(a, b)
    detail = f"{share}{at}: expected {shown}, got {came}"
    small = total <= 16
    yield Mismatch(
        Outcome.WRONG_VALUES,
        detail,
        where,
        short(expected) if small and total > 1 else f"{shown} at {index}" if index else shown,
        short(got) if small and total > 1 else f"{came} at {index}" if index else came,
        "values",
    )


def _told_apart(one: Any, other: Any) -> tuple[str, str]:
    """Two numbers in as many digits as tell them apart."""
    shown = short(one), short(other)
    if shown[0] == shown[1] and isinstance(one, float) and isinstance(other, float):
        digits = next((n for n in range(6, 17) if f"{one:.{n}g}" != f"{other:.{n}g}"), 17)
        return f"{one:.{digits}g}", f"{other:.{digits}g}"
    return shown


def _numbers(expected: float, got: Any, tol: tuple[float, float] | None, where: str) -> Iterator[Mismatch]:
    if isinstance(got, bool) or not isinstance(got, int | float):
        yield Mismatch(
            Outcome.WRONG_KIND,
            f"expected {_a(type(expected).__name__)}, got {_a(kind_of(got))}",
            where,
            short(expected),
            short(got),
        )
        return
    if isinstance(expected, int) and isinstance(got, float):
        yield Mismatch(Outcome.WRONG_KIND, "expected an int, got a float", where, short(expected), short(got))
        return
    whole = isinstance(expected, int) and tol is None
    rtol, atol = (0.0, 0.0) if whole else tolerance_of(torch.float64, tol)
    both_nan = math.isnan(expected) and math.isnan(got)
    if not (
        both_nan
        or expected == got
        or (
            math.isfinite(expected)
            and abs(expected - got) <= atol * max(1, abs(expected)) + rtol * abs(expected)
        )
    ):
        shown, came = _told_apart(expected, got)
        yield Mismatch(Outcome.WRONG_VALUES, f"expected {shown}, got {came}", where, shown, came, "values")


def _a(kind: str) -> str:
    if kind in ("NoneType",):
        return "None"
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


# -- one property -------------------------------------------------------------------------------------------


@dataclass
class _Failure:
    case: Case
    got: Any
    expected: Any
    mismatch: Mismatch
    printed: str
    size: int
    seed: int


@dataclass
class _Finding:
    """All that was seen of one property."""

    prop: Property
    failures: list[_Failure] = field(default_factory=list)
    smallest: _Failure | None = None
    simplest: bool = False

    @property
    def failed(self) -> bool:
        return self.smallest is not None

    def add(self, failure: _Failure) -> None:
        if self.smallest is None or failure.size < self.smallest.size:
            self.smallest = failure


class _Enough(BaseException):
    """Ends an exploration: nothing more can be learned, or the time is up."""


class _Lost(BaseException):
    """The far side is gone. Not an Exception, which a search would take for a failing input and replay."""


def _observe(prop: Property, attempt: Attempt, case: Case) -> Any:
    """What the property sees; the learner's exceptions are observations too."""
    try:
        return prop.observe(attempt.subject(), case)
    except (Raised, TimedOut, Odd) as trouble:
        return trouble
    except Gone as gone:
        raise _Lost(str(gone)) from gone


def _refused(trouble: Trouble) -> bool:
    """Whether the reference refused its input on purpose. What fails by accident may fail the same way for
    every answer, and would then count as right."""
    return isinstance(trouble, Raised) and trouble.line.startswith("raise ")


def _observe_learner(prop: Property, attempt: Attempt, case: Case) -> Any:
    """The same, where an observation may stumble over an answer of another kind than it was written for."""
    try:
        return _observe(prop, attempt, case)
    except Exception:
        return Odd(f"the answer is of another kind than expected: {_a(attempt.returned)}")


def _judge(prop: Property, case: Case, expected: Any, got: Any) -> Mismatch | None:
    if prop.judge is None or isinstance(expected, Trouble) or isinstance(got, Trouble):
        return compare(expected, got, prop.tolerance)
    try:
        return prop.judge(case, expected, got)
    except Exception:
        # A judge is written for answers of the right kind; others are told apart from the reference's.
        other = compare(expected, got, prop.tolerance)
        return other or Mismatch(Outcome.WRONG_KIND, "the answer is not of the expected kind")


def _size(case: Case) -> int:
    def count(value: Any) -> int:
        match value:
            case torch.Tensor():
                return 8 + value.numel()
            case Batches(items):
                return 8 + sum(count(i) for i in items)
            case Network(_, tensors):
                return 8 + sum(t.numel() for t in tensors.values())
            case Mapping():
                return sum(count(v) for v in value.values())
            case list() | tuple():
                return 1 + sum(count(v) for v in value)
            case int():
                return min(abs(value), 64)
        return 1

    return count(case.args) + count(case.kwargs) + count(case.extra)


class _Evaluation:
    """One check: its budgets are shared by all properties."""

    def __init__(self, exercise: Exercise, attempt: Attempt, seed: int):
        self.exercise = exercise
        self.attempt = attempt
        self.seed = seed
        self.device = "cpu"
        self.shrink_seconds = SHRINK_SECONDS
        self.reference = Attempt.local(exercise.reference, exercise.id, seconds=120)
        self.seen: tuple[Case, Any] | None = None

    def examine(self, prop: Property) -> _Finding:
        if self.exercise.once:
            return self.reread(prop)
        finding = _Finding(prop)
        first = True
        # Counted from anew, so that how long an earlier search took changes nothing here.
        self.attempt.seed = _entropy(self.seed, f"{prop.name} on {self.device}")

        def visit(case: Case) -> None:
            nonlocal first
            failure = self.look(prop, case, watch=first or self.attempt.watch != "nothing")
            if first and failure is None:
                failure = self.again(prop, case)
            if failure is not None:
                finding.add(failure)
                finding.simplest = finding.simplest or first
                if len(finding.failures) < EVIDENCE:
                    finding.failures.append(failure)
                if failure.mismatch.outcome in (Outcome.TIMED_OUT, Outcome.NOT_ATTEMPTED, Outcome.UNSTABLE):
                    raise _Enough
            first = False

        examples = prop.examples if self.device == "cpu" else max(2, prop.examples // 2)
        with contextlib.suppress(_Enough):
            _explore(prop, self.seed, visit, shrink=False, examples=examples)
        # The first example has every draw at its simplest; where that fails there is nothing to shrink.
        if (
            finding.smallest is not None
            and not finding.simplest
            and self.shrink_seconds > 0
            and finding.smallest.mismatch.outcome
            not in (Outcome.TIMED_OUT, Outcome.NOT_ATTEMPTED, Outcome.UNSTABLE)
        ):
            self.shrink(finding, examples)
        return finding

    def reread(self, prop: Property) -> _Finding:
        """What a property says of the one observation that all of them share."""
        if self.seen is None:
            cases: list[Case] = []
            _explore(prop, self.seed, cases.append, shrink=False, examples=1)
            self.attempt.seed = _entropy(self.seed, prop.name)
            self.attempt.watch = "samples"
            self.seen = cases[0], _observe_learner(prop, self.attempt, cases[0])
        case, got = self.seen
        finding = _Finding(prop)
        mismatch = _judge(prop, case, None, got)
        if mismatch is not None:
            seed, printed = self.attempt.seed, self.attempt.printed
            finding.add(_Failure(case, got, None, mismatch, printed, _size(case), seed))
        return finding

    def look(self, prop: Property, case: Case, *, watch: bool = False) -> _Failure | None:
        self.attempt.device = self.device
        self.attempt.seed = self.attempt.seed + 1
        self.attempt.watch = "calls" if watch else "nothing"
        self.attempt.misplaced.clear()
        before = self.attempt.spent
        got = _observe_learner(prop, self.attempt, case)
        # Watching slows the learner's code down; where it is quick every call is watched.
        if self.attempt.spent - before >= WATCH_ALL_BELOW:
            self.attempt.watch = "nothing"
        expected = _observe(prop, self.reference, case)
        if isinstance(expected, Trouble) and not _refused(expected):
            raise _Lost(f"the reference fails: {expected}")
        mismatch = _judge(prop, case, expected, got)
        if mismatch is None and self.attempt.misplaced:
            devices = ", ".join(sorted(self.attempt.misplaced))
            mismatch = Mismatch(
                Outcome.WRONG_KIND,
                f"the inputs were on {self.device}, the answer on {devices}",
                code="device",
            )
        if mismatch is None:
            return None
        return _Failure(case, got, expected, mismatch, self.attempt.printed, _size(case), self.attempt.seed)

    def again(self, prop: Property, case: Case) -> _Failure | None:
        """A right answer is right every time: the same input under other global random numbers."""
        failure = self.look(prop, case, watch=self.attempt.watch != "nothing")
        if failure is None:
            return None
        mismatch = Mismatch(
            Outcome.UNSTABLE,
            f"the same input was right once and then not: {failure.mismatch.message}",
            failure.mismatch.where,
            failure.mismatch.expected,
            failure.mismatch.got,
            "unstable",
        )
        return replace(failure, mismatch=mismatch)

    def shrink(self, finding: _Finding, examples: int) -> None:
        """Search for a smaller failing input, for a bounded time and a bounded number of calls."""
        assert finding.smallest is not None
        wanted = finding.smallest.mismatch.outcome
        deadline = time.perf_counter() + self.shrink_seconds
        calls = 0

        def visit(case: Case) -> None:
            nonlocal calls
            calls += 1
            if calls > SHRINK_CALLS or time.perf_counter() > deadline:
                raise _Enough
            failure = self.look(finding.prop, case)
            if failure is not None and failure.mismatch.outcome is wanted:
                finding.add(failure)
                raise AssertionError

        # Hypothesis ends a search by raising what the last failing call raised, or by calling it flaky.
        start = time.perf_counter()
        with contextlib.suppress(_Enough, Exception):
            _explore(finding.prop, self.seed, visit, shrink=True, examples=examples)
        self.shrink_seconds -= time.perf_counter() - start


def failed_examples(exercise: Exercise, prop: Property, answer: Any, seed: int) -> list[bool]:
    """Of each example that a check with this seed draws for a property, whether the answer fails it."""
    evaluation = _Evaluation(exercise, Attempt.local(answer, exercise.id, seconds=exercise.seconds), seed)
    evaluation.attempt.seed = _entropy(seed, f"{prop.name} on {evaluation.device}")
    failed: list[bool] = []

    def visit(case: Case) -> None:
        failure = evaluation.look(prop, case)
        if failure is None and not failed:
            failure = evaluation.again(prop, case)
        failed.append(failure is not None)

    _explore(prop, seed, visit, shrink=False, examples=prop.examples)
    return failed


# -- diagnosis ----------------------------------------------------------------------------------------------


def _diagnose(exercise: Exercise, findings: Sequence[_Finding]) -> Misconception | None:
    """The misconception whose behavior the answer shows: it fails nothing the answer passes, and on every
    recorded failing input of some property it gives what the answer gave."""
    failed = {f.prop.name: f for f in findings if f.failed}
    if exercise.once:
        codes = {f.smallest.mismatch.code for f in failed.values() if f.smallest is not None}
        return next((m for m in exercise.misconceptions if m.name in codes), None)
    # Of this process, so that a busy machine diagnoses as well as an idle one.
    deadline = time.process_time() + DIAGNOSIS_SECONDS
    ranked = []
    for number, misconception in enumerate(exercise.misconceptions):
        if not set(misconception.fails) <= set(failed) or time.process_time() > deadline:
            continue
        attempt = Attempt.local(misconception.answer, exercise.id, seconds=DIAGNOSIS_SECONDS)
        explained = [n for n in misconception.fails if _explains(attempt, failed[n], deadline)]
        if explained:
            whole = len(explained) == len(failed) == len(misconception.fails)
            ranked.append((not whole, -len(explained), number, misconception))
    return min(ranked)[3] if ranked else None


class _Slip(NamedTuple):
    """A mistake that can be made in any exercise."""

    name: str
    mistake: str
    repair: str


DEFAULT_DTYPE = _Slip(
    "default_dtype",
    "Your result is float32, whatever dtype the input has.",
    "torch.zeros(…), torch.ones(…) and torch.tensor(…) make float32: pass dtype=x.dtype and device=x.device, or use "
    "x.new_zeros(…) or torch.zeros_like(x).",
)


def _slip(findings: Sequence[_Finding]) -> _Slip | None:
    """The slip that shows somewhere, for an answer whose mistake has no name in the catalogue."""
    found = {(f.smallest.mismatch.code, f.smallest.mismatch.got) for f in findings if f.smallest is not None}
    return DEFAULT_DTYPE if ("dtype", "float32") in found else None


def _explains(attempt: Attempt, finding: _Finding, deadline: float) -> bool:
    prop = finding.prop
    for failure in [*finding.failures, finding.smallest]:
        if failure is None or time.process_time() > deadline:
            return failure is None
        attempt.spent = 0.0
        # The same global random numbers, so that an ignored generator shows the same way.
        attempt.seed = failure.seed
        shown = _observe_learner(prop, attempt, failure.case)
        if prop.judge is not None:
            mismatch = _judge(prop, failure.case, failure.expected, shown)
            if mismatch is None or mismatch.code != failure.mismatch.code:
                return False
        elif isinstance(failure.got, Raised) and isinstance(shown, Raised):
            if not _alike(failure.got, shown):
                return False
        elif isinstance(failure.got, Odd) and isinstance(shown, Odd):
            if str(failure.got) != str(shown):
                return False
        elif (
            isinstance(failure.got, Trouble)
            or isinstance(shown, Trouble)
            or not _agree(shown, failure.got, prop.tolerance)
        ):
            return False
    return True


def _alike(one: Raised, other: Raised) -> bool:
    """Whether two errors say the same. torch raises one class for nearly everything, and a lookup for every
    missing key: there the words count too, numbers left out, unless one of the two was raised on purpose."""
    if one.kinds[0] != other.kinds[0]:
        return False
    if _refused(one) or _refused(other) or one.kinds[0] not in ("RuntimeError", "KeyError"):
        return True
    return _unnumbered(one) == _unnumbered(other)


def _unnumbered(raised: Raised) -> str:
    return re.sub(r"-?\d+(, -?\d+)*", "#", raised.message)


def _agree(one: Any, other: Any, tolerance: tuple[float, float] | None) -> bool:
    try:
        return compare(one, other, tolerance) is None
    except TypeError:
        return isinstance(one, Foreign) and isinstance(other, Foreign) and one.kind == other.kind


# -- shortcuts ----------------------------------------------------------------------------------------------

TOPICS = ("preprocessing", "batchnorm", "visualization", "convolutionalize", "upsampling", "fcn", "unet")


def _shortcut(exercise: Exercise, looked: Mapping[str, Any], seen: set[str]) -> str | None:
    """Why the answer is a shortcut: it is, extends, calls or copies the reference, or calls what is forbidden."""
    where = [looked.get("module", ""), *(b.rpartition(".")[0] for b in looked.get("bases", ()))]
    references = tuple(f"coursekit.{topic}" for topic in TOPICS)
    if looked.get("module") in references:
        return f"this is the reference, {looked['module']}.{exercise.id}"
    if any(w in references for w in where):
        return "this class extends the reference"
    own = f"coursekit.{exercise.topic}.{exercise.id}"
    for name in sorted(seen):
        module, _, function = name.partition(".")[2].partition(".")
        public = module in TOPICS and not function.startswith(("_", "<")) and name not in exercise.uses
        if name.startswith("coursekit.") and public and (name == own or not exercise.once):
            return f"it calls the reference, {name}"
    for call in exercise.forbidden:
        if seen.intersection(call.seen) or any(
            s.startswith(c) for c in call.seen if c.endswith(".") for s in seen
        ):
            return f"it calls {call.name}, which is the exercise itself"
    if _copied(exercise.reference, looked.get("source", ""), looked.get("fingerprint", "")):
        return "it is a copy of the reference"
    return None


@cache
def normalized(source: str) -> tuple[str, int]:
    """A function's or class's syntax tree as text, without docstrings, annotations, argument checks and the
    names its author chose, and its number of nodes."""
    tree = ast.parse(textwrap.dedent(source))
    for top in tree.body:
        if isinstance(top, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            top.name = "_"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.body = [line for line in node.body if not _beside_the_point(line)] or [ast.Pass()]
    bound = {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    bound |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
            node.arg = names.setdefault(node.arg, f"v{len(names)}")
        elif isinstance(node, ast.Name) and node.id in bound:
            node.id = names.setdefault(node.id, f"v{len(names)}")
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree), sum(1 for _ in ast.walk(tree))


def _beside_the_point(line: ast.stmt) -> bool:
    """A docstring, a bare annotation, a call for its exception, `if …: raise`: what a copy can leave out or add."""
    if isinstance(line, ast.AnnAssign):
        return line.value is None
    if isinstance(line, ast.If):
        return not line.orelse and all(isinstance(inner, ast.Raise) for inner in line.body)
    if not isinstance(line, ast.Expr):
        return False
    called = line.value.func if isinstance(line.value, ast.Call) else None
    if isinstance(called, ast.Attribute):
        return isinstance(called.value, ast.Name) and called.value.id == "validate"
    return isinstance(line.value, ast.Constant) or (isinstance(called, ast.Name) and called.id == "_check")


@cache
def _copied(reference: Any, source: str, fingerprint: str) -> bool:
    # Short answers can be equal by accident: ten people write the same two-line formula.
    try:
        original, nodes = normalized(inspect.getsource(reference))
    except (SyntaxError, OSError, TypeError, ValueError):
        return False
    if nodes < COPY_NODES:
        return False
    if fingerprint and fingerprint == agent.fingerprint(reference):
        return True
    try:
        return normalized(source)[0] == original
    except (SyntaxError, ValueError, RecursionError):
        return False


# -- the verdict --------------------------------------------------------------------------------------------


def devices_present() -> tuple[str, ...]:
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def evaluate(
    exercise_id: str,
    attempt: Any,
    *,
    seed: int | None = None,
    devices: Sequence[str] | None = None,
    allow_reference: bool = False,
) -> Verdict:
    """Judge an answer to an exercise.

    ``attempt`` is the function or class, a mapping that may hold it under its name (a namespace), or an
    :class:`~autograder.attempt.Attempt`. ``seed`` replays the inputs of an earlier verdict; ``devices``
    defaults to every one present. ``allow_reference`` switches the search for shortcuts off: the gate
    uses it for the reference itself.

    Raises ValueError for an unknown exercise or device. Whatever the answer does is in the verdict.
    """
    exercise = catalog.find(exercise_id)
    seed = secrets.randbits(32) if seed is None else int(seed)
    devices = tuple(devices or devices_present())
    for device in devices:
        if device not in devices_present():
            raise ValueError(f"devices must be among {devices_present()}, got {device!r}")
    if not issubclass(type(attempt), Attempt):
        attempt = Attempt.local(attempt, exercise.id, seconds=exercise.seconds)
    start = time.perf_counter()
    try:
        with agent.preserved():
            verdict = _evaluate(exercise, attempt, seed, devices, allow_reference)
    except (Gone, _Lost) as gone:
        verdict = without_verdict(exercise, f"no verdict: {gone}")
    except TimedOut as late:
        verdict = replace(without_verdict(exercise, str(late), outcome=Outcome.TIMED_OUT), flags=())
    return replace(
        verdict,
        seed=seed,
        devices=devices,
        seconds=time.perf_counter() - start,
        learner_seconds=attempt.spent,
    )


def _cores() -> int:
    """What a parallel computation may take: all cores, or what whoever runs several of them allows."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return int(allowed) if allowed.isdecimal() and int(allowed) else os.cpu_count() or 1


def _evaluate(
    exercise: Exercise, attempt: Attempt, seed: int, devices: tuple[str, ...], allow_reference: bool
) -> Verdict:
    looked = attempt.look()
    problem = _not_usable(exercise, looked)
    if problem is not None:
        outcome, message = problem
        return replace(without_verdict(exercise, message, outcome=outcome), flags=())

    if not allow_reference and (why := _shortcut(exercise, looked, set())):
        return _as_shortcut(exercise, why)
    attempt.threads = _cores() if exercise.parallel else 1
    # Training finds its own way to a GPU; the network that comes of it is asked where it lies.
    devices = ("cpu",) if exercise.once else devices
    evaluation = _Evaluation(exercise, attempt, seed)
    findings: list[_Finding] = []
    for prop in exercise.properties:
        finding = _Finding(prop)
        for device in devices:
            evaluation.device = device
            finding = evaluation.examine(prop)
            if finding.failed:
                break
        findings.append(finding)
        if not allow_reference and (why := _shortcut(exercise, looked, attempt.seen)):
            return _as_shortcut(exercise, why)

    results = tuple(_result(exercise, f) for f in findings)
    wrong = [r for r in results if r.outcome is not Outcome.CORRECT]
    misconception: Misconception | _Slip | None = None
    if any(r.outcome not in (Outcome.NOT_ATTEMPTED, Outcome.TIMED_OUT) for r in wrong):
        misconception = _diagnose(exercise, findings) or _slip(findings)
    return Verdict(
        exercise.id,
        _overall(results),
        sum(r.points for r in results),
        exercise.points,
        results,
        seed,
        diagnosis=misconception.name if misconception else None,
        mistake=misconception.mistake if misconception else "",
        repair=misconception.repair if misconception else "",
    )


def _not_usable(exercise: Exercise, looked: Mapping[str, Any]) -> tuple[Outcome, str] | None:
    kind = looked.get("kind")
    noun = "class" if exercise.is_class else "function"
    if kind == "missing":
        return (
            Outcome.NOT_ATTEMPTED,
            f"there is no {noun} named {exercise.id} yet: run the cell that defines it",
        )
    if kind not in ("class", "callable"):
        return (
            Outcome.WRONG_KIND,
            f"{exercise.id} must be a {noun}, got {_a(str(looked.get('type', 'value')))}",
        )
    if exercise.is_class and kind != "class":
        return (
            Outcome.WRONG_KIND,
            f"{exercise.id} must be a class, got {_a(str(looked.get('type', 'function')))}",
        )
    return None


def _as_shortcut(exercise: Exercise, why: str) -> Verdict:
    verdict = without_verdict(exercise, f"a shortcut: {why}", outcome=Outcome.SHORTCUT)
    return replace(verdict, flags=(f"shortcut: {why}",))


def _result(exercise: Exercise, finding: _Finding) -> PropertyResult:
    prop, failure = finding.prop, finding.smallest
    if failure is None:
        return PropertyResult(prop.name, prop.says, Outcome.CORRECT, prop.points, prop.points)
    found = failure.mismatch
    return PropertyResult(
        prop.name,
        prop.says,
        found.outcome,
        0.0,
        prop.points,
        _tried(exercise, prop, failure.case),
        *(text[:TEXT] for text in (found.where, found.message, found.expected, found.got, failure.printed)),
    )


def _tried(exercise: Exercise, prop: Property, case: Case) -> tuple[str, ...]:
    lines = [prop.tried] if prop.tried else []
    try:
        bound = inspect.signature(exercise.reference).bind_partial(*case.args, **case.kwargs).arguments
    except (TypeError, ValueError):
        bound = {**{str(k): v for k, v in enumerate(case.args)}, **case.kwargs}
    arguments = {**bound, **case.extra}
    return tuple(lines + [f"{name} = {short(value)}" for name, value in arguments.items()])


def _overall(results: Sequence[PropertyResult]) -> Outcome:
    outcomes = [r.outcome for r in results]
    if all(o is Outcome.CORRECT for o in outcomes):
        return Outcome.CORRECT
    if all(o is Outcome.NOT_ATTEMPTED for o in outcomes):
        return Outcome.NOT_ATTEMPTED
    # What is partly written was attempted: the rest of it raises.
    wrong = [o for o in outcomes if o not in (Outcome.CORRECT, Outcome.NOT_ATTEMPTED)]
    return (wrong or [Outcome.RAISED])[0]
