"""The exercise train_unet of lecture 07: a network for touching cells, judged by the instances that come of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Handle, Subject
from autograder.catalog.training import (
    Around,
    OnBytes,
    attempted,
    claims,
    remembered,
    seeded,
    trained_network,
)
from autograder.draw import Draw
from autograder.exercise import Case, Hint, Misconception, Training, Variant
from autograder.values import Named
from coursekit import unet as reference
from coursekit.data.cells import Cells
from coursekit.metrics import connected_components, instance_scores

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
    sides = [reference.unet_output_size(FRESH_SIZE, depth) for depth in DEPTHS]
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
    wanted = (1, 2, *(reference.unet_output_size(side, depth) for side in smaller.shape[2:]))
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
        return "never_updated"
    if score < LEVELS["very_good"][0] and seen["pieces"] < 0.8 and seen["right pixels"] > 0.8:
        return "cells_merged"
    return "too_short" if score < LEVELS["learns"][0] else ""


# -- answers ------------------------------------------------------------------------------------------------


def _paper(instances: torch.Tensor) -> torch.Tensor:
    return torch.stack([reference.unet_weight_map(i) for i in instances])


def _alike(instances: torch.Tensor) -> torch.Tensor:
    return torch.ones(instances.shape)


def _gaps(instances: torch.Tensor) -> torch.Tensor:
    """Ten times the weight where a 7×7 window of background sees two cells."""
    ids = instances[:, None].double()
    highest = F.max_pool2d(ids, 7, 1, 3)
    lowest = -F.max_pool2d(torch.where(ids > 0, -ids, -1e9), 7, 1, 3)
    between = (instances == 0) & (highest > 0)[:, 0] & (highest != lowest)[:, 0]
    return 1.0 + 9.0 * between


def _loop(
    dataset: Cells, generator: torch.Generator, *, steps: int = 320,
    weights: Callable[[torch.Tensor], torch.Tensor] = _paper, lr: float = 3e-3,
) -> nn.Module:  # fmt: skip
    """A training loop written out, with mirrored and turned batches."""
    net = seeded(generator, lambda: reference.UNet(1, 2, base=16, depth=2))
    x, instances = _stacked(dataset)
    y, w = (instances > 0).long(), weights(instances)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        batch = torch.randperm(len(x), generator=generator)[:4]
        turns = int(torch.randint(4, (), generator=generator))
        inputs, target, weight = (t[batch].rot90(turns, (-2, -1)) for t in (x, y, w))
        if torch.rand((), generator=generator) < 0.5:
            inputs, target, weight = inputs.flip(-1), target.flip(-1), weight.flip(-1)
        logits = net(inputs)
        target, weight = (_cropped(t, *logits.shape[2:]) for t in (target, weight))
        loss = (weight * F.cross_entropy(logits, target, reduction="none")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def _own_loop(dataset, generator):
    return _loop(dataset, generator, steps=400)


def _gaps_by_windows(dataset, generator):
    return _loop(dataset, generator, weights=_gaps)


# What these do to a trained network is what the mistake would have made of it: one training stands behind all.
_good = remembered(reference.train_unet)


class _Swapped(Around):
    def forward(self, x):
        return self.net(x).flip(1)


class _OneSize(Around):
    def forward(self, x):
        side = reference.unet_output_size(FRESH_SIZE, 2)
        return self.net(x).reshape(-1, 2, side, side)


class _OneChannel(Around):
    def forward(self, x):
        y = self.net(x)
        return y[:, 1:] - y[:, :1]


class _Padded(Around):
    def forward(self, x):
        y = self.net(x)
        return F.pad(y, [(x.shape[3] - y.shape[3]) // 2] * 2 + [(x.shape[2] - y.shape[2]) // 2] * 2)


def _trained_on_bytes(dataset, generator):
    return OnBytes(_good(dataset, generator)).eval()


def _classes_swapped(dataset, generator):
    return _Swapped(_good(dataset, generator)).eval()


def _one_size_only(dataset, generator):
    return _OneSize(_good(dataset, generator)).eval()


def _one_channel(dataset, generator):
    return _OneChannel(_good(dataset, generator)).eval()


def _padded(dataset, generator):
    return _Padded(_good(dataset, generator)).eval()


def _left_in_training_mode(dataset, generator):
    return _good(dataset, generator).train()


def _generator_ignored(dataset, generator):
    return _good(dataset, torch.Generator().manual_seed(generator.initial_seed()))


class _Silent(Around):
    """Scores that a loss without steps leaves behind: the same everywhere."""

    def forward(self, x):
        return 0 * self.net(x)


def _never_updated(dataset, generator):
    return _Silent(seeded(generator, lambda: reference.UNet(1, 2, base=4, depth=2))).eval()


def _too_short(dataset, generator):
    return _loop(dataset, generator, steps=25)


def _unweighted(dataset, generator):
    return _loop(dataset, generator, weights=_alike)


ALL = (*LEVELS, "usable", "repeatable")

EXERCISE = Training(
    id="train_unet",
    topic="unet",
    title="Train it",
    reference=reference.train_unet,
    minutes=30,
    difficulty=3,
    draw=_to_train,
    observe=_look,
    properties=claims("F1", LEVELS, symptom),
    misconceptions=(
        Misconception(
            "never_updated",
            "Your network says the same class everywhere: it has not learned anything.",
            "Each step is zero_grad, backward, step; and the optimizer must hold this network's parameters.",
            ALL,
            _never_updated,
        ),
        Misconception(
            "too_short",
            "Your network has learned too little: what it marks are hardly cells.",
            "Look at the loss: where it still falls at the end, train for more steps or raise the learning rate; where it never fell, begin with one batch.",
            ALL,
            _too_short,
        ),
        Misconception(
            "cells_merged",
            "Your cells grow together: their pixels are found, the lines between them are not.",
            "Those lines are few pixels, and a plain loss hardly counts them: weigh it with unet_weight_map.",
            ALL,
            _unweighted,
        ),
        Misconception(
            "trained_on_bytes",
            "Your network expects pixels from 0 to 255.",
            "It is asked about images from 0 to 1: divide by 255 when you train.",
            ALL,
            _trained_on_bytes,
        ),
        Misconception(
            "classes_swapped",
            "Your channels have changed places: channel 1 must be the cells.",
            "Background is class 0: the target is (instances > 0).long().",
            ALL,
            _classes_swapped,
        ),
        Misconception(
            "one_channel",
            "Your network gives one channel, as for a sigmoid.",
            "Give two, background and cell: UNet(1, 2, …) with cross entropy.",
            ALL,
            _one_channel,
        ),
        Misconception(
            "padded",
            "Your map is as large as the image: somewhere it is padded.",
            "The convolutions of a U-Net are valid; labels and weights are cropped to the map, not the map grown.",
            ALL,
            _padded,
        ),
        Misconception(
            "left_in_training_mode",
            "Your network is still in training mode.",
            "return net.eval().",
            ("usable",),
            _left_in_training_mode,
        ),
        Misconception(
            "one_size_only",
            "Your network takes images of one size only.",
            "Take sizes from x.shape; every side that unet_output_size accepts is legal, also two different ones.",
            ("usable",),
            _one_size_only,
        ),
        Misconception(
            "generator_ignored",
            "You drew from torch's global random numbers: the same generator gives another network each time.",
            "Hand the generator on, to fit(…, generator=generator) or to torch.randperm(…, generator=generator).",
            ("repeatable",),
            _generator_ignored,
        ),
    ),
    right=(
        Variant("a loop of its own", _own_loop),
        Variant("weights from windows that see two cells", _gaps_by_windows),
    ),
    hints=(
        Hint(
            "My shapes do not fit in the loss",
            "The map is smaller than the labels on every side by the same number of pixels: crop labels and weights to its center (fit does that by itself).",
        ),
        Hint(
            "My cells grow together",
            "How many of all pixels lie between two cells? And what does the weight map say of just those?",
        ),
        Hint(
            "I don't know how to start",
            "Make items with image, labels = (instances > 0).long() and weights = unet_weight_map(instances); with drawn_from(generator): net = UNet(1, 2, base=16, depth=2); fit(net, items, steps=320, batch_size=4, descent=Descent(torch.optim.Adam(net.parameters(), lr=3e-3), one_cycle()), task=Task(('labels', 'weights'), weighted_loss, augment=quarter_turns), generator=generator); return net.eval(). fit itself scales bytes to 0 … 1 and crops labels and weights to the map.",
        ),
    ),
    seconds=600.0,
)
