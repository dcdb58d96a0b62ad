"""Oxford-IIIT Pet: cats and dogs, cut out, through torchvision."""

from functools import partial
from pathlib import Path

from coursekit.data import VOID, Files, Item, _files, check_split
from coursekit.data._files import DataError, cache_folder, local_folder

CLASSES = ("background", "pet")
# The trimap has 1 for the pet, 2 for the background and 3 for the border between them.
LABELS = {1: 1, 2: 0, 3: VOID}
OFFLINE = "Without it, Scenes of coursekit.data.scenes need no network."


def pets(split: str, download: bool = False) -> Files:
    """Oxford-IIIT Pet as a segmentation of pet and background; its border is void.

    Items are `{"image": (3, H, W) uint8, "labels": (H, W) int64}` in the sizes of the photographs.

    Args:
        split: "test" for the official test part; "train" and "val" share the other one, every fifth image of
            which is for validation.
        download: fetch the archives (800 MB, checked by torchvision) into the cache when the pets are not in
            COURSEKIT_DATA (`pets/oxford-iiit-pet`).

    Raises:
        ValueError: an unknown split.
        DataError: there are no pets here, they cannot be fetched, or a file is missing or damaged.

    Source: Parkhi et al. 2012.
    """
    from torchvision.datasets import OxfordIIITPet

    check_split(split)
    root = local_folder("pets") or cache_folder("pets")
    missing = not (root / "oxford-iiit-pet" / "annotations").is_dir()
    if missing and not download:
        raise DataError(
            f"Oxford-IIIT Pet is not on this machine. Set COURSEKIT_DATA to a folder that holds "
            f"pets/oxford-iiit-pet, or pass download=True (800 MB). {OFFLINE}"
        )
    part = "test" if split == "test" else "trainval"
    try:
        data = OxfordIIITPet(str(root), part, target_types="segmentation", download=missing)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"Oxford-IIIT Pet in {root} cannot be used ({error}). {OFFLINE}") from error
    pairs = {str(image): str(trimap) for image, trimap in zip(data._images, data._segs, strict=True)}
    names = [name for i, name in enumerate(pairs) if split == "test" or (i % 5 == 4) == (split == "val")]
    return Files("pets", CLASSES, split, names, partial(_read, pairs))


def whereabouts() -> str:
    """In words, where `pets` reads from."""
    return _files.whereabouts("Oxford-IIIT Pet", "pets")


def _read(pairs: dict[str, str], name: str) -> Item:
    image = _files.read_image(Path(name), OFFLINE)
    height, width = image.shape[1:]
    return {"image": image, "labels": _files.read_labels(Path(pairs[name]), OFFLINE, LABELS, (height, width))}
