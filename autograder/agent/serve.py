"""Answering requests about the learner's objects: look, build, call, inspect."""

from __future__ import annotations

import inspect
import linecache
import time
import types
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from autograder.agent.calm import (
    PRINTED,
    Printed,
    compiles,
    preserved,
    put_back,
    quiet,
    seed_all,
    uncompiled,
)
from autograder.agent.limits import Limit, TimeUp, threads_of
from autograder.agent.source import code_of, fingerprint, source_of, unwrapped
from autograder.agent.tensors import changes, gradients, snapshot
from autograder.agent.watch import WATCHES, gradient_pass, until_first_step
from autograder.values import Foreign, Ref, layers_of, realize
from autograder.wire import MAX_BITS, MAX_BYTES, MAX_STRING, MAX_TEXT, Channel, Closed, WireError, carried

NODES = 20_000
DEPTH = 20
SEEN = 2000
LOOKING = 5.0


class Agent:
    """Answers the oracle's requests about the objects that ``find`` knows by name.

    ``find(name)`` returns the learner's object or raises KeyError.
    """

    def __init__(self, find: Callable[[str], Any] | Mapping[str, Any]):
        self._find = find.__getitem__ if isinstance(find, Mapping) else find
        self._objects: dict[int, Any] = {}
        self._numbers = 0

    def serve(self, channel: Channel) -> None:
        """Answer requests until the oracle says goodbye or hangs up."""
        with preserved():
            while True:
                try:
                    request = channel.receive()
                except (Closed, OSError):
                    return
                except WireError as error:
                    channel.send({"broken": str(error)})
                    return
                if not isinstance(request, dict):
                    channel.send({"broken": "a request must be a dict"})
                    return
                if request.get("op") == "bye":
                    return
                reply = self.answer(request)
                try:
                    channel.send(reply)
                except WireError as error:
                    channel.send({"raised": _raised(error)})

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request, one reply; whatever the learner's code does, the reply is a dict.

        ``value`` or ``raised`` or ``timed_out`` is the learner's doing, ``broken`` a request that could not
        be served.
        """
        operation = {
            "look": self._look,
            "call": self._call,
            "build": self._make,
            "inspect": self._inspect,
        }.get(str(request.get("op")))
        if operation is None:
            return {"broken": f"unknown request {request.get('op')!r}"}
        if request.get("fresh"):
            self._objects.clear()
        try:
            return operation(request)
        except TimeUp:
            return {"timed_out": True}
        except Exception as error:
            return {"broken": f"{type(error).__name__}: {_message(error)}"}

    # -- requests ---------------------------------------------------------------------------------------

    def _look(self, request: dict[str, Any]) -> dict[str, Any]:
        """What kind of thing bears the name, where it was defined, and its source where that can be had."""
        try:
            found = self._find(request["name"])
        except KeyError:
            return {"kind": "missing"}
        with Limit(LOOKING):
            try:
                plain = unwrapped(found)
                kind = "class" if inspect.isclass(plain) else "callable" if callable(plain) else "value"
            except Exception:
                # It does not let itself be asked, which no function and no class does.
                return {"kind": "value", "type": type(found).__name__}
            bases = plain.__mro__ if inspect.isclass(plain) else ()
            code = code_of(plain)
            return {
                "kind": kind,
                "type": type(found).__name__,
                "module": str(getattr(plain, "__module__", "")),
                "qualname": str(getattr(plain, "__qualname__", "")),
                "bases": [f"{b.__module__}.{b.__qualname__}" for b in bases],
                "file": "" if code is None else code.co_filename,
                "source": source_of(plain),
                "fingerprint": fingerprint(plain),
            }

    def _make(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"value": self._keep(realize(request["value"], self._objects, request["device"]))}

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        args, kwargs = self._arguments(request, request["device"])

        def called(seen: set[str]) -> dict[str, Any]:
            wrt = self._leaves(request.get("wrt") or [], args, kwargs)
            before = snapshot(args, kwargs) if request.get("untouched") else None
            grads = None
            seed_all(request["seed"])
            call = partial(_compiled_late, self._target(request["target"]), args, kwargs)
            watch = WATCHES[request.get("watch", "nothing")]
            with watch(seen), put_back():
                result = until_first_step(call) if request.get("first_step") else call()
            value, going = self._exported(result)
            if wrt:
                with watch(seen), put_back(), gradient_pass():
                    grads = gradients(going.tensors, wrt, request["grad_seed"])
            reply = {
                "value": value,
                "grads": self._exported(grads)[0],
                "devices": sorted({tensor.device.type for tensor in going.tensors}),
            }
            if before is not None:
                reply["changed"] = changes(before, snapshot(args, kwargs))
            return reply

        return self._guarded(request, called)

    def _inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """A module's state, seen from outside: modes, hooks, grads, parameters, buffers, layer classes."""

        def looked(seen: set[str]) -> dict[str, Any]:
            module = self._objects[request["ref"]]
            if not isinstance(module, nn.Module):
                raise TypeError(f"expected an nn.Module, got {type(module).__name__}")
            value, _ = self._exported(self._state(module, request.get("parts")))
            if isinstance(value, Foreign):
                raise ValueError(
                    f"a {type(module).__name__} with too much in it to be looked at: {value.kind}"
                )
            return {"value": value}

        return self._guarded(request, looked)

    def _guarded(self, request: dict[str, Any], work: Callable[[set[str]], dict[str, Any]]) -> dict[str, Any]:
        """Do the request's steps ``before``, and then the work. Whatever runs of the learner's code is limited, and what
        it prints, calls and raises is told."""
        steps = [(step, *self._arguments(step, request["device"])) for step in request.get("before", ())]
        seen: set[str] = set()
        printed = Printed()
        start = time.thread_time()
        try:
            # Reading the answer and its exception runs the learner's code too, so it is limited as well.
            with threads_of(request.get("threads", 1)), quiet(printed), uncompiled(), Limit(request["limit"]):
                try:
                    for step, args, kwargs in steps:
                        seed_all(request["seed"])
                        with put_back(), WATCHES[request.get("watch", "nothing")](seen):
                            self._target(step["target"])(*args, **kwargs)
                    reply = work(seen)
                except TimeUp:
                    raise
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt) and not request.get("remote"):
                        raise
                    reply = {"raised": _raised(error, request.get("target", {}).get("name", ""))}
        except TimeUp:
            return {"timed_out": True, "seconds": time.thread_time() - start, "seen": sorted(seen)[:SEEN]}
        reply["seconds"] = time.thread_time() - start
        reply["printed"] = printed.getvalue()[:PRINTED]
        reply["seen"] = sorted(seen)[:SEEN]
        return reply

    def _state(self, module: nn.Module, parts: Any) -> dict[str, Any]:
        return {name: read(module) for name, read in _STATE.items() if not parts or name in parts}

    # -- helpers ----------------------------------------------------------------------------------------

    def _arguments(self, step: dict[str, Any], device: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return realize(step["args"], self._objects, device), realize(step["kwargs"], self._objects, device)

    def _target(self, target: dict[str, Any]) -> Callable[..., Any]:
        if "name" in target:
            return self._find(target["name"])
        found = self._objects[target["ref"]]
        return found if target["method"] == "__call__" else getattr(found, target["method"])

    def _leaves(
        self, wrt: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, torch.Tensor]:
        leaves: dict[str, torch.Tensor] = {}
        for item in wrt:
            if isinstance(item, Ref):
                module = self._objects[item.id]
                leaves |= {name: p for name, p in module.named_parameters() if p.requires_grad}
                continue
            value = args[item] if isinstance(item, int) else kwargs[item]
            named = (
                {f"{item}.{k}": v for k, v in value.items()}
                if isinstance(value, dict)
                else {str(item): value}
            )
            leaves |= {name: tensor.requires_grad_() for name, tensor in named.items()}
        return leaves

    def _keep(self, value: Any) -> Ref:
        for number, kept in self._objects.items():
            if kept is value:
                return Ref(number, type(value).__name__)
        self._numbers += 1
        self._objects[self._numbers] = value
        return Ref(self._numbers, type(value).__name__)

    def _exported(self, value: Any) -> tuple[Any, _Outgoing]:
        """The value as it travels, and what was met on the way. One that is over its bounds is Foreign as a whole: what
        could be made of its beginning would cost as much as any right answer does."""
        going = _Outgoing()
        try:
            return self._export(value, going), going
        except _Over as over:
            return Foreign(str(over)), _Outgoing()

    def _export(self, value: Any, going: _Outgoing, depth: int = 0) -> Any:
        """The value as it travels. Types are asked for by ``type``, since ``isinstance`` and overridden
        methods would run what the learner wrote; what has no place on the wire is Foreign."""
        kind = type(value)
        going.left -= 1
        if depth > DEPTH or going.left < 0:
            raise _Over("deeply nested value")
        if kind in (torch.Tensor, nn.Parameter):
            if not carried(value):
                return Foreign(_oddly(value))
            going.take(value.numel() * value.element_size(), 0)
            going.tensors.append(value)
            return value.detach()
        if issubclass(kind, torch.Tensor):
            return Foreign(f"{kind.__module__}.{kind.__qualname__}")
        if issubclass(kind, nn.Module | type):
            return self._keep(value)
        if kind is int and value.bit_length() > MAX_BITS:
            return Foreign(f"int of {value.bit_length()} bits")
        if kind is str:
            going.take(0, min(len(value), MAX_STRING))
        if value is None or kind in (bool, int, float, str):
            return value
        if kind in (list, set, frozenset) or issubclass(kind, tuple | dict):
            own = next(t for t in (list, set, frozenset, tuple, dict) if issubclass(kind, t))
            size = own.__len__(value)
            if size > going.left:
                raise _Over(f"{kind.__name__} of {size} entries")
        if issubclass(kind, dict):
            return {
                self._export(k, going, depth + 1): self._export(v, going, depth + 1)
                for k, v in dict.items(value)
            }
        if issubclass(kind, tuple):
            return tuple(self._export(v, going, depth + 1) for v in tuple.__iter__(value))
        if kind in (list, set, frozenset):
            return kind(self._export(v, going, depth + 1) for v in value)
        if issubclass(kind, np.generic):
            plain = value.item()
            return plain if type(plain) in (bool, int, float, str) else Foreign(kind.__name__)
        if kind is np.ndarray:
            if not carried(value):
                return Foreign(f"array of {value.dtype}")
            going.take(value.size * value.itemsize, 0)
            return value
        if kind is types.GeneratorType:
            return Foreign("generator")
        return self._keep(value)


class _Outgoing:
    """What one answer has left of its bounds, and the tensors in it."""

    def __init__(self) -> None:
        self.left = NODES
        self.bytes, self.text = MAX_BYTES, MAX_TEXT
        self.tensors: list[torch.Tensor] = []

    def take(self, size: int, characters: int) -> None:
        """Have so many bytes of numbers and characters travel: what is met a thousand times is sent a thousand times."""
        self.bytes -= size
        self.text -= characters
        if self.bytes < 0 or self.text < 0:
            raise _Over("value too large to be sent")


class _Over(Exception):
    """An answer has more entries, or lies deeper in itself, than any right one."""


def _oddly(tensor: torch.Tensor) -> str:
    """What is special about a tensor that cannot travel."""
    names = (str(tensor.layout), str(tensor.dtype))
    layout, dtype = (name.removeprefix("torch.") for name in names)
    return f"{layout} {dtype} tensor of {tensor.numel()} values on {tensor.device.type}"


def _described(module: nn.Module) -> Any:
    try:
        return layers_of(module)
    except ValueError:
        return None


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_STATE: dict[str, Callable[[nn.Module], Any]] = {
    "training": lambda net: {path: m.training for path, m in net.named_modules()},
    "hooks": lambda net: {
        path: sum(len(getattr(m, h, ())) for h in _HOOKS) for path, m in net.named_modules()
    },
    "kinds": lambda net: {path: type(m).__name__ for path, m in net.named_modules()},
    "parameters": lambda net: {name: p.detach() for name, p in net.named_parameters()},
    "shapes": lambda net: {name: tuple(p.shape) for name, p in net.named_parameters()},
    "buffers": lambda net: {name: b.detach() for name, b in net.named_buffers()},
    "state": lambda net: [str(key) for key in islice(net.state_dict(), NODES + 1)],
    "grads": lambda net: {n: None if p.grad is None else p.grad.detach() for n, p in net.named_parameters()},
    "requires_grad": lambda net: {name: p.requires_grad for name, p in net.named_parameters()},
    "storages": lambda net: {
        name: t.data_ptr() for name, t in (*net.named_parameters(), *net.named_buffers()) if t.numel()
    },
    "config": _described,
}
"""What can be seen of a module from outside, by name; tensors are copied as they leave."""


def _compiled_late(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call; once more, uncompiled, where it is this call that has brought the compiler in and failed."""
    before = compiles()
    try:
        return target(*args, **kwargs)
    except Exception:
        if before or not compiles():
            raise
    with uncompiled():
        return target(*args, **kwargs)


def _raised(error: BaseException, asked: str = "") -> dict[str, Any]:
    """An exception as data: its classes, its message, the learner's own line that raised it, and what function that line
    stands in where it is another one than was asked for."""
    line, number, functions = "", 0, []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if str(traceback.tb_frame.f_globals.get("__name__", "")).split(".")[0] not in ("autograder", "torch"):
            line = linecache.getline(code.co_filename, traceback.tb_lineno).strip() or line
            number = traceback.tb_lineno
            functions.append(code.co_qualname.partition(".")[0])
        traceback = traceback.tb_next
    return {
        "kinds": [str(c.__name__)[:100] for c in type(error).__mro__ if c is not object][:20],
        "message": _message(error),
        "line": line[:300],
        "number": number,
        "inside": "" if not functions or functions[-1] in (functions[0], asked) else functions[-1][:100],
    }


def _message(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except TimeUp:
        raise
    except BaseException:
        return "(its message could not be read)"
