"""Cells: generated phase-contrast images of cells that touch, each with its own instance label."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from coursekit import _validate as validate

Array = np.ndarray

RADIUS = 13.0
SMALLEST = 30
HARMONICS = np.arange(2, 6)


class Cell(NamedTuple):
    """A cell before its neighbors press on it: a disc whose radius changes smoothly with the angle.

    Attributes:
        row, column: its center, in pixels.
        radius: its mean radius, in pixels.
        waves: (2, harmonics), the cosine and sine share of each of `HARMONICS` in its outline.
    """

    row: float
    column: float
    radius: float
    waves: Array

    def depth(self, rows: Array, columns: Array) -> Array:
        """1 at the center, 0 on the outline, negative outside."""
        y, x = rows - self.row, columns - self.column
        angle = np.arctan2(y, x)[..., None] * HARMONICS
        outline = 1 + np.cos(angle) @ self.waves[0] + np.sin(angle) @ self.waves[1]
        return 1 - np.hypot(y, x) / (self.radius * outline)


class Cells(Dataset):
    """Cells in clusters, as under a phase-contrast microscope.

    Items are `{"image": (1, size, size) uint8, "instances": (size, size) int64}`, 0 = background, cells numbered
    from 1. A line of background, at least one pixel wide also across corners, lies between touching cells: the
    connected components of `instances > 0` are the cells. In the image that line is hard to see.

    An item depends on its index and on what this was made with, apart from `count`: it is the same in any worker
    process, and under another `contrast` it has the same instances.

    Args:
        count: images.
        size: height and width, at least 32; cells keep their size of about 26 pixels.
        seed: other seeds make other cells.
        density: the share of the image, from 0 to 1, that the cells would cover if they did not overlap and all
            lay inside; there is always one cell.
        contrast: how bright the line between touching cells is, from 0 (nothing to see but the notches at its
            ends) to 1 (as bright as the halo around a cluster).

    Attributes:
        name: "cells".
        classes: the two classes of a pixel, background and cell.

    Raises:
        ValueError: a number out of range.
    """

    name = "cells"
    classes = ("background", "cell")

    def __init__(
        self, count: int, size: int = 128, seed: int = 0, density: float = 0.6, contrast: float = 0.35
    ) -> None:
        self.count = validate.whole("count", count, 1)
        self.size = validate.whole("size", size, 32)
        self.seed = validate.whole("seed", seed, 0)
        for name, value in (("density", density), ("contrast", contrast)):
            if validate.number(name, value) > 1:
                raise validate.refuse(name, "a share from 0 to 1", repr(value))
        self.density, self.contrast = density, contrast

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        what = f"{self.count} images of {self.size}×{self.size}"
        return f"Cells({what}, seed={self.seed}, density={self.density:g}, contrast={self.contrast:g})"

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        index = range(self.count)[index]
        rng = np.random.default_rng((self.seed, self.size, index))
        owner, depth = self._crowd(self._cells(rng))
        instances = _separated(owner)
        image = self._image(rng, owner, depth, instances)
        return {"image": torch.from_numpy(image[None]), "instances": torch.from_numpy(instances)}

    def _cells(self, rng: np.random.Generator) -> list[Cell]:
        """Cells that overlap at most by a third, most of them beside an earlier one."""
        area = math.pi * RADIUS**2
        wanted = max(round(self.density * self.size**2 / area), 1)
        cells: list[Cell] = []
        for _ in range(20 * wanted):
            if len(cells) == wanted:
                break
            radius = RADIUS * rng.uniform(0.7, 1.3)
            if cells and rng.random() < 0.8:
                beside = cells[rng.integers(len(cells))]
                angle, distance = rng.uniform(0, 2 * math.pi), 0.9 * (beside.radius + radius)
                row = beside.row + distance * math.sin(angle)
                column = beside.column + distance * math.cos(angle)
            else:
                row, column = rng.uniform(0, self.size, 2).tolist()
            inside = -radius / 2 < min(row, column) and max(row, column) < self.size + radius / 2
            if inside and all(
                math.hypot(row - other.row, column - other.column) > 0.75 * (radius + other.radius)
                for other in cells
            ):
                waves = rng.normal(0, 0.2 / HARMONICS, (2, len(HARMONICS)))
                cells.append(Cell(row, column, radius, waves))
        return cells

    def _crowd(self, cells: list[Cell]) -> tuple[Array, Array]:
        """For every pixel the cell that it lies deepest in, from 1, and how deep; 0 and 0 outside of all."""
        owner = np.zeros((self.size, self.size), np.int64)
        depth = np.zeros((self.size, self.size))
        for number, cell in enumerate(cells, start=1):
            rows, columns = (_around(c, 1.8 * cell.radius, self.size) for c in (cell.row, cell.column))
            own = cell.depth(
                np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)
            )
            deeper = own > depth[rows, columns]
            owner[rows, columns][deeper] = number
            depth[rows, columns][deeper] = own[deeper]
        return owner, depth

    def _image(self, rng: np.random.Generator, owner: Array, depth: Array, instances: Array) -> Array:
        from scipy.ndimage import distance_transform_edt, gaussian_filter, maximum_filter

        def grain(sigma: float) -> Array:
            """Smooth noise of standard deviation 1."""
            return 2 * math.sqrt(math.pi) * sigma * gaussian_filter(rng.standard_normal(owner.shape), sigma)

        # With the lines between touching cells, without what `_separated` dropped.
        inside = (owner > 0) & (maximum_filter(instances, 3) > 0)
        own_gray = rng.uniform(-14, 14, owner.max() + 1)[owner]
        cell = 105 + own_gray - 22 * np.sqrt(depth) + 14 * grain(1.2) + 8 * grain(3)
        ground = 118 + 4 * grain(1.2) + 5 * grain(4)
        halo = np.exp(-((distance_transform_edt(~inside) - 1.5) ** 2) / 8)
        image = np.where(inside, cell, ground + 75 * halo)
        image[inside & (instances == 0)] += 85 * self.contrast
        image = gaussian_filter(image, 0.8)

        across, down = rng.uniform(-0.35, 0.35, 2)
        ramp = np.linspace(-1, 1, self.size)
        image *= 1 + across * ramp + down * ramp[:, None]
        image += 5 * rng.standard_normal(image.shape)
        return np.clip(image, 0, 255).astype(np.uint8)


def _separated(owner: Array) -> Array:
    """Cells in one piece each, numbered from 1, none of which touches another, not even across a corner."""
    from scipy.ndimage import label, maximum_filter

    apart = np.where(maximum_filter(owner, 3) > owner, 0, owner)
    pieces, count = label(apart)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    owner_of = np.zeros(count + 1, np.int64)
    owner_of[pieces] = apart
    smallest_first = np.argsort(sizes, kind="stable")
    largest = dict(zip(owner_of[smallest_first].tolist(), smallest_first.tolist(), strict=True))
    kept = [piece for number, piece in largest.items() if number and sizes[piece] >= SMALLEST]
    return label(np.isin(pieces, kept))[0].astype(np.int64)


def _around(center: float, reach: float, size: int) -> slice:
    return slice(max(math.floor(center - reach), 0), min(math.ceil(center + reach) + 1, size))
