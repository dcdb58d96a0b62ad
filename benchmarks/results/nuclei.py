"""Nuclei: a U-Net on the images of the Data Science Bowl 2018, and the nuclei told apart.

python -m benchmarks.results.nuclei
"""

import argparse
import time

import torch

from benchmarks.results import record
from benchmarks.results.unets import foreground, in_memory, train
from coursekit.data import Item
from coursekit.data.nuclei import nuclei
from coursekit.metrics import connected_components, instance_scores

NAMES = {"F1": "f1", "precision": "precision", "recall": "recall"}


def dark_background(items: list[Item]) -> list[Item]:
    """Stained tissue is dark on light, fluorescence light on dark; here both are light on dark."""
    return [
        {**item, "image": 1 - item["image"] if item["image"].median() > 0.5 else item["image"]}
        for item in items
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    started = time.perf_counter()
    data, val = (dark_background(in_memory(nuclei(split), gray=True)) for split in ("train", "val"))
    net = train(data, 10.0, chosen.steps, chosen.seed)
    found = torch.stack([connected_components(foreground(net, item["image"])) for item in val])
    scores = instance_scores(found, torch.stack([item["instances"] for item in val]))
    figures = {f"{name} at IoU 0.5": round(scores[key], 3) for name, key in NAMES.items()}
    command = f"python -m benchmarks.results.nuclei --steps {chosen.steps} --seed {chosen.seed}"
    record("nuclei", command, time.perf_counter() - started, figures, spread=0.04)


if __name__ == "__main__":
    main()
