"""When two messages are the same."""

import math

import numpy as np
import torch

from autograder.exercise import Case
from autograder.values import Batches, Named, Network


def same(one, other) -> bool:
    """Equal in type, dtype, layout and bits; NaN is NaN."""
    if type(one) is not type(other):
        return False
    match one:
        case torch.Tensor():
            return (
                one.dtype == other.dtype
                and one.shape == other.shape
                and torch.equal(one.nan_to_num(), other.nan_to_num())
                and torch.equal(one.isnan(), other.isnan())
                and (one.numel() == 0 or order(one) == order(other))
            )
        case np.ndarray():
            return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        case float():
            return one == other or (math.isnan(one) and math.isnan(other))
        case dict():
            return len(one) == len(other) and all(
                same(a, b)
                for pair in zip(one.items(), other.items(), strict=True)
                for a, b in zip(*pair, strict=True)
            )
        case list() | tuple():
            return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
        case Batches(items):
            return same(items, other.items)
        case Case(args, kwargs, extra):
            return all(
                same(a, b)
                for a, b in zip((args, kwargs, extra), (other.args, other.kwargs, other.extra), strict=True)
            )
        case Named(name, kwargs):
            return name == other.name and same(dict(kwargs), other.kwargs)
        case Network(layers, tensors, training):
            return (
                same(layers, other.layers)
                and same(dict(tensors), other.tensors)
                and training == other.training
            )
    return one == other


def order(tensor: torch.Tensor) -> list[int]:
    """The axes from the slowest to the fastest; those of size 1 have no place in it."""
    axes = [axis for axis in range(tensor.dim()) if tensor.shape[axis] > 1]
    return sorted(axes, key=lambda axis: -tensor.stride(axis))
