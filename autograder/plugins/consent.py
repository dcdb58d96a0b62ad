"""The instructor's consent to grade without a sandbox."""

from __future__ import annotations

from typing import Any

from traitlets import Bool
from traitlets.config import Config, Configurable

RISK = (
    "there is no sandbox, so the students' code would run as you, with your files, the gradebook and the network "
    "within its reach"
)


class Refused(RuntimeError):
    """Grading was not agreed to under these conditions; ``how`` says what agrees to it."""

    def __init__(self, how: str) -> None:
        super().__init__(f"Grading refused, nothing was graded: {RISK}. To grade all the same, {how}.")


class Consent(Configurable):
    """What an instructor agrees to. :class:`Judge` is one: it stands under that name in configurations."""

    unsafe_no_sandbox = Bool(
        False,
        help=(
            "Grade without a sandbox. The students' code then runs as the user who grades: it can read and "
            "change that user's files, the gradebook and other submissions, and use the network. Verdicts "
            "are still made outside its process."
        ),
    ).tag(config=True)


def demand_consent(plugin: Any) -> None:
    """Raise :class:`Refused` unless the configuration a plugin was loaded with has ``c.Judge.unsafe_no_sandbox``."""
    given = plugin.config.get("Judge", {})
    own = {name: given[name] for name in Consent.class_trait_names(config=True) if name in given}
    if not Consent(config=Config(Consent=Config(own))).unsafe_no_sandbox:
        raise Refused(
            "set c.Judge.unsafe_no_sandbox = True in nbgrader_config.py, or pass --Judge.unsafe_no_sandbox=True"
        )
