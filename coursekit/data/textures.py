"""Textures: ten classes of 32×32 patches, cut from photographs that need no network."""

import torch

from coursekit import _validate as validate
from coursekit.data.items import SmallImages, check_split
from coursekit.data.photographs import load

SIZE = 32
PER_CLASS = {"train": 500, "val": 100, "test": 100}

Box = tuple[int, int, int, int]

# Class -> photograph and, for each split, boxes (top, left, bottom, right). Boxes of different splits do not
# overlap: patches cut at random from a whole photograph would, and validation would see training pixels.
REGIONS: dict[str, tuple[str, dict[str, list[Box]]]] = {
    "brick": ("brick", {
        "train": [(0, 0, 304, 512)], "val": [(304, 0, 408, 512)], "test": [(408, 0, 512, 512)]}),
    "foliage": ("china", {
        "train": [(345, 372, 427, 560), (350, 0, 427, 112)], "val": [(350, 112, 427, 200)],
        "test": [(190, 572, 427, 640)]}),
    "fur": ("cat", {
        "train": [(0, 70, 82, 290), (150, 22, 232, 122)], "val": [(84, 208, 192, 298)],
        "test": [(155, 122, 245, 208)]}),
    "galaxies": ("galaxies", {
        "train": [(0, 0, 520, 1000)], "val": [(520, 0, 696, 1000)], "test": [(696, 0, 872, 1000)]}),
    "grass": ("grass", {
        "train": [(0, 0, 304, 512)], "val": [(304, 0, 408, 512)], "test": [(408, 0, 512, 512)]}),
    "gravel": ("gravel", {
        "train": [(0, 0, 304, 512)], "val": [(304, 0, 408, 512)], "test": [(408, 0, 512, 512)]}),
    "moon": ("moon", {
        "train": [(0, 0, 304, 512)], "val": [(304, 0, 408, 512)], "test": [(408, 0, 512, 512)]}),
    "petals": ("flower", {
        "train": [(125, 215, 245, 405)], "val": [(245, 215, 322, 310)], "test": [(245, 310, 322, 405)]}),
    "tissue": ("tissue", {
        "train": [(0, 0, 200, 260)], "val": [(180, 320, 285, 440)], "test": [(260, 65, 512, 150)]}),
    "wood": ("coffee", {
        "train": [(0, 490, 400, 600), (0, 430, 100, 490)], "val": [(310, 0, 400, 100)],
        "test": [(125, 0, 300, 72)]}),
}  # fmt: skip

CLASSES = tuple(REGIONS)


def textures(split: str, per_class: int | None = None, seed: int = 0) -> SmallImages:
    """Patches of one split; the splits come from different regions of the photographs and share no pixel.

    Args:
        split: "train", "val" or "test".
        per_class: patches of each class; None is 500 for training and 100 otherwise.
        seed: where the patches are cut; equal seeds cut equal patches.

    Raises:
        ValueError: an unknown split, or `per_class` below 1.
    """
    check_split(split)
    count = validate.whole("per_class", PER_CLASS[split] if per_class is None else per_class, 1)
    generator = torch.Generator().manual_seed(seed)
    patches = []
    for photograph, regions in REGIONS.values():
        image = load(photograph)
        for top, left in _corners(regions[split], count, generator).tolist():
            patches.append(image[:, top : top + SIZE, left : left + SIZE])
    labels = torch.arange(len(CLASSES)).repeat_interleave(count)
    return SmallImages("textures", CLASSES, torch.stack(patches), labels)


def _corners(boxes: list[Box], count: int, generator: torch.Generator) -> torch.Tensor:
    """Top-left corners (count, 2) of patches inside the boxes, every legal corner equally likely."""
    top, left, bottom, right = torch.tensor(boxes).T
    rows, columns = bottom - top - SIZE + 1, right - left - SIZE + 1
    box = torch.multinomial((rows * columns).float(), count, replacement=True, generator=generator)
    offset = torch.rand(count, 2, generator=generator) * torch.stack([rows, columns], 1)[box]
    return torch.stack([top, left], 1)[box] + offset.long()
