"""Checks that name the mistake, and grades that an oracle outside the kernel makes."""

from typing import TYPE_CHECKING, Any

import coursekit  # noqa: F401 - before torch: it says how threads wait

if TYPE_CHECKING:
    from autograder.learner import check, example, hint, progress

__all__ = ["check", "example", "hint", "progress"]


def __getattr__(name: str) -> Any:
    # What a notebook calls brings torch along, for which no command and no part of nbgrader should have to wait.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from autograder import learner

    return getattr(learner, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
