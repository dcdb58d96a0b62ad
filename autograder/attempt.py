"""A learner's object as the checks see it: the same questions whether it is here or at the far end of a wire.

An *observation* of the catalogue is written against :class:`Subject` (the object that was asked for) and
:class:`Handle` (an object that came back and stayed there: a layer, a trained network).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from autograder import wire
from autograder.agent import Agent
from autograder.agent.limits import FAR
from autograder.agent.watch import BY_CHANCE, STEPS
from autograder.values import Batches, Foreign, Generator, Named, Network, Ref

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds by the clock, beyond what the learner's own processor time may take, after which a far side that answers slowly
is given up."""


class Trouble(Exception):
    """An answer that is not a value."""


@dataclass
class Raised(Trouble):
    """The learner's code raised: class names from the exception's own to the most general, message, own line; and which
    function of theirs that line stands in, where it is not the one that was asked for."""

    kinds: tuple[str, ...]
    message: str = ""
    line: str = ""
    inside: str = ""

    def __str__(self) -> str:
        return f"{self.kinds[0]}: {self.message}" if self.message else self.kinds[0]


class TimedOut(Trouble):
    """The learner's code ran for longer than it may."""


class Odd(Trouble):
    """An answer that an observation could do nothing with, being of another kind than it must be."""


class Gone(Trouble):
    """The far side hung up, died, or spoke something that is no answer."""

    seconds = 0.0
    """How long the learner's code had run for the question that got no answer."""


@dataclass(frozen=True)
class Conditions:
    """Under which conditions one question is asked.

    Attributes:
        seed: of the global random numbers.
        device: where the arguments are placed.
        threads: how many torch may use.
        watch: how closely the learner's code is looked at while it runs: "nothing", "calls" (each library
            function and operator) or "samples" (what is running now and then, for code that runs long).
        seconds: how much processor time the learner's code may use up in all. Code that sleeps, or runs where others
            use the machine, has ``FAR`` times as much by the clock.
        spent: how much of that earlier questions have used up.
        call: how much of it one call may use up, so that one of many does not take the time of all; None is all.
    """

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    watch: Literal["nothing", "calls", "samples"] = "nothing"
    seconds: float = 20.0
    spent: float = 0.0
    call: float | None = None


@dataclass(frozen=True)
class Seen:
    """What one question showed.

    Attributes:
        value: what the observation made of the answers, or the :class:`Trouble` that ended it.
        kind: what the last call returned, in a word.
        printed: the beginning of what the learner's code printed.
        calls: the library functions and operators that ran, where they were watched.
        devices: where the returned tensors were.
        seconds: how much of its time the learner's code used up.
        forms: what each call returned, without its numbers: two answers of the same forms can be used alike.
    """

    value: Any
    kind: str = "None"
    printed: str = ""
    calls: frozenset[str] = frozenset()
    devices: frozenset[str] = frozenset()
    seconds: float = 0.0
    forms: tuple[str, ...] = ()


class Stumbled(Exception):
    """An observation could not use an answer and did not say why; ``seen`` is what it saw until then."""

    def __init__(self, seen: Seen):
        super().__init__(f"after {seen.kind}")
        self.seen = seen


class Attempt:
    """One learner's object, asked through ``exchange(request, seconds) -> reply``.

    ``seconds`` is the processor time the learner's code may use up in all.
    """

    def __init__(
        self,
        exchange: Callable[[dict[str, Any], float], dict[str, Any]],
        name: str,
        *,
        remote: bool,
        seconds: float = 20.0,
    ):
        self._exchange = exchange
        self.name = name
        self.across = remote
        self.seconds = seconds
        self._waited = 0.0
        self._most = seconds

    @classmethod
    def local(cls, answer: Any, name: str, *, seconds: float = 20.0) -> Attempt:
        """An object of this process: the function or class itself, or a mapping that may hold it by name."""
        # Asked for by type(), since isinstance() runs what a learner's object says of its class.
        agent = Agent(answer if issubclass(type(answer), Mapping) else {name: answer})

        def exchange(request: dict[str, Any], limit: float) -> dict[str, Any]:
            # As through the frames of a remote one: arguments are copies, and verdicts cannot differ.
            reply = agent.answer({**request, **_copied(request, "args", "kwargs", "before", "value")})
            try:
                return {**reply, **_copied(reply, "value", "grads")}
            except wire.WireError as error:
                return {"raised": {"kinds": ["WireError"], "message": str(error), "line": ""}}

        return cls(exchange, name, remote=False, seconds=seconds)

    @classmethod
    def remote(cls, sock: socket.socket, name: str, *, seconds: float = 20.0, grace: float = 3.0) -> Attempt:
        """An object behind a connected socket with an :class:`~autograder.agent.Agent` at the other end.

        ``grace`` seconds beyond its own limit are given to each answer before the far side counts as gone.
        """
        channel = wire.Channel(sock)
        late = False

        def exchange(request: dict[str, Any], limit: float) -> dict[str, Any]:
            nonlocal late
            if late:
                # What was judged before the silence counts, and the rest ran out of time.
                raise TimedOut("no answer in time")
            try:
                channel.send(request, timeout=FAR * limit + grace)
                reply = channel.receive(timeout=FAR * limit + grace)
            except TimeoutError as error:
                late = True
                channel.close()
                raise TimedOut("no answer in time") from error
            except wire.WireError as error:
                channel.close()
                raise Gone(f"the other side went away ({error})") from error
            if not isinstance(reply, dict):
                raise Gone("the answer is not one")
            return reply

        return cls(exchange, name, remote=True, seconds=seconds)

    def look(self) -> dict[str, Any]:
        """What bears the name: ``kind`` (missing, class, callable, value), ``module``, ``bases``, ``source``.

        Raises :class:`Gone` where nothing could be seen of it: then it is not the answer's fault.
        """
        looked = self.exchange({"op": "look", "name": self.name})
        if not isinstance(looked.get("kind"), str):
            why = (
                "its time was up" if looked.get("timed_out") else str(looked.get("broken", "no answer"))[:200]
            )
            raise Gone(f"{self.name} could not be looked at ({why})")
        texts = {k: v for k, v in looked.items() if isinstance(v, str)}
        bases = looked.get("bases")
        return texts | {"bases": [str(b) for b in bases] if isinstance(bases, list) else []}

    def subject(self, conditions: Conditions | None = None) -> Subject:
        """The object to observe; whatever an earlier observation left behind is dropped."""
        return _Question(self, self._conditions(conditions)).subject()

    def ask(
        self, observe: Callable[[Subject, T], Any], case: T, conditions: Conditions | None = None
    ) -> Seen:
        """What an observation sees of a case. The learner's exceptions are seen too.

        Raises :class:`Gone` where the far side is lost, :class:`Stumbled` where the observation raised an
        exception of its own.
        """
        question = _Question(self, self._conditions(conditions))
        try:
            return question.seen(observe(question.subject(), case))
        except (Raised, TimedOut, Odd) as trouble:
            return question.seen(trouble)
        except Gone as gone:
            gone.seconds = question.seen(None).seconds
            raise
        except Exception as error:
            raise Stumbled(question.seen(None)) from error

    def exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request and its reply. Raises :class:`Gone` for a far side whose answers come too slowly."""
        start = time.perf_counter()
        try:
            return self._exchange(request, request.get("limit", min(10.0, self.seconds)))
        finally:
            self._waited += time.perf_counter() - start
            if self._waited > longest(self._most):
                raise Gone("its answers came too slowly")

    def _conditions(self, given: Conditions | None) -> Conditions:
        given = Conditions(seconds=self.seconds) if given is None else given
        self._most = max(self._most, given.seconds)
        return given


class _Question:
    """One observation under way: what it has seen of the learner's object so far."""

    def __init__(self, attempt: Attempt, conditions: Conditions):
        self.attempt = attempt
        self._conditions = conditions
        self._kind = "None"
        self._printed = ""
        self._calls: set[str] = set()
        self._devices: set[str] = set()
        self._seconds = 0.0
        self._forms: list[str] = []
        self._fresh = True
        self._before: list[dict[str, Any]] = []

    def subject(self) -> Subject:
        return Subject(self)

    def saw(self, name: str) -> bool:
        return name in self._calls

    def seen(self, value: Any) -> Seen:
        calls, devices = frozenset(self._calls), frozenset(self._devices)
        return Seen(value, self._kind, self._printed, calls, devices, self._seconds, tuple(self._forms))

    def call(
        self,
        target: dict[str, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        wrt: Sequence[Any] = (),
        untouched: bool = False,
        **more: Any,
    ) -> dict[str, Any]:
        request = {
            "op": "call",
            **_step(target, args, kwargs),
            "wrt": [_lower(w) for w in wrt],
            "grad_seed": 20_260,
            "untouched": untouched,
            **more,
        }
        reply = self._ask(request)
        value = _value(reply)
        self._devices.update(_texts(reply.get("devices")))
        self._kind = kind_of(value)
        self._forms.append(_form(value))
        return {**reply, "value": value}

    def later(self, target: dict[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A call whose result nobody asks for: it travels with the next request, and is done before it."""
        self._before.append(_step(target, args, kwargs))

    def build(self, value: Any) -> Handle:
        request = {"op": "build", "value": value, "device": self._conditions.device}
        made = _value(self._exchange(request))
        if not isinstance(made, Ref):
            raise Gone("what was to be built is not there")
        return Handle(self, made)

    def inspect(self, ref: Ref, parts: Sequence[str]) -> dict[str, Any]:
        return _value(self._ask({"op": "inspect", "ref": ref.id, "parts": list(parts)}))

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request that runs the learner's code, within what is left of its time."""
        given = self._conditions
        left = given.seconds - given.spent - self._seconds
        if left <= 0:
            raise TimedOut(f"{given.seconds:g} s of processor time were not enough")
        limit = left if given.call is None else min(left, given.call)
        before, self._before = self._before, []
        conditions = {
            "before": before,
            "seed": request.get("seed", given.seed),
            "threads": given.threads,
            "watch": given.watch,
            "device": given.device,
            "limit": limit,
            "remote": self.attempt.across,
        }
        start, reply = time.perf_counter(), {}
        try:
            reply = self._exchange({**request, **conditions})
        finally:
            clock = time.perf_counter() - start
            # The far side tells how long it was at work, and is believed as far as the clock allows.
            told = reply.get("seconds")
            used = min(max(told, 0.0), clock) if isinstance(told, float) and told == told else 0.0
            self._seconds += max(used, clock / FAR)
        self._calls.update(_texts(reply.get("seen")))
        if reply.get("timed_out"):
            steps = [name.removeprefix(STEPS) for name in self._calls if name.startswith(STEPS)]
            at = f", after {steps[-1]} steps of its optimizer" if steps else ""
            raise TimedOut(f"still running after {limit:.3g} s of processor time{at}")
        if reply.get("printed"):
            self._printed = (self._printed + str(reply["printed"]))[:600]
        return reply

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        # The first request drops what an earlier question has left behind over there.
        fresh, self._fresh = self._fresh, False
        return self.attempt.exchange({**request, "fresh": fresh})

    def lift(self, value: Any) -> Any:
        """References that came back become handles; what only ever goes out is no answer."""
        if isinstance(value, Ref):
            return Handle(self, value)
        if isinstance(value, Network | Named | Batches | Generator):
            return Foreign(type(value).__name__)
        if isinstance(value, dict):
            return {k: self.lift(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.lift(v) for v in value)
        return value


class _Callable:
    _question: _Question

    def _target(self, method: str = "__call__") -> dict[str, Any]:
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._question.lift(self._question.call(self._target(), args, kwargs)["value"])

    def vjp(self, *args: Any, wrt: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
        """``{"value", "grads"}``: the result, and the gradients of its inner product with a fixed random
        cotangent with respect to the arguments at the positions or names ``wrt`` (a :class:`Handle` there
        means all its parameters). A gradient the graph does not reach is None."""
        reply = self._question.call(self._target(), args, kwargs, wrt=wrt)
        return {
            "value": self._question.lift(reply["value"]),
            "grads": self._question.lift(reply.get("grads")),
        }

    def with_changes(self, *args: Any, **kwargs: Any) -> tuple[Any, list[str]]:
        """The result, and the positions or names of the arguments that the call modified in place."""
        reply = self._question.call(self._target(), args, kwargs, untouched=True)
        return self._question.lift(reply["value"]), _texts(reply.get("changed"))

    def build(self, value: Any) -> Handle:
        """An argument that must stay and be looked at afterwards: a network, a named probe."""
        return self._question.build(value)


class Subject(_Callable):
    """The learner's function or class."""

    def __init__(self, question: _Question):
        self._question = question

    def _target(self, method: str = "__call__") -> dict[str, Any]:
        return {"name": self._question.attempt.name}

    @property
    def drew_by_chance(self) -> bool:
        """Whether global random numbers were drawn in the calls so far, where the watch is one of samples."""
        return self._question.saw(BY_CHANCE)

    def first_step(self, *args: Any, seed: int) -> Any:
        """The norms of a training's ``weights`` and ``gradients`` at its first step, where it ends, under global random
        numbers of that seed; None where no optimizer makes one."""
        return self._question.call(self._target(), args, {}, first_step=True, seed=seed)["value"]


class Handle(_Callable):
    """An object on the learner's side: calling it calls it, ``do`` calls one of its methods."""

    def __init__(self, question: _Question, ref: Ref):
        self._question = question
        self.ref = ref

    def _target(self, method: str = "__call__") -> dict[str, Any]:
        return {"ref": self.ref.id, "method": method}

    def do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._question.lift(self._question.call(self._target(method), args, kwargs)["value"])

    def then(self, method: str, *args: Any, **kwargs: Any) -> None:
        """Like ``do``, where nobody needs the result: it is done before the next question, and costs none."""
        self._question.later(self._target(method), args, kwargs)

    def inspect(self, *parts: str) -> dict[str, Any]:
        """All parts, or only those: ``training``, ``hooks``, ``kinds`` by module path; ``parameters``, their ``shapes``, ``buffers``,
        ``grads``, ``requires_grad`` by name; ``state`` the keys of its state dict; ``config`` its layers where they
        are standard ones."""
        return self._question.inspect(self.ref, parts)

    def __repr__(self) -> str:
        return f"a {self.ref.kind}"


def longest(seconds: float) -> float:
    """How long, by the clock, the questions to an answer may take that may use up so much processor time."""
    return FAR * seconds + PATIENCE


def _step(target: dict[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    lowered = tuple(_lower(a) for a in args), {k: _lower(v) for k, v in kwargs.items()}
    return {"target": target, "args": lowered[0], "kwargs": lowered[1]}


def _copied(message: Mapping[str, Any], *parts: str) -> dict[str, Any]:
    return {part: wire.copied(message[part]) for part in parts if message.get(part) is not None}


def _lower(value: Any) -> Any:
    match value:
        case Handle():
            return value.ref
        case list() | tuple():
            return type(value)(_lower(v) for v in value)
        case dict():
            return {k: _lower(v) for k, v in value.items()}
        case torch.nn.Module():
            return Network.describe(value)
    return value


def _value(reply: Mapping[str, Any]) -> Any:
    if reply.get("timed_out"):
        raise TimedOut("still running when it was looked at")
    if "raised" in reply:
        raise _as_raised(reply["raised"])
    if "value" not in reply:
        raise Gone(str(reply.get("broken", "the answer is not one"))[:200])
    return reply["value"]


def _texts(found: Any) -> list[str]:
    return [str(item) for item in found] if isinstance(found, list) else []


def _as_raised(raised: Any) -> Trouble:
    try:
        kinds = tuple(str(k) for k in raised["kinds"]) or ("Exception",)
        inside = str(raised.get("inside", ""))[:100]
        return Raised(kinds, str(raised["message"]), str(raised.get("line", "")), inside)
    except (KeyError, TypeError):
        return Gone("the answer is not one")


def _form(value: Any) -> str:
    match value:
        case torch.Tensor():
            return f"{value.dtype} {tuple(value.shape)}"
        case dict():
            return "{" + ", ".join(f"{k!r}: {_form(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return f"{type(value).__name__}[{', '.join(map(_form, value))}]"
        case Ref():
            return "object"
    return type(value).__name__


def kind_of(value: Any) -> str:
    """What a value is, for a sentence about a wrong kind."""
    match value:
        case Handle():
            return value.ref.kind
        case Ref(_, kind) | Foreign(kind):
            return kind
        case torch.Tensor():
            return "tensor"
    return type(value).__name__
