"""Data sets: one a module; here what the small-image ones share, and the switch between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from coursekit import _validate as validate

SPLITS = ("train", "val", "test")
SOURCES = ("cifar10", "textures")


@dataclass(frozen=True, eq=False)
class SmallImages(Dataset):
    """Labelled images in memory: a map-style data set whose items are `{"image", "label"}`.

    Attributes:
        name: the data set they are from.
        classes: a name for each label.
        images: (N, 3, 32, 32) uint8.
        labels: (N,) int64.
    """

    name: str
    classes: Sequence[str]
    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return {"image": self.images[index], "label": int(self.labels[index])}

    def __repr__(self) -> str:
        return f"SmallImages({self.name}: {len(self)} images of {len(self.classes)} classes)"


def small_images(
    split: str, per_class: int | None = None, source: str | None = None, download: bool = False
) -> SmallImages:
    """Images of 32×32 pixels to classify: CIFAR-10 where it lies on this machine, textures otherwise.

    Args:
        split: "train", "val" or "test".
        per_class: at most so many images of each class; None for all.
        source: "cifar10" or "textures"; None chooses.
        download: fetch CIFAR-10 (170 MB) when it is not here. When that fails, the reason is printed and the
            textures come instead.

    Raises:
        ValueError: an unknown split or source.
        DataError: CIFAR-10 was asked for and cannot be read.
    """
    from coursekit.data import cifar10, textures
    from coursekit.data._files import DataError

    if source is not None and source not in SOURCES:
        raise validate.refuse("source", f"None or one of {', '.join(SOURCES)}", repr(source))
    if source == "textures" or (source is None and not download and not cifar10.available()):
        return textures.textures(split, per_class)
    try:
        return cifar10.cifar10(split, per_class, download=download)
    except DataError as error:
        if not download:
            raise
        print(f"{error}\nGoing on with the textures.")
        return textures.textures(split, per_class)


def whereabouts(name: str) -> str:
    """In words, where a data set comes from on this machine; "small_images" says which of the two it is."""
    from coursekit.data import cifar10

    if name == "small_images":
        name = "cifar10" if cifar10.available() else "textures"
    return cifar10.whereabouts() if name == "cifar10" else _WORDS[name]


_WORDS = {
    "textures": "textures, cut from photographs that ship with scikit-image and scikit-learn",
    "photographs": "photographs that ship with scikit-image and scikit-learn",
    "scenes": "scenes, generated here",
    "cells": "cells, generated here",
}


def balanced(labels: Tensor, per_class: int | None) -> Tensor:
    """Indices of the first `per_class` entries of each label, in order; all of them for None."""
    if per_class is None:
        return torch.arange(len(labels))
    validate.whole("per_class", per_class, 1)
    firsts = [(labels == label).nonzero()[:per_class, 0] for label in labels.unique()]
    return torch.cat(firsts).sort().values
