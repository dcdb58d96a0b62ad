"""The difference between what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from autograder.attempt import Handle, Odd, Raised, TimedOut, Trouble, kind_of
from autograder.exercise import Mismatch, Outcome
from autograder.values import short


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
            yield wrong(f"expected a torch tensor, got {with_article(kind_of(got))}")
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
            yield wrong(f"expected a numpy array, got {with_article(kind_of(got))}")
        else:
            yield from _differences(torch.from_numpy(expected), torch.from_numpy(got), tol, where)
    elif isinstance(expected, bool) or expected is None or isinstance(expected, str):
        if type(got) is not type(expected):
            yield wrong(f"expected {short(expected)}, got {with_article(kind_of(got))}")
        elif got != expected:
            yield wrong(f"expected {short(expected)}, got {short(got)}", Outcome.WRONG_VALUES)
    elif isinstance(expected, int | float):
        yield from _numbers(expected, got, tol, where)
    elif isinstance(expected, dict):
        if not isinstance(got, dict):
            yield wrong(f"expected a dict, got {with_article(kind_of(got))}")
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
            yield wrong(f"expected a {type(expected).__name__}, got {with_article(kind_of(got))}")
        elif len(got) != len(expected):
            yield wrong(f"expected {len(expected)} entries, got {len(got)}")
        else:
            for number, (e, g) in enumerate(zip(expected, got, strict=True)):
                yield from _differences(e, g, tol, f"{where}[{number}]")
    elif isinstance(expected, set | frozenset):
        if not isinstance(got, set | frozenset):
            yield wrong(f"expected a set, got {with_article(kind_of(got))}")
        elif got != expected:
            yield wrong("the sets differ", Outcome.WRONG_VALUES)
    elif isinstance(expected, Handle):
        if not isinstance(got, Handle):
            yield wrong(f"expected a module, got {with_article(kind_of(got))}")
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
        outcome = Outcome.RAISED if got.inside else Outcome.NOT_ATTEMPTED
        yield Mismatch(outcome, _at(got), where, shown, got.kinds[0], got.kinds[0])
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
    if raised.inside and _unwritten(raised):
        return f"it calls {raised.inside}, which is not written yet: a {raised.kinds[0]}"
    return f"{raised} (in `{raised.line}`)" if raised.line else str(raised)


def _shape(value: Any) -> str:
    return short(value, 12)


def _values(
    expected: torch.Tensor, got: torch.Tensor, tol: tuple[float, float] | None, where: str
) -> Iterator[Mismatch]:
    if torch.equal(expected, got):
        return
    rtol, atol = tolerance_of(expected.dtype, tol)
    if expected.is_complex():
        e, g = expected.to(torch.complex128), got.to(torch.complex128)
    else:
        e, g = expected.to(torch.float64), got.to(torch.float64)
    exact = not (expected.is_floating_point() or expected.is_complex())
    # A bound that is never wider than the one below, and far quicker to tell.
    if not exact and torch.allclose(g, e, rtol, atol):
        return
    if exact:
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
            f"expected {with_article(type(expected).__name__)}, got {with_article(kind_of(got))}",
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


def with_article(kind: str) -> str:
    """``a tensor``, ``an int``; None is called by its name."""
    if kind in ("NoneType",):
        return "None"
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
