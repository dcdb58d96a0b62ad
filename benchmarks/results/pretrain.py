"""This course's own network: a CIFAR-10 classifier, trained and written to coursekit/weights.

python -m benchmarks.results.pretrain
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from benchmarks.results import record
from coursekit import models
from coursekit.data.cifar10 import cifar10
from coursekit.metrics import accuracy
from coursekit.preprocessing import Standardizer
from coursekit.training import Descent, History, Run, Schedule, Task, Validation, fit, one_cycle, unit_range

WIDTHS = (32, 64, 128, 192)
SHIFT = 3
# The share of training that the first cycle takes, and the height of the second one.
FIRST, HEIGHT = 7 / 9, 0.3
CARD = """# cifar10.safetensors

A plain convolutional classifier of 32×32 color images, `coursekit.models.small_classifier` with the widths
{widths}: one 7×7 convolution, then three stages of two 3×3 convolutions, {parameters:,} parameters. Its weights are
stored in half precision and used in single precision. `coursekit.models.pretrained("cifar10")` loads it.

| | |
|---|---|
| data | CIFAR-10, the training images without the last tenth of each class, which was for validation |
| input | images (N, 3, H, W) from 0 to 1; the statistics are part of the network |
| output | logits of {classes} |
| accuracy | {test_accuracy:.1%} on the {test_images:,} test images of the folder it was measured on |
| training | {epochs} epochs, seed {seed}: stochastic gradient descent, one cycle of the learning rate and a lower one, the weights at their ends averaged; shifts and mirror images; label smoothing 0.1 |
| command | `{command}` |
| made for | showing filters and activations, heatmaps of photographs, and as a start for the other lectures |
| not for | anything that matters: ten classes, small images, the biases of its data set |
"""


def shifted_and_mirrored(
    batch: dict[str, Tensor], generator: torch.Generator | None, shift: int = SHIFT
) -> dict[str, Tensor]:
    """Each image moved by up to `shift` pixels, mirrored at the border, and half of them left for right."""
    images = F.pad(batch["image"].float(), [shift] * 4, mode="reflect").to(batch["image"].dtype)
    count, _, height, width = batch["image"].shape
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    rows = down + torch.arange(height)
    columns = right + torch.where(flip, torch.arange(width).flip(0), torch.arange(width))
    every = torch.arange(count)[:, None, None]
    moved = images[every, :, rows[:, :, None], columns[:, None, :]]
    return {**batch, "image": moved.permute(0, 3, 1, 2)}


def with_restart(done: float) -> float:
    """One cycle of the learning rate, then a lower one without a warm-up (Loshchilov and Hutter 2017)."""
    return one_cycle()(done / FIRST) if done <= FIRST else HEIGHT * (1 - done) / (1 - FIRST)


def train(epochs: int, seed: int, folder: Path) -> tuple[nn.Sequential, float]:
    """The average of the weights at the ends of both cycles (Izmailov et al. 2018), and the seconds it took.

    Args:
        epochs: of both cycles together.
        seed: of the weights, the order of the images and their augmentation.
        folder: for the checkpoints; training goes on from those it finds there.
    """
    torch.manual_seed(seed)
    data, val = cifar10("train"), cifar10("val")
    statistics = Standardizer().fit(unit_range(data.images))
    model = models.small_classifier(10, WIDTHS, standardizer=statistics)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed)

    def cycles(count: int, checkpoint: Path, schedule: Schedule) -> History:
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others}]
        return fit(
            model,
            data,
            Validation(val, accuracy),
            epochs=count,
            batch_size=128,
            descent=Descent(torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True), schedule),
            task=Task(
                loss=lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.1),
                augment=shifted_and_mirrored,
            ),
            generator=generator,
            run=Run(checkpoint=checkpoint),
        )

    first, both = folder / "first.pt", folder / "both.pt"
    cycles(round(FIRST * epochs), first, lambda done: with_restart(FIRST * done))
    end = {name: value.clone() for name, value in model.state_dict().items()}
    if not both.exists():
        shutil.copy(first, both)
    history = cycles(epochs, both, with_restart)
    print(" ".join(f"{score:.3f}" for _, score in history.val_score))

    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.lerp_(end[name], 0.5)
    # The average of two networks has other activations than either.
    mixed = data.images[torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))]
    update_bn((unit_range(batch) for batch in mixed.split(500)), model)
    return model, history.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--checkpoints", type=Path, help="a folder to keep them in; training goes on from them"
    )
    parser.add_argument("--out", type=Path, default=models.WEIGHTS / "cifar10.safetensors")
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        model, seconds = train(chosen.epochs, chosen.seed, chosen.checkpoints or Path(folder))
    test = cifar10("test")
    made = {
        "data": "CIFAR-10",
        "classes": list(test.classes),
        "widths": list(WIDTHS),
        "epochs": chosen.epochs,
        "seed": chosen.seed,
        "test_accuracy": round(accuracy(model, test), 4),
        "command": f"python -m benchmarks.results.pretrain --epochs {chosen.epochs} --seed {chosen.seed}",
    }
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    models.save_pretrained(model, chosen.out, **made)
    card = {
        **made,
        "classes": ", ".join(made["classes"]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "test_images": len(test),
    }
    (chosen.out.parent / "README.md").write_text(CARD.format(**card))
    record("pretrain", made["command"], seconds, {"test accuracy": made["test_accuracy"]}, spread=0.01)


if __name__ == "__main__":
    main()
