"""What exercises of lecture 02 share: batches with something to normalize, and a look at answers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from autograder.attempt import Handle, Odd, Raised, Subject
from autograder.catalog.observations import as_double, described
from autograder.draw import Draw
from autograder.exercise import Case

# Loose enough that the place of eps = 1e-5 does not show: that is one property's business, not every one's.
LOOSE = (1e-3, 1e-4)
# Tight enough for eps, loose enough for float32: the dtype is one property's business, too.
CLOSE = (1e-4, 1e-5)
# Images of every exam. As many columns as channels come first: there what goes along the wrong axis shows in
# numbers. One image, one channel and a map three times as wide as high come as well.
IMAGES = ((2, 3, 2, 3), (1, 2, 3, 4), (3, 1, 4, 2), (2, 3, 2, 6))
# Of a channel's scale: a negative one turns it around, and zero leaves its shift alone.
SIGNS = (1.0, -1.0, 0.0)


class Narrow(NamedTuple):
    """Where eps shows: the keyword, as it is given, and how much smaller than usual the values are."""

    given: Mapping[str, float]
    scale: float


EPS = (Narrow({"eps": 0.1}, 0.1), Narrow({"eps": 0.0}, 0.1), Narrow({}, 0.01), Narrow({"eps": 10.0}, 1.0))


def column(v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return v.view(1, -1, *[1] * (x.dim() - 2))


def spread(d: Draw, n: int, c: int, *size: int) -> torch.Tensor:
    """A batch whose channels differ in scale and offset and never come close to constant, where eps = 1e-5
    would show in every number: images, or the columns of a single one, lie on two levels by turns."""
    x = d.positive(n, c, *size, low=0.0, high=1.0)
    axis = 0 if n > 1 else -1
    levels = 2.0 * (torch.arange(x.shape[axis], dtype=x.dtype) % 2)
    x = (x.movedim(axis, -1) + levels).movedim(-1, axis)
    scale = d.positive(c, low=1.5, high=4.0)
    return d.layout(x * column(scale, x) + column(d.tensor(c), x))


def rows(d: Draw, *, least: int = 2) -> torch.Tensor:
    c = d.each([2, 1, 3, 5])
    return spread(d, _count(d, c, least), c)


def _count(d: Draw, c: int, least: int) -> int:
    """How many rows: never as many as columns: that axes are told by their place shows in images."""
    return d.choice([n for n in range(least, 8) if n != c])


def images(d: Draw) -> torch.Tensor:
    return spread(d, *d.each(IMAGES))


def narrow_rows(d: Draw, *, least: int = 2) -> tuple[torch.Tensor, Mapping[str, float]]:
    """A batch of rows, and the eps that goes with it. The first has a channel that is constant, which eps
    alone keeps from being divided by zero."""
    given, scale = d.each(EPS)
    c = d.integer(2, 5)
    x = spread(d, _count(d, c, least), c) * scale
    if given.get("eps") == EPS[0].given["eps"]:
        x[:, -1] = x[0, -1]
    return x, given


def affine(d: Draw, c: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of every channel."""
    return signed(d.positive(c)).to(dtype), d.tensor(c, dtype=dtype)


def signed(gamma: torch.Tensor) -> torch.Tensor:
    return gamma * torch.tensor([SIGNS[i % len(SIGNS)] for i in range(len(gamma))], dtype=gamma.dtype)


def entries(subject: Subject, case: Case) -> dict[str, Any]:
    """As `carries` of the observations, where a list is as good as a tuple."""
    answer, changed = subject.with_changes(*case.args, **case.kwargs)
    several = isinstance(answer, list | tuple)
    return {
        "answer": [described(entry) for entry in answer] if several else described(answer),
        "arguments changed in place": [int(c) for c in changed],
    }


# -- where a learner's BatchNorm keeps what it learns and tracks ------------------------------------------

STATISTICS = ("running_mean", "running_var")
NAMES = ("weight", "bias", *STATISTICS, "num_batches_tracked")


class Place(NamedTuple):
    """Where something of NAMES lies: its name and shape in the layer, and whether the layer knows of it."""

    own: str
    shape: tuple[int, ...]
    registered: bool = True


Places = Mapping[str, Place]


def places_in(layer: Handle) -> Places:
    """The parameter, buffer or plain attribute that is each of NAMES: the one of that name, or else one that
    starts as it must. Which names, kinds and shapes they have is the business of one property."""
    seen = layer.inspect("parameters", "buffers")
    known = {**seen["parameters"], **seen["buffers"]}
    places = {name: Place(name, tuple(known[name].shape)) for name in NAMES if name in known}
    for name in [name for name in NAMES if name not in places]:
        taken = {*NAMES, *(place.own for place in places.values())}
        like = [
            own
            for own, t in known.items()
            if own not in taken and _starts_as(name, t, own in seen["parameters"])
        ]
        if like:
            places[name] = Place(like[0], tuple(known[like[0]].shape))
        elif isinstance(plain := attribute(layer, name), torch.Tensor | int | float):
            places[name] = Place(name, tuple(getattr(plain, "shape", ())), registered=False)
    return places


def _starts_as(name: str, tensor: torch.Tensor, learned: bool) -> bool:
    counts = not tensor.is_floating_point() or tensor.dim() == 0
    first = 1 if name in ("weight", "running_var") else 0
    return (
        counts is (name == "num_batches_tracked")
        and learned is (name in ("weight", "bias"))
        and bool((tensor == first).all())
    )


def attribute(layer: Handle, name: str) -> Any:
    try:
        return layer.do("__getattribute__", name)
    except Raised:
        return None


def load(layer: Handle, places: Places, state: Mapping[str, torch.Tensor]) -> None:
    fitting = {
        name: state[name].reshape(place.shape)
        if state[name].numel() == math.prod(place.shape)
        else state[name]
        for name, place in places.items()
    }
    layer.then(
        "load_state_dict",
        {place.own: fitting[name] for name, place in places.items() if place.registered},
        strict=False,
    )
    for name, place in places.items():
        if not place.registered:
            layer.then("__setattr__", name, fitting[name])


def tracked(layer: Handle, places: Places) -> dict[str, Any]:
    """The running statistics, wherever they lie, without shapes and dtypes."""
    seen = layer.inspect("parameters", "buffers")
    known = {**seen["parameters"], **seen["buffers"]}
    found = {}
    for name in STATISTICS:
        if name not in places:
            raise Odd(f"the layer has no {name}")
        place = places[name]
        value = known.get(place.own) if place.registered else attribute(layer, name)
        found[name] = as_double(value).reshape(-1) if isinstance(value, torch.Tensor) else value
    return found
