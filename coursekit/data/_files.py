"""Where data lies on this machine, and how it comes here: checked, whole or not at all."""

import hashlib
import http.client
import os
import struct
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

CHUNK = 1 << 20
ABSENT = "not on this machine"


class DataError(RuntimeError):
    """Data that is not here, cannot be fetched or is damaged; the message names the file and a way on."""


def local_folder(name: str) -> Path | None:
    """The folder of a data set under COURSEKIT_DATA, if that is set and holds one."""
    root = os.environ.get("COURSEKIT_DATA")
    folder = Path(root).expanduser() / name if root else None
    return folder if folder is not None and folder.is_dir() else None


def cache_folder(name: str) -> Path:
    """Where downloads of a data set are kept for this user; it may not exist yet."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "coursekit" / name


class Repository(NamedTuple):
    """A data set that lies in a public GitHub repository.

    Attributes:
        title: what people call it.
        folder: its name under COURSEKIT_DATA and in the cache.
        repository: owner and name.
        select: from the names of the repository's files, those that belong to the data set, each with its path
            in the data set's folder.
        digest: SHA-256 over the lines of `sha256sum` for the data set's files, sorted by path.
        download: what a download comes to, for people.
        otherwise: what to do without it, for error messages.
    """

    title: str
    folder: str
    repository: str
    select: Callable[[list[str]], Mapping[str, str]]
    digest: str
    download: str
    otherwise: str

    def here(self) -> Path | None:
        """The data set's folder, if it is on this machine."""
        cached = cache_folder(self.folder)
        return local_folder(self.folder) or (cached if cached.is_dir() else None)

    def whereabouts(self) -> str:
        """In words, where the data set is read from."""
        return whereabouts(self.title, self.folder)

    def find(self, download: bool = False) -> Path:
        """The data set's folder; fetched, with a progress bar, if it is not here and `download` is set.

        In the cache it exists only if every byte of every file is right.

        Raises:
            DataError: it is not here, or cannot be fetched, or has other bytes than expected.
        """
        folder = self.here()
        if folder is not None:
            return folder
        if not download:
            raise DataError(
                f"{self.title} is not on this machine. Set COURSEKIT_DATA to a folder that holds {self.folder}/, "
                f"or pass download=True ({self.download}). {self.otherwise}"
            )
        url = f"https://github.com/{self.repository}/archive/HEAD.zip"
        folder = cache_folder(self.folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=self.folder) as work:
                archive, files = Path(work) / "archive.zip", Path(work) / "files"
                with archive.open("wb") as file:
                    _fetch(url, file, self.folder)
                self._unpack(archive, files)
                if not folder.is_dir():
                    os.replace(files, folder)
        except (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{url} could not be downloaded ({error}). {self.otherwise}") from error
        return folder

    def _unpack(self, archive: Path, folder: Path) -> None:
        with zipfile.ZipFile(archive) as pack:
            # Everything in an archive of GitHub lies in one folder, named after the commit.
            names = {name.partition("/")[2]: name for name in pack.namelist() if not name.endswith("/")}
            paths = self.select(list(names))
            for name, path in paths.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(pack.read(names[name]))
        found = digest(folder, paths.values())
        if found != self.digest:
            raise DataError(
                f"https://github.com/{self.repository} holds {len(paths)} files of {self.title} with digest {found}, "
                f"expected {self.digest}. {self.otherwise}"
            )


def whereabouts(title: str, folder: str) -> str:
    """In words, whether a data set lies in COURSEKIT_DATA, in the cache or not on this machine."""
    if local_folder(folder) is not None:
        return f"{title} (COURSEKIT_DATA)"
    here = cache_folder(folder).is_dir()
    return f"{title} (downloaded earlier)" if here else f"{title} ({ABSENT})"


def digest(folder: Path, paths: Iterable[str]) -> str:
    """SHA-256 over the lines that `sha256sum` writes of the files, sorted by path."""
    lines = (
        f"{hashlib.sha256((folder / path).read_bytes()).hexdigest()}  {path}\n" for path in sorted(paths)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_image(
    path: Path, otherwise: str, mode: str | None = "RGB", size: tuple[int, int] | None = None
) -> Tensor:
    """The pixels of an image file.

    Args:
        path: the file.
        otherwise: what to do without it, for error messages.
        mode: "RGB" or "L"; None takes the one number of each pixel as it stands in the file.
        size: (height, width) that the image must have.

    Returns:
        (3, H, W) in RGB, (H, W) otherwise; uint8.

    Raises:
        DataError: the file is missing or damaged, or holds something else.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert(mode) if mode else picture)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. {otherwise}") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"{path} is damaged ({error}). {otherwise}") from error
    if pixels.dtype != np.uint8 or pixels.ndim != (3 if mode == "RGB" else 2):
        raise DataError(
            f"{path} holds {pixels.dtype} of shape {pixels.shape}, not one byte a pixel. {otherwise}"
        )
    if size is not None and pixels.shape[:2] != size:
        raise DataError(f"{path} is of {pixels.shape[:2]} pixels, not {size}. {otherwise}")
    image = torch.from_numpy(pixels)
    return image.permute(2, 0, 1).contiguous() if mode == "RGB" else image


def read_labels(
    path: Path, otherwise: str, labels: Mapping[int, int], size: tuple[int, int] | None = None
) -> Tensor:
    """The label map (H, W) int64 in an image file.

    Args:
        path: the file.
        otherwise: what to do without it, for error messages.
        labels: for each value that may stand in the file, the label that it means.
        size: (height, width) that it must have.

    Raises:
        DataError: the file is missing or damaged, or holds another value; the message names it.
    """
    stored = read_image(path, otherwise, None, size)
    table = torch.full((256,), -1)
    table[list(labels)] = torch.tensor(list(labels.values()))
    maps = table[stored.long()]
    if (maps < 0).any():
        wrong = stored[maps < 0][0].item()
        raise DataError(f"{path} holds {wrong}, which is none of the labels {sorted(labels)}. {otherwise}")
    return maps


def pairs_of(
    title: str,
    within: str,
    size: str,
    otherwise: str,
    download: bool,
    load: Callable[[Path, bool], dict[str, str]],
) -> dict[str, str]:
    """The images and label maps of one of torchvision's data sets: local folder, cache or download.

    Args:
        title: of the data set.
        within: where it lies, first the folder in COURSEKIT_DATA, then what torchvision makes in it.
        size: of the download, in words.
        otherwise: what works without it.
        download: whether it may be fetched.
        load: of the folder and of whether to download; the file of each image's labels, by the image's file.

    Raises:
        DataError: it is neither here nor to be had.
    """
    folder, _, inside = within.partition("/")
    root = local_folder(folder) or cache_folder(folder)
    missing = not (root / inside).exists()
    if missing and not download:
        raise DataError(
            f"{title} is not on this machine. Set COURSEKIT_DATA to a folder that holds {within}, "
            f"or pass download=True ({size}). {otherwise}"
        )
    try:
        return load(root, missing)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{title} in {root} cannot be used ({error}). {otherwise}") from error


def read_pair(image: Path, labels: Path, otherwise: str, classes: Mapping[int, int]) -> dict[str, Tensor]:
    """An item of an image file and a label map of the same size.

    Raises:
        DataError: as `read_image` and `read_labels`.
    """
    pixels = read_image(image, otherwise)
    height, width = pixels.shape[1:]
    return {"image": pixels, "labels": read_labels(labels, otherwise, classes, (height, width))}


def download(url: str, path: Path, checksum: str, otherwise: str) -> Path:
    """Fetch a file once, with a progress bar; `path` exists afterwards only if every byte is right.

    Args:
        url: where it comes from.
        path: where it goes; nothing is fetched when it is there.
        checksum: "md5:…" or "sha256:…".
        otherwise: what to do without a network, for the error message.

    Raises:
        DataError: no connection, no room, or other bytes than expected.
    """
    if path.exists():
        return path
    algorithm, expected = checksum.split(":")
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside its destination: a rename is atomic only within one file system.
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=path.name, suffix=".part", delete=False
        ) as file:
            part = Path(file.name)
            _fetch(url, file, path.name)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != expected:
            raise DataError(f"{url} came with {algorithm} {found}, expected {expected}. {otherwise}")
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url} could not be downloaded ({error}). {otherwise}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return path


def _fetch(url: str, file: IO[bytes], title: str) -> None:
    with (
        urllib.request.urlopen(url, timeout=30) as source,
        tqdm(total=_length(source), unit="B", unit_scale=True, desc=title) as bar,
    ):
        while chunk := source.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


def _length(response: object) -> int | None:
    length = getattr(response, "headers", {}).get("Content-Length")
    return int(length) if length else None
