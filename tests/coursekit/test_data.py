import hashlib
import io
import pickle
import tarfile
import zipfile
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from coursekit.data import _files, cifar10, here, photographs, small_images, textures, whereabouts
from coursekit.data.choice import LOADED
from coursekit.data.items import SPLITS
from coursekit.metrics import accuracy
from coursekit.training import fit


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_folder(root, per_class=4, zipped=True):
    """A small CIFAR-10 in the layout of the real one."""
    for part in ("train", "test"):
        folder = root / "cifar10"
        folder.mkdir(exist_ok=True)
        files = {f"{part}/{label}/{i:04}.jpg": jpeg(i) for label in cifar10.CLASSES for i in range(per_class)}
        if zipped:
            with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
            continue
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return root


@pytest.fixture
def folder(nowhere, monkeypatch):
    monkeypatch.setenv("COURSEKIT_DATA", str(write_folder(nowhere)))
    return nowhere / "cifar10"


def check_interface(data, name):
    assert data.name == name
    assert data.images.shape == (len(data), 3, 32, 32)
    assert data.images.dtype == torch.uint8
    assert data.labels.shape == (len(data),)
    assert data.labels.dtype == torch.int64
    assert data.labels.unique().tolist() == list(range(len(data.classes)))
    item = data[len(data) - 1]
    assert torch.equal(item["image"], data.images[-1])
    assert item["label"] == data.labels[-1]


@pytest.mark.parametrize("name", photographs.NAMES)
def test_photographs_need_no_network(name, nowhere):
    image = photographs.load(name)
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    assert min(image.shape[1:]) >= 300
    assert image.float().std() > 5


def test_photographs_are_a_data_set():
    data = photographs.photographs()
    assert len(data) == len(photographs.NAMES)
    assert torch.equal(data[2]["image"], photographs.load(photographs.NAMES[2]))
    assert f"{len(data)} images" in repr(data)


def test_a_photograph_that_is_missing_or_damaged_is_named(tmp_path, monkeypatch):
    library = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(photographs, "find_spec", lambda name: library)
    with pytest.raises(_files.DataError, match=r"cat is skimage/data/chelsea\.png, which is not in"):
        photographs.load("cat")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chelsea.png").write_bytes(b"no image")
    with pytest.raises(_files.DataError, match=r"chelsea\.png is damaged"):
        photographs.load("cat")


@pytest.mark.parametrize("split", SPLITS)
def test_textures(split, nowhere):
    data = textures.textures(split)
    check_interface(data, "textures")
    assert len(data) == (5000 if split == "train" else 1000)
    assert torch.equal(data.images, textures.textures(split).images)
    assert not torch.equal(data.images, textures.textures(split, seed=1).images)


def test_textures_of_different_splits_share_no_pixel():
    for photograph, regions in textures.REGIONS.values():
        height, width = photographs.load(photograph).shape[1:]
        covered = {}
        for split, boxes in regions.items():
            covered[split] = torch.zeros(height, width, dtype=torch.bool)
            for top, left, bottom, right in boxes:
                assert 0 <= top <= bottom - 32 <= height - 32
                assert 0 <= left <= right - 32 <= width - 32
                covered[split][top:bottom, left:right] = True
        for one, other in combinations(covered.values(), 2):
            assert not (one & other).any()
    assert len({photograph for photograph, _ in textures.REGIONS.values()}) == len(textures.CLASSES)


def test_texture_patches_stay_in_their_boxes():
    boxes = [(0, 10, 32, 60), (40, 0, 90, 33)]
    corners = textures._corners(boxes, 2000, torch.Generator().manual_seed(0))
    found = {tuple(corner) for corner in corners.tolist()}
    legal = {(0, left) for left in range(10, 29)} | {(top, left) for top in range(40, 59) for left in (0, 1)}
    assert found == legal


def test_textures_can_be_learned():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip
    fit(model, textures.textures("train", 60), steps=80, batch_size=50, lr=0.1)
    assert accuracy(model, textures.textures("test", 30)) > 0.4


def test_real_folder(real_data, nowhere, monkeypatch):
    root = (
        real_data if real_data and (real_data / "cifar10").is_dir() else write_folder(nowhere, per_class=30)
    )
    monkeypatch.setenv("COURSEKIT_DATA", str(root))
    assert whereabouts("small_images") == "CIFAR-10 (COURSEKIT_DATA)"
    splits = {split: small_images(split, per_class=3) for split in SPLITS}
    for data in splits.values():
        check_interface(data, "cifar10")
        assert data.labels.bincount().tolist() == [3] * 10
        assert data.images.float().std() > 20
    for one, other in combinations(splits.values(), 2):
        assert not torch.equal(one.images, other.images) or root == nowhere


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_zips_and_folders_alike(zipped, nowhere, monkeypatch):
    monkeypatch.setenv("COURSEKIT_DATA", str(write_folder(nowhere, 11, zipped)))
    train, val, test = (cifar10.cifar10(split) for split in SPLITS)
    assert [len(data) for data in (train, val, test)] == [90, 20, 110]
    expected = np.asarray(Image.open(io.BytesIO(jpeg(8))))
    np.testing.assert_array_equal(train.images[8].permute(1, 2, 0).numpy(), expected)
    assert train.labels[9] == 1
    np.testing.assert_array_equal(val.images[1], test.images[10])


def test_a_class_of_one_image_has_none_for_training(nowhere, monkeypatch):
    monkeypatch.setenv("COURSEKIT_DATA", str(write_folder(nowhere, per_class=1)))
    assert [len(cifar10.cifar10(split)) for split in SPLITS] == [0, 10, 10]


def test_a_damaged_archive_is_named(folder):
    archive = folder / "train.zip"
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(_files.DataError, match=r"train\.zip is damaged.*textures"):
        small_images("train")


def test_a_damaged_image_is_named(folder):
    with zipfile.ZipFile(folder / "test.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["test/deer/0002.jpg"] = files["test/deer/0002.jpg"][:100]
    with zipfile.ZipFile(folder / "test.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    assert len(small_images("test", per_class=2)) == 20
    with pytest.raises(_files.DataError, match=r"test/deer/0002\.jpg in .*test\.zip is damaged"):
        small_images("test")


def test_a_missing_part_is_named(folder):
    (folder / "test.zip").unlink()
    with pytest.raises(_files.DataError, match=r"cifar10 holds no image test/airplane/NNNN\.jpg"):
        small_images("test")


def test_textures_where_there_is_no_cifar(nowhere, capsys):
    assert small_images("val", 2).name == "textures"
    assert "textures" in whereabouts("small_images")
    with pytest.raises(_files.DataError, match=r"COURSEKIT_DATA.*download=True.*textures"):
        small_images("val", source="cifar10")
    assert small_images("val", 2, download=True).name == "textures"
    assert "no network" in capsys.readouterr().out


def test_where_every_data_set_comes_from_can_be_told(nowhere):
    for name in ("small_images", "photographs", "textures", "scenes", "cells", *LOADED):
        assert isinstance(whereabouts(name), str)
        assert here(name) == (name not in LOADED)


def test_the_source_can_be_chosen(folder):
    assert small_images("val").name == "cifar10"
    assert small_images("val", 2, source="textures").name == "textures"


def test_what_was_decoded_of_a_large_archive_is_kept(folder, monkeypatch):
    decoded = _files.cache_folder("cifar10")
    first = cifar10.cifar10("test")
    assert not decoded.exists()
    monkeypatch.setattr(cifar10, "MANY", 40)
    assert len(cifar10.cifar10("test", per_class=3)) == 30
    assert not decoded.exists()
    for _ in range(2):
        again = cifar10.cifar10("test")
        assert torch.equal(again.images, first.images)
        assert torch.equal(again.labels, first.labels)
        assert len(list(decoded.iterdir())) == 1

    def refuse(*arguments):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(cifar10, "_local", refuse)
        some = cifar10.cifar10("test", per_class=3)
        assert torch.equal(some.images, first.images.unflatten(0, (10, 4))[:, :3].flatten(0, 1))
        assert some.labels.bincount().tolist() == [3] * 10

    (kept,) = decoded.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert torch.equal(cifar10.cifar10("test").images, first.images)
    with zipfile.ZipFile(folder / "test.zip", "a") as archive:
        archive.writestr("test/truck/0004.jpg", jpeg(4))
    assert len(cifar10.cifar10("test")) == 41


def test_a_cache_that_cannot_be_written_is_no_error(folder, monkeypatch):
    monkeypatch.setattr(cifar10, "MANY", 0)
    _files.cache_folder("cifar10").parent.parent.write_text("a file where a folder should be")
    assert len(cifar10.cifar10("test")) == 40


def official_archive():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for number, name in enumerate(["test_batch", *(f"data_batch_{i}" for i in (2, 1, 3, 4, 5))]):
            data = np.random.default_rng(number).integers(0, 255, (20, 3072), dtype=np.uint8)
            content = pickle.dumps({"data": data, "labels": list(range(10)) * 2}, protocol=2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def serve(monkeypatch, content):
    def answer(url, timeout):
        assert url == cifar10.URL
        response = io.BytesIO(content)
        response.headers = {"Content-Length": str(len(content))}
        return response

    monkeypatch.setattr("urllib.request.urlopen", answer)


def test_download_once_then_read_from_the_cache(nowhere, monkeypatch):
    content = official_archive()
    serve(monkeypatch, content)
    monkeypatch.setattr(cifar10, "CHECKSUM", f"md5:{hashlib.md5(content).hexdigest()}")
    data = small_images("test", download=True)
    check_interface(data, "cifar10")
    expected = np.random.default_rng(0).integers(0, 255, (20, 3072), dtype=np.uint8)
    np.testing.assert_array_equal(data.images[2], expected[1].reshape(3, 32, 32))

    serve(monkeypatch, b"")
    assert "downloaded" in whereabouts("small_images")
    train = small_images("train", source="cifar10")
    assert len(train) == 90
    first = np.random.default_rng(2).integers(0, 255, (20, 3072), dtype=np.uint8)
    np.testing.assert_array_equal(train.images[0], first[0].reshape(3, 32, 32))


# The time stands in an archive: its bytes would give the test another name in every worker.
@pytest.mark.parametrize(
    "content",
    [official_archive()[:-100], b"", b"<html>sign in</html>"],
    ids=["cut off", "empty", "another page"],
)
def test_a_bad_download_leaves_nothing_behind(content, nowhere, monkeypatch):
    serve(monkeypatch, content)
    with pytest.raises(_files.DataError, match=r"md5.*expected c58f.*textures"):
        cifar10.cifar10("test", download=True)
    assert [path for path in nowhere.rglob("*") if path.is_file()] == []


def test_an_interrupted_download_leaves_nothing_behind(nowhere, monkeypatch):
    class Stops(io.BytesIO):
        def read(self, size):
            raise KeyboardInterrupt

    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Stops())
    with pytest.raises(KeyboardInterrupt):
        cifar10.cifar10("test", download=True)
    assert [path for path in nowhere.rglob("*") if path.is_file()] == []


def test_a_damaged_archive_in_the_cache_is_named(nowhere):
    path = cifar10._archive()
    path.parent.mkdir(parents=True)
    path.write_bytes(official_archive()[:300])
    with pytest.raises(_files.DataError, match=r"cifar-10-python\.tar\.gz is damaged"):
        small_images("train")


def test_an_archive_cannot_run_code(nowhere):
    path = cifar10._archive()
    path.parent.mkdir(parents=True)
    content = pickle.dumps({"data": print, "labels": []})
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(_files.DataError, match=r"print is no part of CIFAR-10"):
        small_images("test")
