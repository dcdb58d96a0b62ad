"""Whether walls can be had on this machine, and if not, which one is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache

from autograder.sandbox.filter import NoFilter, program
from autograder.sandbox.kernel import ORACLE, environment, scratch
from autograder.sandbox.walls import Kernel, Limits, command, give

CONTAINER = "docs/instructors.md tells how to grade in a container there"
SAID = {
    ("setting up uid map: Permission denied", "loopback: Failed RTM_NEWADDR"): (
        "this machine's AppArmor lets no ordinary program make namespaces (Ubuntu 24.04 and later): install the "
        "profile bwrap-userns-restrict of the package apparmor-profiles, as docs/instructors.md tells"
    ),
    ("No permissions to create", "Creating new namespace failed", "Operation not permitted"): (
        "bubblewrap may not make namespaces here, as in most containers: grade outside of the container, or start it "
        "with what docs/instructors.md tells"
    ),
}
"""What bubblewrap says, and what that means."""


@cache
def trouble() -> str:
    """Why no walls can be had here, in a sentence without its full stop; "" where they stand, which was tried."""
    if platform.system() != "Linux":
        return f"walls around students' code need Linux, and this is {platform.system()}: {CONTAINER}"
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (on Debian and Ubuntu: sudo apt install bubblewrap)"
    try:
        filtered = program()
    except NoFilter as missing:
        return str(missing)
    with scratch() as place:
        user = give(place) if os.geteuid() == 0 else 0
        tried = subprocess.run(
            command(Kernel(place, "this", [], user, filtered, limits=Limits())),
            env=environment(place, place / ORACLE / "s"),
            capture_output=True,
            text=True,
            timeout=60,
        )
    if tried.returncode == 0:
        return ""
    for signs, meaning in SAID.items():
        if any(sign in tried.stderr for sign in signs):
            return meaning
    said = tried.stderr.strip().splitlines()[-1:] or [f"it ended with code {tried.returncode}"]
    return f"bubblewrap could not start a kernel here ({said[0]})"
