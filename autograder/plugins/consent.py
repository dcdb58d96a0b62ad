"""Whether students' code runs behind walls, or the instructor has consented to grade without."""

from __future__ import annotations

from typing import Any

from traitlets import Bool
from traitlets.config import Config, Configurable

from autograder.sandbox import machine

RISK = (
    "there is no sandbox on this machine, so the students' code would run as you, with your files, the gradebook and "
    "the network within its reach"
)


class Refused(RuntimeError):
    """No walls can be had, for that reason, and nobody has consented to grade without; ``how`` says what does."""

    def __init__(self, reason: str, how: str) -> None:
        super().__init__(
            f"Grading refused, nothing was graded: {RISK}. Why there is none: {reason}. To grade all the same, {how}."
        )


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


def walled(plugin: Any) -> bool:
    """Whether the kernels of a plugin stand behind walls: they do unless its configuration has
    ``c.Judge.unsafe_no_sandbox``. Raises :class:`Refused` where they should and cannot on this machine."""
    given = plugin.config.get("Judge", {})
    own = {name: given[name] for name in Consent.class_trait_names(config=True) if name in given}
    if Consent(config=Config(Consent=Config(own))).unsafe_no_sandbox:
        return False
    if reason := machine.trouble():
        raise Refused(
            reason,
            "set c.Judge.unsafe_no_sandbox = True in nbgrader_config.py, or pass --Judge.unsafe_no_sandbox=True",
        )
    return True
