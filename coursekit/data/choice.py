"""Which data set there is: the images that the lectures classify, and where each set comes from on this machine."""

from types import ModuleType

from coursekit import _validate as validate
from coursekit.data import camvid, cifar10, isbi2012, nuclei, pets, sealions, textures, voc
from coursekit.data._files import ABSENT, DataError
from coursekit.data.items import SmallImages

SOURCES = ("cifar10", "textures")
LOADED: dict[str, ModuleType] = {
    "camvid": camvid,
    "cifar10": cifar10,
    "isbi2012": isbi2012,
    "nuclei": nuclei,
    "pets": pets,
    "sealions": sealions,
    "voc": voc,
}
_WORDS = {
    "textures": "textures, cut from photographs that ship with scikit-image and scikit-learn",
    "photographs": "photographs that ship with scikit-image and scikit-learn",
    "scenes": "scenes, generated here",
    "cells": "cells, generated here",
}


def small_images(
    split: str, per_class: int | None = None, source: str | None = None, download: bool = False
) -> SmallImages:
    """Images of 32×32 pixels to classify: CIFAR-10 where it lies on this machine, textures otherwise.

    Args:
        split: "train", "val" or "test".
        per_class: at most so many images of each class; None for all.
        source: "cifar10" or "textures"; None chooses.
        download: fetch CIFAR-10 (170 MB) when it is not here. When that fails, the reason is printed and the
            textures come instead.

    Raises:
        ValueError: an unknown split or source.
        DataError: CIFAR-10 was asked for and cannot be read.
    """
    if source is not None and source not in SOURCES:
        raise validate.refuse("source", f"None or one of {', '.join(SOURCES)}", repr(source))
    if source == "textures" or (source is None and not download and not cifar10.available()):
        return textures.textures(split, per_class)
    try:
        return cifar10.cifar10(split, per_class, download=download)
    except DataError as error:
        if not download:
            raise
        print(f"{error}\nGoing on with the textures.")
        return textures.textures(split, per_class)


def whereabouts(name: str) -> str:
    """In words, where a data set comes from on this machine; "small_images" says which of the two it is.

    Raises:
        ValueError: an unknown data set.
    """
    if name == "small_images":
        name = "cifar10" if cifar10.available() else "textures"
    if name in LOADED:
        return LOADED[name].whereabouts()
    if name not in _WORDS:
        raise validate.refuse("name", f"one of small_images, {', '.join([*_WORDS, *LOADED])}", repr(name))
    return _WORDS[name]


def here(name: str) -> bool:
    """Whether a data set can be had without a network: generated, installed with a library, or on this machine.

    Raises:
        ValueError: an unknown data set.
    """
    return ABSENT not in whereabouts(name)
