"""Real photographs that lie inside the installed scikit-image and scikit-learn, and so need no network."""

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from coursekit import _validate as validate
from coursekit.data._files import DataError, read_image
from coursekit.data.items import Files, Item

_FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "moon": ("skimage", "data/moon.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "photographer": ("skimage", "data/camera.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "tissue": ("skimage", "data/ihc.png"),
}

NAMES = tuple(_FILES)
OTHERWISE = "Installing that library again brings its data."


def photographs() -> Files:
    """All of them, in the order of `NAMES`, as a data set without labels: items are `{"image": (3, H, W) uint8}`."""
    return Files("photographs", (), "all", NAMES, _read)


def load(name: str) -> Tensor:
    """One photograph, as (3, H, W) uint8 in RGB; a gray one has three equal channels.

    Args:
        name: one of `NAMES`.

    Raises:
        ValueError: an unknown name.
        DataError: the library that ships the photograph has been installed without its data, or they are damaged.
    """
    if name not in _FILES:
        raise validate.refuse("name", f"one of {', '.join(NAMES)}", repr(name))
    # Found, not imported: importing the libraries would take seconds, and only their files are wanted.
    library, file = _FILES[name]
    spec = find_spec(library)
    folders = [] if spec is None else spec.submodule_search_locations or []
    path = next((p for folder in folders if (p := Path(folder) / file).is_file()), None)
    if path is None:
        raise DataError(f"{name} is {library}/{file}, which is not in the installed {library}. {OTHERWISE}")
    return read_image(path, OTHERWISE)


def _read(name: str) -> Item:
    return {"image": load(name)}
