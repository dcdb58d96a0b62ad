"""The exercise overlap_tile of lecture 07: an image of any size segmented tile by tile.

Two right answers may lay their tiles out differently, so networks come without padding, whose map does not
depend on the layout, or with a pooling and a tile that it divides.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.observations import (
    changed_tensors,
    described,
    draw_statistics,
    filled,
    numbers,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise, Hint, Misconception, Property, Variant
from autograder.values import Network
from coursekit import unet as reference

LOOSE = (1e-3, 1e-4)


# -- what is drawn ------------------------------------------------------------------------------------------


def _plain(d: Draw, channels: int, classes: int, context: int, dtype: torch.dtype = torch.float64) -> Network:
    """Two convolutions that see `context` pixels on every side."""
    hidden = d.choice([2, 3])
    net = filled(
        d,
        nn.Sequential(nn.Conv2d(channels, hidden, 3), nn.Tanh(), nn.Conv2d(hidden, classes, 2 * context - 1)),
    )
    return Network.describe(net.to(dtype))


def _pooled(d: Draw, channels: int, classes: int) -> Network:
    """A U without skip: context 3, total stride 2."""
    net = nn.Sequential(
        nn.Conv2d(channels, 2, 3),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 3, 3),
        nn.ConvTranspose2d(3, classes, 2, stride=2),
    )
    return Network.describe(filled(d, net))


def _whole_tiles(d: Draw) -> Case:
    # A context of 1 does not tell apart windows that begin a pixel late from windows without it.
    channels, classes, context = d.choice([1, 2]), d.choice([3, 4]), 2
    tile, (rows, columns) = d.choice([4, 5, 3]), d.choice([(2, 3), (3, 2), (2, 4)])
    image = d.tensor(channels, rows * tile, columns * tile)
    return Case((_plain(d, channels, classes, context), image, tile, context, classes))


def _any_size(d: Draw) -> Case:
    channels, classes, context = d.choice([1, 2]), d.choice([3, 4]), d.choice([1, 2])
    tile, (rows, columns) = d.choice([4, 5, 3]), d.choice([(2, 3), (3, 1), (2, 4)])
    # Most of the last tile lies in the image, and in part so far inside that its context does, too.
    h, w = (n * tile + tile - d.integer(1, tile - 1) for n in (rows, columns))
    return Case(
        (_plain(d, channels, classes, context), d.layout(d.tensor(channels, h, w)), tile, context, classes)
    )


def _less_than_context(d: Draw) -> Case:
    """An image no larger than its one tile, and smaller than the context."""
    channels, classes, context = d.choice([1, 2]), d.choice([3, 4]), d.choice([5, 7])
    h, w = d.choice([(2, 3), (4, 2), (3, 4)])
    image = d.tensor(channels, h, w)
    return Case((_plain(d, channels, classes, context), image, d.choice([4, 5]), context, classes))


def _with_pooling(d: Draw) -> Case:
    tile = d.choice([8, 10])
    # The last tiles reach over the border by 2 and by 3: to share that out between both sides must show. Their
    # first pixels lie so far inside that they are compared.
    h, w = d.choice([(2 * tile - 2, 3 * tile - 3), (3 * tile - 3, 2 * tile - 2)])
    classes = d.choice([4, 2])
    return Case((_pooled(d, 1, classes), d.tensor(1, h, w), tile, 3, classes))


def _two_kinds(d: Draw) -> Case:
    h, w = d.integer(6, 9), d.integer(7, 10)
    single = _plain(d, 1, 2, 1, torch.float32)
    integers = d.integers(1, h, w, low=0, high=255, dtype=torch.uint8)
    return Case(
        (_plain(d, 1, 2, 1), d.tensor(1, h, w), 4, 1, 2), {}, {"float32 net": single, "uint8 image": integers}
    )


def _normalized(d: Draw) -> Case:
    """A network whose answer depends on its mode, in both modes."""
    classes, (h, w) = d.choice([2, 3]), d.choice([(6, 11), (9, 6)])
    net = filled(d, nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Conv2d(2, classes, 1)))
    draw_statistics(d, net)
    modes = {"in training mode": Network.describe(net.train())}
    return Case((Network.describe(net.eval()), d.tensor(1, h, w), 4, 1, classes), {}, modes)


def _left_as_found(subject: Subject, case: Case) -> dict[str, Any]:
    """Of the network in both modes: what it says, and how it is left."""
    networks = {"in eval mode": case.args[0], **case.extra}
    seen = {mode: _used(subject, network, case) for mode, network in networks.items()}
    network = subject.build(case.args[0])
    grads = subject.vjp(network, *case.args[1:], wrt=[network])["grads"]
    return {
        **seen,
        "gradients reach": "something" if any(g is not None for g in grads.values()) else "nothing",
    }


def _used(subject: Subject, network: Network, case: Case) -> dict[str, Any]:
    net = subject.build(network)
    before = net.inspect()
    scores = _part(subject(net, *case.args[1:]), ~_ring(case))
    after = net.inspect()
    return {
        "scores": scores,
        "training flags afterwards": after["training"],
        "tensors changed": changed_tensors(before, after),
    }


def _ring(case: Case, more: int = 0) -> torch.Tensor:
    """Pixels whose context, and so many pixels more, goes beyond the image."""
    _, image, _, context, _ = case.args
    context += more
    ring = torch.ones(image.shape[1:], dtype=torch.bool)
    ring[context:-context, context:-context] = False
    return ring


def _part(scores: Any, part: torch.Tensor) -> Any:
    if not isinstance(scores, torch.Tensor) or scores.shape[1:] != part.shape:
        return scores
    return torch.where(part, scores.double(), 0.0)


def _inner(subject: Subject, case: Case) -> Any:
    return _part(subject(*case.args), ~_ring(case))


def _inner_pooled(subject: Subject, case: Case) -> Any:
    # A cell of the pooled map stands for two pixels: what both have seen reaches a pixel farther.
    return _part(subject(*case.args), ~_ring(case, 1))


def _outer(subject: Subject, case: Case) -> Any:
    return _part(subject(*case.args), _ring(case))


def _kinds(subject: Subject, case: Case) -> dict[str, Any]:
    _, _, tile, context, classes = case.args
    single, integers = case.extra.values()
    return {
        "float64 image": described(subject(*case.args)),
        "uint8 image": described(subject(single, integers, tile, context, classes)),
        "uint8 image, not scaled": _alike(
            *(subject(single, pixels, tile, context, classes) for pixels in (integers, integers.float()))
        ),
        "arguments changed in place": [int(c) for c in subject.changed(*case.args)],
    }


def _alike(one: Any, other: Any) -> bool:
    tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return tensors and one.shape == other.shape and torch.allclose(one, other.to(one), rtol=1e-3, atol=1e-3)


# -- answers ------------------------------------------------------------------------------------------------


def _mirrored(index, size):
    period = max(2 * (size - 1), 1)
    index = index % period
    return torch.minimum(index, period - index)


def _edge_twice(index, size):
    index = index % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def _clamped(index, size):
    return index.clamp(0, size - 1)


def _wrapped(index, size):
    return index % size


def _mirrored_once(index, size):
    index = index.abs()
    return torch.where(index > size - 1, 2 * (size - 1) - index, index).clamp(0, size - 1)


def _floating(image):
    return image if image.is_floating_point() else image.float()


def _to_unit_range(image):
    return image if image.is_floating_point() else image / 255


def _tiles(
    net, image, tile, context, num_classes, *, mode="restored", place=_mirrored, black=False, step=None, whole_only=False,
    shifted=False, own_mirror=False, square=False, offset=0, finish=None, dtype=None, convert=_floating, end=False,
    graph=False,
):  # fmt: skip
    """The tiles with a switch for each mistake."""
    x = convert(image)
    h, w = x.shape[1:]
    scores = torch.zeros(num_classes, h, w, dtype=dtype or _floating(image).dtype, device=image.device)
    stride = tile + 2 * context if step == "window" else tile
    was = net.training
    net.train(was and mode == "found")
    bottom, right = (h // tile * tile, w // tile * tile) if whole_only else (h, w)
    with torch.set_grad_enabled(graph):
        for top in range(0, bottom, stride):
            for left in range(0, min(bottom, right) if square else right, stride):
                row, column = (max(min(s, n - tile), 0) if shifted else s for s, n in ((top, h), (left, w)))
                source, r0, c0 = x, row + offset, column + offset
                if own_mirror:
                    source, r0, c0 = x[:, row : row + tile, column : column + tile], 0, 0
                rows = torch.arange(r0 - context, r0 + tile + context)
                columns = torch.arange(c0 - context, c0 + tile + context)
                size = source.shape[1:]
                window = source[:, place(rows, size[0])[:, None], place(columns, size[1])]
                if black:
                    inside = ((rows >= 0) & (rows < size[0]))[:, None] & (columns >= 0) & (columns < size[1])
                    window = torch.where(inside.to(window.device), window, torch.zeros_like(window))
                y = net(window[None])[0]
                y = finish(y) if finish else y
                if end:
                    y = y[:, -(h - row) :, -(w - column) :]
                scores[:, row : row + tile, column : column + tile] = y[:, : h - row, : w - column]
    net.train(mode == "train" or (was and mode != "left"))
    return scores


def _answer(**mistakes: Any) -> Callable[..., Any]:
    def overlap_tile(net, image, tile, context, num_classes):
        return _tiles(net, image, tile, context, num_classes, **mistakes)

    return overlap_tile


def _shifted_back(net, image, tile, context, num_classes):
    return _tiles(net, image, tile, context, num_classes, offset=context)


def _batch_kept(net, image, tile, context, num_classes):
    return _tiles(net, image, tile, context, num_classes)[None]


def _pad_refuses(net, image, tile, context, num_classes):
    """F.pad mirrors no more than the image has."""
    h, w = image.shape[1:]
    x = F.pad(_floating(image)[None], [context] * 4, mode="reflect")
    x = F.pad(x, [0, -w % tile, 0, -h % tile])
    scores = x.new_zeros(num_classes, h, w)
    was = net.training
    net.eval()
    with torch.no_grad():
        for top in range(0, h, tile):
            for left in range(0, w, tile):
                y = net(x[:, :, top : top + tile + 2 * context, left : left + tile + 2 * context])[0]
                scores[:, top : top + tile, left : left + tile] = y[:, : h - top, : w - left]
    net.train(was)
    return scores


def _cut_twice(net, image, tile, context, num_classes):
    def cut(y):
        return y[:, context:-context, context:-context]

    return _tiles(net, image, tile, context, num_classes, finish=cut)


def _scaled_in_place(net, image, tile, context, num_classes):
    scores = _tiles(net, image, tile, context, num_classes)
    image -= image.min()
    return scores


def _numpy_padded(net, image, tile, context, num_classes):
    """numpy mirrors as often as it takes; the whole is padded up to full tiles first."""
    import numpy as np

    image = image if image.is_floating_point() else image.float()
    h, w = image.shape[-2:]
    rows, columns = -(-h // tile), -(-w // tile)
    margins = [(0, 0), (context, context + rows * tile - h), (context, context + columns * tile - w)]
    padded = torch.from_numpy(np.pad(image.cpu().numpy(), margins, mode="reflect")).to(image.device)
    lines = []
    was = net.training
    net.eval()
    with torch.inference_mode():
        for r in range(rows):
            line = []
            for c in range(columns):
                window = padded[None, :, r * tile :, c * tile :]
                line.append(net(window[..., : tile + 2 * context, : tile + 2 * context]))
            lines.append(torch.cat(line, dim=3))
    net.train(was)
    return torch.cat(lines, dim=2)[0, :, :h, :w].clone()


def _all_at_once(net, image, tile, context, num_classes):
    """Every window cut by unfold and sent through the network as one batch."""
    x = image.to(torch.float32) if not image.is_floating_point() else image
    (c, h, w), side = x.shape, tile + 2 * context

    def walk(size: int) -> torch.Tensor:
        there_and_back = [*range(size), *range(size - 2, 0, -1)]
        first, number = -context, -(-size // tile) * tile + 2 * context
        places = [there_and_back[(first + i) % len(there_and_back)] for i in range(number)]
        return torch.tensor(places, device=x.device)

    wide = x.index_select(1, walk(h)).index_select(2, walk(w))
    windows = wide.unfold(1, side, tile).unfold(2, side, tile)
    rows, columns = windows.shape[1:3]
    batch = windows.permute(1, 2, 0, 3, 4).reshape(rows * columns, c, side, side)
    with torch.no_grad():
        # On a copy of the network, so that its mode is nobody's business.
        maps = copy.deepcopy(net).eval()(batch).reshape(rows, columns, num_classes, tile, tile)
    return maps.permute(2, 0, 3, 1, 4).reshape(num_classes, rows * tile, columns * tile)[:, :h, :w]


EVERY = ("tiles", "any_size", "border", "small_images", "pooling", "mode")
SEVERAL = ("tiles", "any_size", "border", "pooling", "mode")

EXERCISE = Exercise(
    id="overlap_tile",
    topic="unet",
    title="Any image, tile by tile, without a seam",
    reference=reference.overlap_tile,
    minutes=25,
    difficulty=4,
    properties=(
        Property(
            "tiles",
            "tiles side by side give the scores of one pass, without seams",
            0.75,
            _whole_tiles,
            _inner,
            tolerance=LOOSE,
            examples=6,
            tried="pixels whose context lies inside the image; the border is another matter",
        ),
        Property(
            "any_size",
            "also where the tile does not divide height or width",
            0.75,
            _any_size,
            _inner,
            tolerance=LOOSE,
            examples=6,
            tried="pixels whose context lies inside the image; the border is another matter",
        ),
        Property(
            "border",
            "beyond the border the image is mirrored, the edge pixel not repeated",
            1.0,
            _whole_tiles,
            _outer,
            tolerance=LOOSE,
            examples=6,
            tried="pixels whose context goes beyond the image",
        ),
        Property(
            "small_images",
            "where the context is as large as the image or larger, the mirror image is mirrored again",
            0.75,
            _less_than_context,
            numbers,
            tolerance=LOOSE,
            examples=6,
        ),
        Property(
            "pooling",
            "for a network with pooling, too, the tiles agree with one pass",
            0.75,
            _with_pooling,
            _inner_pooled,
            tolerance=LOOSE,
            examples=4,
            tried="a network of total stride 2, and an even tile",
        ),
        Property(
            "mode",
            "the network answers in eval mode and without gradients, and its mode is left as it was",
            0.5,
            _normalized,
            _left_as_found,
            tolerance=LOOSE,
            examples=4,
            tried="a network in eval mode, then one in training mode: pixels whose context lies inside the image, and the network afterwards; then the gradients of the scores",
        ),
        Property(
            "kinds",
            "the dtype of the image carries through, integers give float32 and are not scaled, nothing is modified",
            0.5,
            _two_kinds,
            _kinds,
            examples=3,
            tried="a float64 image with a float64 network, then a uint8 image with a float32 network",
        ),
    ),
    misconceptions=(
        Misconception(
            "black_outside",
            "Beyond the border your image is black.",
            "Mirror it: pixel −1 is pixel 1, pixel −2 is pixel 2.",
            ("border", "small_images"),
            _answer(black=True),
        ),
        Misconception(
            "edge_stretched",
            "Beyond the border you repeat the edge pixel.",
            "Mirror the image: pixel −1 is pixel 1, pixel −2 is pixel 2.",
            ("border", "small_images"),
            _answer(place=_clamped),
        ),
        Misconception(
            "edge_twice",
            "Your mirror stands beside the edge pixel, so it is there twice.",
            "The mirror stands on the edge pixel: pixel −1 is pixel 1.",
            ("border", "small_images"),
            _answer(place=_edge_twice),
        ),
        Misconception(
            "wrapped_around",
            "Beyond the border your image begins again at the other side.",
            "Negative indices and % wrap around; mirror instead: pixel −1 is pixel 1.",
            ("border", "small_images"),
            _answer(place=_wrapped),
        ),
        Misconception(
            "f_pad_refuses",
            "F.pad mirrors only what the image has: a context of the image's size or more is an error.",
            "Compute indices that fold back again and again (period 2·(size − 1)), or use np.pad(mode='reflect').",
            ("small_images",),
            _pad_refuses,
        ),
        Misconception(
            "mirrored_once",
            "You mirror once: what lies beyond the mirror image is not folded back again.",
            "Take indices modulo 2·(size − 1) first, then fold the upper half back.",
            ("small_images",),
            _answer(place=_mirrored_once),
        ),
        Misconception(
            "rest_dropped",
            "Rows and columns that do not fill a tile are never predicted.",
            "Go on to the end, range(0, H, tile), and cut what the last tile has too much.",
            ("any_size", "small_images", "pooling", "mode"),
            _answer(whole_only=True),
        ),
        Misconception(
            "last_tile_moved_inwards",
            "You moved the last tile inwards, so its pixels are predicted twice, and out of step with the pooling.",
            "Leave it in its place and let it reach over the border: the mirror fills it, and you cut the rest off.",
            ("pooling",),
            _answer(shifted=True),
        ),
        Misconception(
            "tile_mirrored",
            "You mirror each tile by itself, although its true neighbors are in the image.",
            "Cut tile + 2·context out of the mirrored image: mirrored pixels are for the image's border only.",
            SEVERAL,
            _answer(own_mirror=True),
        ),
        Misconception(
            "gaps_between_tiles",
            "You go forward by tile + 2·context, which leaves gaps.",
            "The windows overlap: go forward by tile.",
            SEVERAL,
            _answer(step="window"),
        ),
        Misconception(
            "window_begins_at_the_tile",
            "Your windows begin at the tile's corner, so all the context is below and to the right.",
            "A window begins context pixels before its tile, above and to the left.",
            EVERY,
            _shifted_back,
        ),
        Misconception(
            "tile_of_another_size",
            "What you put into the result has another size than its tile.",
            "Hand the network tile + 2·context pixels a side. Its output is the central tile already: cut off only what reaches over the image.",
            (*EVERY, "kinds"),
            _cut_twice,
        ),
        Misconception(
            "height_for_both",
            "You go through the columns only as far as there are rows.",
            "Two loops: range(0, H, tile) and range(0, W, tile).",
            SEVERAL,
            _answer(square=True),
        ),
        Misconception(
            "probabilities",
            "You return probabilities.",
            "Return the scores as the network gives them.",
            EVERY,
            _answer(finish=lambda y: y.softmax(0)),
        ),
        Misconception(
            "batch_axis_kept",
            "Your result still has the batch axis.",
            "The network wants (1, C, …) and gives (1, L, …): take [0].",
            (*EVERY, "kinds"),
            _batch_kept,
        ),
        Misconception(
            "eval_forgotten",
            "The network ran in the mode you found it in: in training mode, batch norm uses the tile.",
            "Call net.eval() before, and put the mode back afterwards.",
            ("mode",),
            _answer(mode="found"),
        ),
        Misconception(
            "left_in_eval_mode",
            "You left the network in eval mode.",
            "Remember net.training before, and call net.train(was) afterwards.",
            ("mode",),
            _answer(mode="left"),
        ),
        Misconception(
            "left_in_training_mode",
            "You left the network in training mode, whatever it had been in.",
            "Remember net.training before, and call net.train(was) afterwards.",
            ("mode", "kinds"),
            _answer(mode="train"),
        ),
        Misconception(
            "graph_kept",
            "Your scores keep the graph of every tile, and with it all activations of the network in memory.",
            "Predict under torch.no_grad().",
            ("mode",),
            _answer(graph=True),
        ),
        Misconception(
            "end_of_the_last_tile",
            "Of the last tile you keep the end; what lies in the image is its beginning.",
            "Cut off what reaches over the image: y[:, : H − top, : W − left].",
            ("any_size", "small_images", "pooling", "mode"),
            _answer(end=True),
        ),
        Misconception(
            "default_dtype",
            "Your result is float32 whatever the image is.",
            "Allocate in the image's dtype: torch.empty(..., dtype=image.dtype), float32 for integers.",
            ("kinds",),
            _answer(dtype=torch.float32),
        ),
        Misconception(
            "integers_scaled",
            "You scale the pixels of integer images.",
            "Scaling is the caller's business: image.float() is enough.",
            ("kinds",),
            _answer(convert=_to_unit_range),
        ),
        Misconception(
            "integers_to_the_network",
            "You hand integers to the network.",
            "image.float() where the image is not floating point.",
            ("kinds",),
            _answer(convert=lambda image: image),
        ),
        Misconception(
            "image_overwritten",
            "You changed the image that was handed in.",
            "Work on a copy, or on new tensors.",
            ("kinds",),
            _scaled_in_place,
        ),
    ),
    right=(
        Variant("numpy's reflect, rows of tiles joined", _numpy_padded),
        Variant("all windows in one batch", _all_at_once),
    ),
    hints=(
        Hint(
            "I see seams between the tiles",
            "Which pixels does the network need to know for the left column of a tile, and where are they in the image?",
        ),
        Hint(
            "It works for some sizes only",
            "Two cases: the last tile reaches over the border, and the context is larger than the image. Which index does pixel −5 of a row of 3 have?",
        ),
        Hint(
            "I don't know how to put it together",
            "fold(i, n): i % (2(n − 1)), then min(i, 2(n − 1) − i). Integer images to float; net.eval(), torch.no_grad(), the mode put back afterwards. For top in range(0, H, tile), left in range(0, W, tile): rows = fold(top − context … top + tile + context − 1, H), columns alike; y = net(image[:, rows[:, None], columns][None])[0]; scores[:, top : top + tile, left : left + tile] = y[:, : H − top, : W − left].",
        ),
    ),
)
