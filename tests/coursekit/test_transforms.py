import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.data import DataLoader

from coursekit.data.scenes import Scenes
from coursekit.data.transforms import (
    Compose,
    Normalize,
    RandomCrop,
    RandomFlip,
    RandomScale,
    Resize,
    Transformed,
)

sides = st.integers(1, 40)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def item(height, width, points=5):
    """Labels that the image shows too, an instance map of one id a pixel, and points on pixels."""
    labels = torch.randint(0, 6, (height, width), generator=seeded(1))
    labels[torch.rand(height, width, generator=seeded(2)) < 0.1] = 255
    where = torch.stack([torch.randint(side, (points,), generator=seeded(3)) for side in (height, width)], 1)
    instances = torch.arange(1, height * width + 1).reshape(height, width)
    return {
        "image": labels.expand(3, -1, -1).to(torch.uint8),
        "labels": labels,
        "instances": instances,
        "points": where.float(),
        "point_labels": instances[where[:, 0], where[:, 1]],
        "label": 4,
    }


def check_that_everything_moved_alike(new):
    inside = new["instances"] > 0
    assert torch.equal(new["image"][0][inside].long(), new["labels"][inside])
    rows, columns = new["points"].long().unbind(1)
    assert torch.equal(new["points"], new["points"].round())
    assert torch.equal(new["instances"][rows, columns], new["point_labels"])
    assert new["label"] == 4


@given(height=sides, width=sides, vertical=st.booleans())
def test_a_flip_moves_everything_alike_and_twice_is_the_identity(height, width, vertical):
    old = item(height, width)
    before = {name: torch.as_tensor(value).clone() for name, value in old.items()}
    flip = RandomFlip(1.0, vertical)
    new = flip(old, seeded())
    check_that_everything_moved_alike(new)
    assert torch.equal(new["labels"], old["labels"].flip(0 if vertical else 1))
    back = flip(new, seeded())
    for name, value in before.items():
        assert torch.equal(torch.as_tensor(old[name]), value)
        assert torch.equal(torch.as_tensor(back[name]), value)


def test_flips_happen_in_their_share():
    old, generator = item(1, 2), seeded()
    flip = RandomFlip(0.3)
    flipped = sum(not torch.equal(flip(old, generator)["labels"], old["labels"]) for _ in range(400))
    assert 90 < flipped < 150


@given(height=sides, width=sides, size=st.tuples(sides, sides), seed=st.integers(0, 99))
def test_a_crop_moves_everything_alike_and_extends_by_void(height, width, size, seed):
    old = item(height, width)
    new = RandomCrop(size, fill=77)(old, seeded(seed))
    assert new["image"].shape == (3, *size)
    assert new["labels"].shape == new["instances"].shape == size
    check_that_everything_moved_alike(new)
    outside = new["instances"] == 0
    assert outside.sum() == size[0] * size[1] - min(size[0], height) * min(size[1], width)
    assert (new["labels"][outside] == 255).all()
    assert (new["image"][:, outside] == 77).all()
    kept = torch.isin(old["point_labels"], new["instances"].flatten())
    assert torch.equal(new["point_labels"], old["point_labels"][kept])


def test_every_crop_is_as_likely():
    old, generator, crop = item(4, 6), seeded(), RandomCrop((3, 4))
    first = torch.tensor([int(crop(old, generator)["instances"][0, 0]) for _ in range(1200)])
    ids, counts = first.unique(return_counts=True)
    assert ids.tolist() == [1, 2, 3, 7, 8, 9]
    assert counts.min() > 140


@given(height=sides, width=sides, size=st.tuples(sides, sides))
def test_resizing_takes_the_nearest_label_and_mixes_none(height, width, size):
    old = item(height, width)
    new = Resize(size)(old, None)
    for name in ("labels", "instances"):
        expected = torch.empty(size, dtype=torch.int64)
        for i in range(size[0]):
            for j in range(size[1]):
                row, column = (2 * i + 1) * height // (2 * size[0]), (2 * j + 1) * width // (2 * size[1])
                expected[i, j] = old[name][row, column]
        assert (new[name] != expected).float().mean() < 0.05
        assert torch.isin(new[name], old[name]).all()
    image = F.interpolate(old["image"][None].double(), size, mode="bilinear", antialias=True)[0]
    assert (new["image"].double() - image).abs().max() <= 0.5 + 1e-3
    assert new["image"].dtype == torch.uint8


@given(height=st.integers(4, 20), width=st.integers(4, 20), factor=st.floats(1.5, 4))
def test_points_move_with_what_they_point_at(height, width, factor):
    ramps = torch.stack(
        torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    )
    old = {"image": ramps, "points": torch.tensor([[2.0, 1.0], [height - 2.0, width - 3.0]])}
    new = RandomScale(factor, factor)(old)
    rows, columns = new["points"].unbind(1)
    size = torch.tensor(new["image"].shape[:0:-1]).float()
    grid = (2 * torch.stack([columns, rows], 1) + 1) / size - 1
    seen = F.grid_sample(new["image"][None], grid[None, None], align_corners=False)[0, :, 0].T
    torch.testing.assert_close(seen, old["points"], atol=0.15, rtol=0)


@given(seed=st.integers(0, 99))
def test_a_random_scale_stays_in_its_bounds_and_keeps_the_shape(seed):
    new = RandomScale(0.5, 2)(item(40, 60), seeded(seed))
    height, width = new["labels"].shape
    assert 20 <= height <= 80
    assert abs(width - 1.5 * height) <= 1.5
    assert new["image"].shape[1:] == (height, width)


def test_normalizing():
    old = item(3, 5)
    new = Normalize((0.1, 0.2, 0.3), (1, 2, 4))(old)
    expected = torch.stack(
        [(old["image"][c] / 255 - m) / s for c, m, s in [(0, 0.1, 1), (1, 0.2, 2), (2, 0.3, 4)]]
    )
    torch.testing.assert_close(new["image"], expected)
    assert new["labels"] is old["labels"]
    torch.testing.assert_close(Normalize()(old)["image"], old["image"] / 255)


def test_the_generator_is_the_only_source_of_chance():
    transform = Compose([RandomScale(0.5, 1.5), RandomCrop(20), RandomFlip(), RandomFlip(vertical=True)])
    old = item(24, 28)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, other, different = (transform(old, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("image", "labels", "instances", "points", "point_labels"):
        assert torch.equal(one[name], other[name])
    assert not torch.equal(one["instances"], different["instances"])
    transform(old)
    assert not torch.equal(torch.get_rng_state(), state)


def test_an_image_without_points_or_labels_is_enough():
    transform = Compose([Resize(9), RandomCrop(12), RandomFlip(1.0), Normalize()])
    assert set(transform({"image": torch.zeros(1, 5, 6, dtype=torch.uint8)})) == {"image"}
    none = transform({"image": torch.zeros(1, 5, 6), "points": torch.zeros(0, 2)})
    assert none["points"].shape == (0, 2)


def test_a_transformed_data_set_draws_anew_each_time():
    scenes = Scenes(4, 48)
    data = Transformed(scenes, RandomCrop(32), seeded())
    assert len(data) == 4
    assert (data.name, data.classes) == (scenes.name, scenes.classes)
    assert "RandomCrop(size=32" in repr(data)
    one, again = data[0], data[0]
    assert not torch.equal(one["labels"], again["labels"])
    assert torch.equal(one["labels"], Transformed(scenes, RandomCrop(32), seeded())[0]["labels"])
    pickle.loads(pickle.dumps(data.transform))


def test_workers_draw_apart_and_repeatably():
    class Same(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"image": torch.arange(1e4).reshape(1, 100, 100)}

    data = Transformed(Same(), RandomCrop(1), seeded())

    def drawn(seed):
        return [int(batch["image"]) for batch in DataLoader(data, 1, num_workers=2, generator=seeded(seed))]

    assert len(set(drawn(0))) == 4
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


@pytest.mark.parametrize("size", [7, (5, 9)])
def test_a_square_needs_one_number(size):
    height, width = (size, size) if isinstance(size, int) else size
    for transform in (Resize(size), RandomCrop(size)):
        assert transform(item(11, 6))["labels"].shape == (height, width)
