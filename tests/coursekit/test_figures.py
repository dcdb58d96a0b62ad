import io
import subprocess
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from coursekit import figures


def pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_importing_the_package_imports_no_plotting():
    heavy = "matplotlib skimage sklearn scipy ipywidgets IPython PIL torchvision"
    code = (
        "import sys, torch, torch.utils.data, coursekit.notebook, coursekit.training, coursekit.unet\n"
        f"print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_show_closes_pyplot_figures_and_returns_nothing(capsys):
    from matplotlib import pyplot

    figure, _ = pyplot.subplots()
    assert figures.show(figure, alt="an empty pair of axes") is None
    assert pyplot.get_fignums() == []
    assert capsys.readouterr().out == ""


def test_image_element_carries_an_escaped_description():
    element = figures.image_html(figures.curves({"a": [1, 2]}, "x", "y"), 'the "loss" <falls>')
    assert 'alt="the &quot;loss&quot; &lt;falls&gt;"' in element
    assert "base64,iVBOR" in element


def test_grid_shows_every_image_once():
    black, white = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((3, 8, 8), 255, dtype=torch.uint8)
    red = torch.stack([torch.ones(8, 8), torch.zeros(8, 8), torch.zeros(8, 8)])
    figure = figures.grid([black, white, red, torch.full((8, 8), 0.5), torch.zeros(1, 8, 8)], columns=3)
    assert len(figure.axes) == 6
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1, 1, 0]
    shown = pixels(figure)
    for color in [(0, 0, 0), (255, 255, 255), (255, 0, 0), (128, 128, 128)]:
        assert (np.abs(shown.astype(int) - color).max(-1) <= 1).mean() > 0.02


def test_grid_limits_stretch_the_values():
    figure = figures.grid([torch.tensor([[-2.0, 0.0, 2.0]])], limits=(-2, 2))
    assert np.asarray(figure.axes[0].images[0].get_array()).ravel().tolist() == [0, 0.5, 1]


def test_curves_differ_in_dash_as_well_as_color():
    figure = figures.curves({"a": [1, 2], "b": ([0, 5], [1, float("nan")])}, "step", "loss", log=True)
    lines = figure.axes[0].lines
    assert len({line.get_linestyle() for line in lines}) == len({line.get_color() for line in lines}) == 2
    assert lines[1].get_xdata().tolist() == [0, 5]
    assert figure.axes[0].get_yscale() == "log"


def test_colors_can_be_told_apart():
    values = [np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in figures.COLORS.values()]
    lightness = [v @ [0.2126, 0.7152, 0.0722] for v in values]
    assert all(abs(a - b) > 15 for a, b in pairwise(lightness))
    assert figures.color(0) == figures.color(len(figures.COLORS))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_overlay_tints_labels_and_nothing_else(dtype):
    image = torch.full((3, 6, 7), 100, dtype=torch.uint8)
    labels = torch.zeros(6, 7, dtype=dtype)
    labels[2, 3], labels[4] = 2, 255
    tinted = figures.overlay_labels(image, labels, alpha=1.0)
    green = [int(figures.color(2)[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    assert tinted[:, 2, 3].tolist() == pytest.approx(green)
    torch.testing.assert_close(tinted[:, 0, 0], torch.full((3,), 100 / 255))
    assert (tinted[0, 4] == tinted[1, 4]).all()
    assert tinted[0, 4].unique().numel() == 2


def test_style_is_undone_afterwards():
    before = matplotlib.rcParams["axes.spines.top"]
    with figures.style():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert matplotlib.rcParams["axes.spines.top"] == before


def test_a_logarithmic_axis_spans_its_curves_also_where_a_linear_one_would_reach_below_zero():
    (axis,) = figures.curves({"a": [10.0, 0.1, 0.001]}, "x", "y", log=True).axes
    low, high = axis.get_ylim()
    assert 1e-4 < low < 1e-3
    assert 10 < high < 100
    (axis,) = figures.curves({"a": [10.0, 0.1]}, "x", "y", log=True, limits=(0.01, 50)).axes
    assert axis.get_ylim() == (0.01, 50)
