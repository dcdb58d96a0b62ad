"""What the data sets share: their splits and their items, in memory or read from files.

Each set is a map-style torch `Dataset` with `name` and `classes` (a class's place is its label). Its items are dicts of
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
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from coursekit import _validate as validate

SPLITS = ("train", "val", "test")
# The label of pixels that count nowhere.
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


def check_split(split: str, splits: Sequence[str] = SPLITS) -> str:
    """`split`, if it is one of `splits`."""
    if split not in splits:
        raise validate.refuse("split", f"one of {', '.join(splits)}", repr(split))
    return split
