import math

import pytest
import torch
from contract import Contract
from scipy import ndimage
from torch.nn import functional as F

from autograder.catalog.unet.elastic_deformation import EXERCISE
from autograder.oracle import evaluate
from autograder.oracle.exam import Exam


def bending(field, mode="bilinear"):
    """An answer whose displacements are field(h, w, grid, sigma, generator), read as they should be."""

    def elastic_deformation(image, labels, grid=3, sigma=10.0, generator=None):
        h, w = labels.shape
        dy, dx = field(h, w, grid, sigma, generator)
        y, x = torch.arange(h)[:, None] + dy, torch.arange(w) + dx
        where = torch.stack([2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1], -1)[None].double()

        def read(values, mode):
            return F.grid_sample(values.double()[None], where, mode, "reflection", align_corners=True)[0]

        dtype = image.dtype if image.is_floating_point() else torch.float32
        return read(image, mode).to(dtype), read(labels[None], "nearest")[0].round().to(labels.dtype)

    return elastic_deformation


def lattice(h, w, grid, sigma, generator, scale=(1.0, 1.0)):
    points = sigma * torch.randn(2, grid, grid, generator=generator, dtype=torch.float64)
    field = F.interpolate(points[None], size=(h, w), mode="bicubic", align_corners=True)[0]
    return field * torch.tensor(scale)[:, None, None]


def catmull_rom(h, w, grid, sigma, generator):
    points = sigma * torch.randn(2, grid, grid, generator=generator, dtype=torch.float64)

    def along(size):
        place = torch.linspace(0, grid - 1, size, dtype=torch.float64)
        low = place.long().clamp(max=grid - 2)
        t, m = place - low, torch.zeros(size, grid, dtype=torch.float64)
        weights = (
            (-(t**3) + 2 * t**2 - t) / 2,
            (3 * t**3 - 5 * t**2 + 2) / 2,
            (-3 * t**3 + 4 * t**2 + t) / 2,
            (t**3 - t**2) / 2,
        )
        for k, weight in enumerate(weights):
            m[torch.arange(size), (low + k - 1).clamp(0, grid - 1)] += weight
        return m

    return along(h) @ points @ along(w).T


def antialiased(h, w, grid, sigma, generator):
    points = sigma * torch.randn(1, 2, grid, grid, generator=generator, dtype=torch.float64)
    return F.interpolate(points, size=(h, w), mode="bicubic", antialias=True)[0]


def simard(h, w, grid, sigma, generator):
    noise = torch.rand(2, h, w, generator=generator, dtype=torch.float64).numpy() * 2 - 1
    smooth = torch.from_numpy(ndimage.gaussian_filter(noise, (0, 6, 6)))
    return sigma * smooth / smooth.std(dim=(1, 2), keepdim=True)


def shorter_side(h, w, *others):
    return lattice(h, w, *others, scale=((h - 1) / (min(h, w) - 1), (w - 1) / (min(h, w) - 1)))


class TestElasticDeformation(Contract):
    exercise_id = "elastic_deformation"

    def test_labels_read_exactly_between_two_pixels_are_nobodys_mistake(self):
        labels = EXERCISE.property("labels")
        for case in Exam(EXERCISE).cases(labels):
            image, given = case.args
            for read, shift in ((given, 0.5), (torch.zeros_like(given) + given[20, 20], 0.25)):
                moved = image.clone()
                moved[:2] += shift
                found = labels.judge(case, None, {"image": moved, "labels": read})
                # A quarter of a pixel away it is clear which label is the nearest.
                assert (found is None) == (shift == 0.5)

    @pytest.mark.parametrize(
        ("field", "name", "points"),
        [
            (catmull_rom, "other_cubic", 3.0),
            (antialiased, "corners_not_aligned", 3.0),
            (simard, "smoothed_noise", 3.0),
            (lambda *args: lattice(*args, scale=(0, 1)), "columns_only", 3.25),
            (lambda *args: lattice(*args, scale=(1, 0)), "rows_only", 3.25),
            (
                lambda h, w, *args: lattice(h, w, *args, scale=((h - 1) / (w - 1), 1)),
                "rows_by_the_width",
                3.25,
            ),
            (shorter_side, None, 3.25),
            (lambda *args: lattice(*args, scale=(math.sqrt(2), math.sqrt(0.02))), None, 3.25),
        ],
        ids=[
            "Catmull-Rom",
            "antialiased",
            "Simard",
            "columns",
            "rows",
            "rows by the width",
            "shorter side",
            "unequal",
        ],
    )
    def test_a_wrong_field_costs_its_own_claim(self, field, name, points):
        assert evaluate("elastic_deformation", bending(lattice)).correct
        verdict = evaluate("elastic_deformation", bending(field))
        assert (verdict.points, verdict.diagnosis) == (points, name)

    @pytest.mark.parametrize("mode", ["nearest", "bicubic"])
    def test_an_image_read_otherwise_has_the_field_that_it_should(self, mode):
        verdict = evaluate("elastic_deformation", bending(lattice, mode))
        assert (verdict.points, verdict.findings[0].claims) == (3.0, ("image",))

    def test_what_comes_back_as_it_was_earns_nothing(self):
        def elastic_deformation(image, labels, grid=3, sigma=10.0, generator=None):
            return image.clone(), labels.clone()

        verdict = evaluate("elastic_deformation", elastic_deformation)
        assert (verdict.points, verdict.diagnosis) == (0, "nothing_displaced")
