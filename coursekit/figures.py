"""Figures in one style: image grids, curves, label overlays, shown with a description for those who cannot see."""

import base64
import html
import io
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coursekit import _validate as validate
from coursekit._display import emit, in_notebook
from coursekit.data.items import VOID

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

# Okabe and Ito 2008, in an order in which neighbors differ in lightness too; black is for text.
COLORS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "sky": "#56B4E9",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "yellow": "#F0E442",
    "black": "#000000",
}

_STYLE = {
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "image.interpolation": "nearest",
    "image.cmap": "gray",
}


def style() -> AbstractContextManager[None]:
    """The course's look for any matplotlib figure made inside `with style():`."""
    import matplotlib

    return matplotlib.rc_context(_settings())


def use_style() -> None:
    """The course's look for every matplotlib figure from here on."""
    import matplotlib

    matplotlib.rcParams.update(_settings())


def color(index: int) -> str:
    """The color of a class or curve as "#rrggbb"; after the last one they repeat."""
    return list(COLORS.values())[index % len(COLORS)]


def show(figure: "Figure", alt: str) -> None:
    """Show a figure under the cell with a text that says what it shows, and close it.

    Args:
        figure: a matplotlib figure.
        alt: what a reader who cannot see the figure should know of it.

    Raises:
        ValueError: `alt` is empty.
    """
    if not isinstance(alt, str) or not alt.strip():
        raise validate.refuse("alt", "a description of the figure", repr(alt))
    try:
        if in_notebook():
            emit({"text/html": image_html(figure, alt), "text/plain": alt})
    finally:
        # Left open, the inline backend would show it a second time, without its description.
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            pyplot.close(figure)


def image_html(figure: "Figure", alt: str) -> str:
    """A figure as an `<img>` element that carries its pixels and its description."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(alt, quote=True)
    return f'<img alt="{text}" src="data:image/png;base64,{data}" style="max-width: 100%; height: auto">'


def grid(
    images: Tensor | Sequence[Tensor],
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    cell: float = 1.3,
    limits: tuple[float, float] | None = None,
) -> "Figure":
    """Images side by side, each as large as the others.

    Args:
        images: each (H, W), (1, H, W) or (3, H, W); uint8, or floats that are shown from 0 to 1.
        titles: one for each image.
        columns: images a row; None is at most eight.
        cell: width of an image, in inches.
        limits: values shown as black and white, instead of 0 and 1; for one channel also beyond them.

    Raises:
        ValueError: no image, one of another shape, or another number of titles.
    """
    pictures = [_picture(image, limits) for image in images]
    if not pictures:
        raise validate.refuse("images", "at least one image", "none")
    if titles is not None and len(titles) != len(pictures):
        raise validate.refuse("titles", f"one for each of the {len(pictures)} images", len(titles))
    columns = validate.whole("columns", min(len(pictures), 8) if columns is None else columns, 1)
    rows = math.ceil(len(pictures) / columns)
    tallest = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    line = 0.25 * (1 + max(title.count("\n") for title in titles)) if titles else 0.08
    with style():
        figure = _figure(columns * cell, rows * (cell * tallest + line))
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes:
            axis.axis("off")
        for index, (axis, picture) in enumerate(zip(axes, pictures, strict=False)):
            axis.imshow(picture, vmin=0, vmax=1)
            if titles is not None:
                axis.set_title(titles[index], fontsize=9, pad=3)
    return figure


def curves(
    series: Mapping[str, Sequence[float] | tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    log: bool = False,
    limits: tuple[float, float] | None = None,
    size: tuple[float, float] = (6.0, 3.2),
) -> "Figure":
    """Named curves in one pair of axes; what is not finite leaves a gap.

    Args:
        series: for each label the values, or a pair (x, values).
        xlabel: what runs along x.
        ylabel: what is measured, with its unit.
        title: above the axes.
        log: a logarithmic y axis.
        limits: lowest and highest y.
        size: width and height, in inches.

    Raises:
        ValueError: no series.
    """
    if not series:
        raise validate.refuse("series", "at least one curve", "none")
    with style():
        figure = _figure(*size)
        axis = figure.subplots()
        # Before the curves and their limits, which a linear axis would extend below zero.
        if log:
            axis.set_yscale("log")
        for index, (label, values) in enumerate(series.items()):
            x, y = values if isinstance(values, tuple) else (range(len(values)), values)
            # Lines differ in more than color, for readers who see none.
            dash = ("-", "--", "-.", ":")[index % 4]
            marker = "o" if len(y) == 1 else ""
            axis.plot(x, y, dash, color=color(index), marker=marker, label=label)
        axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
        if limits is not None:
            axis.set_ylim(limits)
        if len(series) > 1:
            axis.legend()
    return figure


def overlay_labels(image: Tensor, labels: Tensor, alpha: float = 0.5, background: int | None = 0) -> Tensor:
    """An image tinted with the color of each pixel's label.

    Args:
        image: (3, H, W) or (1, H, W); uint8, or floats from 0 to 1.
        labels: (H, W) integers; void (255) is hatched in gray.
        alpha: strength of the tint, from 0 to 1.
        background: the label that stays untinted; None for none.

    Returns:
        (3, H, W) float32 from 0 to 1; the color of label l is `color(l)`.

    Raises:
        ValueError: a shape or dtype does not fit.
    """
    validate.tensor("image", image, ["(C, H, W)"])
    validate.integers("labels", labels, ["(H, W)"])
    if image.shape[1:] != labels.shape:
        expected = f"of the size of image, {tuple(image.shape[1:])}"
        raise validate.refuse("labels", expected, validate.shape_of(labels))
    base = (image / 255 if image.dtype == torch.uint8 else image).float().expand(3, -1, -1)
    palette = torch.tensor([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in COLORS.values()])
    tint = palette.to(image.device)[labels.long() % len(palette)].permute(2, 0, 1)

    rows, columns = (torch.arange(size, device=image.device) for size in labels.shape)
    hatch = ((rows[:, None] + columns) % 6 < 2).float() * 0.4 + 0.4
    tint = torch.where(labels == VOID, hatch, tint)
    untinted = torch.zeros_like(labels, dtype=torch.bool) if background is None else labels == background
    return torch.where(untinted, base, (1 - alpha) * base + alpha * tint).clamp(0, 1)


def _settings() -> Any:
    from cycler import cycler

    return {**_STYLE, "axes.prop_cycle": cycler(color=list(COLORS.values()))}


def _figure(width: float, height: float) -> "Figure":
    # Not pyplot's: that one would also keep it, and show it a second time at the end of the cell.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _picture(image: Tensor, limits: tuple[float, float] | None) -> "np.ndarray":
    """An image as matplotlib wants it, from 0 to 1: (H, W), or (H, W, 3)."""
    if not isinstance(image, Tensor) or image.ndim not in (2, 3):
        raise validate.refuse("images", "of shape (H, W), (1, H, W) or (3, H, W)", validate.shape_of(image))
    image = image.detach().cpu()
    if image.ndim == 3 and image.shape[0] not in (1, 3):
        raise validate.refuse("images", "of 1 or 3 channels", validate.shape_of(image))
    low, high = limits or (0, 255 if image.dtype == torch.uint8 else 1)
    picture = ((image.float() - low) / (high - low)).clamp(0, 1)
    if picture.ndim == 2:
        return picture.numpy()
    return picture[0].numpy() if len(picture) == 1 else picture.permute(1, 2, 0).numpy()
