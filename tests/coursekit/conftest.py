"""Where the tests of the library run."""

import pytest


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine with neither data nor a network."""

    def refuse(*arguments, **more):
        raise OSError("no network")

    monkeypatch.delenv("COURSEKIT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tmp_path
