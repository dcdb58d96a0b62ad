"""What the results of the U-Net share: crops of the images to train on, and segmentation tile by tile."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from coursekit.data import Item
from coursekit.training import Descent, Task, drawn_from, fit, one_cycle, quarter_turns, unit_range
from coursekit.unet import UNet, elastic_deformation, overlap_tile, unet_weight_map, weighted_cross_entropy

DEPTH = 3
# A crop of 220 pixels gives scores of its central 132.
CROP, TILE, CONTEXT = 220, 132, 44
STRETCH = 5.0


class Crops(Dataset):
    """Square crops at random places of the images, bent elastically, with labels and the weights of the loss.

    Args:
        items: `{"image": (C, H, W) float, "instances": (H, W)}`.
        w0: height of the weight map's border term; 0 leaves the balance of the classes.
        generator: of the places and the deformations.
    """

    def __init__(self, items: Sequence[Item], w0: float, generator: torch.Generator) -> None:
        self.items, self.generator = items, generator
        self.weights = [unet_weight_map(item["instances"], w0) for item in items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        item, weights = self.items[index], self.weights[index]
        height, width = item["instances"].shape
        top = int(torch.randint(height - CROP + 1, (), generator=self.generator))
        left = int(torch.randint(width - CROP + 1, (), generator=self.generator))
        window = (..., slice(top, top + CROP), slice(left, left + CROP))
        layers = torch.cat([item["image"][window], weights[window][None]])
        labels = (item["instances"][window] > 0).long()
        layers, labels = elastic_deformation(layers, labels, sigma=STRETCH, generator=self.generator)
        return {"image": layers[:-1], "labels": labels, "weights": layers[-1]}


def train(items: Sequence[Item], w0: float, steps: int, seed: int) -> UNet:
    """A U-Net of background and foreground."""
    generator = torch.Generator().manual_seed(seed)
    crops = Crops(items, w0, generator)
    with drawn_from(generator):
        net = UNet(len(items[0]["image"]), 2, base=16, depth=DEPTH)
    fit(
        net,
        crops,
        steps=steps,
        batch_size=4,
        descent=Descent(torch.optim.Adam(net.parameters(), lr=1e-3), one_cycle()),
        task=Task(("labels", "weights"), weighted_cross_entropy, augment=quarter_turns),
        generator=generator,
    )
    return net


def foreground(net: nn.Module, image: Tensor) -> Tensor:
    """Where the network sees foreground, (H, W) bool."""
    return overlap_tile(net, image, TILE, CONTEXT, 2).argmax(0) == 1


def in_memory(data: Dataset, gray: bool = False) -> list[Item]:
    """Every item, its image from 0 to 1; colors averaged where `gray`."""
    items = []
    for index in range(len(data)):  # type: ignore[arg-type]
        item = dict(data[index])
        image = unit_range(item["image"])
        items.append({**item, "image": image.mean(0, keepdim=True) if gray else image})
    return items
