"""Where data lies on this machine, and how it comes here: checked, whole or not at all."""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from pathlib import Path

from tqdm.auto import tqdm

CHUNK = 1 << 20


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
    digest = hashlib.new(algorithm)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside its destination: a rename is atomic only within one file system.
        with (
            urllib.request.urlopen(url, timeout=30) as source,
            tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=path.name, suffix=".part", delete=False
            ) as file,
            tqdm(total=_length(source), unit="B", unit_scale=True, desc=path.name) as bar,
        ):
            part = Path(file.name)
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
                bar.update(len(chunk))
        if digest.hexdigest() != expected:
            raise DataError(
                f"{url} came with {algorithm} {digest.hexdigest()}, expected {expected}. {otherwise}"
            )
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url} could not be downloaded ({error}). {otherwise}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return path


def _length(response: object) -> int | None:
    length = getattr(response, "headers", {}).get("Content-Length")
    return int(length) if length else None
