"""Scenes: generated images to segment, with real textures, occlusion, void borders and exact labels."""

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from coursekit import _validate as validate
from coursekit.data.items import SPLITS, VOID, check_split
from coursekit.data.photographs import load
from coursekit.data.textures import REGIONS

# Class -> its texture, a key of REGIONS; the label is the place in this list.
OBJECTS = {"disc": "petals", "box": "brick", "triangle": "tissue", "bar": "wood", "ring": "fur"}
CLASSES = ("background", *OBJECTS)
BACKGROUNDS = ("foliage", "galaxies", "grass", "gravel", "moon")

Floats = np.ndarray


class Shape(NamedTuple):
    """One object of a scene; lengths in pixels, the center of pixel (0, 0) at (0, 0).

    Attributes:
        label: its class, from 1.
        row, column: its center.
        radius: of the disc, of the ring's outer edge and of the circle through the triangle's corners; the box
            is 1.8 by 1.3 of it, the bar 2.8 long.
        half_width: of the bar, and of the ring's band.
        angle: by which it is turned, in radians.
    """

    label: int
    row: float
    column: float
    radius: float
    half_width: float
    angle: float

    @property
    def reach(self) -> float:
        """The distance from its center that no pixel of it exceeds."""
        match CLASSES[self.label]:
            case "box":
                return math.hypot(0.9, 0.65) * self.radius
            case "bar":
                return 1.4 * self.radius + self.half_width
            case _:
                return self.radius

    def signed_distance(self, rows: Floats, columns: Floats) -> Floats:
        """How far pixels lie outside this object, in pixels; negative inside."""
        y, x = rows - np.float32(self.row), columns - np.float32(self.column)
        cos, sin = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        u, v = cos * x + sin * y, cos * y - sin * x
        r, w = np.float32(self.radius), np.float32(self.half_width)
        match CLASSES[self.label]:
            case "disc":
                return np.sqrt(u * u + v * v) - r
            case "box":
                return np.maximum(np.abs(u) - np.float32(0.9) * r, np.abs(v) - np.float32(0.65) * r)
            case "triangle":
                return np.maximum(np.float32(math.sqrt(3) / 2) * np.abs(u) - v / 2, v) - r / 2
            case "bar":
                return np.maximum(np.abs(u) - np.float32(1.4) * r, np.abs(v) - w)
            case _:
                return np.abs(np.sqrt(u * u + v * v) - (r - w)) - w


class Scenes(Dataset):
    """Objects of five classes on textured ground, drawn one over the other.

    Items are `{"image": (3, size, size) uint8, "labels": (size, size) int64}`. Labels are 0 for the background,
    1 to 5 for the objects and 255 (void) within a pixel of an object's outline, as in PASCAL VOC. A class is told
    by its shape and by its texture, not by its color: that is drawn at random. Textures are cut from
    photographs, from other regions for each split, so that no texture pixel of training is seen again in a test.

    An item depends on `seed`, `split`, `size` and its index alone: it is the same in any worker process.

    Args:
        count: images.
        size: height and width, at least 32.
        seed: other seeds make other scenes.
        split: "train", "val" or "test", whose textures to take.

    Attributes:
        name: "scenes".
        classes: the name of each label.

    Raises:
        ValueError: a number out of range, or an unknown split.
    """

    name = "scenes"
    classes = CLASSES

    def __init__(self, count: int, size: int = 128, seed: int = 0, split: str = "train") -> None:
        self.count = validate.whole("count", count, 1)
        self.size = validate.whole("size", size, 32)
        self.seed = validate.whole("seed", seed, 0)
        self.split = check_split(split)

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        what = f"{self.count} images of {self.size}×{self.size}, {len(self.classes)} classes"
        return f"Scenes({what}, split={self.split!r}, seed={self.seed})"

    def shapes(self, index: int) -> list[Shape]:
        """The objects of a scene in the order in which they are drawn: a later one hides an earlier one."""
        return self._shapes(self._rng(index))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = self._rng(index)
        shapes = self._shapes(rng)
        size = self.size
        image = self._texture(rng, BACKGROUNDS[rng.integers(len(BACKGROUNDS))], size, size)
        labels = np.zeros((size, size), np.int64)
        for shape in shapes:
            # Two pixels more hold the soft edge and the void.
            rows, columns = (_around(center, shape.reach + 2, size) for center in (shape.row, shape.column))
            d = shape.signed_distance(
                np.arange(rows.start, rows.stop, dtype=np.float32)[:, None],
                np.arange(columns.start, columns.stop, dtype=np.float32),
            )
            texture = self._texture(rng, OBJECTS[CLASSES[shape.label]], *d.shape)
            behind = image[:, rows, columns]
            behind += np.clip(np.float32(0.5) - d, 0, 1) * (texture - behind)
            here = labels[rows, columns]
            here[d < 1] = VOID
            here[d < -1] = shape.label
        image += rng.uniform(0, 8) * rng.standard_normal((size, size), np.float32)
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        return {"image": torch.from_numpy(pixels), "labels": torch.from_numpy(labels)}

    def _rng(self, index: int) -> np.random.Generator:
        index = range(self.count)[index]
        return np.random.default_rng((self.seed, SPLITS.index(self.split), self.size, index))

    def _shapes(self, rng: np.random.Generator) -> list[Shape]:
        unit = self.size / 128
        return [
            Shape(
                label=int(rng.integers(1, len(CLASSES))),
                row=rng.uniform(0, self.size),
                column=rng.uniform(0, self.size),
                radius=unit * rng.uniform(16, 34),
                half_width=max(unit * rng.uniform(3, 5), 2.0),
                angle=rng.uniform(0, 2 * math.pi),
            )
            for _ in range(rng.integers(5, 10))
        ]

    def _texture(self, rng: np.random.Generator, name: str, height: int, width: int) -> Floats:
        """A crop (3, height, width), turned, in other colors, brighter on one side."""
        regions = self._textures[name]
        region = regions[rng.integers(len(regions))]
        top = rng.integers(region.shape[1] - height + 1)
        left = rng.integers(region.shape[2] - width + 1)
        crop = region[:, top : top + height, left : left + width]

        # Between gray and the photograph's own colors, then each channel on its own: color tells little.
        saturation = rng.uniform(0.3, 1)
        mix = (1 - saturation) / 3 + saturation * np.eye(3)
        mix *= rng.uniform(0.7, 1.3, (3, 1))
        across, down = rng.uniform(-0.7, 0.7), rng.uniform(-0.7, 0.7)
        light = 1 + across * _ramp(width) + down * _ramp(height)[:, None]
        colors = mix.astype(np.float32) @ (crop * light).reshape(3, -1) + rng.uniform(-25, 25)
        return colors.reshape(3, height, width)

    @cached_property
    def _textures(self) -> dict[str, list[Floats]]:
        """For each texture the regions of this split, turned in all eight ways, extended until a scene fits in."""
        return {name: self._regions(name) for name in (*BACKGROUNDS, *OBJECTS.values())}

    def _regions(self, name: str) -> list[Floats]:
        photograph, regions = REGIONS[name]
        image = load(photograph).numpy().astype(np.float32)
        turned = []
        for top, left, bottom, right in regions[self.split]:
            region = image[:, top:bottom, left:right]
            missing = [max(self.size - side, 0) for side in region.shape[1:]]
            region = np.pad(region, [(0, 0), *((0, more) for more in missing)], mode="symmetric")
            for way in (region, np.ascontiguousarray(region.swapaxes(1, 2))):
                turned += [way[:, ::down, ::across] for down in (-1, 1) for across in (-1, 1)]
        return turned


def _ramp(length: int) -> Floats:
    """From −½ to almost ½."""
    return np.arange(length, dtype=np.float32) / np.float32(length) - np.float32(0.5)


def _around(center: float, reach: float, size: int) -> slice:
    return slice(max(math.floor(center - reach), 0), min(math.ceil(center + reach) + 1, size))
