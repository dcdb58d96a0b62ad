"""The exercise overlap_tile of lecture 07: an image of any size segmented tile by tile.

Most networks come without padding, whose map does not depend on how the tiles lie, so that a mistake in their
places costs its own claims alone. Where they lie shows through a network that answers for a tile by the mean
of its window.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import changed_tensors, described, draw_statistics, filled, numbers
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import unet as reference

LOOSE = (1e-3, 1e-4)


# -- what is drawn ------------------------------------------------------------------------------------------


def _plain(d: Draw, channels: int, classes: int, context: int, dtype: torch.dtype = torch.float64) -> Network:
    """Two convolutions that see `context` pixels on every side; one that sees its own pixel alone where that is 0."""
    if context == 0:
        return Network.describe(
            filled(d, nn.Sequential(nn.Conv2d(channels, classes, 1), nn.Tanh())).to(dtype)
        )
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
    channels, (classes, context) = d.choice([1, 2]), d.each([(3, 1), (1, 2), (4, 0)])
    tile, (rows, columns) = d.choice([4, 5, 3]), d.choice([(2, 3), (3, 1), (1, 4)])
    # Most of the last tile lies in the image, and in part so far inside that its context does, too.
    h, w = (n * tile + tile - d.integer(1, tile - 1) for n in (rows, columns))
    return Case(
        (_plain(d, channels, classes, context), d.layout(d.tensor(channels, h, w)), tile, context, classes)
    )


def _less_than_context(d: Draw) -> Case:
    """An image no larger than its one tile, and smaller than the context."""
    channels, classes, context = d.choice([1, 2]), d.choice([3, 4]), d.choice([5, 7])
    h, w = d.each([(2, 3), (4, 2), (3, 4)])
    image = d.tensor(channels, h, w)
    return Case((_plain(d, channels, classes, context), image, d.choice([4, 5]), context, classes))


def _with_pooling(d: Draw) -> Case:
    # Half of either is even: tiles that lie twice as close are in step with the pooling, and no matter of this claim.
    tile = d.choice([8, 12])
    # The last tiles reach over the border by 2 and by 3: to share that out between both sides must show. Their
    # first pixels lie so far inside that they are compared.
    h, w = d.choice([(2 * tile - 2, 3 * tile - 3), (3 * tile - 3, 2 * tile - 2)])
    classes = d.choice([4, 2])
    return Case((_pooled(d, 1, classes), d.tensor(1, h, w), tile, 3, classes))


def _by_window(d: Draw) -> Case:
    """A network whose answer for a tile is the mean of its window, spread over the tile's pixels."""
    classes, (tile, context) = d.choice([2, 3]), d.each([(4, 1), (3, 2), (1, 1)])
    pooled = nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 2, 1), nn.ConvTranspose2d(2, classes, tile)
    net = Network.describe(filled(d, nn.Sequential(*pooled), scale=2.0))
    # The last tiles reach over the border, and those before them keep their windows inside.
    h, w = (n * tile + context + d.choice([0, 1]) for n in d.choice([(3, 5), (5, 3)]))
    return Case((net, d.tensor(1, h, w), tile, context, classes))


def _two_kinds(d: Draw) -> Case:
    h, w = d.integer(6, 9), d.integer(7, 10)
    single = _plain(d, 1, 2, 1, torch.float32)
    integers = d.integers(1, h, w, low=0, high=255, dtype=torch.uint8)
    return Case(
        (_plain(d, 1, 2, 1), d.tensor(1, h, w), 4, 1, 2), {}, {"float32 net": single, "uint8 image": integers}
    )


# Paths of the layers in training mode; the network itself is "".
MIXED = {
    "in eval mode but for one layer": ("2.0",),
    "in training mode, a part of it frozen": ("", "0", "2", "2.1"),
}


def _normalized(d: Draw) -> Case:
    """A network whose answer depends on its layers' modes: in one, in the other, and in a mixture."""
    classes, (h, w) = d.choice([2, 3]), d.choice([(6, 11), (9, 6)])
    inner = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, classes, 1))
    net = filled(d, nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), inner))
    draw_statistics(d, net)
    found = Network.describe(net.eval())
    others = {"in training mode": Network.describe(net.train())}
    others |= {mode: replace(found, training=paths) for mode, paths in MIXED.items()}
    return Case((found, d.tensor(1, h, w), 4, 1, classes), {}, others)


def _left_as_found(subject: Subject, case: Case) -> dict[str, Any]:
    """Of the network in every mode: what it says, and how it is left."""
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
    left = [part for part in ("hooks", "requires_grad") if before[part] != after[part]]
    left += ["grads"] * any(g is not None for g in after["grads"].values())
    return {
        "scores": scores,
        "training flags afterwards": after["training"],
        "changed": [*changed_tensors(before, after), *left],
    }


def _ring(case: Case, more: int = 0) -> torch.Tensor:
    """Pixels whose context, and so many pixels more, goes beyond the image."""
    _, image, _, context, _ = case.args
    context += more
    h, w = image.shape[1:]
    ring = torch.ones(h, w, dtype=torch.bool)
    ring[context : h - context, context : w - context] = False
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


def _inner_tiles(subject: Subject, case: Case) -> Any:
    """Tiles whose windows lie inside the image."""
    _, image, tile, context, _ = case.args
    starts = [torch.arange(size) // tile * tile for size in image.shape[1:]]
    rows, columns = (
        (start >= context) & (start + tile + context <= size)
        for start, size in zip(starts, image.shape[1:], strict=True)
    )
    return _part(subject(*case.args), rows[:, None] & columns)


def _kinds(subject: Subject, case: Case) -> dict[str, Any]:
    _, _, tile, context, classes = case.args
    single, integers = case.extra.values()
    answer, changed = subject.with_changes(*case.args)
    return {
        "float64 image": described(answer),
        "uint8 image": described(subject(single, integers, tile, context, classes)),
        "uint8 image, not scaled": _alike(
            *(subject(single, pixels, tile, context, classes) for pixels in (integers, integers.float()))
        ),
        # How the network is left is another matter.
        "image changed in place": "1" in changed,
    }


def _alike(one: Any, other: Any) -> bool:
    tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return tensors and one.shape == other.shape and torch.allclose(one, other.to(one), rtol=1e-3, atol=1e-3)


CLAIMS = Exercise(
    id="overlap_tile",
    topic="unet",
    title="Any image, tile by tile, without a seam",
    reference=reference.overlap_tile,
    minutes=25,
    difficulty=4,
    properties=claims(
        """
        tiles (0.75): tiles side by side give the scores of one pass, without seams
        tried: pixels whose context lies inside the image; the border is another matter
        any_size (0.75): also where the tile does not divide height or width, for one class, and without
          context
        tried: pixels whose context lies inside the image; the border is another matter
        once (0.25): the tiles lie side by side from the top left: every pixel is predicted once
        tried: a network that answers for a tile by the mean of its window; windows that lie inside the image
        border (0.75): beyond the border the image is mirrored, the edge pixel not repeated
        tried: pixels whose context goes beyond the image
        small_images (0.75): where the context is as large as the image or larger, the mirror image is
          mirrored again
        pooling (0.75): for a network with pooling, too, the tiles agree with one pass
        tried: a network of total stride 2, and an even tile
        mode (0.5): the network answers in eval mode and without gradients; each layer's training flag is
          left as it was
        tried: a network in eval mode, in training mode, and with some of its layers in the other one: pixels
          whose context lies inside the image, and the network afterwards; then the gradients of the scores
        kinds (0.5): the dtype of the image carries through, integers give float32 and are not scaled, nothing
          is modified
        tried: a float64 image with a float64 network, then a uint8 image with a float32 network
        """,
        tiles=on(_whole_tiles, _inner, tolerance=LOOSE, examples=6),
        any_size=on(_any_size, _inner, tolerance=LOOSE, examples=6),
        once=on(_by_window, _inner_tiles, tolerance=LOOSE, examples=3),
        border=on(_whole_tiles, _outer, tolerance=LOOSE, examples=6),
        small_images=on(_less_than_context, numbers, tolerance=LOOSE, examples=6),
        pooling=on(_with_pooling, _inner_pooled, tolerance=LOOSE, examples=4),
        mode=on(_normalized, _left_as_found, tolerance=LOOSE, examples=4, beside="tiles"),
        kinds=on(_two_kinds, _kinds, examples=3, beside="tiles"),
    ),
    hints=hints("""
        I see seams between the tiles
        Which pixels does the network need to know for the left column of a tile, and where are they in the
          image?

        It works for some sizes only
        Two cases: the last tile reaches over the border, and the context is larger than the image. Which
          index does pixel −5 of a row of 3 have?

        I don't know how to put it together
        fold(i, n): i % (2(n − 1)), then min(i, 2(n − 1) − i). Integer images to float. flags = [m.training
          for m in net.modules()], net.eval(), torch.no_grad(); afterwards each module gets its own flag back.
          For top in range(0, H, tile), left in range(0, W, tile): rows = fold(top − context … top + tile +
          context − 1, H), columns alike; y = net(image[:, rows[:, None], columns][None])[0]; scores[:, top :
          top + tile, left : left + tile] = y[:, : H − top, : W − left].
        """),
)

answers = Answers(CLAIMS)


def mirrored(x, before, after):
    for axis in (1, 2):
        size = x.shape[axis]
        index = torch.arange(-before, size + after, device=x.device)
        period = max(2 * (size - 1), 1)
        index = index % period
        index = torch.minimum(index, period - index)
        x = x.index_select(axis, index)
    return x


@answers.right
def tiled(net, image, tile, context, num_classes):
    """mirrored by indices, tile by tile"""
    x = image if image.is_floating_point() else image.float()
    h, w = x.shape[1:]
    side = tile + 2 * context
    wide = mirrored(x, context, context + tile)
    scores = torch.zeros(num_classes, h, w, dtype=x.dtype, device=x.device)
    flags = [(layer, layer.training) for layer in net.modules()]
    net.eval()
    for top in range(0, h, tile):
        for left in range(0, w, tile):
            window = wide[:, top : top + side, left : left + side]
            with torch.no_grad():
                y = net(window[None])[0]
            scores[:, top : top + tile, left : left + tile] = y[:, : h - top, : w - left]
    for layer, flag in flags:
        layer.training = flag
    return scores


answers.edits("""
black_outside: border small_images
- wide = mirrored(x, context, context + tile)
+ wide = nn.functional.pad(x, [context, context + tile, context, context + tile])
Beyond the border your image is black.
Mirror it: pixel −1 is pixel 1, pixel −2 is pixel 2.

edge_stretched: border small_images
- period = max(2 * (size - 1), 1)
- index = index % period
- index = torch.minimum(index, period - index)
+ index = index.clamp(0, size - 1)
Beyond the border you repeat the edge pixel.
Mirror the image: pixel −1 is pixel 1, pixel −2 is pixel 2.

edge_twice: border small_images
- period = max(2 * (size - 1), 1)
+ period = 2 * size
- torch.minimum(index, period - index)
+ torch.minimum(index, period - 1 - index)
Your mirror stands beside the edge pixel, so it is there twice.
The mirror stands on the edge pixel: pixel −1 is pixel 1.

wrapped_around: border small_images
- period = max(2 * (size - 1), 1)
- index = index % period
- index = torch.minimum(index, period - index)
+ index = index % size
Beyond the border your image begins again at the other side.
Negative indices and % wrap around; mirror instead: pixel −1 is pixel 1.

f_pad_refuses: small_images
- wide = mirrored(x, context, context + tile)
+ wide = nn.functional.pad(x[None], [context] * 4, mode="reflect")[0]
+ wide = nn.functional.pad(wide, [0, -w % tile, 0, -h % tile])
F.pad mirrors only what the image has: a context of the image's size or more is an error.
Compute indices that fold back again and again (period 2·(size − 1)), or use np.pad(mode='reflect').

mirrored_once: small_images
- index = index % period
+ index = index.abs()
- torch.minimum(index, period - index)
+ torch.minimum(index, period - index).clamp(0, size - 1)
You mirror once: what lies beyond the mirror image is not folded back again.
Take indices modulo 2·(size − 1) first, then fold the upper half back.

mirrored_once_and_read_beyond: small_images
- index = index % period
- index = torch.minimum(index, period - index)
- x = x.index_select(axis, index)
+ index = index.abs()
+ index = torch.where(index >= size, 2 * (size - 1) - index, index)
+ x = x.movedim(axis, 0)[index].movedim(0, axis)
You mirror once at either border: where the context is as large as the image, indices still lie beyond it.
Take indices modulo 2·(size − 1) first, then fold the upper half back.

rest_dropped: all but tiles once border kinds
- range(0, h, tile)
+ range(0, h - tile + 1, tile)
- range(0, w, tile)
+ range(0, w - tile + 1, tile)
Rows and columns that do not fill a tile are never predicted.
Go on to the end, range(0, H, tile), and cut what the last tile has too much.

last_tile_moved_inwards: pooling once
- range(0, h, tile)
+ [*range(0, h - tile, tile), max(h - tile, 0)]
- range(0, w, tile)
+ [*range(0, w - tile, tile), max(w - tile, 0)]
You moved the last tile inwards: some pixels are predicted twice, and it may be out of step with the pooling.
Leave it in its place and let it reach over the border: the mirror fills it, and you cut the rest off.

tiles_averaged: once
- scores = torch.zeros(num_classes, h, w, dtype=x.dtype, device=x.device)
+ scores = torch.zeros(num_classes, h, w, dtype=x.dtype, device=x.device)
+ count, half = torch.zeros(h, w, dtype=x.dtype, device=x.device), max(tile // 2, 1)
- range(0, h, tile)
+ range(0, h, half)
- range(0, w, tile)
+ range(0, w, half)
- scores[:, top : top + tile, left : left + tile] = y[:, : h - top, : w - left]
+ scores[:, top : top + tile, left : left + tile] += y[:, : h - top, : w - left]
+ count[top : top + tile, left : left + tile] += 1
- return scores
+ return scores / count
Your tiles lie half a tile apart, and you averaged the scores where they overlap: a pixel is predicted up to
  four times.
Go forward by tile. The windows overlap, the tiles do not: with its context each pixel is right the first
  time.

tiles_overwritten: once
- range(0, h, tile)
+ range(0, h, max(tile // 2, 1))
- range(0, w, tile)
+ range(0, w, max(tile // 2, 1))
Your tiles lie half a tile apart, and each overwrites a part of those before it: most pixels are predicted
  four times.
Go forward by tile. The windows overlap, the tiles do not.

tile_mirrored: all but small_images kinds
- wide = mirrored(x, context, context + tile)
...
- window = wide[:, top : top + side, left : left + side]
+ window = x[:, top : top + tile, left : left + tile]
+ window = mirrored(window, context, context + tile)[:, :side, :side]
You mirror each tile by itself, although its true neighbors are in the image.
Cut tile + 2·context out of the mirrored image: mirrored pixels are for the image's border only.

gaps_between_tiles: all but small_images kinds
- range(0, h, tile)
+ range(0, h, side)
- range(0, w, tile)
+ range(0, w, side)
You go forward by tile + 2·context, which leaves gaps.
The windows overlap: go forward by tile.

window_begins_at_the_tile: all but kinds
- mirrored(x, context, context + tile)
+ mirrored(x, 0, 2 * context + tile)
Your windows begin at the tile's corner, so all the context is below and to the right.
A window begins context pixels before its tile, above and to the left.

tile_of_another_size: all
- y = net(window[None])[0]
+ y = net(window[None])[0, :, context:-context, context:-context]
What you put into the result has another size than its tile.
Hand the network tile + 2·context pixels a side. Its output is the central tile already: cut off only what
  reaches over the image.

height_for_both: all but small_images kinds
- range(0, w, tile)
+ range(0, min(h, w), tile)
You go through the columns only as far as there are rows.
Two loops: range(0, H, tile) and range(0, W, tile).

probabilities: all but kinds
- y = net(window[None])[0]
+ y = net(window[None])[0].softmax(0)
You return probabilities.
Return the scores as the network gives them.

batch_axis_kept: all
- return scores
+ return scores[None]
Your result still has the batch axis.
The network wants (1, C, …) and gives (1, L, …): take [0].

eval_forgotten: mode
- net.eval()
The layers of the network ran in the mode you found them in: in training mode, batch norm uses the tile.
Call net.eval() before, which reaches every layer, and give each its own flag back afterwards.

left_in_eval_mode: mode
- flags = [(layer, layer.training) for layer in net.modules()]
...
- for layer, flag in flags:
-     layer.training = flag
You left the network in eval mode.
Remember each layer's training flag before, for layer in net.modules(), and set them again afterwards.

left_in_training_mode: mode
- flags = [(layer, layer.training) for layer in net.modules()]
...
- for layer, flag in flags:
-     layer.training = flag
+ net.train()
You left the network in training mode, whatever it had been in.
Remember each layer's training flag before, for layer in net.modules(), and set them again afterwards.

one_flag_for_all: mode
- flags = [(layer, layer.training) for layer in net.modules()]
+ was = net.training
...
- for layer, flag in flags:
-     layer.training = flag
+ net.train(was)
You gave every layer the training flag of the network as a whole: layers that were frozen now train.
net.train(was) reaches all layers. Remember each one's own flag, for layer in net.modules(), and set them
  again.

eval_where_it_trained: mode
- flags = [(layer, layer.training) for layer in net.modules()]
- net.eval()
+ was = net.training
+ if was:
+     net.eval()
...
- for layer, flag in flags:
-     layer.training = flag
+ if was:
+     net.train()
You asked the network alone whether it trains: a layer may, inside a network that does not, and the other way
  round.
Call net.eval() always, and give each layer of net.modules() its own flag back.

parameters_frozen: mode
- net.eval()
+ net.eval().requires_grad_(False)
You switched requires_grad off in the network that was handed in, so it cannot be trained any more.
torch.no_grad() is enough, and leaves the parameters as they are.

graph_kept: mode
- with torch.no_grad():
-     y = net(window[None])[0]
+ y = net(window[None])[0]
Your scores keep the graph of every tile, and with it all activations of the network in memory.
Predict under torch.no_grad().

end_of_the_last_tile: all but tiles once border kinds
- y[:, : h - top, : w - left]
+ y[:, -(h - top) :, -(w - left) :]
Of the last tile you keep the end; what lies in the image is its beginning.
Cut off what reaches over the image: y[:, : H − top, : W − left].

default_dtype: kinds
- (num_classes, h, w, dtype=x.dtype, device=x.device)
+ (num_classes, h, w, device=x.device)
Your result is float32 whatever the image is.
Allocate in the image's dtype: torch.empty(..., dtype=image.dtype), float32 for integers.

integers_scaled: kinds
- image.float()
+ image.float() / 255
You scale the pixels of integer images.
Scaling is the caller's business: image.float() is enough.

integers_to_the_network: kinds
- x = image if image.is_floating_point() else image.float()
+ x = image
You hand integers to the network.
image.float() where the image is not floating point.

image_overwritten: kinds
- return scores
+ image -= image.min()
+ return scores
You changed the image that was handed in.
Work on a copy, or on new tensors.
""")


@answers.right
def numpy_padded(net, image, tile, context, num_classes):
    """numpy's reflect, rows of tiles joined"""
    import numpy as np

    image = image if image.is_floating_point() else image.float()
    h, w = image.shape[-2:]
    rows, columns = -(-h // tile), -(-w // tile)
    margins = [(0, 0), (context, context + rows * tile - h), (context, context + columns * tile - w)]
    padded = torch.from_numpy(np.pad(image.cpu().numpy(), margins, mode="reflect")).to(image.device)
    lines = []
    flags = {layer: layer.training for layer in net.modules()}
    net.eval()
    with torch.inference_mode():
        for r in range(rows):
            line = []
            for c in range(columns):
                window = padded[None, :, r * tile :, c * tile :]
                line.append(net(window[..., : tile + 2 * context, : tile + 2 * context]))
            lines.append(torch.cat(line, dim=3))
    for layer in net.modules():
        layer.training = flags[layer]
    return torch.cat(lines, dim=2)[0, :, :h, :w].clone()


@answers.right
def all_at_once(net, image, tile, context, num_classes):
    """all windows in one batch"""
    x = image.to(torch.float32) if not image.is_floating_point() else image
    (c, h, w), side = x.shape, tile + 2 * context

    def walk(size):
        there_and_back = [*range(size), *range(size - 2, 0, -1)]
        first, number = -context, -(-size // tile) * tile + 2 * context
        places = [there_and_back[(first + i) % len(there_and_back)] for i in range(number)]
        return torch.tensor(places, device=x.device)

    wide = x.index_select(1, walk(h)).index_select(2, walk(w))
    windows = wide.unfold(1, side, tile).unfold(2, side, tile)
    rows, columns = windows.shape[1:3]
    batch = windows.permute(1, 2, 0, 3, 4).reshape(rows * columns, c, side, side)
    with torch.no_grad():
        maps = copy.deepcopy(net).eval()(batch).reshape(rows, columns, num_classes, tile, tile)
    return maps.permute(2, 0, 3, 1, 4).reshape(num_classes, rows * tile, columns * tile)[:, :h, :w]


EXERCISE = answers.exercise()
