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
from autograder.catalog.observations import as_double, numbers
from autograder.catalog.upsampling.draws import (
    PARTS,
    SINGLE,
    carries_by_name,
    filled_layers,
    normalizing_net,
    pooling_net,
    reach,
    striding_net,
    traces,
)
from autograder.draw import Draw
from autograder.exercise import Case, Exercise
from autograder.values import Network
from coursekit import upsampling as reference


def _deep_net(d: Draw) -> nn.Sequential:
    layers = (nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.Conv2d(2, 2, 2), nn.Tanh(), nn.MaxPool2d(2))
    return filled_layers(d, *layers, nn.Conv2d(2, 2, d.choice([1, 2])))


def _plain_net(d: Draw) -> nn.Sequential:
    return filled_layers(d, nn.Conv2d(2, 2, (2, 3)), nn.Tanh(), nn.Conv2d(2, 3, 2))


def _deep_or_plain(d: Draw) -> nn.Sequential:
    return d.each([_deep_net, _plain_net])(d)


def _case(
    make: Callable[[Draw], nn.Sequential], *, ragged: bool = False, wide: bool = False
) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        net = make(d)
        field, (factor, _) = reach(net)
        more = (0, 0)
        if ragged:
            rows, columns = d.each([(1, 1), (1, 0), (0, 1)])
            more = (rows * d.integer(1, factor - 1), columns * d.integer(1, factor - 1))
        cells = (factor * d.integer(1, 2) + more[0], factor * d.integer(2, 3) + more[1])
        if wide:
            cells = (factor, 9 * factor)
        channels = net[0].get_parameter("weight").shape[1]
        image = d.tensor(d.choice([2, 1]), channels, cells[0] + field[0] - 1, cells[1] + field[1] - 1)
        return Case((Network.describe(net), image, factor))

    return draw


STATES = {
    "in eval mode": (False, False),
    "in training mode, its batch norm in eval mode": (True, False),
    "in eval mode, its batch norm in training mode": (False, True),
}
"""Modes of a network and of its batch norm."""


def _modes(d: Draw) -> Case:
    case = _case(normalizing_net)(d)
    net = case.args[0].build().train()
    training = Network.describe(net)
    others = {}
    for state, (whole, norm) in STATES.items():
        net.train(whole)[1].train(norm)
        others[f"the same {state}"] = Network.describe(net)
    return Case((training, *case.args[1:]), {}, others)


def _left_as_found(subject: Subject, case: Case) -> Any:
    """What does not depend on the places of the numbers: a slip in the stitching costs nothing here."""
    maps: list[Any] = []
    seen: dict[str, Any] = {}
    for state, given in {"net in training mode": case.args[0], **case.extra}.items():
        net = subject.build(given)
        before = net.inspect(*PARTS)
        reply = subject.vjp(net, *case.args[1:], wrt=[net, 1])
        maps.append(as_double(reply["value"]))
        seen[f"{state}: afterwards"] = traces(before, net.inspect(*PARTS))
        kept = any(g is not None for g in (reply["grads"] or {}).values())
        seen[f"{state}: gradients"] = "recorded" if kept else "not recorded"
    return {"the same result in every mode": _alike(maps), **seen}


def _alike(maps: list[Any]) -> bool:
    if not all(isinstance(m, torch.Tensor) and m.shape == maps[0].shape and m.numel() for m in maps):
        return False
    # A constant is the same in every mode.
    return bool((maps[0] != maps[0].flatten()[0]).any()) and all(torch.allclose(m, maps[0]) for m in maps)


def _single_and_double(d: Draw) -> Case:
    """Of factor 1, where no map can land in a wrong place."""
    net, image, factor = _case(_plain_net, wide=True)(d).args
    dtype = d.each([torch.float32, torch.float64])
    return Case((Network.describe(net.build().to(dtype)), image.to(dtype), factor))


CLAIMS = Exercise(
    id="shift_and_stitch",
    topic="upsampling",
    title="Every shift of the image, interlaced",
    reference=reference.shift_and_stitch,
    minutes=18,
    difficulty=3,
    properties=claims(
        """
        stitched (1.25): the map of image[..., r:, c:] fills out[..., r::factor, c::factor]
        larger_factors (0.75): a factor of 4, from two pools of stride 2, and a factor of 1
        ragged (1): a strided convolution, and images whose later shifts give a row or a column less
        mode (0.75): the network runs in eval mode and without gradients, and each of its layers is left in
          the mode that it had, also where they differ
        tried: the result and the network afterwards, found in training mode, in eval mode, and with its batch
          norm alone in the other one
        carries (0.25): the result has the dtype of the network's maps, and image is not modified in place
        """,
        stitched=on(_case(pooling_net), numbers, tolerance=SINGLE, examples=6),
        larger_factors=on(_case(_deep_or_plain), numbers, tolerance=SINGLE, examples=4),
        ragged=on(_case(striding_net, ragged=True), numbers, tolerance=SINGLE, examples=9),
        mode=on(_modes, _left_as_found, examples=2, beside="stitched"),
        carries=on(_single_and_double, carries_by_name("", "image", ""), examples=4, beside="stitched"),
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
          maps[r, c]. Before all that, remember module.training of every module in net.modules(), to set it
          again.
        """),
)

answers = Answers(CLAIMS)


@answers.right
def interlaced(net, image, factor):
    """all maps first, then interlaced"""
    was = {module: module.training for module in net.modules()}
    net.eval()
    maps = {}
    for r in range(factor):
        for c in range(factor):
            shifted = image[..., r:, c:]
            with torch.no_grad():
                maps[r, c] = net(shifted)
    for module, training in was.items():
        module.training = training
    height = sum(maps[r, 0].shape[2] for r in range(factor))
    width = sum(maps[0, c].shape[3] for c in range(factor))
    out = maps[0, 0].new_zeros(*maps[0, 0].shape[:2], height, width)
    for (r, c), cells in maps.items():
        out[..., r::factor, c::factor] = cells
    return out


answers.edits("""
rows_and_columns_swapped: all but mode carries
- shifted = image[..., r:, c:]
+ shifted = image[..., c:, r:]
You shifted by c rows and r columns, and stitched into row r and column c.
The shift that skips r rows fills rows r, r + factor, …; the same with c and the columns.

shifted_the_other_way: all but mode carries
- shifted = image[..., r:, c:]
+ shifted = F.pad(image, (c, 0, r, 0))[..., : image.shape[2], : image.shape[3]]
You shifted the image down and to the right, so zeros came in at the top and left.
Skip rows and columns instead: image[..., r:, c:]. Cell (0, 0) then looks at pixel (r, c).

shifted_by_padding: all but carries
- shifted = image[..., r:, c:]
+ shifted = F.pad(image, (c, 0, r, 0))
You shifted the image down and to the right by zeros at the top and left, so it grew.
Skip rows and columns instead: image[..., r:, c:]. Cell (0, 0) then looks at pixel (r, c).

cut_at_the_end: all but mode carries
- shifted = image[..., r:, c:]
+ shifted = image[..., : image.shape[2] - r, : image.shape[3] - c]
You cut rows off at the bottom and columns at the right, so every shift begins at pixel (0, 0).
Cut them off at the top and left: image[..., r:, c:].

padded_at_the_end: ragged
- shifted = image[..., r:, c:]
+ shifted = F.pad(image[..., r:, c:], (0, c, 0, r))
You padded the image at the bottom and right, so that all maps have the same size.
Windows that reach beyond the image don't count: later shifts may have a row or a column less.

stitched_backwards: all but mode carries
- out[..., r::factor, c::factor]
+ out[..., factor - 1 - r :: factor, factor - 1 - c :: factor]
You interlaced the maps in the opposite order.
The map of shift (r, c) begins at row r, column c of the result.

stitched_at_minus_the_shift: larger_factors ragged
- out[..., r::factor, c::factor]
+ out[..., -r % factor :: factor, -c % factor :: factor]
You put the map of shift (r, c) at row −r and column −c, counted around: with a factor above 2 the maps of
  shifts r and factor − r change places.
The map of shift (r, c) begins at row r, column c of the result: out[..., r::factor, c::factor].

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
Call net.eval() before, and put the modes back afterwards.

eval_only_if_net_trains: mode
- net.eval()
+ if net.training:
+     net.eval()
A batch norm in training mode stayed in it where net itself was found in eval mode.
Call net.eval() in any case: each layer has a flag of its own.

left_in_eval_mode: mode
- for module, training in was.items():
-     module.training = training
You left the network in eval mode.
Remember module.training of every module in net.modules() before, and set it again afterwards.

always_back_to_training: mode
- for module, training in was.items():
-     module.training = training
+ net.train()
You put the network into training mode afterwards, even if you found it in eval mode.
Remember module.training of every module in net.modules() before, and set it again afterwards.

one_mode_for_all: mode
- was = {module: module.training for module in net.modules()}
+ was = net.training
- for module, training in was.items():
-     module.training = training
+ net.train(was)
You remembered the mode of net itself and gave it to all its layers: a frozen one is now in another mode.
Each module has a flag of its own: remember module.training of every module in net.modules(), and set it
  again.

gradients_recorded: mode
- with torch.no_grad():
-     maps[r, c] = net(shifted)
+ maps[r, c] = net(shifted)
Your result hangs on the graph: the network's gradients were recorded.
Run the network under torch.no_grad(): this map is an answer, not a step of training.

default_dtype: carries
- maps[0, 0].new_zeros(*maps[0, 0].shape[:2], height, width)
+ torch.zeros(*maps[0, 0].shape[:2], height, width, device=image.device)
Your result is float32, whatever dtype the maps have.
maps[0, 0].new_zeros(...) makes zeros of the dtype and on the device of a map.
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
side_by_side: all but mode carries
- torch.stack([row[j % factor][..., j // factor] for j in range(width)], 3)
+ torch.cat(row, 3)
- torch.stack([rows[i % factor][:, :, i // factor] for i in range(height)], 2)
+ torch.cat(rows, 2)
You put the maps side by side.
Interlace them: neighbors in the result come from neighboring shifts.
""")


@answers.wrong("ragged")
def equal_sizes_assumed(net, image, factor):
    """You stacked the maps as if all had one size, and torch stacks no others.

    Later shifts may have a row or a column less: write each map into its own rows and columns of the result.
    """
    twin = copy.deepcopy(net).eval()
    shifts = [(r, c) for r in range(factor) for c in range(factor)]
    with torch.no_grad():
        maps = torch.stack([twin(image[..., r:, c:]) for r, c in shifts])
    grid = maps.unflatten(0, (factor, factor)).permute(2, 3, 4, 0, 5, 1)
    return grid.flatten(4, 5).flatten(2, 3)


@answers.wrong("all but mode carries")
def coarse_map_enlarged(net, image, factor):
    """You ran the network once and enlarged its map.

    The values in between are there to be computed: run the network on each of the factor² shifts.
    """
    with torch.no_grad():
        cells = copy.deepcopy(net).eval()(image)
    return cells.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


@answers.wrong("all but mode carries")
def coarse_map_interpolated(net, image, factor):
    """You ran the network once and interpolated its map.

    The values in between are there to be computed: run the network on each of the factor² shifts.
    """
    with torch.no_grad():
        cells = copy.deepcopy(net).eval()(image)
    return F.interpolate(cells, scale_factor=factor, mode="bilinear")


@answers.right
def filled_in(net, image, factor):
    """cell by cell"""
    training = [module for module in net.modules() if module.training]
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
        for module in training:
            module.training = True
    return canvas[:, :, :height, :width]


EXERCISE = answers.exercise()
