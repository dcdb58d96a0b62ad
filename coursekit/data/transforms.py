"""Joint transforms: what happens to an image happens to its labels, its instances and its points."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from coursekit import _validate as validate
from coursekit.data.items import VOID, Item

MAPS = {"labels": VOID, "instances": 0}

Transform = Callable[[Item, torch.Generator | None], Item]
Size = int | tuple[int, int]

# An item is a dict with "image" (C, H, W) and, where it has them, "labels" and "instances" (H, W) and "points"
# (P, 2) in rows and columns, the center of the first pixel at (0, 0), with "point_labels" (P,). Other fields
# pass through. A transform returns a new dict; random ones draw from `generator`, None is torch's global one.


@dataclass(frozen=True)
class Compose:
    """Transforms one after the other."""

    transforms: Sequence[Transform]

    def __call__(self, item: Item, generator: torch.Generator | None = None) -> Item:
        for transform in self.transforms:
            item = transform(item, generator)
        return item


@dataclass(frozen=True)
class RandomFlip:
    """Left and right exchanged, or top and bottom, in a share of the items.

    Args:
        probability: that share.
        vertical: exchange top and bottom.
    """

    probability: float = 0.5
    vertical: bool = False

    def __post_init__(self) -> None:
        if validate.number("probability", self.probability) > 1:
            raise validate.refuse("probability", "at most 1", repr(self.probability))

    def __call__(self, item: Item, generator: torch.Generator | None = None) -> Item:
        from torchvision.transforms.v2 import functional as F

        height, width = _size(item)
        if _uniform(generator) >= self.probability:
            return dict(item)
        flip = F.vertical_flip if self.vertical else F.horizontal_flip
        axis, last = (0, height - 1) if self.vertical else (1, width - 1)

        def move(points: Tensor) -> Tensor:
            points = points.clone()
            points[:, axis] = last - points[:, axis]
            return points

        return _map(item, flip, lambda maps, fill: flip(maps), move)


@dataclass(frozen=True)
class Resize:
    """Another size: images bilinear with antialiasing, label maps nearest, so that no label and no void is mixed.

    Args:
        size: a side, or (height, width), in pixels.
    """

    size: Size

    def __post_init__(self) -> None:
        _pair(self.size)

    def __call__(self, item: Item, generator: torch.Generator | None = None) -> Item:
        return _resized(item, _pair(self.size))


@dataclass(frozen=True)
class RandomScale:
    """Both sides times one random factor; what follows is usually `RandomCrop`.

    Args:
        smallest, largest: bounds of the factor, which is uniform between them.
    """

    smallest: float = 0.5
    largest: float = 2.0

    def __post_init__(self) -> None:
        if validate.number("smallest", self.smallest) == 0:
            raise validate.refuse("smallest", "a positive number", repr(self.smallest))
        validate.number("largest", self.largest, self.smallest)

    def __call__(self, item: Item, generator: torch.Generator | None = None) -> Item:
        factor = self.smallest + (self.largest - self.smallest) * _uniform(generator)
        height, width = (max(round(side * factor), 1) for side in _size(item))
        return _resized(item, (height, width))


@dataclass(frozen=True)
class RandomCrop:
    """A part of the image, anywhere; one that is too small is first extended at the right and the bottom.

    It is extended by `fill` in the image, by void (255) in "labels" and by 0 in "instances". Points outside are
    left out, with their labels.

    Args:
        size: a side, or (height, width), in pixels.
        fill: value of the image where it had no pixel.
    """

    size: Size
    fill: float = 0

    def __post_init__(self) -> None:
        _pair(self.size)

    def __call__(self, item: Item, generator: torch.Generator | None = None) -> Item:
        from torchvision.transforms.v2 import functional as F

        height, width = _pair(self.size)
        below, right = (
            max(wanted - side, 0) for wanted, side in zip((height, width), _size(item), strict=True)
        )
        top, left = (
            int(_uniform(generator) * (max(side - wanted, 0) + 1))
            for wanted, side in zip((height, width), _size(item), strict=True)
        )

        def cut(maps: Tensor, fill: float) -> Tensor:
            if below or right:
                maps = F.pad(maps, [0, 0, right, below], fill=fill)
            return F.crop(maps, top, left, height, width)

        item = _map(
            item, lambda image: cut(image, self.fill), cut, lambda points: points - _like(points, top, left)
        )
        if "points" in item:
            points = item["points"]
            inside = ((points > -0.5) & (points < _like(points, height - 0.5, width - 0.5))).all(1)
            item["points"] = points[inside]
            if "point_labels" in item:
                item["point_labels"] = item["point_labels"][inside]
        return item


@dataclass(frozen=True)
class Normalize:
    """The image as float32 from 0 to 1, minus a mean, over a standard deviation, each per channel.

    Args:
        mean: in units of the range from 0 to 1.
        std: likewise, positive.
    """

    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        for value in self.std:
            if validate.number("std", value) == 0:
                raise validate.refuse("std", "positive numbers", repr(value))

    def __call__(self, item: Item, generator: torch.Generator | None = None) -> Item:
        from torchvision.transforms.v2 import functional as F

        _size(item)
        image = F.to_dtype(item["image"], torch.float32, scale=True)
        channels = len(image)
        mean, std = list(self.mean), list(self.std)
        if not {len(mean), len(std)} <= {1, channels}:
            expected = f"of {len(mean)} and {len(std)} channels, as mean and std are"
            raise validate.refuse("image", expected, validate.shape_of(image))
        mean, std = (values * (channels // len(values)) for values in (mean, std))
        return item | {"image": F.normalize(image, mean, std)}


class Transformed(Dataset):
    """A data set whose items go through a transform each time they are asked for.

    Args:
        dataset: map-style, with items as this module describes them.
        transform: called with an item and `generator`.
        generator: of random transforms; None is torch's global one. In a worker process it is always the
            global one there, which a `DataLoader` seeds apart in each worker, from its own `generator`.

    Attributes:
        name, classes: those of the data set.
    """

    def __init__(
        self, dataset: Dataset, transform: Transform, generator: torch.Generator | None = None
    ) -> None:
        if not callable(transform):
            raise validate.refuse("transform", "callable", type(transform).__name__)
        self.dataset, self.transform, self.generator = dataset, transform, generator

    @property
    def name(self) -> str:
        return self.dataset.name  # type: ignore[attr-defined]

    @property
    def classes(self) -> Sequence[str]:
        return self.dataset.classes  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        generator = self.generator if get_worker_info() is None else None
        return self.transform(self.dataset[index], generator)

    def __repr__(self) -> str:
        return f"Transformed({self.dataset!r}, {self.transform!r})"


def _map(
    item: Item,
    of_image: Callable[[Tensor], Tensor],
    of_map: Callable[[Tensor, int], Tensor],
    of_points: Callable[[Tensor], Tensor],
) -> Item:
    """A new item; label maps are handed over as (1, H, W), with what stands for nothing in them."""
    new = item | {"image": of_image(item["image"])}
    for name, nothing in MAPS.items():
        if name in item:
            new[name] = of_map(item[name][None], nothing)[0]
    if "points" in item:
        new["points"] = of_points(item["points"])
    return new


def _resized(item: Item, size: tuple[int, int]) -> Item:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    before = _size(item)

    def nearest(maps: Tensor, nothing: int) -> Tensor:
        return F.resize(maps, list(size), InterpolationMode.NEAREST_EXACT)

    def move(points: Tensor) -> Tensor:
        factors = _like(points, size[0] / before[0], size[1] / before[1])
        return (points + 0.5) * factors - 0.5

    def bilinear(image: Tensor) -> Tensor:
        # torch 2.15 fails on some uint8 images of one pixel's width.
        resized = F.resize(validate.as_float(image), list(size), antialias=True)
        return resized if image.is_floating_point() else resized.round().to(image.dtype)

    return _map(item, bilinear, nearest, move)


def _size(item: Item) -> tuple[int, int]:
    """Height and width, of every field the same."""
    if not isinstance(item, dict) or "image" not in item:
        raise validate.refuse("item", "a dict with an image", f"{type(item).__name__}")
    height, width = validate.tensor("image", item["image"], ["(C, H, W)"]).shape[1:]
    for name in MAPS:
        if name in item:
            maps = validate.integers(name, item[name], ["(H, W)"])
            if maps.shape != (height, width):
                raise validate.refuse(
                    name, f"of the image's size, {(height, width)}", validate.shape_of(maps)
                )
    if "points" in item:
        points = item["points"]
        if not isinstance(points, Tensor) or not points.is_floating_point() or points.shape[1:] != (2,):
            raise validate.refuse("points", "floating-point, of shape (P, 2)", validate.shape_of(points))
    return height, width


def _pair(size: Size) -> tuple[int, int]:
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, tuple | list) else ()
    if len(sides) != 2:
        raise validate.refuse("size", "a side or (height, width)", repr(size))
    height, width = (validate.whole("size", side, 1) for side in sides)
    return height, width


def _uniform(generator: torch.Generator | None) -> float:
    device = "cpu" if generator is None else generator.device
    return torch.rand((), generator=generator, device=device, dtype=torch.float64).item()


def _like(points: Tensor, row: float, column: float) -> Tensor:
    return points.new_tensor([row, column])
