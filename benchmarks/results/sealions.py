"""Sea lions: a classifier of patches from this course's own network, then heatmaps over a whole photograph.

python -m benchmarks.results.sealions
"""

import argparse
import time
from collections import OrderedDict

import torch
from torch import Tensor, nn

from benchmarks.results import record
from coursekit.convolutionalize import class_heatmaps, convolutionalize
from coursekit.data.sealions import sealion_patches, sealion_photographs
from coursekit.metrics import accuracy
from coursekit.models import pretrained
from coursekit.training import Descent, Task, Validation, fit, one_cycle

PATCH = 96
# Three poolings in the features and the coarse map's own.
STRIDE = 8 * 4


def classifier(num_classes: int) -> nn.Sequential:
    """The features of this course's network, and a new dense layer.

    The layer sees a coarse map, not an average: a patch is named after what lies in its middle.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in pretrained("cifar10").named_children():
        if name == "average":
            break
        layers[name] = layer
    layers["coarse"] = nn.AvgPool2d(4)
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = nn.Dropout(0.5)
    layers["scores"] = nn.Linear(192 * 9, num_classes)
    return nn.Sequential(layers)


def turned(batch: dict[str, Tensor], generator: torch.Generator | None) -> dict[str, Tensor]:
    """Seen from above no direction is special: quarter turns and mirror images, in other light."""
    images = batch["image"].float()
    images = images.rot90(int(torch.randint(4, (), generator=generator)), (2, 3))
    if torch.rand((), generator=generator) < 0.5:
        images = images.flip(3)
    light = 1 + 0.2 * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
    tint = 1 + 0.05 * (2 * torch.rand(len(images), 3, 1, 1, generator=generator) - 1)
    shift = [int(s) for s in torch.randint(-4, 5, (2,), generator=generator)]
    images = (images * light * tint).roll(shift, (2, 3))
    return {**batch, "image": images.clamp(0, 255).byte()}


def train(epochs: int, seed: int) -> nn.Sequential:
    """The weights of the epoch that was best on the validation patches."""
    torch.manual_seed(seed)
    data, val = sealion_patches("train"), sealion_patches("val")
    net = classifier(len(data.classes)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = [p for name, p in net.named_parameters() if name.startswith("scores")]
    features = [p for name, p in net.named_parameters() if not name.startswith("scores")]
    optimizer = torch.optim.AdamW(
        [{"params": features, "lr": 5e-4}, {"params": head, "lr": 2e-3}], weight_decay=0.05
    )
    fit(
        net, data, Validation(val, accuracy, patience=epochs), epochs=epochs, batch_size=30,
        descent=Descent(optimizer, one_cycle()), task=Task(augment=turned),
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return net


@torch.no_grad()
def overlap(net: nn.Sequential, background: int) -> tuple[float, float]:
    """How well heatmaps of the photographs meet the counted animals.

    Returns:
        The share of the points that lie in a cell whose likeliest class is an animal, and the share of all
        cells that are such: what points laid at random would reach.
    """
    fcn = convolutionalize(net.eval(), (3, PATCH, PATCH))
    hits, points, animal, cells = 0, 0, 0, 0
    for photograph in sealion_photographs():  # type: ignore[attr-defined]
        image = photograph["image"][None].float() / 255
        heat = class_heatmaps(fcn, image)[0]
        found = heat.argmax(0) != background
        animal, cells = animal + int(found.sum()), cells + found.numel()
        # A cell sees the patch whose top left lies at STRIDE times its place.
        place = ((photograph["points"] - (PATCH - 1) / 2) / STRIDE).round().long()
        inside = ((place >= 0) & (place < torch.tensor(found.shape))).all(1)
        hits += int(found[tuple(place[inside].T)].sum())
        points += int(inside.sum())
    return hits / points, animal / cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()

    started = time.perf_counter()
    test = sealion_patches("test")
    figures, reached = {}, []
    for seed in chosen.seeds:
        net = train(chosen.epochs, seed)
        reached.append(accuracy(net, test))
        figures[f"test accuracy, seed {seed}"] = round(reached[-1], 3)
        print(figures, flush=True)
    figures["test accuracy, mean"] = round(sum(reached) / len(reached), 3)
    hit, share = overlap(net, test.classes.index("backgrounds"))
    figures["points on an animal cell"] = round(hit, 3)
    figures["cells that are one"] = round(share, 3)
    seeds = " ".join(map(str, chosen.seeds))
    command = f"python -m benchmarks.results.sealions --epochs {chosen.epochs} --seeds {seeds}"
    record("sealions", command, time.perf_counter() - started, figures, spread=0.05)


if __name__ == "__main__":
    main()
