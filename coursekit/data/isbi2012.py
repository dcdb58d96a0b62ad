"""ISBI 2012: electron microscopy of neural tissue, cells divided by membranes."""

import re
from functools import partial
from pathlib import Path

from coursekit.data import _files
from coursekit.data._files import Repository
from coursekit.data.items import Files, Item, check_split

CLASSES = ("membrane", "cell")
SPLITS = {"train": range(18), "val": range(18, 24)}
SIZE = (512, 512)
OFFLINE = "Without it, Cells of coursekit.data.cells need no network."


def _select(names: list[str]) -> dict[str, str]:
    wanted = re.compile(r"data/membrane/train/((?:image|label)/(\d+)\.png)")
    matches = {name: wanted.fullmatch(name) for name in names}
    return {name: match[1] for name, match in matches.items() if match and int(match[2]) < 24}


SOURCE = Repository(
    title="ISBI 2012",
    folder="isbi2012",
    repository="zhixuhao/unet",
    select=_select,
    digest="0f0a4f51076384ad550b736af2c449c92b0b6a5ffa4ee773d077e986c702e5cf",
    download="a repository of some 50 MB, of which 5 MB are kept",
    otherwise=OFFLINE,
)


def isbi2012(split: str, download: bool = False) -> Files:
    """Slices of the stack that the U-Net paper was trained on: 0 to 17 for training, 18 to 23 for validation.

    Items are `{"image": (1, 512, 512) uint8, "labels": (512, 512) int64, "instances": (512, 512) int64}`: labels are
    1 on cells and 0 on membranes, instances the connected components of the cells, edge to edge. Neighboring
    slices are alike, so validation takes a block of them instead of slices in between.

    Args:
        split: "train" or "val".
        download: fetch it when it is not in COURSEKIT_DATA (`isbi2012/image/N.png`, `isbi2012/label/N.png`).

    Raises:
        ValueError: an unknown split.
        DataError: there is no ISBI 2012 here, or a file is missing or damaged; the message names it.

    Source: Arganda-Carreras et al. 2015; Cardona et al. 2010.
    """
    check_split(split, tuple(SPLITS))
    folder = SOURCE.find(download)
    return Files("isbi2012", CLASSES, split, [f"{n}.png" for n in SPLITS[split]], partial(_read, folder))


def whereabouts() -> str:
    """In words, where `isbi2012` reads from."""
    return SOURCE.whereabouts()


def _read(folder: Path, name: str) -> Item:
    import torch
    from scipy.ndimage import label

    labels = _files.read_labels(folder / "label" / name, OFFLINE, {0: 0, 255: 1}, SIZE)
    return {
        "image": _files.read_image(folder / "image" / name, OFFLINE, "L", SIZE)[None],
        "labels": labels,
        "instances": torch.from_numpy(label(labels.numpy())[0]).long(),
    }
