"""The vocabulary of checking: what an exercise is, what can be wrong with an answer, what a verdict says.

An :class:`Exercise` is one catalogue entry. Its :class:`Property` objects are the claims that earn points:
each draws a :class:`Case`, does something with the learner's object (*observe*) and compares what it saw
with what the reference shows (*judge*). A :class:`Training` is an exercise of another kind: its claims read one
training. A :class:`Misconception` is a real wrong answer with a name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from autograder.draw import Draw


SCREEN = 40
"""Lines that can be read without leafing: no more are shown of a case."""


class Outcome(StrEnum):
    """What became of one property, worst news last but one."""

    CORRECT = "correct"
    WAITING = "holds, but does not count alone"
    NOT_ATTEMPTED = "not attempted"
    RAISED = "raised"
    RAISED_OTHER = "raised another error"
    TIMED_OUT = "timed out"
    WRONG_KIND = "wrong shape, dtype or device"
    WRONG_VALUES = "wrong values"
    UNSTABLE = "differs from call to call"
    SHORTCUT = "shortcut"
    NO_VERDICT = "no verdict"


@dataclass(frozen=True)
class Mismatch:
    """One difference between what was expected and what came, in words short enough to read.

    ``code`` names the kind of failure for judges that do not compare numbers: two answers that earn the
    same code failed in the same way.
    """

    outcome: Outcome
    message: str
    where: str = ""
    expected: str = ""
    got: str = ""
    code: str = ""


@dataclass(frozen=True)
class Case:
    """One drawn input: positional and keyword arguments of the exercise, and whatever else *observe* needs.

    Values are tensors, plain Python values and the descriptions of :mod:`autograder.values`.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


def call(subject: Any, case: Case) -> Any:
    """The plainest observation: call the learner's object on the case and keep what it returns."""
    return subject(*case.args, **case.kwargs)


@dataclass(frozen=True)
class Claim:
    """Something that an answer may fulfil: a ``name``, a sentence that ``says`` it, and what it is worth.

    ``tried`` is a sentence for the feedback where more is done with the answer than one call.
    """

    name: str
    says: str
    points: float
    tried: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Property(Claim):
    """A claim that is tried on drawn inputs.

    ``draw(d)`` makes a :class:`Case`; ``observe(subject, case)`` says what is done with the object
    (:class:`autograder.attempt.Subject`); ``judge(case, expected, got)`` returns a :class:`Mismatch` or ``None``
    (left out: the two observations must agree within ``tolerance`` = (rtol, atol), by dtype where it is None).
    A claim of form, which an empty answer fulfills too, stands ``beside`` one of substance, named here: it earns points
    only where that one holds for some input.
    """

    draw: Callable[[Draw], Case]
    observe: Callable[[Any, Case], Any] = call
    judge: Callable[[Case, Any, Any], Mismatch | None] | None = None
    examples: int = 8
    tolerance: tuple[float, float] | None = None
    beside: str = ""


@dataclass(frozen=True)
class Reading(Claim):
    """A claim about what one training made: ``judge(case, seen)`` returns a :class:`Mismatch` or ``None``.

    A mismatch's ``code`` is the name of the misconception that shows that symptom, or empty. ``beside`` as of a
    :class:`Property`.
    """

    judge: Callable[[Case, Any], Mismatch | None]
    beside: str = ""


class Code(Protocol):
    """An answer of the catalogue: the object, and how it is written, the lines that import what it uses apart."""

    @property
    def answer(self) -> Any: ...
    @property
    def body(self) -> str: ...
    def imports(self, known: Collection[str] = ()) -> list[str]: ...


def _object(code: Code | Any) -> Any:
    return code.answer if hasattr(code, "body") else code


@dataclass(frozen=True)
class Misconception:
    """A real wrong answer: the sentence that names the ``mistake``, the one that points to the ``repair``, exactly the
    properties it ``fails``, and its ``code``, or the object alone where nobody has to read it."""

    name: str
    mistake: str
    repair: str
    fails: tuple[str, ...]
    code: Code | Any

    @property
    def answer(self) -> Any:
        return _object(self.code)


@dataclass(frozen=True)
class Variant:
    """A right answer written differently; the gate demands full points for it."""

    name: str
    code: Code | Any

    @property
    def answer(self) -> Any:
        return _object(self.code)


@dataclass(frozen=True)
class Hint:
    """Help for a ``symptom``, in the learner's words; three of them go from a nudge to nearly the answer."""

    symptom: str
    help: str


@dataclass(frozen=True)
class Forbidden:
    """A library call that *is* the answer. ``name`` is what feedback shows; ``seen`` are the resolved torch
    function names and aten operators that give it away while the attempt runs."""

    name: str
    seen: tuple[str, ...]


C = TypeVar("C", bound=Claim)


@dataclass(frozen=True)
class Exercise(Generic[C]):
    """One entry of the catalogue. ``id`` is the function's or class's name everywhere.

    An ``Exercise[Property]`` has its claims tried on drawn inputs; one whose answer trains a network is a
    :class:`Training`.
    """

    id: str
    topic: str
    title: str
    reference: Any
    properties: tuple[C, ...]
    hints: tuple[Hint, Hint, Hint]
    minutes: int
    difficulty: int
    misconceptions: tuple[Misconception, ...] = ()
    right: tuple[Variant, ...] = ()
    forbidden: tuple[Forbidden, ...] = ()
    seconds: float = 20.0
    """How long the learner's own code may run in one check before it is *timed out*."""
    uses: tuple[str, ...] = ()
    """References of other exercises that an answer may call, such as "coursekit.upsampling.bilinear_kernel"."""

    @property
    def points(self) -> float:
        return sum(p.points for p in self.properties)

    @property
    def is_class(self) -> bool:
        return inspect.isclass(self.reference)

    @property
    def signature(self) -> str:
        """``batchnorm_forward(x, gamma, beta, eps=1e-05)``, read off the reference, annotations left out."""
        signature = inspect.signature(self.reference)
        bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
        return f"{self.id}{signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)}"

    def may_use(self, reference: str) -> bool:
        """Whether an answer may call a reference of this or another exercise, by its full name."""
        return reference in self.uses

    def property(self, name: str) -> C:
        return next(p for p in self.properties if p.name == name)

    def misconception(self, name: str) -> Misconception:
        return next(m for m in self.misconceptions if m.name == name)


@dataclass(frozen=True, kw_only=True)
class Training(Exercise[Reading]):
    """An exercise whose answer trains a network: one training a check, which all its claims read.

    ``draw(d)`` makes the case and ``observe(subject, case)`` looks at what the answer made of it, once; the
    reference does not run. A wrong answer is told by its symptoms: the code of a mismatch names it. The
    learner's code may use every core, and the lecture's other references.
    """

    draw: Callable[[Draw], Case]
    observe: Callable[[Any, Case], Any]

    def may_use(self, reference: str) -> bool:
        return reference != f"coursekit.{self.topic}.{self.id}"


@dataclass(frozen=True)
class PropertyResult:
    """What became of one property: the outcome, its points, and the smallest evidence found."""

    name: str
    says: str
    outcome: Outcome
    points: float
    max_points: float
    tried: tuple[str, ...] = ()
    where: str = ""
    message: str = ""
    expected: str = ""
    got: str = ""
    printed: str = ""
    described: str = ""
    """What can be said for certain of a claim that no name explains."""
    retypable: bool = False
    """Whether ``tried`` holds statements that make the arguments, and all of them."""


@dataclass(frozen=True)
class Finding:
    """A named mistake that an answer shows, in two sentences, and the claims it explains."""

    name: str
    mistake: str
    repair: str
    claims: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """The oracle's word on one answer.

    ``points`` of ``max_points``; ``results`` a :class:`PropertyResult` each; ``findings`` the mistakes whose
    behavior the answer shows, the one that explains most first; ``seed``
    replays the same inputs; ``flags`` are remarks for a person (a shortcut, no verdict at all).
    """

    exercise: str
    outcome: Outcome
    points: float
    max_points: float
    results: tuple[PropertyResult, ...]
    seed: int
    findings: tuple[Finding, ...] = ()
    message: str = ""
    flags: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    seconds: float = 0.0
    learner_seconds: float = 0.0

    @property
    def diagnosis(self) -> str | None:
        """The name of the mistake that explains most, or None."""
        return self.findings[0].name if self.findings else None

    @property
    def unexplained(self) -> tuple[PropertyResult, ...]:
        """What failed and no named mistake explains."""
        explained = {claim for finding in self.findings for claim in finding.claims}
        return tuple(
            r
            for r in self.results
            if r.outcome not in (Outcome.CORRECT, Outcome.WAITING) and r.name not in explained
        )

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """Property name → outcome, in the catalogue's order."""
        return {r.name: r.outcome for r in self.results}

    @property
    def correct(self) -> bool:
        return self.outcome is Outcome.CORRECT

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        """The verdict that :meth:`to_json` wrote, also one written by a version with other fields."""
        known = {f.name for f in fields(cls)}
        results = tuple(
            PropertyResult(**{**r, "outcome": Outcome(r["outcome"]), "tried": tuple(r["tried"])})
            for r in data["results"]
        )
        findings = tuple(Finding(**{**f, "claims": tuple(f["claims"])}) for f in data.get("findings", ()))
        lists = {k: tuple(data[k]) for k in ("flags", "devices")}
        given = {
            **data,
            **lists,
            "outcome": Outcome(data["outcome"]),
            "results": results,
            "findings": findings,
        }
        return cls(**{k: v for k, v in given.items() if k in known})


def without_verdict(exercise: Exercise, reason: str, *, outcome: Outcome = Outcome.NO_VERDICT) -> Verdict:
    """The verdict where none could be made: 0 points, flagged for a person."""
    results = tuple(PropertyResult(p.name, p.says, outcome, 0.0, p.points) for p in exercise.properties)
    return Verdict(exercise.id, outcome, 0.0, exercise.points, results, 0, message=reason, flags=(reason,))


def names(claims: Sequence[Claim]) -> tuple[str, ...]:
    return tuple(c.name for c in claims)
