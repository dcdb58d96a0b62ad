"""Data sets: one a module; here what they share.

Each is a map-style torch `Dataset` with `name` and `classes` (a class's place is its label). Its items are dicts of
named fields:

| field | what | where |
|---|---|---|
| `"image"` | (C, H, W) uint8 | everywhere |
| `"label"` | int | images to classify |
| `"labels"` | (H, W) int64, 255 = void | semantic segmentation |
| `"instances"` | (H, W) int64, 0 = background | instance segmentation |
| `"points"` | (P, 2) float32, rows and columns in pixels | photographs of sea lions |
| `"point_labels"` | (P,) int64 | with the points |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from coursekit import _validate as validate

SPLITS = ("train", "val", "test")
SOURCES = ("cifar10", "textures")
LOADED = ("camvid", "cifar10", "isbi2012", "nuclei", "pets", "sealions", "voc")
VOID = 255

Item = dict[str, Any]


@dataclass(frozen=True, eq=False)
class SmallImages(Dataset):
    """Labeled images in memory: a map-style data set whose items are `{"image", "label"}`.

    Attributes:
        name: the data set they are from.
        classes: a name for each label.
        images: (N, 3, H, W) uint8.
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


@dataclass(frozen=True, eq=False)
class Files(Dataset):
    """Items that are read from files each time they are asked for; `InMemory` keeps them.

    Attributes:
        name: the data set they are from.
        classes: a name for each label.
        split: "train", "val" or "test".
        keys: what tells one item from another, for example the name of its file.
        read: makes an item of a key.
    """

    name: str
    classes: Sequence[str]
    split: str
    keys: Sequence[str]
    read: Callable[[str], Item]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Item:
        return self.read(self.keys[index])

    def __repr__(self) -> str:
        return f"Files({self.name}, {self.split}: {len(self)} images, {len(self.classes)} classes)"


class InMemory(Dataset):
    """A data set each of whose items is read once and then kept; nobody may change an item in place.

    Args:
        dataset: map-style.

    Attributes:
        name, classes: those of the data set.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.name, self.classes = dataset.name, dataset.classes  # type: ignore[attr-defined]
        self._items: dict[int, Item] = {}

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        if index not in self._items:
            self._items[index] = self.dataset[index]
        return dict(self._items[index])

    def __repr__(self) -> str:
        return f"InMemory({self.dataset!r})"


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
    """In words, where a data set comes from on this machine; "small_images" says which of the two it is.

    Raises:
        ValueError: an unknown data set.
    """
    if name == "small_images":
        cifar10 = import_module("coursekit.data.cifar10")
        name = "cifar10" if cifar10.available() else "textures"
    if name in LOADED:
        return import_module(f"coursekit.data.{name}").whereabouts()
    if name not in _WORDS:
        raise validate.refuse("name", f"one of small_images, {', '.join([*_WORDS, *LOADED])}", repr(name))
    return _WORDS[name]


def here(name: str) -> bool:
    """Whether a data set can be had without a network: generated, installed with a library, or on this machine.

    Raises:
        ValueError: an unknown data set.
    """
    from coursekit.data._files import ABSENT

    return ABSENT not in whereabouts(name)


def check_split(split: str, splits: Sequence[str] = SPLITS) -> str:
    """`split`, if it is one of `splits`."""
    if split not in splits:
        raise validate.refuse("split", f"one of {', '.join(splits)}", repr(split))
    return split


_WORDS = {
    "textures": "textures, cut from photographs that ship with scikit-image and scikit-learn",
    "photographs": "photographs that ship with scikit-image and scikit-learn",
    "scenes": "scenes, generated here",
    "cells": "cells, generated here",
}
