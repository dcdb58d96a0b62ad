"""A JupyterLab server on copies of the lectures, and a browser in front of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no browser: `make setup` installs chromium")
        pytest.skip("no browser: install chromium to run these tests")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(address, folder): JupyterLab over a copy of ``lectures/``, alone and without the user's settings."""
    place = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "lectures", place / "lectures")
    with served(place, place / "lectures") as (address, token):
        yield f"{address}/lab/tree/{{}}?reset&token={token}", place / "lectures"


@contextlib.contextmanager
def served(place: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """(address, token): a JupyterLab server that runs in a folder and shows it; its settings and log lie in ``place``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    settings = place / "settings"
    home = {
        name: str(settings / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    quiet = Path(home["JUPYTER_CONFIG_DIR"]) / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ, **home, "PATH": beside, "IPYTHONDIR": str(settings / "ipython"), "FAST": "1",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
        f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    log = (place / "server.log").open("w")
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (place / "server.log").read_text()[-3000:]
                time.sleep(0.2)
        yield address, token
    finally:
        server.terminate()
        server.wait(20)
        log.close()


class Notebook:
    """An open notebook, used by keyboard as a person would: cells are found by their id."""

    def __init__(self, page: Page):
        self.page = page
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=60_000,
        )

    def select(self, cell: str) -> None:
        found = self.page.evaluate(
            """async id => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                const index = notebook.widgets.findIndex(w => w.model.id === id);
                if (index < 0) return false;
                notebook.deselectAll();
                notebook.activeCellIndex = index;
                notebook.mode = 'command';
                await notebook.scrollToItem(index, 'start');
                notebook.node.focus();
                return true;
            }""",
            cell,
        )
        assert found, f"the notebook has no cell {cell}"

    def write(self, cell: str, source: str) -> None:
        """Replace a cell's text by typing over it."""
        self.select(cell)
        self.page.keyboard.press("Enter")
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Escape")

    def run(self, cell: str, seconds: float = 60) -> str:
        """Run a cell with Shift+Enter and wait for it; the text of its output."""
        self.select(cell)
        before = self._count(cell)
        self.page.keyboard.press("Shift+Enter")
        self.page.wait_for_function(
            """([id, before]) => {
                const app = window.jupyterapp.shell.currentWidget;
                const cell = app.content.widgets.find(w => w.model.id === id);
                const count = cell.model.executionCount;
                return count !== null && count !== before
                    && app.sessionContext.session.kernel.status === 'idle';
            }""",
            arg=[cell, before],
            timeout=seconds * 1000,
        )
        self.select(cell)
        return self.output(cell)

    def output(self, cell: str) -> str:
        return self.page.evaluate(
            """id => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                return notebook.widgets.find(w => w.model.id === id).outputArea.node.innerText;
            }""",
            cell,
        )

    def _count(self, cell: str) -> int | None:
        return self.page.evaluate(
            """id => window.jupyterapp.shell.currentWidget.content.widgets
                .find(w => w.model.id === id).model.executionCount""",
            cell,
        )


@pytest.fixture
def open_notebook(browser: Browser, lab: tuple[str, Path]) -> Iterator[object]:
    address, _ = lab
    pages: list[Page] = []

    def open_(path: str) -> Notebook:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        pages.append(page)
        page.goto(address.format(path))
        # JupyterLab's own question about news stands in the way of pictures.
        page.add_style_tag(content=".Toastify { display: none }")
        return Notebook(page)

    yield open_
    for page in pages:
        page.close()
