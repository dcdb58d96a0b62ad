"""PASCAL VOC 2012 segmentation, through torchvision."""

from functools import partial
from pathlib import Path

from coursekit.data import _files
from coursekit.data.items import VOID, Files, Item, check_split

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)  # fmt: skip
SPLITS = ("train", "val")
LABELS = {**{label: label for label in range(21)}, VOID: VOID}
OFFLINE = "Without it, Scenes of coursekit.data.scenes need no network."


def voc(split: str, download: bool = False) -> Files:
    """The segmentation part of PASCAL VOC 2012: 1,464 images for training, 1,449 for validation.

    Items are `{"image": (3, H, W) uint8, "labels": (H, W) int64}` in the sizes of the photographs; the border around
    every object is void.

    Args:
        split: "train" or "val".
        download: fetch the archive (2 GB, checked by torchvision) into the cache when VOC is not in COURSEKIT_DATA
            (`voc/VOCdevkit/VOC2012`).

    Raises:
        ValueError: an unknown split.
        DataError: there is no VOC here, it cannot be fetched, or a file is missing or damaged; the message says.

    Source: Everingham et al. 2010.
    """
    check_split(split, SPLITS)

    def load(root: Path, missing: bool) -> dict[str, str]:
        from torchvision.datasets import VOCSegmentation

        data = VOCSegmentation(str(root), year="2012", image_set=split, download=missing)
        return dict(zip(data.images, data.masks, strict=True))

    pairs = _files.pairs_of("PASCAL VOC 2012", "voc/VOCdevkit/VOC2012", "2 GB", OFFLINE, download, load)
    return Files("voc", CLASSES, split, list(pairs), partial(_read, pairs))


def whereabouts() -> str:
    """In words, where `voc` reads from."""
    return _files.whereabouts("PASCAL VOC 2012", "voc")


def _read(pairs: dict[str, str], name: str) -> Item:
    return _files.read_pair(Path(name), Path(pairs[name]), OFFLINE, LABELS)
