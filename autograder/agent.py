"""The half of a check that lives beside the learner's objects: it builds arguments, calls, and answers.

An agent is handed requests as plain structures and returns plain structures; :mod:`autograder.wire` carries
them when the oracle is another process. It decides nothing: every verdict is made on the oracle's side.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import io
import linecache
import os
import random
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from autograder.values import Foreign, Network, Ref, Walk, realize
from autograder.wire import MAX_BITS, Channel, Closed, WireError, carried

PRINTED = 600
NODES = 20_000
DEPTH = 20
LOOKING = 5.0
GLANCE = 0.05
DEFERRED = 400
WATCHED = ("coursekit.", "torch.", "torchvision.", "scipy.", "skimage.", "sklearn.")
_MISSING = object()


class TimeUp(BaseException):
    """The learner's code used up its time; not an Exception, so that ``except Exception`` lets it through."""


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
            "reset": self._reset,
        }.get(str(request.get("op")))
        if operation is None:
            return {"broken": f"unknown request {request.get('op')!r}"}
        try:
            return operation(request)
        except TimeUp:
            return {"timed_out": True}
        except Exception as error:
            return {"broken": f"{type(error).__name__}: {_message(error)}"}

    # -- requests ---------------------------------------------------------------------------------------

    def _reset(self, request: dict[str, Any]) -> dict[str, Any]:
        self._objects.clear()
        return {"value": None}

    def _look(self, request: dict[str, Any]) -> dict[str, Any]:
        """What kind of thing bears the name, where it was defined, and its source where that can be had."""
        try:
            found = self._find(request["name"])
        except KeyError:
            return {"kind": "missing"}
        with _Limit(LOOKING):
            plain = _unwrapped(found)
            kind = "class" if inspect.isclass(plain) else "callable" if callable(plain) else "value"
            bases = plain.__mro__ if inspect.isclass(plain) else ()
            code = _code_of(plain)
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
        device = request["device"]
        try:
            target = self._target(request["target"])
        except (KeyError, AttributeError) as error:
            return {"raised": _raised(error)}
        args = realize(request["args"], self._objects, device)
        kwargs = realize(request["kwargs"], self._objects, device)
        wrt = self._leaves(request.get("wrt") or [], args, kwargs)
        before = _snapshot(args, kwargs) if request.get("untouched") else None
        _seed(request["seed"])

        seen: set[str] = set()
        printed = _Printed()
        start = time.perf_counter()
        try:
            # Reading the answer and its exception runs the learner's code too, so it is limited as well.
            with _threads(request.get("threads", 1)), _quiet(printed), _Limit(request["limit"]):
                try:
                    grads = None
                    with _WATCHES[request.get("watch", "nothing")](seen):
                        with _put_back():
                            result = target(*args, **kwargs)
                        if wrt:
                            with _put_back(), _gradient_pass():
                                grads = _gradients(result, wrt, request["grad_seed"])
                    going = _Outgoing()
                    reply = {
                        "value": self._export(result, going),
                        "grads": self._export(grads, _Outgoing()),
                        "devices": sorted(going.devices),
                    }
                except TimeUp:
                    raise
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt) and not request.get("remote"):
                        raise
                    reply = {"raised": _raised(error)}
        except TimeUp:
            return {"timed_out": True, "seconds": time.perf_counter() - start}
        reply["seconds"] = time.perf_counter() - start
        reply["printed"] = printed.getvalue()[:PRINTED]
        reply["seen"] = sorted(seen)[:2000]
        if before is not None and "value" in reply:
            reply["changed"] = _changes(before, _snapshot(args, kwargs))
        return reply

    def _inspect(self, request: dict[str, Any]) -> dict[str, Any]:
        """A module's state, seen from outside: modes, hooks, grads, parameters, buffers, layer classes."""
        module = self._objects[request["ref"]]
        if not isinstance(module, nn.Module):
            return {"raised": _raised(TypeError(f"expected an nn.Module, got {type(module).__name__}"))}
        try:
            with _Limit(LOOKING):
                return {"value": self._export(self._state(module), _Outgoing())}
        except Exception as error:
            return {"raised": _raised(error)}

    def _state(self, module: nn.Module) -> dict[str, Any]:
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return {
            "training": {path: m.training for path, m in module.named_modules()},
            "hooks": {path: sum(len(getattr(m, h, ())) for h in hooks) for path, m in module.named_modules()},
            "kinds": {path: type(m).__name__ for path, m in module.named_modules()},
            "parameters": {n: p.detach().clone() for n, p in module.named_parameters()},
            "buffers": {n: b.detach().clone() for n, b in module.named_buffers()},
            "state": [str(k) for k in module.state_dict()],
            "grads": {
                n: None if p.grad is None else p.grad.detach().clone() for n, p in module.named_parameters()
            },
            "requires_grad": {n: p.requires_grad for n, p in module.named_parameters()},
            "storages": {n: p.data_ptr() for n, p in module.named_parameters()},
            "config": _described(module),
        }

    # -- helpers ----------------------------------------------------------------------------------------

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

    def _export(self, value: Any, going: _Outgoing, depth: int = 0) -> Any:
        """The value as it travels. Types are asked for by ``type``, since ``isinstance`` and overridden
        methods would run what the learner wrote; what is endless or has no place on the wire is Foreign."""
        kind = type(value)
        going.left -= 1
        if depth > DEPTH or going.left < 0:
            return Foreign("deeply nested value")
        if kind in (torch.Tensor, nn.Parameter):
            going.devices.add(value.device.type)
            return value.detach() if carried(value) else Foreign(_oddly(value))
        if issubclass(kind, torch.Tensor):
            return Foreign(f"{kind.__module__}.{kind.__qualname__}")
        if issubclass(kind, nn.Module | type):
            return self._keep(value)
        if kind is int and value.bit_length() > MAX_BITS:
            return Foreign(f"int of {value.bit_length()} bits")
        if value is None or kind in (bool, int, float, str):
            return value
        if kind in (list, set, frozenset) or issubclass(kind, tuple | dict):
            own = next(t for t in (list, set, frozenset, tuple, dict) if issubclass(kind, t))
            size = own.__len__(value)
            if size > going.left:
                return Foreign(f"{kind.__name__} of {size} entries")
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
            return value if carried(value) else Foreign(f"array of {value.dtype}")
        if kind is types.GeneratorType:
            return Foreign("generator")
        return self._keep(value)


class _Outgoing:
    """What one answer has used up of its bounds, and the devices its tensors were on."""

    def __init__(self) -> None:
        self.left = NODES
        self.devices: set[str] = set()


def _oddly(tensor: torch.Tensor) -> str:
    """What is special about a tensor that cannot travel."""
    names = (str(tensor.layout), str(tensor.dtype))
    layout, dtype = (name.removeprefix("torch.") for name in names)
    return f"{layout} {dtype} tensor of {tensor.numel()} values on {tensor.device.type}"


def _described(module: nn.Module) -> Any:
    try:
        return Network.describe(module).layers
    except ValueError:
        return None


def _unwrapped(found: Any) -> Any:
    with contextlib.suppress(ValueError):
        found = inspect.unwrap(found)
    return getattr(found, "__func__", found)


def fingerprint(thing: Any) -> str:
    """A digest of the global names, attributes and constants of a function or class, in the order of their
    use; it shows a copy whose source cannot be had. Empty for what has no code."""
    members = [thing] if not inspect.isclass(thing) else [_unwrapped(m) for m in vars(thing).values()]
    codes = [c for c in (getattr(m, "__code__", None) for m in members) if isinstance(c, types.CodeType)]
    if not codes:
        return ""
    return hashlib.sha256(repr(sorted(map(_used, codes))).encode()).hexdigest()


def _used(code: types.CodeType) -> str:
    # The first constant is the docstring where there is one. Bytecode itself depends on the cell's imports.
    inner = [_used(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts[1:]]
    return repr((code.co_argcount, code.co_nlocals, code.co_names, inner))


def source_of(thing: Any) -> str:
    """The source of a function or class, also of one typed into a notebook; empty where it cannot be had."""
    try:
        code = _code_of(thing)
        if code is None:
            return ""
        lines = linecache.getlines(code.co_filename)
        tree = ast.parse("".join(lines))
        wanted = ast.ClassDef if inspect.isclass(thing) else (ast.FunctionDef, ast.AsyncFunctionDef)
        best = None
        for node in ast.walk(tree):
            if isinstance(node, wanted) and node.name == thing.__name__:
                inside = node.lineno <= code.co_firstlineno <= (node.end_lineno or node.lineno)
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                if inside or first <= code.co_firstlineno <= (node.end_lineno or first):
                    best = node
        return "" if best is None else ast.unparse(best)
    except (OSError, SyntaxError, ValueError, AttributeError, TypeError, RecursionError):
        return ""


def _code_of(thing: Any) -> types.CodeType | None:
    if inspect.isclass(thing):
        for member in vars(thing).values():
            code = _code_of(_unwrapped(member)) if callable(member) and not inspect.isclass(member) else None
            if code is not None and thing.__name__ in code.co_qualname:
                return code
        return None
    return getattr(thing, "__code__", None)


def _raised(error: BaseException) -> dict[str, Any]:
    """An exception as data: its classes, its message, and the learner's own line that raised it."""
    line, number = "", 0
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if str(traceback.tb_frame.f_globals.get("__name__", "")).split(".")[0] not in ("autograder", "torch"):
            line = linecache.getline(code.co_filename, traceback.tb_lineno).strip() or line
            number = traceback.tb_lineno
        traceback = traceback.tb_next
    return {
        "kinds": [str(c.__name__)[:100] for c in type(error).__mro__ if c is not object][:20],
        "message": _message(error),
        "line": line[:300],
        "number": number,
    }


def _message(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except TimeUp:
        raise
    except BaseException:
        return "(its message could not be read)"


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Check under torch's defaults, and leave every generator, the defaults and the threads as the learner
    had them."""
    state, numbers, python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    threads = torch.get_num_threads()
    try:
        with _put_back():
            torch.set_grad_enabled(True)
            torch.set_default_dtype(torch.float32)
            _set_default_device(torch.device("cpu"))
            # Checks use small tensors: on a busy machine the threads would wait for each other most of the time.
            torch.set_num_threads(1)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
        np.random.set_state(numbers)
        random.setstate(python)


def _strictness() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@contextlib.contextmanager
def _put_back() -> Iterator[None]:
    """Put back what code can set for the whole process: the reference, the oracle and the learner's next
    cells may live in it."""
    grad, dtype, device = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()
    strict = _strictness()
    errors, depth, folder = np.geterr(), sys.getrecursionlimit(), _folder()
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        _set_default_device(device)
        if _strictness() != strict:
            # Only then: the setter imports torch's compiler, two seconds at a learner's first check.
            torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        np.seterr(**errors)
        sys.setrecursionlimit(depth)
        if folder and folder != _folder():
            os.chdir(folder)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _set_default_device(device: torch.device) -> None:
    if device != torch.get_default_device():
        torch.set_default_device(None if device.type == "cpu" else device)


def _seed(seed: int) -> None:
    # torch.manual_seed formats a stack trace for each device kind it might have to seed later.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def _quiet(printed: io.StringIO) -> Iterator[None]:
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


class _Printed(io.StringIO):
    """Keeps the beginning; the rest of an endless print goes nowhere."""

    def write(self, text: str) -> int:
        if isinstance(text, str) and self.tell() >= PRINTED:
            return len(text)
        return super().write(text)


class _Limit:
    """Interrupt the learner's code after so many seconds, where the platform and the thread allow it."""

    def __init__(self, seconds: float | None):
        self._seconds = seconds
        self._on = False
        self._rings = 0
        self._deferred = 0

    def __enter__(self) -> None:
        if (
            self._seconds is None
            or not hasattr(signal, "setitimer")
            or threading.current_thread() is not threading.main_thread()
        ):
            return
        self._on = True
        self._old = signal.signal(signal.SIGALRM, self._ring)
        # Rings again and again, since code that swallows the first one would otherwise run for ever.
        signal.setitimer(signal.ITIMER_REAL, max(self._seconds, 0.01), 0.25)

    def __exit__(self, *exception: Any) -> None:
        if self._on:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._old)

    def _ring(self, signum: int, frame: types.FrameType | None) -> None:
        if frame is None or frame.f_code is _Limit.__exit__.__code__:
            return
        if _importing(frame) and self._deferred < DEFERRED:
            # torch imports a lot late: a module that is interrupted half-way stays broken for every later cell.
            self._deferred += 1
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.25)
            return
        self._rings += 1
        # The first exception is on its way out, and must not be overtaken where things are put back.
        if self._rings > 1 and not _learning(frame):
            return
        if self._rings > 2:
            # `while True: try: … except: …` is left only by an exception that comes between two rounds,
            # microseconds after the last.
            signal.setitimer(signal.ITIMER_REAL, random.SystemRandom().uniform(2e-6, 6e-5), 0.001)
        raise TimeUp


def _importing(frame: types.FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _learning(frame: types.FrameType) -> bool:
    """Whether the learner's code runs, and not what is done before and after it."""
    outer: types.FrameType | None = frame
    while outer is not None and outer.f_code.co_filename not in _KEEPERS:
        outer = outer.f_back
    return outer is not None and outer is not frame and outer.f_code.co_name in _ASKING


_KEEPERS = {__file__, contextlib.__file__, sys.modules[TorchDispatchMode.__module__].__file__}
_ASKING = {"_call", "_export", "_message", "_raised", "_look", "_state", "_gradients"}


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Operators(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Skipping costs an import of torch._dynamo, two seconds at a learner's first check.
        return False

    def __init__(self, seen: set[str]):
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._seen.add(str(func).rpartition(".")[0])
        # One operator convolves both ways; the flag tells them apart.
        if func is torch.ops.aten.convolution.default and args[6]:
            self._seen.add("aten.convolution(transposed=True)")
        return func(*args, **(kwargs or {}))


def _home(name: str) -> str:
    spec = importlib.util.find_spec(name)
    return os.path.dirname(spec.origin) + os.sep if spec is not None and spec.origin else "\0"


_REFERENCES = _home("coursekit")


def _module_of(frame: types.FrameType) -> str:
    """The module whose code runs; a reference loaded from its file under another name is still the reference."""
    path = frame.f_code.co_filename
    if path.startswith(_REFERENCES):
        return "coursekit." + path.removeprefix(_REFERENCES).removesuffix(".py").replace(os.sep, ".")
    return str(frame.f_globals.get("__name__", ""))


_in_gradient_pass = False


@contextlib.contextmanager
def _gradient_pass() -> Iterator[None]:
    global _in_gradient_pass
    _in_gradient_pass = True
    try:
        yield
    finally:
        _in_gradient_pass = False


@contextlib.contextmanager
def _watching(seen: set[str]) -> Iterator[None]:
    """Record library functions and operators that run, by name, into ``seen``."""
    known: set[types.CodeType] = set()

    def profile(frame: types.FrameType, event: str, arg: Any) -> None:
        # The engine has no Python function of its own that every way to it passes through.
        if event == "c_call" and arg.__name__ == "run_backward" and not _in_gradient_pass:
            seen.add("torch.autograd.backward")
        if event != "call" or frame.f_code in known or _in_gradient_pass:
            return
        known.add(frame.f_code)
        module = _module_of(frame)
        if module.startswith(WATCHED):
            seen.add(f"{module}.{frame.f_code.co_qualname}")

    old, threads = sys.getprofile(), threading.getprofile()
    with _Operators(seen):
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(old)
            threading.setprofile(threads)


@contextlib.contextmanager
def _sampling(seen: set[str]) -> Iterator[None]:
    """Record the library functions that are running at a glance now and then: free of cost to a training, and
    what takes long does not escape it."""
    own, done = threading.get_ident(), threading.Event()

    def glance() -> None:
        while not done.wait(GLANCE):
            # Not of this thread, which has a frame of its own.
            for frame in [f for ident, f in sys._current_frames().items() if ident != threading.get_ident()]:
                while frame is not None:
                    module = _module_of(frame)
                    if module.startswith(WATCHED):
                        seen.add(f"{module}.{frame.f_code.co_qualname}")
                    frame = frame.f_back  # type: ignore[assignment]

    watcher = threading.Thread(target=glance, name=f"watching {own}", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


_WATCHES: dict[str, Callable[[set[str]], contextlib.AbstractContextManager[None]]] = {
    "nothing": lambda seen: contextlib.nullcontext(),
    "calls": _watching,
    "samples": _sampling,
}
"""How closely the learner's code is looked at while it runs."""


def _gradients(result: Any, leaves: dict[str, torch.Tensor], seed: int) -> dict[str, Any] | None:
    """Gradients of ⟨result, cotangent⟩, the cotangent drawn from ``seed``; None where the graph was cut."""
    outputs = [t for t in _tensors(result) if t.is_floating_point() and t.requires_grad]
    if not outputs:
        return dict.fromkeys(leaves)
    generator = torch.Generator().manual_seed(seed)
    cotangents = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.device, t.dtype) for t in outputs
    ]
    # One number has a gradient without cotangents, which cost an import of sympy, a second at the first check.
    products = ((t * c).sum() for t, c in zip(outputs, cotangents, strict=True))
    inner = sum(products, start=torch.zeros(()))
    grads = torch.autograd.grad(inner, list(leaves.values()), allow_unused=True)
    return {name: None if g is None else g.detach() for name, g in zip(leaves, grads, strict=True)}


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _tensors(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, Walk):
        yield from _tensors(value.items)


def _snapshot(args: Any, kwargs: Any) -> dict[str, Any]:
    """Copies of every tensor and module state among the arguments, by the argument's position or name."""
    found: dict[str, Any] = {}
    for label, value in [*enumerate(args), *kwargs.items()]:
        for number, tensor in enumerate(_tensors(value)):
            found[f"{label}.{number}"] = (tensor, tensor.detach().clone())
        if isinstance(value, nn.Module):
            for name, tensor in value.state_dict().items():
                found[f"{label}.{name}"] = (tensor, tensor.detach().clone())
            for path, m in value.named_modules():
                found[f"{label}.{path}.training"] = (None, m.training)
    return found


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    changed = set()
    for label, (tensor, copy) in before.items():
        if tensor is None:
            same = label in after and after[label][1] == copy
        else:
            same = tensor.shape == copy.shape and torch.equal(
                torch.nan_to_num(tensor.detach().double()), torch.nan_to_num(copy.double())
            )
        if not same:
            changed.add(label.split(".")[0])
    return sorted(changed)
