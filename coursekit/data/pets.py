"""Oxford-IIIT Pet: cats and dogs, cut out, through torchvision."""

from functools import partial
from pathlib import Path

from coursekit.data import _files
from coursekit.data.items import VOID, Files, Item, check_split

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
    check_split(split)
    part = "test" if split == "test" else "trainval"

    def load(root: Path, missing: bool) -> dict[str, str]:
        from torchvision.datasets import OxfordIIITPet

        data = OxfordIIITPet(str(root), part, target_types="segmentation", download=missing)
        return {str(image): str(trimap) for image, trimap in zip(data._images, data._segs, strict=True)}

    within = "pets/oxford-iiit-pet/annotations"
    pairs = _files.pairs_of("Oxford-IIIT Pet", within, "800 MB", OFFLINE, download, load)
    names = [name for i, name in enumerate(pairs) if split == "test" or (i % 5 == 4) == (split == "val")]
    return Files("pets", CLASSES, split, names, partial(_read, pairs))


def whereabouts() -> str:
    """In words, where `pets` reads from."""
    return _files.whereabouts("Oxford-IIIT Pet", "pets")


def _read(pairs: dict[str, str], name: str) -> Item:
    return _files.read_pair(Path(name), Path(pairs[name]), OFFLINE, LABELS)
