"""Seeing which library functions and operators run while the learner's code does."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import random
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

GLANCE = 0.05
BY_CHANCE = "drawn from global random numbers"
"""Seen where code has moved one of the global generators, which nobody but it knows the use of."""
STEPS = "steps of an optimizer: "
"""Seen with their number behind it, where training code made some."""
UNWATCHED = "the watch itself"
"""Seen where the learner's own code switches off, or asks for, what looks at it."""
ELSEWHERE = "another process"
"""Seen where code has something done in a process or a bare thread of its own, which nobody looks at."""
_OF_THE_WATCH = frozenset(
    [
        "setprofile",
        "getprofile",
        "_set_dispatch_mode",
        "_pop_torch_dispatch_stack",
        "_len_torch_dispatch_stack",
    ]
)
_PROCESSES = frozenset(["fork", "forkpty", "fork_exec", "posix_spawn", "posix_spawnp"])
WATCHED = ("coursekit.", "torch.", "torchvision.", "scipy.", "skimage.", "sklearn.")


@functools.cache
def _name_of(operator: Any) -> str:
    return str(operator).rpartition(".")[0]


class _Operators(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Skipping costs an import of torch._dynamo, two seconds at a learner's first check.
        return False

    def __init__(self, seen: set[str]):
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._seen.add(_name_of(func))
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


_DISPATCH = str(sys.modules[TorchDispatchMode.__module__].__file__)
_PACKAGES = ("site-packages", "dist-packages")
_LIBRARIES = tuple(
    {
        *(
            os.path.join(sysconfig.get_path(name), "")
            for name in ("stdlib", "platstdlib", "purelib", "platlib")
        ),
        *(os.path.join(path, "") for path in sys.path if os.path.basename(path) in _PACKAGES),
        os.path.join(os.path.dirname(os.path.dirname(__file__)), ""),
        _REFERENCES,
        "<frozen ",
    }
)
"""Where code lies that is nobody's answer."""


def _of_library(frame: types.FrameType | None) -> bool:
    return frame is None or frame.f_code.co_filename.startswith(_LIBRARIES)


@contextlib.contextmanager
def gradient_pass() -> Iterator[None]:
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
    dull: set[str] = set()

    def called(frame: types.FrameType, function: Any) -> None:
        name = function.__name__
        if name in dull:
            return
        # The engine has no Python function of its own that every way to it passes through.
        if name == "run_backward":
            if not _in_gradient_pass:
                seen.add("torch.autograd.backward")
        elif name in _OF_THE_WATCH or name == "start_new_thread":
            if not _of_library(frame):
                seen.add(UNWATCHED if name in _OF_THE_WATCH else ELSEWHERE)
        elif name in _PROCESSES:
            seen.add(ELSEWHERE)
        elif (operator := getattr(torch._C._VariableFunctions, name, None)) is None:
            dull.add(name)
        elif operator == function:
            # Seen here as well, since operators can be hidden from a mode.
            seen.add(f"aten.{name}")

    def profile(frame: types.FrameType, event: str, arg: Any) -> None:
        # This runs at each step of whatever is watched.
        if event == "c_call":
            called(frame, arg)
        elif event == "call" and (code := frame.f_code) not in known:
            if code.co_filename == _DISPATCH:
                if not _of_library(frame.f_back):
                    seen.add(UNWATCHED)
            elif not _in_gradient_pass:
                known.add(code)
                module = _module_of(frame)
                if module.startswith(WATCHED):
                    seen.add(f"{module}.{code.co_qualname}")

    old, threads = sys.getprofile(), threading.getprofile()
    with _Operators(seen):
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            yield
        finally:
            if sys.getprofile() is not profile:
                seen.add(UNWATCHED)
            sys.setprofile(old)
            threading.setprofile(threads)


@contextlib.contextmanager
def _sampling(seen: set[str]) -> Iterator[None]:
    """Record the library functions that are running at a glance now and then: free of cost to a training, and
    what takes long does not escape it."""
    own, done = threading.get_ident(), threading.Event()
    before = global_numbers()
    steps = 0

    def count(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        nonlocal steps
        steps += 1

    hook = register_optimizer_step_post_hook(count)

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
        hook.remove()
        if steps:
            seen.add(f"{STEPS}{steps}")
        if global_numbers() != before:
            seen.add(BY_CHANCE)


def global_numbers() -> tuple[Any, ...]:
    """Where torch's, numpy's and Python's global generators stand."""
    _, keys, *rest = np.random.get_state(legacy=True)
    return torch.get_rng_state().numpy().tobytes(), np.asarray(keys).tobytes(), rest, random.getstate()


class _FirstStep(BaseException):
    """Ends a training at its first step; not an Exception, so that ``except Exception`` lets it through."""


def until_first_step(train: Callable[[], Any]) -> dict[str, torch.Tensor] | None:
    """The norms of a training's weights and gradients at the first step of an optimizer, where it ends; None where
    none is made."""
    norms: dict[str, torch.Tensor] = {}

    def at_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        grads = [weight.grad for weight in weights if weight.grad is not None]
        for name, tensors in {"weights": weights, "gradients": grads}.items():
            norms[name] = torch.tensor([float(t.detach().double().norm()) for t in tensors])
        raise _FirstStep

    hook = register_optimizer_step_pre_hook(at_step)
    try:
        train()
    except _FirstStep:
        return norms
    finally:
        hook.remove()
    return None


WATCHES: dict[str, Callable[[set[str]], contextlib.AbstractContextManager[None]]] = {
    "nothing": lambda seen: contextlib.nullcontext(),
    "calls": _watching,
    "samples": _sampling,
}
"""How closely the learner's code is looked at while it runs."""
