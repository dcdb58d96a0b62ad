"""What a student's kernel is given: an environment and a folder of its own."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import site
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from coursekit import threads

ENVIRONMENT = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "PYTHONPATH",
    "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "COURSEKIT_DATA",
    "JUPYTER_PATH", "JUPYTER_DATA_DIR", *threads.VARIABLES,
)  # fmt: skip
"""All that a kernel is given of the grader's environment: tokens and settings of the grader stay out."""


def environment(place: Path, address: Path) -> dict[str, str]:
    """The kernel's environment: what it needs to run, and where the oracle listens."""
    given = {k: v for k, v in os.environ.items() if k in ENVIRONMENT or k.startswith("LC_")}
    own = {"IPYTHONDIR": str(place / "ipython"), "AUTOGRADER_SOCKET": str(address)}
    return given | own


COPIED = ("work", "ipython", "home")
"""Parts of its folder that a kernel gets copies of, in memory: where it runs, IPython's profile, its user's home."""
SOCKETS = "io"
"""Where a kernel listens."""
ORACLE = "oracle"
"""Where the oracle listens: a kernel behind walls can call there and change nothing."""


def furnish(place: Path) -> dict[str, str]:
    """The variables of a home of its own, and in it what takes matplotlib a second to find out."""
    home, cache = place / "home", Path(".cache") / "matplotlib"
    for fonts in (Path.home() / cache).glob("fontlist-*.json"):
        (home / cache).mkdir(parents=True, exist_ok=True)
        shutil.copy(fonts, home / cache)
    # With another home, Python would look for what a user has installed in the wrong place.
    return {"HOME": str(home), "TMPDIR": "/tmp", "PYTHONUSERBASE": site.getuserbase()}


PREFIX = "kernels-"


@cache
def base() -> Path:
    """The folder in which this process's private folders lie, gone when it ends."""
    # Not in /tmp: what lies under a kernel's own /tmp it can write, its sockets' folder included. And short, since a
    # socket's path has room for about 100 characters.
    outer = Path("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir())
    if len(str(outer)) > 50:
        outer = Path("/tmp")
    _sweep(outer)
    found = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=outer))
    atexit.register(shutil.rmtree, found, ignore_errors=True)
    return found


def _sweep(outer: Path) -> None:
    """Remove what processes have left behind that were stopped before they could."""
    for left in outer.glob(f"{PREFIX}*"):
        pid = left.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and left.stat().st_uid == os.geteuid():
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A private folder for one notebook: its working directory, IPython's profile and the oracle's socket."""
    place = Path(tempfile.mkdtemp(prefix="k-", dir=base()))
    try:
        for name in (*COPIED, SOCKETS, ORACLE):
            (place / name).mkdir()
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
