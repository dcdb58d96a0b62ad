"""Checks that name the mistake, and grades that an oracle outside the kernel makes."""

from autograder.learner import check, hint, progress

__all__ = ["check", "hint", "progress"]
