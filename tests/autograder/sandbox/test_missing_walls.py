"""What is said where walls cannot be had."""

import subprocess

import pytest

from autograder.sandbox import machine
from autograder.sandbox.filter import NoFilter


@pytest.fixture(autouse=True)
def afresh():
    machine.trouble.cache_clear()
    yield
    machine.trouble.cache_clear()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("bwrap: setting up uid map: Permission denied", "AppArmor"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "AppArmor"),
        ("bwrap: No permissions to create a new namespace, likely because the kernel…", "containers"),
        ("bwrap: Creating new namespace failed: Operation not permitted", "containers"),
        ("The walls around the kernel could not be put up: this Linux has no Landlock", "no Landlock"),
        ("", "code 1"),
    ],
)
def test_what_bubblewrap_says_is_told_in_words(monkeypatch, said, told):
    ended = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(machine.subprocess, "run", lambda *args, **kwargs: ended)
    assert told in machine.trouble()


def test_what_is_missing_is_named(monkeypatch):
    def no_filter():
        raise NoFilter("the filter needs libseccomp")

    monkeypatch.setattr(machine, "program", no_filter)
    assert "libseccomp" in machine.trouble()
    machine.trouble.cache_clear()
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert "apt install bubblewrap" in machine.trouble()
    machine.trouble.cache_clear()
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    assert "this is Darwin" in machine.trouble()
