"""Sea lions from the air: patches to classify, and the photographs with a point on each animal."""

import csv
import re
from functools import partial
from pathlib import Path

import torch

from coursekit import _validate as validate
from coursekit.data import _files
from coursekit.data._files import DataError, Repository
from coursekit.data.items import Files, Item, SmallImages, check_split

# In the order of `coords.csv`, which has no background.
CLASSES = ("adult_males", "subadult_males", "adult_females", "juveniles", "pups", "backgrounds")
# Split -> its folder and the numbers of its patches, the same in each class.
FOLDERS = {"train": ("train", range(60)), "val": ("valid", range(60, 80)), "test": ("test", range(80, 100))}
PHOTOGRAPHS = ("5", "20")
PATCH = (96, 96)
PHOTOGRAPH = (3328, 4992)
OFFLINE = "Without them, the textures of coursekit.data.textures need no network."


def _select(names: list[str]) -> dict[str, str]:
    wanted = re.compile(r"data/(coords\.csv|images/\d+\.jpg|patches/(?:train|valid|test)/\w+/\d+\.png)")
    matches = {name: wanted.fullmatch(name) for name in names}
    return {name: match[1] for name, match in matches.items() if match}


SOURCE = Repository(
    title="the sea lions",
    folder="sealions",
    repository="marioZYN/FC-CNN-Demo",
    select=_select,
    digest="71d15b5af44770f57a8e2782b7cb5dd8600e8c6d1e1c0d282166828df750efb4",
    download="a repository of some 30 MB",
    otherwise=OFFLINE,
)


def sealion_patches(split: str, per_class: int | None = None, download: bool = False) -> SmallImages:
    """Patches of 96×96 pixels around a sea lion of one of five kinds, or of none.

    Args:
        split: "train", "val" or "test": 60, 20 and 20 patches of each class, as they lie in the folders train,
            valid and test.
        per_class: at most so many patches of each class, the first ones; None for all.
        download: fetch the sea lions when they are not in COURSEKIT_DATA (`sealions/patches`, `images`,
            `coords.csv`).

    Raises:
        ValueError: an unknown split, or `per_class` below 1.
        DataError: there are no sea lions here, or a file is missing or damaged; the message names it.

    Source: the demo that the lecture cites; photographs of NOAA Fisheries Steller Sea Lion Population Count 2017.
    """
    check_split(split)
    if per_class is not None:
        validate.whole("per_class", per_class, 1)
    part, numbers = FOLDERS[split]
    folder = SOURCE.find(download) / "patches" / part
    images = [
        _files.read_image(folder / name / f"{number}.png", OFFLINE, size=PATCH)
        for name in CLASSES
        for number in numbers[:per_class]
    ]
    labels = torch.arange(len(CLASSES)).repeat_interleave(len(numbers[:per_class]))
    return SmallImages("sealions", CLASSES, torch.stack(images), labels)


def sealion_photographs(download: bool = False) -> Files:
    """The two photographs that the patches' authors show, with the animals that experts counted.

    Items are `{"image": (3, 3328, 4992) uint8, "points": (P, 2) float32, "point_labels": (P,) int64}`: a point is the
    row and the column, in pixels from the top left corner, of an animal's middle; its label is one of the first five
    of `CLASSES`.

    Args:
        download: as for `sealion_patches`.

    Raises:
        DataError: there are no sea lions here, or a file is missing or damaged; the message names it.

    Source: as `sealion_patches`.
    """
    folder = SOURCE.find(download)
    return Files("sealions", CLASSES, "photographs", PHOTOGRAPHS, partial(_read, folder))


def whereabouts() -> str:
    """In words, where `sealion_patches` and `sealion_photographs` read from."""
    return SOURCE.whereabouts()


def _read(folder: Path, name: str) -> Item:
    image = _files.read_image(folder / "images" / f"{name}.jpg", OFFLINE, size=PHOTOGRAPH)
    path = folder / "coords.csv"
    points: list[tuple[int, int]] = []
    labels: list[int] = []
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["tid"] == name:
                    points.append((int(row["row"]), int(row["col"])))
                    labels.append(range(len(CLASSES) - 1)[int(row["cls"])])
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. {OFFLINE}") from error
    except (OSError, csv.Error, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error!r}). {OFFLINE}") from error
    where = torch.tensor(points, dtype=torch.float32).reshape(-1, 2)
    if ((where < 0) | (where >= torch.tensor(PHOTOGRAPH))).any():
        raise DataError(f"{path} has a point outside of photograph {name}. {OFFLINE}")
    return {"image": image, "points": where, "point_labels": torch.tensor(labels, dtype=torch.int64)}
