"""The exercise train_unet of lecture 07: a network for touching cells, judged by the instances that come of it."""

from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

from autograder.attempt import Handle, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import hints
from autograder.catalog.training import Around, OnBytes, attempted, readings, trained_network
from autograder.draw import Draw
from autograder.exercise import Case, Training
from autograder.values import Named
from coursekit import unet as reference
from coursekit.data.cells import Cells
from coursekit.metrics import connected_components, instance_scores
from coursekit.training import drawn_from
from coursekit.unet import UNet, unet_output_size, unet_weight_map

SIZE = 128
IMAGES = 100
# A legal input for every depth from 1 to 4.
FRESH_SIZE, FRESH = 252, 12
DEPTHS = (1, 2, 3, 4)
# Name → (F1, points).
LEVELS = {"learns": (0.25, 1.5), "better": (0.33, 1.5), "good": (0.4, 1.0), "very_good": (0.45, 1.0)}
MARGIN = 0.3


def _to_train(d: Draw) -> Case:
    data = Named("cells", {"count": IMAGES, "size": SIZE, "seed": d.seed()})
    return Case((data, d.generator()), {}, {"seed of the new images": d.seed()})


@cache
def _fresh(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return _stacked(Cells(FRESH, FRESH_SIZE, seed=seed))


def _stacked(cells: Cells) -> tuple[torch.Tensor, torch.Tensor]:
    items = [cells[i] for i in range(len(cells))]
    return torch.stack([i["image"] for i in items]) / 255, torch.stack([i["instances"] for i in items])


def _cropped(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    top, left = (maps.shape[-2] - height) // 2, (maps.shape[-1] - width) // 2
    return maps[..., top : top + height, left : left + width]


def _masks(network: Handle, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([network(part).argmax(1) for part in images.split(4)])


def _scores(masks: torch.Tensor, instances: torch.Tensor) -> dict[str, float]:
    found = torch.stack([connected_components(mask) for mask in masks])
    truth = _cropped(instances, *masks.shape[-2:])
    scores = instance_scores(found, truth)
    pieces = sum(int(image.max()) for image in found)
    cells = sum(len(image[image > 0].unique()) for image in truth)
    f1 = scores["f1"]
    right = ((masks > 0) == (truth > 0)).double().mean().item()
    return {"f1": f1 if f1 == f1 else 0.0, "pieces": pieces / max(cells, 1), "right pixels": right}


def _look(subject: Subject, case: Case) -> dict[str, Any]:
    found = trained_network(subject, case)
    if found is None:
        return {"kind": "no module", "says": "train_unet must return a network, an nn.Module"}
    network, seed = found.pop("network"), case.extra["seed of the new images"]
    images, instances = _fresh(seed)
    logits = network(images[:2])
    sides = [unet_output_size(FRESH_SIZE, depth) for depth in DEPTHS]
    legal = [(2, 2, side, side) for side in sides]
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) not in legal:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        says = (
            f"for images {tuple(images[:2].shape)} the network gave {shape}, not logits (2, 2, side, side) with side one"
            f" of {sides}, as unet_output_size gives it for depths {DEPTHS[0]} to {DEPTHS[-1]}"
        )
        return {**found, "kind": str(shape), "shape": shape, "says": says}
    masks = _masks(network, images)
    scores = _scores(masks, instances)
    depth = DEPTHS[sides.index(logits.shape[-1])]
    usable = _unusable(network, images, found["training"], depth)
    return {
        **found,
        "score": scores["f1"],
        "pieces": scores["pieces"],
        "right pixels": scores["right pixels"],
        "foreground": masks.double().mean().item(),
        "swapped": _scores(1 - masks, instances)["f1"],
        "on bytes": _scores(_masks(network, images[:4] * 255), instances[:4])["f1"],
        "usable": usable,
    }


def _unusable(network: Handle, images: torch.Tensor, training: bool, depth: int) -> tuple[str, str] | None:
    """Name of the misconception and what is wrong, or None."""
    if training:
        return "left_in_training_mode", "the network came back in training mode"
    step = 2**depth
    smaller = images[:1, :, : FRESH_SIZE - step, : FRESH_SIZE - 2 * step]
    logits = attempted(network, smaller)
    wanted = (1, 2, *(unet_output_size(side, depth) for side in smaller.shape[2:]))
    if isinstance(logits, torch.Tensor) and tuple(logits.shape) == wanted:
        return None
    came = f"logits {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else str(logits)
    return "one_size_only", f"for an image {tuple(smaller.shape)} it gave {came}, not the logits {wanted}"


def symptom(seen: dict[str, Any]) -> str:
    if "score" not in seen:
        shape = seen.get("shape", ())
        if len(shape) == 4 and shape[1] == 1:
            return "one_channel"
        return "padded" if len(shape) == 4 and shape[-1] == FRESH_SIZE else ""
    score = seen["score"]
    if seen["on bytes"] > score + MARGIN:
        return "trained_on_bytes"
    if seen["swapped"] > score + MARGIN:
        return "classes_swapped"
    if seen["foreground"] in (0.0, 1.0):
        return "one_class_everywhere"
    if score < LEVELS["very_good"][0] and seen["pieces"] < 0.8 and seen["right pixels"] > 0.8:
        return "cells_merged"
    return "learned_too_little" if score < LEVELS["learns"][0] else ""


CLAIMS = Training(
    id="train_unet",
    topic="unet",
    title="Train it",
    reference=reference.train_unet,
    minutes=30,
    difficulty=3,
    draw=_to_train,
    observe=_look,
    properties=readings("F1", LEVELS, symptom),
    hints=hints("""
        My shapes do not fit in the loss
        The map is smaller than the labels on every side by the same number of pixels: crop labels and weights
          to its center (fit does that by itself).

        My cells grow together
        How many of all pixels lie between two cells? And what does the weight map say of just those?

        I don't know how to start
        Make items with image, labels = (instances > 0).long() and weights = unet_weight_map(instances); with
          drawn_from(generator): net = UNet(1, 2, base=16, depth=2); fit(net, items, steps=320, batch_size=4,
          descent=Descent(torch.optim.Adam(net.parameters(), lr=3e-3), one_cycle()), task=Task(('labels',
          'weights'), weighted_loss, augment=quarter_turns), generator=generator); return net.eval(). fit
          itself scales bytes to 0 … 1 and crops labels and weights to the map.
        """),
    seconds=600.0,
)

answers = Answers(CLAIMS)


def descend(net, images, labels, weights, generator):
    steps = 400
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randperm(len(images), generator=generator)[:4]
        turns = int(torch.randint(4, (), generator=generator))
        inputs, target, weight = (t[batch].rot90(turns, (-2, -1)) for t in (images, labels, weights))
        if torch.rand((), generator=generator) < 0.5:
            inputs, target, weight = inputs.flip(-1), target.flip(-1), weight.flip(-1)
        logits = net(inputs)
        h, w = logits.shape[2:]
        top, left = (target.shape[1] - h) // 2, (target.shape[2] - w) // 2
        target, weight = (t[:, top : top + h, left : left + w] for t in (target, weight))
        loss = (weight * F.cross_entropy(logits, target, reduction="none")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@answers.right
def own_loop(dataset, generator):
    """a loop of its own"""
    items = [dataset[i] for i in range(len(dataset))]
    images = torch.stack([item["image"] for item in items]) / 255
    instances = torch.stack([item["instances"] for item in items])
    labels = (instances > 0).long()
    weights = torch.stack([unet_weight_map(one) for one in instances])
    with drawn_from(generator):
        net = UNet(1, 2, base=16, depth=2)
    return descend(net, images, labels, weights, generator)


answers.edits("""
one_class_everywhere: all but usable repeatable
- net = UNet(1, 2, base=16, depth=2)
+ net = UNet(1, 2, base=16, depth=2)
+ for parameter in net.parameters():
+     torch.nn.init.zeros_(parameter)
- steps = 400
+ steps = 40
Your network says the same class everywhere: it has not learned anything.
Print the loss of each step. If it never moves: zero_grad, backward, step, and an optimizer that holds this
  network's parameters. If it jumps or is nan: a lower learning rate, and images from 0 to 1.

learned_too_little: all but usable repeatable
- steps = 400
+ steps = 25
Your network has learned too little: what it marks are hardly cells.
Look at the loss: where it still falls at the end, train for more steps or raise the learning rate; where it
  never fell, begin with one batch.

cells_merged: all but usable repeatable
- torch.stack([unet_weight_map(one) for one in instances])
+ torch.ones(instances.shape)
Your cells grow together: their pixels are found, the lines between them are not.
Those lines are few pixels, and a plain loss hardly counts them: weigh it with unet_weight_map, and train
  until they show.

classes_swapped: all but usable repeatable
- instances > 0
+ instances == 0
Your channels have changed places: channel 1 must be the cells.
Background is class 0: the target is (instances > 0).long().

one_channel: all but usable repeatable
- UNet(1, 2, base=16, depth=2)
+ UNet(1, 1, base=16, depth=2)
- F.cross_entropy(logits, target, reduction="none")
+ F.binary_cross_entropy_with_logits(logits[:, 0], target.float(), reduction="none")
Your network gives one channel, as for a sigmoid.
Give two, background and cell: UNet(1, 2, …) with cross entropy.

left_in_training_mode: usable
- net.eval()
+ net.train()
Your network is still in training mode.
return net.eval().

generator_ignored: repeatable
- with drawn_from(generator):
+ generator = torch.default_generator
+ with drawn_from(generator):
You drew nothing from the generator: what is left to chance does not follow from it.
Hand the generator on, to fit(…, generator=generator) or to torch.randperm(…, generator=generator).

weights_by_chance: repeatable
- with drawn_from(generator):
-     net = UNet(1, 2, base=16, depth=2)
+ net = UNet(1, 2, base=16, depth=2)
Your first weights are drawn from torch's global random numbers, not from the generator.
A layer knows nothing of it: make the network in the block of `with drawn_from(generator):`.

gradients_by_chance: repeatable
- torch.randperm(len(images), generator=generator)
+ torch.randperm(len(images))
Your first step goes another way each time, with the same first weights: which images come first, or how they
  are turned, is not drawn from the generator.
Hand it to everything that draws: torch.randperm(n, generator=generator), DataLoader(…, generator=generator).
""")


@answers.wrong("all but usable repeatable")
def trained_on_bytes(dataset, generator):
    """Your network expects pixels from 0 to 255.

    It is asked about images from 0 to 1: divide by 255 when you train.
    """
    return OnBytes(own_loop(dataset, generator)).eval()


class Grown(Around):
    def forward(self, x):
        y = self.net(x)
        return F.pad(y, [(x.shape[3] - y.shape[3]) // 2] * 2 + [(x.shape[2] - y.shape[2]) // 2] * 2)


@answers.wrong("all but usable repeatable")
def padded(dataset, generator):
    """Your map is as large as the image: it is padded, or enlarged.

    The convolutions of a U-Net are valid; labels and weights are cropped to the map, not the map grown.
    """
    return Grown(own_loop(dataset, generator)).eval()


class OneSize(Around):
    def forward(self, x):
        side = unet_output_size(252, 2)
        return self.net(x).reshape(len(x), 2, side, side)


@answers.wrong("usable")
def one_size_only(dataset, generator):
    """Of an image of another size, higher than wide, your network does not make the map that it should.

    Take sizes from x.shape; every side that unet_output_size accepts is legal, also two different ones.
    """
    return OneSize(own_loop(dataset, generator)).eval()


@answers.right
def gaps(dataset, generator):
    """weights from windows that see two cells"""
    items = [dataset[i] for i in range(len(dataset))]
    images, instances = (torch.stack([item[key] for item in items]) for key in ("image", "instances"))
    ids = instances[:, None].double()
    highest = F.max_pool2d(ids, 7, 1, 3)[:, 0]
    lowest = -F.max_pool2d(torch.where(ids > 0, -ids, -1e9), 7, 1, 3)[:, 0]
    weights = 1.0 + 9.0 * ((instances == 0) & (highest > 0) & (highest != lowest))
    with drawn_from(generator):
        net = UNet(1, 2, base=16, depth=2)
    return descend(net, images / 255, (instances > 0).long(), weights, generator)


EXERCISE = answers.exercise()
