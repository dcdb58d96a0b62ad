import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from coursekit.data import scenes
from coursekit.data.items import SPLITS, VOID
from coursekit.data.scenes import CLASSES, Scenes
from coursekit.fcn import confusion_matrix, segmentation_scores


def polygon(shape):
    """Corners of a straight-edged object, counterclockwise as (x, y), or None."""
    r, w = shape.radius, shape.half_width
    box = [(1, -1), (1, 1), (-1, 1), (-1, -1)]
    corners = {
        "box": [(0.9 * r * x, 0.65 * r * y) for x, y in box],
        "bar": [(1.4 * r * x, w * y) for x, y in box],
        "triangle": [(0, -r), (r * math.sqrt(3) / 2, r / 2), (-r * math.sqrt(3) / 2, r / 2)],
    }.get(CLASSES[shape.label])
    if corners is None:
        return None
    turn = complex(math.cos(shape.angle), math.sin(shape.angle))
    turned = [complex(x, y) * turn for x, y in corners]
    return [(z.real + shape.column, z.imag + shape.row) for z in turned]


def distance(shape, row, column):
    """Signed distance of one pixel, from corners and edges."""
    corners = polygon(shape)
    if corners is None:
        d = math.dist((row, column), (shape.row, shape.column))
        inner = shape.radius - 2 * shape.half_width
        return d - shape.radius if CLASSES[shape.label] == "disc" else max(d - shape.radius, inner - d)
    outside = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = math.dist((x0, y0), (x1, y1))
        outside.append(((column - x0) * (y1 - y0) - (row - y0) * (x1 - x0)) / length)
    return max(outside)


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), size=st.integers(32, 64))
def test_labels_are_what_a_painter_paints(seed, size):
    data = Scenes(1, size, seed)
    labels = data[0]["labels"]
    for row in range(size):
        for column in range(size):
            expected, near = 0, False
            for shape in data.shapes(0):
                d = distance(shape, row, column)
                near |= abs(abs(d) - 1) < 1e-3
                if d < -1:
                    expected = shape.label
                elif d < 1:
                    expected = VOID
            assert near or labels[row, column] == expected


@pytest.mark.parametrize("label", range(1, len(CLASSES)))
def test_no_part_of_an_object_lies_beyond_its_reach(label):
    shape = scenes.Shape(label, 0.0, 0.0, 20.0, 4.0, 0.7)
    for angle in range(0, 360, 3):
        row, column = (shape.reach + 1e-3) * math.sin(angle), (shape.reach + 1e-3) * math.cos(angle)
        assert distance(shape, row, column) > 0


@pytest.mark.parametrize("split", SPLITS)
def test_items_are_named_fields(split):
    data = Scenes(40, 96, split=split)
    assert len(data) == 40
    assert data.name == "scenes"
    assert len(data.classes) == 6
    assert "40 images of 96×96" in repr(data)
    batch = next(iter(DataLoader(data, 40)))
    assert batch["image"].shape == (40, 3, 96, 96)
    assert batch["image"].dtype == torch.uint8
    assert batch["labels"].shape == (40, 96, 96)
    assert batch["labels"].dtype == torch.int64
    shares = batch["labels"].flatten().bincount(minlength=256) / batch["labels"].numel()
    assert shares.nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5, 255]
    assert 0.4 < shares[0] < 0.75
    assert shares[255] < 0.15
    assert all(image.float().std() > 5 for image in batch["image"])


def test_an_item_depends_on_its_index_and_the_arguments_alone():
    data = Scenes(5, 64, seed=3)
    later = data[4]
    others = [Scenes(9, 64, seed=3)[4], pickle.loads(pickle.dumps(data))[4], data[-1], data[4]]
    for other in others:
        assert torch.equal(later["image"], other["image"])
        assert torch.equal(later["labels"], other["labels"])
    for other in (Scenes(5, 64, seed=2)[4], Scenes(5, 64, 3, "val")[4], data[3]):
        assert not torch.equal(later["labels"], other["labels"])
    with pytest.raises(IndexError):
        data[5]
    assert len(list(data)) == 5


def test_workers_make_the_same_scenes():
    data = Scenes(6, 48)
    alone, shared = (list(DataLoader(data, 2, num_workers=workers)) for workers in (0, 2))
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["labels"], other["labels"])


@pytest.mark.parametrize("split", SPLITS)
def test_textures_come_from_the_regions_of_the_split(split, monkeypatch):
    def only_this_split(name):
        image = torch.zeros(3, 1000, 1200, dtype=torch.uint8)
        for photograph, regions in scenes.REGIONS.values():
            for top, left, bottom, right in regions[split] if photograph == name else []:
                image[:, top:bottom, left:right] = 200
        return image

    monkeypatch.setattr(scenes, "load", only_this_split)
    textures = Scenes(1, 64, split=split)._textures
    assert set(textures) == {*scenes.BACKGROUNDS, *scenes.OBJECTS.values()}
    for regions in textures.values():
        assert all((region == 200).all() and min(region.shape[1:]) >= 64 for region in regions)


def test_color_alone_does_not_tell_the_classes():
    def colors(data):
        items = [data[i] for i in range(len(data))]
        bins = torch.stack([item["image"] for item in items]).long() // 32
        return bins[:, 0] * 64 + bins[:, 1] * 8 + bins[:, 2], torch.stack([item["labels"] for item in items])

    bins, labels = colors(Scenes(150, 64))
    valid = labels != VOID
    counts = torch.zeros(512, 6)
    counts.index_put_((bins[valid], labels[valid]), torch.ones(()), accumulate=True)
    bins, labels = colors(Scenes(60, 64, seed=1))
    for weights in (torch.ones(6), counts.sum() / counts.sum(0)):
        prediction = (counts * weights).argmax(1)[bins]
        assert segmentation_scores(confusion_matrix(prediction, labels, 6))["mean_iou"] < 0.25
