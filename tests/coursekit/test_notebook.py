import random
import re

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from coursekit import notebook

CELLS = [
    'from coursekit.notebook import predict, start\nsession = start("02_batchnorm")',
    'predict("What does `eval()` change?", ["nothing", "the <statistics>"], "the <statistics>", "Buffers.")',
    "from coursekit import figures\n"
    'figures.show(figures.curves({"a": [1, 2]}, "x", "y"), alt="A line that rises")',
    'from matplotlib import pyplot\nfigure, axes = pyplot.subplots()\nfigures.show(figure, alt="Empty axes")',
    "import torch\nfrom coursekit.data import small_images\nfrom coursekit.training import Watch, fit\n"
    "model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))\n"
    'history = fit(model, small_images("val", 5, source="textures"), steps=30, batch_size=5, watch=Watch(live=True))',
]
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def plain_settings():
    with matplotlib.rc_context():
        yield


def run(cells, someone_there):
    """Execute a notebook, with or without a front end that offers to answer."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(book, kernel_name="python3", timeout=120)
    with client.setup_kernel():
        client.kc.allow_stdin = someone_there
        for index, cell in enumerate(book.cells):
            client.execute_cell(cell, index)
    return book


def test_start_outside_a_notebook(monkeypatch, capsys, plain_settings):
    monkeypatch.setenv("FAST", "1")
    session = notebook.start("02_batchnorm", seed=7)
    drawn = torch.rand(1).item(), np.random.rand(), random.random()
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert "FAST=1" in printed
    assert session.scaled(500, fast=5) == 5
    assert (session.topic, session.seed, session.fast) == ("02_batchnorm", 7, True)
    assert session.device.type == ("cuda" if torch.cuda.is_available() else "cpu")

    monkeypatch.setenv("FAST", "0")
    threads = torch.get_num_threads()
    session = notebook.start("02_batchnorm", seed=7)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == drawn
    assert torch.get_num_threads() == threads
    assert session.scaled(500, fast=5) == 500
    assert matplotlib.rcParams["axes.spines.top"] is False


@pytest.mark.parametrize("topic", notebook.LECTURES)
def test_every_topic_starts(topic, capsys, plain_settings):
    assert notebook.start(topic).topic == topic
    assert "Data" in capsys.readouterr().out


def test_a_run_without_a_front_end_becomes_a_readable_page():
    book = run(CELLS, someone_there=False)
    for cell in book.cells:
        assert [output.output_type for output in cell.outputs] == ["display_data"]
    quiz = book.cells[1].outputs[0].data
    assert WIDGET not in quiz
    assert "widgets" not in book.metadata

    page, _ = HTMLExporter().from_notebook_node(book)
    body = page[page.index("<body") :]
    assert re.search(r"<details>.*the &lt;statistics&gt;.*Buffers\..*</details>", body, re.DOTALL)
    assert '<img alt="A line that rises"' in body
    assert body.count('<img alt="Empty axes"') == 1
    assert "30/30 steps" in body
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img[^>]*>", body))


def test_someone_at_the_notebook_gets_a_choice_to_click():
    book = run(CELLS[:2], someone_there=True)
    quiz = book.cells[1].outputs[0].data
    assert quiz[WIDGET]["model_id"]
    assert "<details>" in quiz["text/html"]


def test_committing_reveals_and_locks():
    quiz = notebook._quiz("Why?", ["a", "b"], "b", "Since `c`.")
    _, choice, commit, verdict = quiz.children
    assert choice.value is None
    assert commit.disabled
    assert verdict.value == ""
    choice.value = "a"
    assert not commit.disabled
    assert verdict.value == ""
    commit.click()
    assert "✗" in verdict.value
    assert "<code>c</code>" in verdict.value
    assert choice.disabled
    assert commit.disabled

    quiz = notebook._quiz("Why?", ["a", "b"], "b", "Since.")
    quiz.children[1].value = "b"
    quiz.children[2].click()
    assert "✓" in quiz.children[3].value


def test_predict_outside_a_notebook_keeps_the_answer_to_itself(capsys):
    assert notebook.predict("Why?", ["one", "two"], "two", "the reason") is None
    printed = capsys.readouterr().out
    assert "Why?" in printed
    assert "the reason" not in printed
