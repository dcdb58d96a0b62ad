"""Road scenes: FCN-32s, 16s and 8s on CamVid at half its resolution, from this course's own classifier.

python -m benchmarks.results.camvid
"""

import argparse
import time

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from benchmarks.results import record
from coursekit.data.camvid import camvid
from coursekit.fcn import FCN, median_frequency_weights, pixel_cross_entropy
from coursekit.metrics import mean_iou
from coursekit.models import Backbone, pretrained
from coursekit.training import Descent, Task, fit, one_cycle

CHANNELS = (192, 192, 192)


class Halved(Dataset):
    """Images at half their size, and labels by nearest neighbor; read once."""

    def __init__(self, data: Dataset) -> None:
        self.classes = data.classes  # type: ignore[attr-defined]
        items = [data[i] for i in range(len(data))]  # type: ignore[arg-type]
        images = torch.stack([item["image"] for item in items])
        self.labels = torch.stack([item["labels"] for item in items])[:, ::2, ::2]
        self.images = F.avg_pool2d(images.float(), 2).round().byte()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "labels": self.labels[index]}


def mirrored(batch: dict[str, Tensor], generator: torch.Generator | None) -> dict[str, Tensor]:
    """Half of the batches left for right."""
    if torch.rand((), generator=generator) < 0.5:
        return batch
    return {name: value.flip(-1) for name, value in batch.items()}


def train(variant: str, data: Halved, epochs: int, seed: int) -> FCN:
    """One variant, from the same start as the others."""
    torch.manual_seed(seed)
    num_classes = len(data.classes)
    net = FCN(num_classes, variant, Backbone(CHANNELS, pretrained("cifar10")), CHANNELS)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = median_frequency_weights(data.labels, num_classes).sqrt()
    fit(
        net,
        data,
        epochs=epochs,
        batch_size=4,
        descent=Descent(
            torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.02), one_cycle(), clip=1.0
        ),
        task=Task(
            "labels", lambda logits, labels: pixel_cross_entropy(logits, labels, weights), augment=mirrored
        ),
        generator=torch.Generator().manual_seed(seed),
    )
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    started = time.perf_counter()
    data, val = Halved(camvid("train")), Halved(camvid("val"))
    figures = {}
    for variant in ("32s", "16s", "8s"):
        net = train(variant, data, chosen.epochs, chosen.seed)
        figures[f"mean IU, FCN-{variant}"] = round(mean_iou(net, val), 3)
        print(figures, flush=True)
    command = f"python -m benchmarks.results.camvid --epochs {chosen.epochs} --seed {chosen.seed}"
    record("camvid", command, time.perf_counter() - started, figures, spread=0.04)


if __name__ == "__main__":
    main()
