"""The exercise max_unpool of lecture 05: back to where it stood."""

from __future__ import annotations

from collections.abc import Callable

import torch

from autograder.catalog.forbidden import MAX_UNPOOL
from autograder.catalog.observations import gradients
from autograder.catalog.upsampling.draws import carries_by_name, distinct, pool, pool_size
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from coursekit import upsampling as reference


def _unpool_case(*, ragged: bool = False, sign: float = 1.0) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        k = d.choice([2, 3])
        H, W = pool_size(d, k, ragged=ragged)
        # The switches are those of another map, so that each channel has its own.
        x = distinct(d, d.choice([2, 1]), d.choice([2, 3]), H, W)
        switches = pool(x, k)[1]
        return Case((sign * distinct(d, *switches.shape), switches, (H, W)))

    return draw


def _unpool_single_precision(d: Draw) -> Case:
    switches = pool(distinct(d, 2, 2, 4, 6), 2)[1]
    return Case((distinct(d, *switches.shape).float(), switches, (4, 6)))


def _unpool_guessed_size(y, switches, size):
    N, C, h, w = y.shape
    k = size[0] // h
    flat = y.new_zeros(N, C, size[0] * size[1])
    flat = flat.scatter(2, switches.flatten(2), y.flatten(2))
    return flat[..., : h * k * w * k].reshape(N, C, h * k, w * k)


def _unpool_size_not_used(y, switches, size):
    k = size[0] // y.shape[2]
    return _unpool(y, switches, (k * y.shape[2], k * y.shape[3]))


def _unpool_divided(y, switches, size, divisor):
    out = y.new_zeros(*y.shape[:2], *size)
    n = torch.arange(y.shape[0], device=y.device).view(-1, 1, 1, 1)
    c = torch.arange(y.shape[1], device=y.device).view(-1, 1, 1)
    out[n, c, switches // divisor, switches % divisor] = y
    return out


def _unpool_by_height(y, switches, size):
    return _unpool_divided(y, switches, size, size[0])


def _unpool_by_cut_width(y, switches, size):
    return _unpool_divided(y, switches, size, size[1] // y.shape[3] * y.shape[3])


def _unpool_default_dtype(y, switches, size):
    return _unpool(y.float(), switches, size)


def _unpool_promoted(y, switches, size):
    return _unpool(y, switches, size).double()


def _unpool_columns(y, switches, size):
    flat = y.new_zeros(*y.shape[:2], size[0] * size[1]).scatter(2, switches.flatten(2), y.flatten(2))
    return flat.reshape(*y.shape[:2], size[1], size[0]).transpose(2, 3)


def _unpool_width_first(y, switches, size):
    return _unpool(y, switches, size).reshape(*y.shape[:2], size[1], size[0])


def _unpool_shared(y, switches, size):
    return _unpool(y, switches[:1, :1].expand_as(switches), size)


def _unpool_nails(y, switches, size):
    k = size[0] // y.shape[2], size[1] // y.shape[3]
    out = y.new_zeros(*y.shape[:2], *size)
    out[..., : y.shape[2] * k[0] : k[0], : y.shape[3] * k[1] : k[1]] = y
    return out


def _unpool_over_batch(y, switches, size):
    out = y.new_zeros(*y.shape[:2], *size).flatten()
    return out.scatter(0, switches.flatten(), y.flatten()).reshape(*y.shape[:2], *size)


def _unpool_amax(y, switches, size):
    return _unpool(y.clamp(min=0), switches, size)


def _unpool_detached(y, switches, size):
    return _unpool(y.detach(), switches, size)


def _unpool(y, switches, size):
    flat = y.new_zeros(*y.shape[:2], size[0] * size[1])
    return flat.scatter(2, switches.flatten(2), y.flatten(2)).reshape(*y.shape[:2], *size)


def _unpool_loop(y, switches, size):
    out = y.new_zeros(*y.shape[:2], *size)
    N, C, h, w = y.shape
    for n in range(N):
        for c in range(C):
            for i in range(h):
                for j in range(w):
                    row, column = divmod(int(switches[n, c, i, j]), size[1])
                    out[n, c, row, column] = y[n, c, i, j]
    return out


def _unpool_one_hot(y, switches, size):
    pixel = torch.arange(size[0] * size[1], device=y.device)
    hit = (switches.flatten(2)[..., None] == pixel).to(y.dtype)
    return torch.einsum("ncs,ncsp->ncp", y.flatten(2), hit).reshape(*y.shape[:2], *size)


def _unpool_indexed(y, switches, size):
    N, C = y.shape[:2]
    out = y.new_zeros(N, C, *size)
    n = torch.arange(N, device=y.device).view(N, 1, 1, 1)
    c = torch.arange(C, device=y.device).view(1, C, 1, 1)
    out[n, c, switches // size[1], switches % size[1]] = y
    return out


EXERCISE = Exercise(
    id="max_unpool",
    topic="upsampling",
    title="Back to where it stood",
    reference=reference.max_unpool,
    minutes=10,
    difficulty=2,
    properties=(
        Property("places", "each value at its switch, zeros elsewhere", 1.0, _unpool_case()),
        Property(
            "any_size", "sizes that are no multiple of the pooled map's", 0.75, _unpool_case(ragged=True)
        ),
        Property("negative", "negative values are put back as well", 0.5, _unpool_case(sign=-1.0)),
        Property(
            "gradients",
            "gradients flow back to y",
            0.5,
            _unpool_case(),
            gradients(0),
            tried="the gradient of the output's inner product with fixed random numbers",
        ),
        Property(
            "carries",
            "a float32 y gives a float32 result, and neither y nor switches is modified in place",
            0.25,
            _unpool_single_precision,
            carries_by_name("y", "switches", "size"),
            examples=2,
        ),
    ),
    misconceptions=(
        Misconception(
            "size_guessed",
            "You made the result a whole number of windows large and did not use size.",
            "The ragged edge that pooling dropped has to come back: the result is (N, C, *size).",
            ("any_size",),
            _unpool_guessed_size,
        ),
        Misconception(
            "size_not_used",
            "You guessed the size as k·h × k·w, which is too small for a map whose edge was dropped.",
            "The size has to be told, since several sizes pool to the same one: the result is (N, C, *size).",
            ("any_size",),
            _unpool_size_not_used,
        ),
        Misconception(
            "divided_by_the_height",
            "You divided the switches by the map's height.",
            "A switch is row·W + column: divide by the width, W = size[1].",
            ("places", "any_size", "negative", "gradients", "carries"),
            _unpool_by_height,
        ),
        Misconception(
            "divided_by_the_cut_width",
            "You divided the switches by k·w, the width without the edge that pooling dropped.",
            "A switch counts in the whole map: divide by W = size[1].",
            ("any_size",),
            _unpool_by_cut_width,
        ),
        Misconception(
            "columns_first",
            "You read the switches down the columns: as column·H + row.",
            "A switch is row·W + column: divide by the width, W = size[1].",
            ("places", "any_size", "negative", "gradients"),
            _unpool_columns,
        ),
        Misconception(
            "width_first",
            "Your result is W rows high and H columns wide.",
            "size is (H, W), and so are the last two axes of the result.",
            ("places", "any_size", "negative", "carries"),
            _unpool_width_first,
        ),
        Misconception(
            "one_map_s_switches",
            "You used the switches of the first map for all of them.",
            "Each image and each channel has its own maxima: scatter along the last axis of (N, C, H·W).",
            ("places", "any_size", "negative", "gradients"),
            _unpool_shared,
        ),
        Misconception(
            "switches_ignored",
            "You put each value at the top left of its window: that is the bed of nails.",
            "The switch says where in the map the value stood.",
            ("places", "any_size", "negative", "gradients"),
            _unpool_nails,
        ),
        Misconception(
            "all_in_the_first_map",
            "You used the switches as places in the flattened batch, so everything lands in the first map.",
            "A switch counts inside one map: flatten H and W only, flatten(2).",
            ("places", "any_size", "negative", "gradients"),
            _unpool_over_batch,
        ),
        Misconception(
            "negative_values_lost",
            "Negative values became 0: they lost against the zeros around them.",
            "Assign the value (scatter), and don't take the maximum of it and what is there.",
            ("negative",),
            _unpool_amax,
        ),
        Misconception(
            "detached",
            "Your result is cut from the graph, so no gradient reaches y.",
            "Leave out detach, .data, .item() and no_grad.",
            ("gradients",),
            _unpool_detached,
        ),
        Misconception(
            "default_dtype",
            "Your result is float32 whatever y is.",
            "y.new_zeros(...) makes zeros of the dtype and on the device of y.",
            ("places", "any_size", "negative"),
            _unpool_default_dtype,
        ),
        Misconception(
            "always_float64",
            "Your result is float64 whatever y was.",
            "y.new_zeros(...) makes zeros of the dtype and on the device of y.",
            ("carries",),
            _unpool_promoted,
        ),
    ),
    right=(
        Variant("four loops and divmod", _unpool_loop),
        Variant("one-hot and einsum", _unpool_one_hot),
        Variant("rows and columns indexed", _unpool_indexed),
    ),
    hints=(
        Hint(
            "I don't see how a flat number becomes a pixel",
            "If you flatten the map's H and W, it is the index.",
        ),
        Hint(
            "It works for one image only",
            "The switches of an image and channel count in its own map: keep N and C as axes.",
        ),
        Hint(
            "I don't know how to start",
            "flat = y.new_zeros(N, C, H * W); flat.scatter(2, switches.flatten(2), y.flatten(2)); reshape to (N, C, H, W).",
        ),
    ),
    forbidden=(MAX_UNPOOL,),
)
