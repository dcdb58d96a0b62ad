"""The exercise shift_and_stitch of lecture 05: every shift of the image, interlaced."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.observations import changed_tensors
from autograder.catalog.upsampling.draws import (
    filled_layers,
    normalizing_net,
    pooling_net,
    reach,
    striding_net,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import upsampling as reference


def _deep_net(d: Draw) -> nn.Sequential:
    layers = (nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2), nn.Tanh(), nn.MaxPool2d(2))
    return filled_layers(d, *layers, nn.Conv2d(2, 2, d.choice([1, 2])))


def _case(
    make: Callable[[Draw], nn.Sequential], *, ragged: bool = False, training: bool = False
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        net = make(d).train(training)
        field, factor = reach(net)
        more = (d.integer(1, factor - 1), d.integer(0, factor - 1)) if ragged else (0, 0)
        cells = (factor * d.integer(1, 2) + more[0], factor * d.integer(2, 3) + more[1])
        channels = net[0].get_parameter("weight").shape[1]
        image = d.tensor(d.choice([2, 1]), channels, cells[0] + field - 1, cells[1] + field - 1)
        return Case((Network.describe(net), image, factor))

    return draw


def _both_modes(d: Draw) -> Case:
    case = _case(normalizing_net, training=True)(d)
    return Case(case.args, {}, {"the same in eval mode": Network.describe(case.args[0].build().eval())})


def _left_as_found(subject: Subject, case: Case) -> Any:
    seen: dict[str, Any] = {}
    for mode, given in (("training", case.args[0]), ("eval", case.extra["the same in eval mode"])):
        net = subject.build(given)
        before = net.inspect()
        reply = subject.vjp(net, *case.args[1:], wrt=[net, 1])
        after = net.inspect()
        seen[f"map, net in {mode} mode"] = reply["value"]
        seen[f"net in {mode} mode: its mode afterwards"] = _mode(after)
        seen[f"net in {mode} mode: tensors changed"] = ", ".join(changed_tensors(before, after)) or "none"
        kept = any(g is not None for g in (reply["grads"] or {}).values())
        seen[f"net in {mode} mode: gradients"] = "recorded" if kept else "not recorded"
    return seen


def _mode(seen: dict[str, Any]) -> str:
    flags = set(seen["training"].values())
    if len(flags) > 1:
        return "some layers in eval mode, others in training mode"
    return "training mode" if True in flags else "eval mode"


CLAIMS = Exercise(
    id="shift_and_stitch",
    topic="upsampling",
    title="Every shift of the image, interlaced",
    reference=reference.shift_and_stitch,
    minutes=18,
    difficulty=3,
    properties=claims(
        """
        stitched (1.5): the map of image[..., r:, c:] fills out[..., r::factor, c::factor]
        larger_factors (0.75): a factor of 4, from two pools of stride 2
        ragged (1): a strided convolution, and images whose later shifts give a row or a column less
        mode (0.75): the network runs in eval mode and without gradients, and its mode is left as it was,
          training or eval
        tried: the result and the network afterwards, once found in training and once in eval mode
        """,
        stitched=on(_case(pooling_net), examples=6),
        larger_factors=on(_case(_deep_net), examples=4),
        ragged=on(_case(striding_net, ragged=True), examples=6),
        mode=on(_both_modes, _left_as_found, examples=2, beside="stitched"),
    ),
    hints=hints("""
        I don't see where a map goes
        Cell (0, 0) of the unshifted map looks at the window that begins at pixel (0, 0). At which pixel does
          it begin when r rows have been skipped?

        The sizes don't match
        Skipping rows can cost the map its last row. Count: the rows of the result are those of the maps of
          shifts (0, 0), (1, 0), … together.

        I don't know how to start
        Two loops over r and c, in eval mode without gradients: maps[r, c] = net(image[..., r:, c:]). Then an
          empty tensor with the sum of heights and the sum of widths, and out[..., r::factor, c::factor] =
          maps[r, c].
        """),
)

answers = Answers(CLAIMS)


@answers.right
def interlaced(net, image, factor):
    """all maps first, then interlaced"""
    was = net.training
    net.eval()
    maps = {}
    for r in range(factor):
        for c in range(factor):
            shifted = image[..., r:, c:]
            with torch.no_grad():
                maps[r, c] = net(shifted)
    net.train(was)
    height = sum(maps[r, 0].shape[2] for r in range(factor))
    width = sum(maps[0, c].shape[3] for c in range(factor))
    out = maps[0, 0].new_zeros(*maps[0, 0].shape[:2], height, width)
    for (r, c), cells in maps.items():
        out[..., r::factor, c::factor] = cells
    return out


answers.edits("""
rows_and_columns_swapped: all
- shifted = image[..., r:, c:]
+ shifted = image[..., c:, r:]
You shifted by c rows and r columns, and stitched into row r and column c.
The shift that skips r rows fills rows r, r + factor, …; the same with c and the columns.

shifted_the_other_way: all
- shifted = image[..., r:, c:]
+ shifted = F.pad(image, (c, 0, r, 0))[..., : image.shape[2], : image.shape[3]]
You shifted the image down and to the right, so zeros came in at the top and left.
Skip rows and columns instead: image[..., r:, c:]. Cell (0, 0) then looks at pixel (r, c).

shifted_by_padding: all
- shifted = image[..., r:, c:]
+ shifted = F.pad(image, (c, 0, r, 0))
You shifted the image down and to the right by zeros at the top and left, so it grew.
Skip rows and columns instead: image[..., r:, c:]. Cell (0, 0) then looks at pixel (r, c).

cut_at_the_end: all
- shifted = image[..., r:, c:]
+ shifted = image[..., : image.shape[2] - r, : image.shape[3] - c]
You cut rows off at the bottom and columns at the right, so every shift begins at pixel (0, 0).
Cut them off at the top and left: image[..., r:, c:].

padded_at_the_end: ragged
- shifted = image[..., r:, c:]
+ shifted = F.pad(image[..., r:, c:], (0, c, 0, r))
You padded the image at the bottom and right, so that all maps have the same size.
Windows that reach beyond the image don't count: later shifts may have a row or a column less.

stitched_backwards: all
- out[..., r::factor, c::factor]
+ out[..., factor - 1 - r :: factor, factor - 1 - c :: factor]
You interlaced the maps in the opposite order.
The map of shift (r, c) begins at row r, column c of the result.

smallest_map: ragged
- height = sum(maps[r, 0].shape[2] for r in range(factor))
- width = sum(maps[0, c].shape[3] for c in range(factor))
+ h, w = maps[factor - 1, factor - 1].shape[2:]
+ height, width = factor * h, factor * w
- out[..., r::factor, c::factor] = cells
+ out[..., r::factor, c::factor] = cells[..., :h, :w]
You cut all maps to the size of the smallest one.
Later shifts may have a row or a column less. The result has as many rows as the maps of column shift 0
  together.

whole_blocks: ragged
- height = sum(maps[r, 0].shape[2] for r in range(factor))
- width = sum(maps[0, c].shape[3] for c in range(factor))
+ height, width = factor * maps[0, 0].shape[2], factor * maps[0, 0].shape[3]
- out[..., r::factor, c::factor] = cells
+ out[..., r::factor, c::factor][..., : cells.shape[2], : cells.shape[3]] = cells
You made the result factor times the first map, so its last rows or columns stay empty.
Later shifts may have a row or a column less: add up the rows of the maps that you have.

rolled_around: ragged
- shifted = image[..., r:, c:]
+ shifted = image.roll((-r, -c), (2, 3))
You rolled the image, so rows that left at the top came back at the bottom.
Cut them off, image[..., r:, c:]: windows that hold both borders of the image mean nothing.

eval_forgotten: mode
- net.eval()
The network ran in the mode you found it in: in training mode, batch norm uses the batch.
Call net.eval() before, and put the mode back afterwards.

left_in_eval_mode: mode
- net.train(was)
You left the network in eval mode.
Remember net.training before, and call net.train(was) afterwards.

always_back_to_training: mode
- net.train(was)
+ net.train()
You put the network into training mode afterwards, even if you found it in eval mode.
Remember net.training before, and call net.train(was) afterwards.

gradients_recorded: mode
- with torch.no_grad():
-     maps[r, c] = net(shifted)
+ maps[r, c] = net(shifted)
Your result hangs on the graph: the network's gradients were recorded.
Run the network under torch.no_grad(): this map is an answer, not a step of training.
""")


@answers.right
def rows_stacked(net, image, factor):
    """a copy of the network, rows and columns stacked"""
    twin = copy.deepcopy(net).eval()
    with torch.no_grad():
        rows = []
        for r in range(factor):
            row = [twin(image[:, :, r:, c:].clone()) for c in range(factor)]
            width = sum(m.shape[3] for m in row)
            rows.append(torch.stack([row[j % factor][..., j // factor] for j in range(width)], 3))
        height = sum(m.shape[2] for m in rows)
        return torch.stack([rows[i % factor][:, :, i // factor] for i in range(height)], 2)


answers.edits("""
side_by_side: all
- torch.stack([row[j % factor][..., j // factor] for j in range(width)], 3)
+ torch.cat(row, 3)
- torch.stack([rows[i % factor][:, :, i // factor] for i in range(height)], 2)
+ torch.cat(rows, 2)
You put the maps side by side.
Interlace them: neighbors in the result come from neighboring shifts.
""")


@answers.wrong("all")
def coarse_map_enlarged(net, image, factor):
    """You ran the network once and enlarged its map.

    The values in between are there to be computed: run the network on each of the factor² shifts.
    """
    was = net.training
    with torch.no_grad():
        out = net.eval()(image).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    net.train(was)
    return out


@answers.wrong("all")
def coarse_map_interpolated(net, image, factor):
    """You ran the network once and interpolated its map.

    The values in between are there to be computed: run the network on each of the factor² shifts.
    """
    was = net.training
    with torch.no_grad():
        out = F.interpolate(net.eval()(image), scale_factor=factor, mode="bilinear")
    net.train(was)
    return out


@answers.right
def filled_in(net, image, factor):
    """cell by cell"""
    was = net.training
    net.eval()
    canvas, height, width = None, 0, 0
    try:
        with torch.no_grad():
            for r in range(factor):
                for c in range(factor):
                    cells = net(image[:, :, r:, c:])
                    if canvas is None:
                        canvas = cells.new_zeros(*cells.shape[:2], *image.shape[2:])
                    for i in range(cells.shape[2]):
                        for j in range(cells.shape[3]):
                            canvas[:, :, r + i * factor, c + j * factor] = cells[:, :, i, j]
                            height, width = max(height, r + i * factor + 1), max(width, c + j * factor + 1)
    finally:
        net.train(was)
    return canvas[:, :, :height, :width]


EXERCISE = answers.exercise()
