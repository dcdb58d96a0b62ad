"""CIFAR-10, from a local folder of JPEGs or the official archive."""

import codecs
import contextlib
import io
import math
import os
import pickle
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coursekit import _validate as validate
from coursekit.data import _files
from coursekit.data._files import ABSENT, DataError, cache_folder, local_folder
from coursekit.data.items import SmallImages, check_split

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CHECKSUM = "md5:c58f30108f718f92721af3b95e74349a"
MANY = 10_000
OFFLINE = 'Without it, the textures need no network: small_images(split, source="textures").'


def available() -> bool:
    """Whether CIFAR-10 lies on this machine, in COURSEKIT_DATA or from an earlier download."""
    return local_folder("cifar10") is not None or _archive().exists()


def whereabouts() -> str:
    """In words, where `cifar10` reads from."""
    if local_folder("cifar10") is not None:
        return "CIFAR-10 (COURSEKIT_DATA)"
    return "CIFAR-10 (downloaded earlier)" if _archive().exists() else f"CIFAR-10 ({ABSENT})"


def cifar10(split: str, per_class: int | None = None, download: bool = False) -> SmallImages:
    """One split of CIFAR-10: the last tenth of each class of the official training set is for validation.

    It is read from `cifar10/train.zip` and `test.zip` in COURSEKIT_DATA, or from the same files unpacked, laid
    out as `split/class/NNNN.jpg`; without such a folder, from the official archive in the user's cache. The decoded
    pixels of a large zip are kept in the cache (150 MB) for the next time.

    Args:
        split: "train", "val" or "test".
        per_class: at most so many images of each class, the first ones; None for all.
        download: fetch the archive (170 MB) when CIFAR-10 is not here.

    Raises:
        ValueError: an unknown split, or `per_class` below 1.
        DataError: there is no CIFAR-10 here, or a file is missing or damaged; the message names it.
    """
    check_split(split)
    if per_class is not None:
        validate.whole("per_class", per_class, 1)
    part = "test" if split == "test" else "train"
    folder = local_folder("cifar10")
    if folder is None:
        rows, labels = _official(_archive_here(download), part)
        of_class = [_choose(rows[labels == label], split, per_class) for label in range(len(CLASSES))]
        return _small_images(of_class)
    decoded = _decoded(folder / f"{part}.zip", split)
    kept = _load(decoded) if decoded is not None else None
    if kept is not None:
        of_class = [images[:per_class] for images in kept]
    else:
        names, read = _local(folder, part)
        chosen = [_choose(files, split, per_class) for files in names]
        none = torch.empty(0, 3, 32, 32, dtype=torch.uint8)
        of_class = [torch.stack([read(name) for name in files]) if files else none for files in chosen]
        if decoded is not None and per_class is None and sum(map(len, of_class)) >= MANY:
            _keep(of_class, decoded)
    return _small_images(of_class)


def _small_images(of_class: list[Tensor]) -> SmallImages:
    counts = torch.tensor([len(images) for images in of_class])
    labels = torch.arange(len(CLASSES)).repeat_interleave(counts)
    return SmallImages("cifar10", CLASSES, torch.cat(of_class), labels)


def _decoded(archive: Path, split: str) -> Path | None:
    """Where the decoded images of this very archive are kept."""
    if not archive.is_file():
        return None
    stat = archive.stat()
    return cache_folder("cifar10") / f"{split}-{stat.st_size}-{stat.st_mtime_ns}.safetensors"


def _load(decoded: Path) -> list[Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        kept = load_file(decoded)
        return [kept[name] for name in CLASSES]
    except (OSError, SafetensorError, KeyError):
        return None


def _keep(of_class: list[Tensor], decoded: Path) -> None:
    """Decoding takes many seconds; where it cannot be kept, it is done again."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    part = None
    with contextlib.suppress(OSError, SafetensorError):
        decoded.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=decoded.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
        save_file(dict(zip(CLASSES, of_class, strict=True)), part)
        os.replace(part, decoded)
    if part is not None:
        part.unlink(missing_ok=True)


def _choose(items: Any, split: str, per_class: int | None) -> Any:
    """The images of one class that belong to a split."""
    validation = len(items) - math.ceil(len(items) / 10)
    part = {"train": slice(validation), "val": slice(validation, None), "test": slice(None)}[split]
    return items[part][:per_class]


def _local(folder: Path, part: str) -> tuple[list[list[str]], Callable[[str], Tensor]]:
    """The image files of each class, in order, and a function that reads one as (3, 32, 32) uint8."""
    from PIL import Image

    archive = folder / f"{part}.zip"
    place = archive if archive.is_file() else folder
    if place is archive:
        try:
            pack = zipfile.ZipFile(archive)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{archive} is damaged ({error}). {OFFLINE}") from error
        found = pack.namelist()
    else:
        pack = None
        found = [path.relative_to(folder).as_posix() for path in folder.glob(f"{part}/*/*.jpg")]

    def read(name: str) -> Tensor:
        try:
            content = pack.read(name) if pack else (folder / name).read_bytes()
            with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
                image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{name} in {place} is damaged ({error}). {OFFLINE}") from error
        if image.shape != (3, 32, 32):
            raise DataError(f"{name} in {place} has shape {tuple(image.shape)}, not (3, 32, 32). {OFFLINE}")
        return image

    files = [
        sorted(name for name in found if name.startswith(f"{part}/{label}/") and name.endswith(".jpg"))
        for label in CLASSES
    ]
    for label, of_class in zip(CLASSES, files, strict=True):
        if not of_class:
            raise DataError(f"{place} holds no image {part}/{label}/NNNN.jpg. {OFFLINE}")
    return files, read


def _archive() -> Path:
    return cache_folder("cifar10") / URL.rsplit("/", 1)[1]


def _archive_here(fetch: bool) -> Path:
    path = _archive()
    if fetch:
        return _files.download(URL, path, CHECKSUM, OFFLINE)
    if not path.exists():
        raise DataError(
            "CIFAR-10 is not on this machine. Set COURSEKIT_DATA to a folder that holds cifar10/train.zip "
            f"and cifar10/test.zip, or pass download=True (170 MB). {OFFLINE}"
        )
    return path


def _official(path: Path, part: str) -> tuple[Tensor, Tensor]:
    """All images (N, 3, 32, 32) and labels (N,) of a part, from the official archive."""
    batches = ["test_batch"] if part == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    contents = {}
    try:
        with tarfile.open(path) as tar:
            # In the archive's order: going back would decompress it from the start.
            for member in tar:
                file = Path(member.name).name
                if file in batches:
                    content = io.BytesIO(tar.extractfile(member).read())  # type: ignore[union-attr]
                    contents[file] = _ArraysOnly(content, encoding="latin1").load()
        data = np.concatenate([contents[file]["data"] for file in batches]).reshape(-1, 3, 32, 32)
        labels = [label for file in batches for label in contents[file]["labels"]]
    except (
        OSError,
        EOFError,
        tarfile.TarError,
        zlib.error,
        pickle.UnpicklingError,
        LookupError,
        ValueError,
    ) as e:
        raise DataError(f"{path} is damaged ({e!r}): delete it and download it again. {OFFLINE}") from e
    return torch.from_numpy(data), torch.tensor(labels)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles lists, dicts and numpy arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> object:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return np.ndarray.__reduce__(np.empty(0))[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        raise pickle.UnpicklingError(f"{module}.{name} is no part of CIFAR-10")
