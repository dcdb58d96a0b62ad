"""What stock nbgrader and formgrader load by configuration (see ``nbgrader_config.py``).

A grade is what :class:`Judge` wrote into a check cell, and it writes nothing but the oracle's verdicts. With
nbgrader's stock ``Execute`` in its place a check cell would be judged by the kernel that runs the learner's
code: :class:`Flag` sees that no verdict was made, gives 0 and asks for a person.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autograder.plugins.exporter import SubmissionExporter
    from autograder.plugins.flag import Flag
    from autograder.plugins.judge import Judge
    from autograder.plugins.pages import FeedbackExporter
    from autograder.plugins.release import ReleaseExporter
    from autograder.plugins.restore import RestoreRelease

__all__ = ["FeedbackExporter", "Flag", "Judge", "ReleaseExporter", "RestoreRelease", "SubmissionExporter"]

_MODULES = {
    "FeedbackExporter": "pages",
    "Flag": "flag",
    "Judge": "judge",
    "ReleaseExporter": "release",
    "RestoreRelease": "restore",
    "SubmissionExporter": "exporter",
}


def __getattr__(name: str) -> Any:
    # The process that grades begins with less than all of nbgrader, and starts another one meanwhile.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
