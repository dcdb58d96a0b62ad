"""Checks that name the mistake, and grades that an oracle outside the kernel makes."""

import coursekit  # noqa: F401 - before torch: it says how threads wait
from autograder.learner import check, example, hint, progress

__all__ = ["check", "example", "hint", "progress"]
