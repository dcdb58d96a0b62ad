"""Which tests run where, and the real data that some of them read."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

import coursekit  # noqa: F401 - before torch: it says how threads wait

settings.register_profile("course", deadline=None, max_examples=25)
settings.load_profile("course")


def pytest_configure(config):
    """Workers share the cores: each takes its part, also in the processes that its tests start."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0))
    if workers:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    """Leave out what cannot run here, or was not asked for."""
    left_out = set()
    if not config.getoption("--slow"):
        left_out.add("slow")
    if any(item.get_closest_marker("gpu") for item in items) and not _has_gpu():
        left_out.add("gpu")
    deselected = [item for item in items if any(item.get_closest_marker(mark) for mark in left_out)]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def real_data() -> Path | None:
    """The folder of real data sets: COURSEKIT_DATA, or shared/data beside the repository; None without either."""
    named = os.environ.get("COURSEKIT_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None
