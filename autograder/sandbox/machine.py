"""Whether walls can be had on this machine, and if not, which one is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache

from autograder.sandbox.filter import NoFilter, program
from autograder.sandbox.kernel import ORACLE, environment, furnish, scratch
from autograder.sandbox.walls import Kernel, Limits, command, data_of, give, landlock_here

MODULE = "ipykernel._version"
"""Found behind the walls where a kernel is."""
CONTAINER = "docs/instructors.md tells how to grade in a container there"
SAID = {
    ("bwrap: setting up uid map: Permission denied", "bwrap: loopback: Failed RTM_NEWADDR"): (
        "this machine's AppArmor lets no ordinary program make namespaces (Ubuntu 24.04 and later): install the "
        "profile bwrap-userns-restrict of the package apparmor-profiles, as docs/instructors.md tells"
    ),
    ("bwrap: No permissions to create", "bwrap: Creating new namespace failed", "bwrap: Can't mount proc"): (
        "bubblewrap may not make namespaces here, as in most containers, or where sysctl "
        "kernel.unprivileged_userns_clone is 0: docs/instructors.md tells what to change"
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
    try:
        tried = _tried(filtered)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a kernel behind walls could not be tried ({error})"
    if tried.returncode == 0:
        return ""
    for signs, meaning in SAID.items():
        if any(sign in tried.stderr for sign in signs):
            return meaning
    said = tried.stderr.strip().splitlines()[-1:] or [f"it ended with code {tried.returncode}"]
    return f"a kernel behind walls could not be started ({said[0]})"


def _tried(filtered: bytes) -> subprocess.CompletedProcess[str]:
    with scratch() as place:
        given = environment(place, place / ORACLE / "s")
        own = {**given, **furnish(place)}
        user = give(place) if os.geteuid() == 0 else 0
        kernel = Kernel(
            place, MODULE, [], user, filtered, landlock_here(), limits=Limits(), data=data_of(given)
        )
        return subprocess.run(command(kernel), env=own, capture_output=True, text=True, timeout=60)
