"""The predictions that lectures ask for: one file a topic, out of sight of who is asked."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from coursekit import TOPICS


@dataclass(frozen=True)
class Quiz:
    """A question with one right option; `because` says why it is right, `wrong` what to reply to each of the others."""

    question: str
    right: str
    because: str
    wrong: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.wrong or self.right in self.wrong:
            raise _refuse("wrong", "one or more options other than the right one", list(self.wrong))


def find(name: str) -> Quiz:
    """The quiz of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in all_of_them():
        raise _refuse("name", f"one of {', '.join(all_of_them())}", repr(name))
    return all_of_them()[name]


@cache
def all_of_them() -> Mapping[str, Quiz]:
    """Every quiz of the course by its name, in the order of the lectures."""
    texts = (files(__name__).joinpath(f"{topic}.toml").read_text(encoding="utf-8") for topic in TOPICS)
    return {name: Quiz(**quiz) for text in texts for name, quiz in tomllib.loads(text).items()}


def _refuse(*told: Any) -> ValueError:
    # It knows tensors, and those who build a course need not wait for torch.
    from coursekit import _validate

    return _validate.refuse(*told)
