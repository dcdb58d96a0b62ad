"""Leaving things as they were: generators, torch's defaults, the terminal."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

PRINTED = 600


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Check under torch's defaults, and leave every generator, the defaults and the threads as the learner
    had them."""
    state, numbers, python = torch.get_rng_state(), np.random.get_state(), random.getstate()
    threads = torch.get_num_threads()
    try:
        with put_back():
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


def compiles() -> bool:
    """Whether anything was compiled in this process."""
    return "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """What `torch.compile` has wrapped runs as it is written: it means the same, the small inputs of a check would be
    compiled again and again, and dynamo cannot see through those who watch."""
    return torch.compiler.set_stance("force_eager") if compiles() else contextlib.nullcontext()


def _strictness() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@contextlib.contextmanager
def put_back() -> Iterator[None]:
    """Put back what code can set for the whole process: the reference, the oracle and the learner's next
    cells may live in it."""
    grad, dtype, device = torch.is_grad_enabled(), torch.get_default_dtype(), _default_device()
    strict, profile = _strictness(), sys.getprofile()
    errors, depth, folder = np.geterr(), sys.getrecursionlimit(), _folder()
    try:
        yield
    finally:
        # A check is hundreds of calls: what is as it was is left alone.
        if torch.is_grad_enabled() is not grad:
            torch.set_grad_enabled(grad)
        if torch.get_default_dtype() is not dtype:
            torch.set_default_dtype(dtype)
        _set_default_device(device)
        if _strictness() != strict:
            # Only then: the setter imports torch's compiler, two seconds at a learner's first check.
            torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        if sys.getprofile() is not profile:
            sys.setprofile(profile)
        if np.geterr() != errors:
            np.seterr(**errors)
        if sys.getrecursionlimit() != depth:
            sys.setrecursionlimit(depth)
        if folder and folder != _folder():
            os.chdir(folder)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _default_device() -> torch.device:
    # torch.get_default_device() looks through all modes in Python first.
    return torch.empty(0).device


def _set_default_device(device: torch.device) -> None:
    if device != _default_device():
        torch.set_default_device(None if device.type == "cpu" else device)


def seed_all(seed: int) -> None:
    """Seed torch's, numpy's and Python's global random numbers."""
    # torch.manual_seed formats a stack trace for each device kind it might have to seed later.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def quiet(printed: io.StringIO) -> Iterator[None]:
    """What is printed inside goes to ``printed``, and warnings go nowhere."""
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


class Printed(io.StringIO):
    """Keeps the beginning; the rest of an endless print goes nowhere."""

    def write(self, text: str) -> int:
        if isinstance(text, str) and self.tell() >= PRINTED:
            return len(text)
        return super().write(text)
