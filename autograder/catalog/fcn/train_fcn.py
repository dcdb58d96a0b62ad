"""The exercise train_fcn of lecture 06: a network for scenes, judged by its mean IoU on scenes it never saw."""

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from autograder.attempt import Handle, Subject
from autograder.catalog.answers import Answers
from autograder.catalog.claims import hints
from autograder.catalog.training import Around, OnBytes, attempted, readings, trained_network
from autograder.draw import Draw
from autograder.exercise import Case, Training
from autograder.values import Named
from coursekit import fcn as reference
from coursekit.data.scenes import CLASSES, Scenes
from coursekit.fcn import FCN
from coursekit.models import SmallBackbone
from coursekit.training import drawn_from

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
    on_bytes = network(images[:40] * 255).argmax(1)
    own = _stacked(Scenes(IMAGES, SIZE, seed=case.args[0].kwargs["seed"]), AGAIN)
    return {
        **found,
        "score": _scored(predicted, labels),
        "of one class": predicted.flatten().bincount().max().item() / predicted.numel(),
        "on training images": _mean_iou(network, *own),
        "on bytes": _scored(on_bytes, labels[:40]),
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
        if isinstance(shape, tuple) and shape[1:] == (SIZE, SIZE):
            return "classes_returned"
        return "not_upsampled" if len(shape) == 4 and max(shape[2:]) < SIZE else ""
    score, constant = seen["score"], seen["of one class"] > 0.99
    # One class everywhere has a low score by itself: a little more shows then what it was trained on.
    if seen["on bytes"] > score + (MARGIN / 3 if constant else MARGIN):
        return "trained_on_bytes"
    if seen["transposed"] > score + MARGIN:
        return "transposed_images"
    if constant:
        return "one_class_everywhere"
    if seen["on training images"] > score + 0.2:
        return "few_images"
    return "learned_too_little" if score < LEVELS["learns"][0] else ""


CLAIMS = Training(
    id="train_fcn",
    topic="fcn",
    title="Train it",
    reference=reference.train_fcn,
    minutes=30,
    difficulty=3,
    draw=_to_train,
    observe=_look,
    properties=readings("mean IoU", LEVELS, symptom),
    hints=hints("""
        My mean IoU does not move
        Train on one batch alone, again and again. Does the loss go to 0? If not, the mistake is before the
          data set.

        It learns, but not enough
        Mirrored and turned scenes are new scenes. Which learning rate is the largest at which the loss still
          falls?

        I don't know how to start
        with drawn_from(generator): net = FCN(len(dataset.classes), '8s', SmallBackbone(c), c), where c = (64,
          96, 128). Then fit(net, dataset, steps=400, batch_size=16,
          descent=Descent(torch.optim.AdamW(net.parameters(), lr=6e-3), one_cycle()), task=Task('labels',
          pixel_cross_entropy, augment=quarter_turns), generator=generator); return net.eval().
        """),
    seconds=600.0,
)

answers = Answers(CLAIMS)


def descend(net, dataset, generator):
    items = [dataset[i] for i in range(len(dataset))]
    images = torch.stack([item["image"] for item in items]) / 255
    labels = torch.stack([item["labels"] for item in items])
    steps = 400
    optimizer = torch.optim.AdamW(net.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    order = []
    for _ in range(steps):
        if len(order) < min(16, len(images)):
            order += torch.randperm(len(images), generator=generator).tolist()
        batch, order = order[:16], order[16:]
        turns = int(torch.randint(4, (), generator=generator))
        inputs, target = images[batch].rot90(turns, (2, 3)), labels[batch].rot90(turns, (1, 2))
        if torch.rand((), generator=generator) < 0.5:
            inputs, target = inputs.flip(3), target.flip(2)
        loss = F.cross_entropy(net(inputs), target, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@answers.right
def own_loop(dataset, generator):
    """a loop of its own"""
    with drawn_from(generator):
        net = FCN(len(dataset.classes), "8s", SmallBackbone((64, 96, 128)), (64, 96, 128))
    return descend(net, dataset, generator)


answers.edits("""
one_class_everywhere: all but usable repeatable
- steps = 400
+ steps = 40
...
- optimizer.step()
Your network says the same class everywhere, whatever it is shown.
Train on one batch alone and print the loss. Where it stays the same, no step reaches this network's
  parameters; where it jumps, the learning rate is too large; where it falls, compare how images come in: 0
  to 1 when it is asked.

learned_too_little: all but usable repeatable
- steps = 400
+ steps = 40
Your network has learned too little, also of the images it was trained on.
Look at the loss: where it still falls at the end, train for more steps; where it jumps, lower the learning
  rate; where it hardly moves, raise it.

few_images: all but usable repeatable
- range(len(dataset))
+ range(4)
- steps = 400
+ steps = 100
- int(torch.randint(4, (), generator=generator))
+ 0
Your network knows its training images by heart and is far worse on new ones.
Draw every batch from the whole data set, in a new order in each epoch, mirrored and turned.

left_in_training_mode: usable
- net.eval()
+ net.train()
Your network, or a part of it, is still in training mode: batch normalization would go on learning from test
  images.
return net.eval().

generator_ignored: repeatable
- with drawn_from(generator):
+ generator = torch.default_generator
+ with drawn_from(generator):
You drew nothing from the generator: what is left to chance does not follow from it.
Hand the generator on, to fit(…, generator=generator) or to torch.randperm(…, generator=generator).

weights_by_chance: repeatable
- with drawn_from(generator):
-     net = FCN(len(dataset.classes), "8s", SmallBackbone((64, 96, 128)), (64, 96, 128))
+ net = FCN(len(dataset.classes), "8s", SmallBackbone((64, 96, 128)), (64, 96, 128))
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
    """Your network does better on pixels from 0 to 255 than on those from 0 to 1, about which it is asked.

    Divide the bytes by 255 when you train, as fit does.
    """
    return OnBytes(own_loop(dataset, generator)).eval()


class Transposed(Around):
    def forward(self, x):
        return self.net(x.mT)


@answers.wrong("all but usable repeatable")
def transposed_images(dataset, generator):
    """Your maps are transposed: rows and columns have changed places between image and labels.

    Images are (3, H, W) and labels (H, W): turn both, or neither.
    """
    return Transposed(own_loop(dataset, generator)).eval()


class Classes(Around):
    def forward(self, x):
        return self.net(x).argmax(1)


@answers.wrong("all but usable repeatable")
def classes_returned(dataset, generator):
    """Your network returns classes, (N, H, W).

    Return the logits, (N, L, H, W); argmax is for whoever asks.
    """
    return Classes(own_loop(dataset, generator)).eval()


class Coarse(Around):
    def forward(self, x):
        return F.avg_pool2d(self.net(x), 8)


@answers.wrong("all but usable repeatable")
def not_upsampled(dataset, generator):
    """Your map is smaller than the image.

    Bring the scores back to the size of the image, as SkipFCN does.
    """
    return Coarse(own_loop(dataset, generator)).eval()


class OneSize(Around):
    def forward(self, x):
        return self.net(x).reshape(len(x), -1, 96, 96)


@answers.wrong("usable")
def one_size_only(dataset, generator):
    """Of images of another size, 64 × 32, your network does not make maps of that size.

    Without dense layers and fixed sizes it takes any H and W that 32 divides; ask x.shape for the size.
    """
    return OneSize(own_loop(dataset, generator)).eval()


class Hourglass(nn.Module):
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


@answers.right
def hourglass(dataset, generator):
    """another network: an hourglass with interpolation"""
    with drawn_from(generator):
        net = Hourglass(len(dataset.classes))
    return descend(net, dataset, generator)


EXERCISE = answers.exercise()
