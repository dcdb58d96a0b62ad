import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch.utils.data import DataLoader

from coursekit.data.cells import SMALLEST, Cells


@given(
    seed=st.integers(0, 10**6), size=st.integers(32, 130), density=st.floats(0, 1), contrast=st.floats(0, 1)
)
def test_connected_components_are_the_cells(seed, size, density, contrast):
    item = Cells(3, size, seed, density, contrast)[1]
    assert item["image"].shape == (1, size, size)
    assert item["image"].dtype == torch.uint8
    assert item["instances"].dtype == torch.int64
    instances = item["instances"].numpy()
    components, count = ndimage.label(instances > 0)
    np.testing.assert_array_equal(components, instances)
    assert ndimage.label(instances > 0, np.ones((3, 3)))[1] == count
    assert (np.bincount(instances.ravel())[1:] >= SMALLEST).all()


def test_many_cells_touch_with_a_thin_line_between_them():
    cells = clusters = 0
    for item in Cells(20):
        mask = item["instances"].numpy() > 0
        cells += ndimage.label(mask)[1]
        clusters += ndimage.label(ndimage.binary_closing(np.pad(mask, 3), np.ones((3, 3))))[1]
    assert cells / 20 > 12
    assert clusters < cells / 2


def test_cells_are_darker_than_the_halo_around_them_and_lines_between_them_hard_to_see():
    inside, halo, line = [], [], []
    for item in Cells(10):
        image, mask = item["image"][0].numpy().astype(float), item["instances"].numpy() > 0
        closed = ndimage.binary_closing(mask, np.ones((3, 3)))
        distance = ndimage.distance_transform_edt(~closed)
        inside.append(image[mask].mean())
        halo.append(image[(distance > 1) & (distance < 3)].mean())
        line.append(image[closed & ~mask].mean())
    assert np.mean(inside) + 40 < np.mean(halo)
    assert np.mean(inside) + 4 < np.mean(line) < np.mean(inside) + 0.5 * (np.mean(halo) - np.mean(inside))


def test_contrast_changes_the_lines_and_nothing_else():
    faint, bright = (Cells(1, contrast=contrast)[0] for contrast in (0.1, 0.9))
    assert torch.equal(faint["instances"], bright["instances"])
    changed = (faint["image"] != bright["image"])[0].numpy()
    assert changed.any()
    line = ndimage.binary_closing(faint["instances"].numpy() > 0, np.ones((3, 3))) & (
        faint["instances"].numpy() == 0
    )
    assert not (changed & (ndimage.distance_transform_edt(~line) > 5)).any()


def test_density_is_about_the_share_that_cells_cover():
    shares = [
        np.mean([(item["instances"] > 0).float().mean() for item in Cells(10, density=density)])
        for density in (0.1, 0.3, 0.5)
    ]
    np.testing.assert_allclose(shares, (0.1, 0.3, 0.5), atol=0.15)
    assert shares == sorted(shares)


def test_an_item_depends_on_its_index_and_the_arguments_alone():
    data = Cells(5, 64, seed=3)
    later = data[4]
    for other in (Cells(9, 64, seed=3)[4], pickle.loads(pickle.dumps(data))[4], data[-1], data[4]):
        assert torch.equal(later["image"], other["image"])
        assert torch.equal(later["instances"], other["instances"])
    for other in (Cells(5, 64, seed=2)[4], data[3]):
        assert not torch.equal(later["instances"], other["instances"])
    with pytest.raises(IndexError):
        data[5]
    assert len(data) == len(list(data)) == 5
    assert data.name == "cells"
    assert len(data.classes) == 2
    assert "5 images of 64×64" in repr(data)


def test_workers_make_the_same_cells():
    data = Cells(6, 48)
    alone, shared = (list(DataLoader(data, 2, num_workers=workers)) for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"], other["instances"])
