"""U-Net: contracting and expanding path, and the tricks that train it on few images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from coursekit import _validate as validate


def elastic_deformation(
    image: Tensor,
    labels: Tensor,
    grid: int = 3,
    sigma: float = 10.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Bend an image and its labels by one smooth random displacement field.

    Args:
        image: (C, H, W).
        labels: (H, W) integers.
        grid: lattice points along each side; the outer ones lie on the image's corners.
        sigma: standard deviation of the displacement of a lattice point, in pixels.
        generator: source of the displacements, drawn in float32 as (row, column) × grid × grid on its device.

    Returns:
        The image, bilinear, in its dtype (float32 for integers), and the labels, nearest, in their dtype.

    Raises:
        ValueError: a shape, dtype or number does not fit.

    Source: Ronneberger, Fischer and Brox 2015, section 3.1.
    """
    validate.whole("grid", grid, 2)
    validate.number("sigma", sigma)
    device = "cpu" if generator is None else generator.device
    lattice = sigma * torch.randn(2, grid, grid, generator=generator, device=device, dtype=torch.float32)
    return deform(image, labels, lattice)


def deform(image: Tensor, labels: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
    """Bend an image and its labels by the displacements of a lattice of points.

    Args:
        image: (C, H, W).
        labels: (H, W) integers.
        lattice: (2, g, g), the row and column displacement of each point, in pixels: a pixel of the result is
            read at its own place plus its displacement. Between the points displacements are bicubic; the
            lattice's corners lie on the image's.

    Returns:
        The image, bilinear, and the labels, nearest; beyond the border both are mirrored, the edge pixel not
        repeated.

    Raises:
        ValueError: a shape or dtype does not fit.

    Source: Ronneberger, Fischer and Brox 2015, section 3.1.
    """
    image = validate.as_float(validate.tensor("image", image, ["(C, H, W)"]))
    validate.integers("labels", labels, ["(H, W)"])
    validate.floating("lattice", lattice, ["(2, g, g)"])
    if len(lattice) != 2:
        raise validate.refuse("lattice", "of shape (2, g, g)", validate.shape_of(lattice))
    height, width = labels.shape
    if image.shape[1:] != labels.shape:
        expected = f"of the size of image, {tuple(image.shape[1:])}"
        raise validate.refuse("labels", expected, validate.shape_of(labels))

    # Half precision could not tell the pixels of a large image apart.
    lattice = lattice.to(device=image.device, dtype=torch.promote_types(image.dtype, torch.float32))
    dy, dx = F.interpolate(lattice[None], size=(height, width), mode="bicubic", align_corners=True)[0]
    y = torch.arange(height, device=image.device)[:, None] + dy
    x = torch.arange(width, device=image.device) + dx
    return _bilinear(image, y, x), labels[_mirror(y.round(), height), _mirror(x.round(), width)]


def _bilinear(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The image (C, H, W) read between its pixels; at whole coordinates it is exactly the pixel."""
    height, width = image.shape[1:]
    top, left = y.floor(), x.floor()
    down, right = (y - top).to(image.dtype), (x - left).to(image.dtype)
    rows = _mirror(top, height), _mirror(top + 1, height)
    columns = _mirror(left, width), _mirror(left + 1, width)
    upper = image[:, rows[0], columns[0]] * (1 - right) + image[:, rows[0], columns[1]] * right
    lower = image[:, rows[1], columns[0]] * (1 - right) + image[:, rows[1], columns[1]] * right
    return upper * (1 - down) + lower * down


def _mirror(index: Tensor, size: int) -> Tensor:
    """Whole coordinates folded back into 0 … size − 1, as if mirrors stood on the first and last pixel."""
    period = max(2 * (size - 1), 1)
    index = index.long() % period
    return torch.minimum(index, period - index) if size > 1 else index
