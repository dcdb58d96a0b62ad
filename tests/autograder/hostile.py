"""Answers that are nothing of the kind that was asked for, for tests of what becomes of them."""

from __future__ import annotations

import collections
import sys

import numpy as np
import torch


class Equal(torch.Tensor):
    """Equal to everything."""

    def __eq__(self, other):
        return True

    def allclose(self, *args, **kwargs):
        return True


class Overriding(torch.Tensor):
    """Every torch function gives what its author likes."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError("not for you")


class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError("no message")


class Leaving(Exception):
    def __str__(self):
        sys.exit(0)


class Mute:
    def __repr__(self):
        raise RuntimeError("no text")

    __str__ = __repr__


class Disguised:
    @property
    def __class__(self):
        raise RuntimeError("no class")


class Closed(dict):
    def items(self):
        raise RuntimeError("no items")

    __iter__ = __len__ = items


class Endless(tuple):
    def __iter__(self):
        while True:
            yield 1


Pair = collections.namedtuple("Pair", "one other")


def knot():
    value: list = []
    value += [value, value]
    return value


def tower():
    value = 0
    for _ in range(900):
        value = [value]
    return value


def bottomless():
    return bottomless()


def fail(error):
    raise error


RETURNED = {
    "None": lambda x: None,
    "a generator": lambda x: (row for row in x),
    "a lambda": lambda x: lambda: x,
    "a class": lambda x: dict,
    "a module": lambda x: torch.nn.ReLU(),
    "an always equal tensor": lambda x: x.as_subclass(Equal),
    "an overriding tensor": lambda x: x.as_subclass(Overriding),
    "a sparse tensor": lambda x: x.to_sparse(),
    "a meta tensor": lambda x: x.to("meta"),
    "a quantized tensor": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8),
    "a nested tensor": lambda x: torch.nested.nested_tensor([x, x]),
    "a float8 tensor": lambda x: x.to(torch.float8_e4m3fn),
    "a tensor of a terabyte": lambda x: torch.zeros(1).expand(2**40),
    "half precision": lambda x: x.half(),
    "one dimension more": lambda x: x[None],
    "a numpy array": lambda x: x.detach().cpu().numpy(),
    "an array of objects": lambda x: np.array([object()], dtype=object),
    "an array of texts": lambda x: np.array(["1", "2"]),
    "a numpy scalar": lambda x: np.float32(3),
    "a long double": lambda x: np.longdouble(3),
    "a date": lambda x: np.datetime64("2020-01-01"),
    "a huge number": lambda x: 10**5000,
    "a large number": lambda x: 10**400,
    "a complex number": lambda x: 1j,
    "bytes": lambda x: b"bytes",
    "half a surrogate": lambda x: "\ud800",
    "a list in itself": lambda x: knot(),
    "a tall tower": lambda x: tower(),
    "a gigantic list": lambda x: [0] * 300_000,
    "one text many times": lambda x: ["x" * 200_000] * 15_000,
    "one tensor many times": lambda x: [torch.zeros(2**27)] * 10_000,
    "an array many times": lambda x: tuple([np.zeros(2**26)] * 10_000),
    "a million tuples": lambda x: tuple((n, n) for n in range(1_000_000)),
    "a gradient of a terabyte": lambda x: (x.sum() + torch.zeros(1, requires_grad=True)).expand(2**40),
    "a gigantic text": lambda x: "x" * 10_000_000,
    "a namedtuple": lambda x: Pair(x, x),
    "an endless tuple": lambda x: Endless((x, x)),
    "a dict that hides": lambda x: Closed(a=x),
    "a dict with tensor keys": lambda x: {x: x, (1, 2): x, None: 1},
    "a set of tensors": lambda x: {x},
    "an object without text": lambda x: Mute(),
    "an object without class": lambda x: Disguised(),
}
"""What an answer may return for a tensor, by a name that can be read."""

RAISED = {
    "an error": lambda x: fail(RuntimeError("so it is")),
    "an error without message": lambda x: fail(Unreadable()),
    "an error that leaves": lambda x: fail(Leaving()),
    "a long error": lambda x: fail(RuntimeError("x" * 10_000_000)),
    "an exit": lambda x: sys.exit(0),
    "a generator's exit": lambda x: fail(GeneratorExit()),
    "a group": lambda x: fail(BaseExceptionGroup("all", [KeyError(1), SystemExit(2)])),
    "an endless recursion": lambda x: bottomless(),
    "a syntax error": lambda x: eval("1 +"),
    "an index out of range": lambda x: x[10**6],
}
