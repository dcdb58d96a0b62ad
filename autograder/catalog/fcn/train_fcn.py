"""The exercise train_fcn of lecture 06: a network for scenes, judged by its mean IoU on scenes it never saw."""

from __future__ import annotations

import copy
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
from coursekit import fcn as reference
from coursekit.data.scenes import CLASSES, Scenes
from coursekit.fcn import FCN
from coursekit.models import SmallBackbone

SIZE = 96
IMAGES = 500
FRESH = 80
AGAIN = 4
# Name → (mean IoU, points).
LEVELS = {"learns": (0.25, 1.5), "better": (0.3, 1.5), "good": (0.35, 1.0), "very_good": (0.39, 1.0)}
MARGIN = 0.15


def _to_train(d: Draw) -> Case:
    data = Named("scenes", {"count": IMAGES, "size": SIZE, "seed": d.seed()})
    return Case((data, d.generator()), {}, {"seed of the new images": d.seed()})


@cache
def _fresh(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return _stacked(Scenes(FRESH, SIZE, seed=seed, split="test"))


def _stacked(scenes: Scenes, count: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    items = [scenes[i] for i in range(count or len(scenes))]
    return torch.stack([i["image"] for i in items]) / 255, torch.stack([i["labels"] for i in items])


def _mean_iou(network: Handle, images: torch.Tensor, labels: torch.Tensor) -> float:
    predicted = torch.cat([network(part).argmax(1) for part in images.split(20)])
    return _scored(predicted, labels)


def _scored(predicted: torch.Tensor, labels: torch.Tensor) -> float:
    matrix = reference.confusion_matrix(predicted, labels, len(CLASSES))
    return float(reference.segmentation_scores(matrix)["mean_iou"])


def _look(subject: Subject, case: Case) -> dict[str, Any]:
    found = trained_network(subject, case)
    if found is None:
        return {"kind": "no module", "says": "train_fcn must return a network, an nn.Module"}
    network, seed = found.pop("network"), case.extra["seed of the new images"]
    images, labels = _fresh(seed)
    logits = network(images[:20])
    wanted = (20, len(CLASSES), SIZE, SIZE)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != wanted:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        says = f"for images {tuple(images[:20].shape)} the network gave {shape}, not the logits {wanted}"
        return {**found, "kind": str(shape), "shape": shape, "says": says}
    predicted = torch.cat([network(part).argmax(1) for part in images.split(20)])
    own = _stacked(Scenes(IMAGES, SIZE, seed=case.args[0].kwargs["seed"]), AGAIN)
    some = images[:40], labels[:40]
    return {
        **found,
        "score": _scored(predicted, labels),
        "of one class": predicted.flatten().bincount().max().item() / predicted.numel(),
        "on training images": _mean_iou(network, *own),
        "on bytes": _mean_iou(network, some[0] * 255, some[1]),
        "transposed": _scored(predicted.mT, labels),
        "usable": _unusable(network, images, found["training"]),
    }


def _unusable(network: Handle, images: torch.Tensor, training: bool) -> tuple[str, str] | None:
    """Name of the misconception and what is wrong, or None."""
    if training:
        return "left_in_training_mode", "the network came back in training mode"
    smaller = images[:2, :, :64, :32]
    logits = attempted(network, smaller)
    wanted = (2, len(CLASSES), 64, 32)
    if isinstance(logits, torch.Tensor) and tuple(logits.shape) == wanted:
        return None
    came = f"logits {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else str(logits)
    return "one_size_only", f"for images {tuple(smaller.shape)} it gave {came}, not the logits {wanted}"


def symptom(seen: dict[str, Any]) -> str:
    if "score" not in seen:
        shape = seen.get("shape", ())
        if len(shape) == 3:
            return "classes_returned"
        return "not_upsampled" if len(shape) == 4 and max(shape[2:]) < SIZE else ""
    score = seen["score"]
    if seen["on bytes"] > score + MARGIN:
        return "trained_on_bytes"
    if seen["transposed"] > score + MARGIN:
        return "transposed_images"
    if seen["of one class"] > 0.99:
        return "never_updated"
    if seen["on training images"] > score + 0.2:
        return "few_images"
    return "too_short" if score < 0.25 else ""


# -- answers ------------------------------------------------------------------------------------------------


def _loop(
    dataset: Scenes, generator: torch.Generator, net: nn.Module, *, steps: int = 400, images: int | None = None,
    lr: float = 6e-3, descent: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW, augmented: bool = True,
) -> nn.Module:  # fmt: skip
    """A training loop written out, with mirrored and turned batches."""
    x, y = _stacked(dataset, images)
    optimizer = descent(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    order = torch.empty(0, dtype=torch.long)
    net.train()
    for _ in range(steps):
        if len(order) < min(16, len(x)):
            order = torch.cat([order, torch.randperm(len(x), generator=generator)])
        batch, order = order[:16], order[16:]
        turns = int(torch.randint(4, (), generator=generator)) * augmented
        inputs, target = x[batch].rot90(turns, (2, 3)), y[batch].rot90(turns, (1, 2))
        if augmented and torch.rand((), generator=generator) < 0.5:
            inputs, target = inputs.flip(3), target.flip(2)
        loss = F.cross_entropy(net(inputs), target, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def _network(generator: torch.Generator) -> nn.Module:
    channels = (64, 96, 128)
    return seeded(generator, lambda: FCN(len(CLASSES), "8s", SmallBackbone(channels), channels))


def _own_loop(dataset, generator):
    return _loop(dataset, generator, _network(generator))


class _Hourglass(nn.Module):
    """Down four times, up again by interpolation, what was there before joined to it."""

    def __init__(self, classes: int):
        super().__init__()
        widths = (32, 64, 96, 128)
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 5 if a == 3 else 3, 2, 2 if a == 3 else 1, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            )
            for a, b in zip((3, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a + b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.scores = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x):
        size, maps = x.shape[2:], []
        for layer in self.down:
            x = layer(x)
            maps.append(x)
        for layer, skip in zip(self.up, maps[-2::-1], strict=True):
            x = layer(torch.cat([F.interpolate(x, skip.shape[2:]), skip], 1))
        return F.interpolate(self.scores(x), size, mode="bilinear")


def _hourglass(dataset, generator):
    net = seeded(generator, lambda: _Hourglass(len(dataset.classes)))
    return _loop(dataset, generator, net, steps=360, lr=5e-3, descent=torch.optim.Adam)


# What these do to a trained network is what the mistake would have made of it: one training stands behind all.
_good = remembered(reference.train_fcn)


class _Transposed(Around):
    def forward(self, x):
        return self.net(x.mT).mT.contiguous().mT


class _OneSize(Around):
    def forward(self, x):
        return self.net(x).reshape(-1, len(CLASSES), SIZE, SIZE)


class _Classes(Around):
    def forward(self, x):
        return self.net(x).argmax(1)


class _Coarse(Around):
    def forward(self, x):
        return F.avg_pool2d(self.net(x), 8)


def _trained_on_bytes(dataset, generator):
    return OnBytes(_good(dataset, generator)).eval()


def _transposed_images(dataset, generator):
    return _Transposed(_good(dataset, generator)).eval()


def _one_size_only(dataset, generator):
    return _OneSize(_good(dataset, generator)).eval()


def _classes_returned(dataset, generator):
    return _Classes(_good(dataset, generator)).eval()


def _not_upsampled(dataset, generator):
    return _Coarse(_good(dataset, generator)).eval()


def _left_in_training_mode(dataset, generator):
    return _good(dataset, generator).train()


def _generator_ignored(dataset, generator):
    return _good(dataset, copy.copy(torch.Generator().manual_seed(generator.initial_seed())))


def _never_updated(dataset, generator):
    return _network(generator).eval()


def _few_images(dataset, generator):
    return _loop(dataset, generator, _network(generator), steps=100, images=4, augmented=False)


def _too_short(dataset, generator):
    return _loop(dataset, generator, _network(generator), steps=40)


ALL = (*LEVELS, "usable", "repeatable")

EXERCISE = Training(
    id="train_fcn",
    topic="fcn",
    title="Train it",
    reference=reference.train_fcn,
    minutes=30,
    difficulty=3,
    draw=_to_train,
    observe=_look,
    properties=claims("mean IoU", LEVELS, symptom),
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
            "Your network has learned too little, also of the images it was trained on.",
            "Train for more steps, and look at the loss: where it still falls at the end, go on or raise the learning rate.",
            ALL,
            _too_short,
        ),
        Misconception(
            "few_images",
            "Your network knows its training images by heart and is far worse on new ones.",
            "Draw every batch from the whole data set, in a new order in each epoch, mirrored and turned.",
            ALL,
            _few_images,
        ),
        Misconception(
            "trained_on_bytes",
            "Your network expects pixels from 0 to 255.",
            "It is asked about images from 0 to 1: divide by 255 when you train.",
            ALL,
            _trained_on_bytes,
        ),
        Misconception(
            "transposed_images",
            "Your maps are transposed: rows and columns have changed places between image and labels.",
            "Images are (3, H, W) and labels (H, W): turn both, or neither.",
            ALL,
            _transposed_images,
        ),
        Misconception(
            "classes_returned",
            "Your network returns classes, (N, H, W).",
            "Return the logits, (N, L, H, W); argmax is for whoever asks.",
            ALL,
            _classes_returned,
        ),
        Misconception(
            "not_upsampled",
            "Your map is smaller than the image.",
            "Bring the scores back to the size of the image, as SkipFCN does.",
            ALL,
            _not_upsampled,
        ),
        Misconception(
            "left_in_training_mode",
            "Your network is still in training mode: its batch normalization would go on learning from test images.",
            "return net.eval().",
            ("usable",),
            _left_in_training_mode,
        ),
        Misconception(
            "one_size_only",
            "Your network takes images of one size only.",
            "Without dense layers and fixed sizes it takes any H and W that 32 divides; ask x.shape for the size.",
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
        Variant("another network: an hourglass with interpolation", _hourglass),
    ),
    hints=(
        Hint(
            "My mean IoU does not move",
            "Train on one batch alone, again and again. Does the loss go to 0? If not, the mistake is before the data set.",
        ),
        Hint(
            "It learns, but not enough",
            "Mirrored and turned scenes are new scenes. Which learning rate is the largest at which the loss still falls?",
        ),
        Hint(
            "I don't know how to start",
            "with drawn_from(generator): net = FCN(len(dataset.classes), '8s', SmallBackbone(c), c), where c = (64, 96, 128). Then fit(net, dataset, steps=400, batch_size=16, descent=Descent(torch.optim.AdamW(net.parameters(), lr=6e-3), one_cycle()), task=Task('labels', pixel_cross_entropy, augment=quarter_turns), generator=generator); return net.eval().",
        ),
    ),
    seconds=600.0,
)
