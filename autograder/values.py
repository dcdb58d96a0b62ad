"""What an exercise takes and returns beyond tensors and plain Python values, as data.

A network, a generator, a one-shot iterable or a data set is described on the oracle's side and built where
the learner's code runs; nothing is pickled and no closure travels.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

WIDTH = 88
"""Characters that a line of shown numbers has at most."""
ROWS = 6
"""Rows of numbers that have a line each."""

LAYERS: dict[str, tuple[str, ...]] = {
    "Sequential": (),
    "Identity": (),
    "Conv2d": (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias",
        "padding_mode",
    ),
    "ConvTranspose2d": (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "groups", "bias",
        "dilation",
    ),
    "Linear": ("in_features", "out_features", "bias"),
    "BatchNorm1d": ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    "BatchNorm2d": ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    "ReLU": ("inplace",),
    "LeakyReLU": ("negative_slope", "inplace"),
    "Sigmoid": (),
    "Tanh": (),
    "Softmax": ("dim",),
    "Dropout": ("p", "inplace"),
    "Dropout2d": ("p", "inplace"),
    "Flatten": ("start_dim", "end_dim"),
    "MaxPool2d": ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode"),
    "AvgPool2d": (
        "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
    ),
    "AdaptiveAvgPool2d": ("output_size",),
}  # fmt: skip
"""The layers a description may hold, with the constructor arguments that define each."""

MAKERS: dict[str, Callable[..., Any]] = {}
"""Named probes: objects no description can express, made by name on the side where they are used."""


def maker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a probe under the function's name, so that :class:`Named` can ask for it."""
    MAKERS[function.__name__] = function
    return function


@maker
def scenes(**choices: Any) -> Any:
    """The generated scenes of lecture 06, as `coursekit.data.scenes.Scenes` takes its arguments."""
    from coursekit.data.scenes import Scenes

    return Scenes(**choices)


@maker
def cells(**choices: Any) -> Any:
    """The generated cells of lecture 07, as `coursekit.data.cells.Cells` takes its arguments."""
    from coursekit.data.cells import Cells

    return Cells(**choices)


class _Twice(nn.Module):
    """A layer called twice, and another one behind it."""

    def __init__(self, inner: nn.Module, last: nn.Module):
        super().__init__()
        self.inner = inner
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(self.inner(x)))


@maker
def twice(inner: nn.Module, last: nn.Module) -> nn.Module:
    """A network that calls its layer ``inner`` twice, and then ``last``."""
    return _Twice(inner, last)


@maker
def differentiated(network: nn.Module) -> nn.Module:
    """A network whose parameters hold gradients, as they do after a backward pass."""
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    return network


@maker
def copier() -> Callable[[Any], Any]:
    """What makes a deep copy of anything that lies where the learner's code runs."""
    return copy.deepcopy


@dataclass(frozen=True)
class Generator:
    """A ``torch.Generator`` on the CPU with this seed, fresh at every call."""

    seed: int


@dataclass(frozen=True)
class Batches:
    """An iterable that can be walked once, as a data loader's iterator is."""

    items: tuple[Any, ...]


@dataclass(frozen=True)
class Named:
    """An object made by the registered :func:`maker` of that name."""

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ref:
    """An object that stays where the learner's code runs; only its number and class name travel."""

    id: int
    kind: str


@dataclass(frozen=True)
class Foreign:
    """A value that cannot travel: its type's name, and a short text of it."""

    kind: str
    text: str = ""


@dataclass(frozen=True, eq=False)
class Network:
    """A module as data: nested layer descriptions, named tensors, the modules in training mode."""

    layers: Any
    tensors: Mapping[str, torch.Tensor]
    training: tuple[str, ...] = ()

    @classmethod
    def describe(cls, module: nn.Module) -> Network:
        """Describe a module built from :data:`LAYERS`.

        Raises ValueError for a layer that is not in the table: register a :func:`maker` for those.
        """
        tensors = {name: t.detach().clone() for name, t in module.state_dict().items()}
        training = tuple(path for path, m in _modules(module) if m.training)
        return cls(layers_of(module), tensors, training)

    def build(self) -> nn.Module:
        """A fresh module with these layers, tensors (dtypes included) and modes."""
        module = _build(self.layers)
        left = dict(self.tensors)
        for path, m in _modules(module):
            m.training = path in self.training
            # Put in, since copying into the new layer's tensors would lose the dtype and the memory layout;
            # by hand, since load_state_dict takes ten times as long, and a check builds networks by the hundred.
            for name, empty in [*m.named_parameters(recurse=False), *m.named_buffers(recurse=False)]:
                tensor = left.pop(f"{path}.{name}" if path else name).clone()
                learned = isinstance(empty, nn.Parameter)
                m.register_parameter(name, nn.Parameter(tensor)) if learned else m.register_buffer(
                    name, tensor
                )
        if left:
            raise ValueError(f"tensors must be those of the layers, got {sorted(left)} beside them")
        return module


def _modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module by its path, one that stands at two places twice."""
    return module.named_modules(remove_duplicate=False)


def layers_of(module: nn.Module) -> list[Any]:
    """A module's layers as data, without their tensors. Raises ValueError for one that is not in :data:`LAYERS`."""
    kind = type(module).__name__
    if kind not in LAYERS or type(module) is not getattr(nn, kind):
        raise ValueError(f"module must be built from {', '.join(LAYERS)}, got {kind}")
    if kind == "Sequential":
        # Not named_children(), which lists a layer that stands at two places only once.
        return [kind, [[name, layers_of(child)] for name, child in module._modules.items() if child]]
    config = {}
    for name in LAYERS[kind]:
        value = getattr(module, name)
        config[name] = value is not None if name == "bias" else value
    return [kind, config]


def _build(layers: Any) -> nn.Module:
    kind, content = layers
    if kind not in LAYERS:
        raise ValueError(f"layer must be one of {', '.join(LAYERS)}, got {kind!r}")
    if kind == "Sequential":
        module = nn.Sequential()
        for name, child in content:
            module.add_module(name, _build(child))
        return module
    unknown = set(content) - set(LAYERS[kind])
    if unknown:
        raise ValueError(f"{kind} takes {LAYERS[kind]}, got {sorted(unknown)}")
    layer: nn.Module = _BARE.get(kind, getattr(nn, kind))(**content)
    layer.__class__ = getattr(nn, kind)
    return layer


def _left_empty(layer: nn.Module) -> None:
    """In place of the random weights that the description's own take the place of."""


_BARE = {
    kind: type(kind, (getattr(nn, kind),), {"reset_parameters": _left_empty})
    for kind in LAYERS
    if hasattr(getattr(nn, kind), "reset_parameters")
}


def realize(value: Any, objects: Mapping[int, Any], device: str = "cpu") -> Any:
    """The real object behind a described value: tensors on ``device``, networks built, references looked up."""
    match value:
        case torch.Tensor():
            return value.to(device)
        case Generator(seed):
            return torch.Generator().manual_seed(seed)
        case Batches(items):
            return Walk(realize(item, objects, device) for item in items)
        case Network():
            return value.build().to(device)
        case Named(name, kwargs):
            if name not in MAKERS:
                raise ValueError(f"name must be a registered maker, got {name!r}")
            made = MAKERS[name](**{k: realize(v, objects, device) for k, v in kwargs.items()})
            return made.to(device) if isinstance(made, nn.Module) else made
        case Ref(id):
            return objects[id]
        case dict():
            return {k: realize(v, objects, device) for k, v in value.items()}
        case list() | tuple() | set():
            return type(value)(realize(v, objects, device) for v in value)
    return value


class Walk(Iterator[Any]):
    """An iterator that is walked once. It holds on to its ``items``, so that they can be looked at afterwards."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = list(items)
        self._rest = iter(self.items)

    def __next__(self) -> Any:
        return next(self._rest)


def short(value: Any, limit: int = 16) -> str:
    """A value in words that fit a line: small tensors with their numbers, large ones by shape and dtype."""
    match value:
        case torch.Tensor() if value.numel() <= limit:
            numbers = _numbers(value.tolist())
            return numbers if value.dim() == 0 else f"{numbers}  shape {tuple(value.shape)}{_dtype(value)}"
        case torch.Tensor():
            return f"tensor of shape {tuple(value.shape)}{_dtype(value)}"
        case Generator(seed):
            return f"torch.Generator().manual_seed({seed})"
        case Batches(items):
            return f"an iterator over {len(items)} batches of shapes {[tuple(b.shape) for b in items]}"
        case Named(name, kwargs):
            return f"{name}({', '.join(f'{k}={short(v)}' for k, v in kwargs.items())})"
        case Network(layers):
            return _layers(layers)
        case Ref(_, kind) | Foreign(kind):
            return f"a {kind}"
        case float():
            return f"{value:.5g}"
        case dict() if len(value) <= limit:
            return "{" + ", ".join(f"{k!r}: {short(v, limit)}" for k, v in value.items()) + "}"
        case list() | tuple() if len(value) <= limit:
            inner = ", ".join(short(v, limit) for v in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
        case list() | tuple() | dict():
            return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def typed(value: Any) -> str:
    """A value as an expression that makes it, in several lines where it is long. Raises ValueError where none does."""
    match value:
        case torch.Tensor() if value.numel() == 0:
            return f"torch.empty({tuple(value.shape)}, dtype={value.dtype})"
        case torch.Tensor():
            dtype = (
                "" if value.dtype in (torch.float32, torch.int64, torch.bool) else f", dtype={value.dtype}"
            )
            single = value.dtype in (torch.float32, torch.float16, torch.bfloat16)
            return f"torch.tensor({_wrapped(_exactly(value.tolist(), single))}{dtype})"
        case Batches(items):
            return f"iter({typed(list(items))})"
        case dict():
            return "{" + ", ".join(f"{typed(k)}: {typed(v)}" for k, v in value.items()) + "}"
        case set():
            return "{" + ", ".join(sorted(map(typed, value))) + "}" if value else "set()"
        case list() | tuple():
            inner = ", ".join(map(typed, value))
            whole = f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
            return whole if "\n" in whole else _lines(whole)
        case float():
            return _exactly(value, single=False)
        case Generator():
            return short(value)
        case str() | int() | bool() | None:
            return repr(value)
    raise ValueError(f"no expression makes a {type(value).__name__}")


def assigned(name: str, value: Any) -> str:
    """The statements after which ``name`` is this value. Raises ValueError where none make it."""
    if isinstance(value, list | tuple) and any(isinstance(item, Network) for item in value):
        parts = [f"{name}_{place}" for place in range(len(value))]
        whole = f"[{', '.join(parts)}]" if isinstance(value, list) else f"({', '.join(parts)},)"
        return "\n".join([*map(assigned, parts, value), f"{name} = {whole}"])
    if not isinstance(value, Network):
        return f"{name} = {typed(value)}"
    statements = [f"{name} = {_lines(_constructed(value.layers))}"]
    tensors = ",\n".join(f"    {path!r}: {typed(tensor)}" for path, tensor in value.tensors.items())
    if tensors:
        statements.append(f"{name}.load_state_dict({{\n{tensors}}}, assign=True)")
    paths = [path for path, _ in _modules(value.build())]
    off = [path for path in paths if path not in value.training]
    if len(off) == len(paths):
        statements.append(f"{name}.eval()")
    else:
        statements += [f"{name}.get_submodule({path!r}).training = False" for path in off]
    return "\n".join(statements)


def _constructed(layers: Any) -> str:
    """The expression that constructs these layers."""
    kind, content = layers
    if kind == "Sequential":
        inner = ", ".join(_constructed(child) for _, child in content)
        if [name for name, _ in content] == [str(place) for place in range(len(content))]:
            return f"nn.Sequential({inner})"
        named = ", ".join(f"{name!r}: {_constructed(child)}" for name, child in content)
        return f"nn.Sequential(OrderedDict({{{named}}}))"
    usual = inspect.signature(getattr(nn, kind)).parameters
    given = [
        f"{value!r}" if usual[name].default is inspect.Parameter.empty else f"{name}={value!r}"
        for name, value in content.items()
        if usual[name].default is inspect.Parameter.empty or not _is_usual(usual[name].default, value)
    ]
    return f"nn.{kind}({', '.join(given)})"


def _is_usual(default: Any, value: Any) -> bool:
    """Whether a layer given nothing has this value: what it makes a pair of may be told by one number."""
    return bool(value == default or (isinstance(value, tuple) and value == (default,) * len(value)))


def _wrapped(numbers: str) -> str:
    """Numbers in several lines where they do not fit in one: a row a line, or as many rows as fit where there are many."""
    if len(numbers) <= WIDTH:
        return numbers
    rows = re.sub(r"\], (?=\[)", "],\n", numbers).split("\n")
    if len(rows) <= ROWS:
        return "\n".join(map(_lines, rows))
    # A break inside a row comes only where the row alone is too long for a line.
    solid = " ".join(row.replace(" ", "\0") if len(row) <= WIDTH else row for row in rows)
    return _lines(solid).replace("\0", " ")


def _lines(text: str) -> str:
    """A long line in several, never cut inside a number."""
    return "\n".join(textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False))


def _exactly(value: Any, single: bool) -> str:
    """Numbers in as many digits as make them again in their precision, but for a last bit that would take ten digits."""
    if isinstance(value, list):
        return "[" + ", ".join(_exactly(v, single) for v in value) + "]"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return f"{'-' if value < 0 else ''}torch.{'nan' if math.isnan(value) else 'inf'}"
    if single:
        return str(np.float32(value))
    # 3.4699999999999998 is what 4 - 0.53 gives, and 3.47 is what a reader wants to see.
    near = round(value, 10)
    return repr(near if abs(near - value) <= 4 * math.ulp(value) else value)


def _dtype(tensor: torch.Tensor) -> str:
    return "" if tensor.dtype == torch.float64 else f", {str(tensor.dtype).removeprefix('torch.')}"


def _numbers(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_numbers(v) for v in value) + "]"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _layers(layers: Any) -> str:
    kind, content = layers
    if kind == "Sequential":
        return f"Sequential({', '.join(_layers(child) for _, child in content)})"
    shown = [str(content[k]) for k in LAYERS[kind][:2] if content.get(k, False) is not False]
    rest = [
        f"{k}={content[k]}"
        for k in LAYERS[kind][2:]
        if k in content and content[k] not in (True, 1, 0, (1, 1), (0, 0), "zeros", False)
    ]
    off = [f"{k}=False" for k in ("bias", "affine") if content.get(k) is False]
    return f"{kind}({', '.join(shown + rest + off)})"
