import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from torch.nn import functional as F

from coursekit.unet import deform, elastic_deformation
from tests.coursekit.draws import randn, seeds

sides = st.integers(2, 17)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def by_scipy(image, labels, lattice):
    """The same deformation, read off by scipy at the displaced coordinates."""
    size = labels.shape
    field = F.interpolate(lattice[None].double(), size=size, mode="bicubic", align_corners=True)[0].numpy()
    coordinates = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")) + field
    warped = [map_coordinates(c, coordinates, order=1, mode="mirror") for c in image.double().numpy()]
    nearest = map_coordinates(labels.numpy(), np.rint(coordinates), order=0, mode="mirror")
    return torch.from_numpy(np.stack(warped)), torch.from_numpy(nearest)


@given(st.integers(1, 3), sides, sides, st.integers(2, 5), st.sampled_from([0.4, 3.0, 40.0]), seeds)
def test_is_what_scipy_reads_at_the_displaced_coordinates(channels, height, width, grid, sigma, seed):
    image = randn(seed, channels, height, width)
    labels = torch.arange(height * width).reshape(height, width)
    lattice = (sigma * torch.randn(2, grid, grid, generator=seeded(seed))).double()
    expected = by_scipy(image, labels, lattice)
    for got in (
        deform(image, labels, lattice),
        elastic_deformation(image, labels, grid, sigma, seeded(seed)),
    ):
        torch.testing.assert_close(got[0], expected[0], atol=1e-9, rtol=1e-9)
        assert torch.equal(got[1], expected[1])


@given(sides, sides, seeds)
def test_agrees_with_grid_sample(height, width, seed):
    image = randn(seed, 2, height, width)
    lattice = 3 * randn(seed + 1, 2, 3, 3)
    labels = torch.zeros(height, width, dtype=torch.int64)
    dy, dx = F.interpolate(lattice[None], size=(height, width), mode="bicubic", align_corners=True)[0]
    y = 2 * (torch.arange(height)[:, None] + dy) / (height - 1) - 1
    x = 2 * (torch.arange(width) + dx) / (width - 1) - 1
    where = torch.stack([x, y], -1)[None]
    expected = F.grid_sample(image[None], where, "bilinear", "reflection", align_corners=True)[0]
    torch.testing.assert_close(deform(image, labels, lattice)[0], expected, atol=1e-8, rtol=1e-8)


@given(sides, sides, st.sampled_from([torch.float16, torch.float32, torch.float64]), seeds)
def test_without_displacement_nothing_changes(height, width, dtype, seed):
    image, labels = randn(seed, 3, height, width).to(dtype), torch.randint(0, 255, (height, width))
    got = elastic_deformation(image, labels, sigma=0)
    assert torch.equal(got[0], image)
    assert torch.equal(got[1], labels)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool])
def test_no_new_label_and_no_new_dtype(dtype):
    big = 1 if dtype == torch.bool else torch.iinfo(dtype).max - 1
    labels = (torch.rand(31, 18, generator=seeded(0)) < 0.5).to(dtype) * big
    _, warped = elastic_deformation(torch.zeros(1, 31, 18), labels.to(dtype), sigma=9, generator=seeded(1))
    assert warped.dtype == dtype
    assert set(warped.unique().tolist()) <= {0, big}


def test_image_and_labels_share_one_field():
    rows = torch.arange(40.0)[:, None].expand(40, 60)
    ids = torch.arange(40 * 60).reshape(40, 60)
    image, labels = elastic_deformation(rows[None], ids, sigma=4, generator=seeded(2))
    assert ((labels // 60 - image[0]).abs() <= 0.5 + 1e-4).all()
    assert not torch.equal(labels, ids)


def test_displacements_have_the_stated_spread():
    lattice = torch.stack([
        5 * torch.randn(2, 3, 3, generator=seeded(seed)) for seed in range(3)
    ])  # fmt: skip
    height, width = 41, 61
    ramp = torch.arange(width).expand(height, width).double()
    image = torch.stack([torch.arange(height)[:, None].expand(height, width).double(), ramp])
    for seed in range(3):
        warped, _ = elastic_deformation(image, torch.zeros(height, width).long(), 3, 5.0, seeded(seed))
        # A ramp shows the displacement itself; the lattice's middle point lies on the middle pixel.
        middle = warped[:, 20, 30] - torch.tensor([20.0, 30.0])
        torch.testing.assert_close(middle, lattice[seed, :, 1, 1].double(), atol=1e-5, rtol=1e-5)


def test_integer_images_become_float():
    image, _ = elastic_deformation(torch.full((3, 9, 8), 200, dtype=torch.uint8), torch.zeros(9, 8).long())
    assert image.dtype == torch.float32
    torch.testing.assert_close(image, torch.full((3, 9, 8), 200.0))


@pytest.mark.gpu
def test_on_the_gpu():
    image, labels = randn(0, 3, 20, 15), torch.randint(0, 9, (20, 15))
    got = elastic_deformation(image.cuda(), labels.cuda(), generator=seeded(0))
    expected = elastic_deformation(image, labels, generator=seeded(0))
    assert got[0].is_cuda
    torch.testing.assert_close(got[0].cpu(), expected[0])
    assert (got[1].cpu() != expected[1]).sum() <= 1
