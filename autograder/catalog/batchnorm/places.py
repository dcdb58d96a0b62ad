"""Where a learner's BatchNorm keeps what it learns and tracks: under which name, and as what."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from autograder.attempt import Handle, Odd, Raised
from autograder.catalog.observations import as_double

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
