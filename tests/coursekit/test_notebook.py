import html
import random
import re

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from coursekit import notebook, quizzes

CELLS = [
    'from coursekit.notebook import predict, start\nsession = start("02_batchnorm")',
    'predict("loss_of_one_image")',
    "from coursekit import figures\n"
    'figures.show(figures.curves({"a": [1, 2]}, "x", "y"), alt="A line that rises")',
    'from matplotlib import pyplot\nfigure, axes = pyplot.subplots()\nfigures.show(figure, alt="Empty axes")',
    "import torch\nfrom coursekit.data import small_images\nfrom coursekit.training import Watch, fit\n"
    "model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))\n"
    'history = fit(model, small_images("val", 5, source="textures"), steps=30, batch_size=5, watch=Watch(live=True))',
]


@pytest.fixture
def plain_settings():
    with matplotlib.rc_context():
        yield


def run(cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(book, kernel_name="python3", timeout=120)
    with client.setup_kernel():
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


def test_a_run_becomes_a_readable_page():
    book = run(CELLS)
    for cell in book.cells:
        assert [output.output_type for output in cell.outputs] == ["display_data"]
    assert set(book.cells[1].outputs[0].data) == {"text/html", "text/plain"}
    assert "widgets" not in book.metadata

    page, _ = HTMLExporter().from_notebook_node(book)
    body = page[page.index("<body") :]
    assert re.search(r"<details>.*Those of all six images.*darken the others\..*</details>", body, re.DOTALL)
    assert '<img alt="A line that rises"' in body
    assert body.count('<img alt="Empty axes"') == 1
    assert "30/30 steps" in body
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall(r"<img[^>]*>", body))


@pytest.mark.parametrize("name", quizzes.all_of_them())
def test_each_option_unfolds_its_own_reply(name, monkeypatch):
    numbers = {"window": 32, "inside": 16} if name == "wasteful_windows" else {}
    shown = []
    monkeypatch.setattr(notebook, "emit", shown.append)
    notebook.predict(name, **numbers)
    quiz = quizzes.find(name)
    folds = re.findall(r"<details><summary[^>]*>(.*?)</summary>(.*?)</details>", shown[0]["text/html"])
    replies = {re.sub("<.*?>", "", html.unescape(option)): reply for option, reply in folds}
    plain = {option.replace("*", "").replace("`", "") for option in (quiz.right, *quiz.wrong)}
    assert set(replies) == plain
    assert len(set(replies.values())) == len(plain)
    assert [option for option, reply in replies.items() if "✓" in reply] == [quiz.right]
    assert sum("✗" in reply for reply in replies.values()) == len(quiz.wrong)
    assert not re.search(r"[{}`]", shown[0]["text/html"])


def test_the_order_of_options_tells_nothing(monkeypatch):
    places = []
    for quiz in quizzes.all_of_them().values():
        monkeypatch.setattr(quizzes, "find", lambda name, quiz=quiz: quiz)
        monkeypatch.setattr(notebook, "emit", lambda bundle: places.append(bundle["text/plain"]))
        notebook.predict("any", window=32, inside=16)
        places[-1] = places[-1].splitlines().index(f"  ( ) {quiz.right}")
    assert min(places.count(place) for place in (1, 2, 3)) >= len(places) // 6


def test_predict_outside_a_notebook_keeps_the_answer_to_itself(capsys):
    assert notebook.predict("loss_of_one_image") is None
    printed = capsys.readouterr().out
    assert "Which pixels get a gradient" in printed
    assert "darken" not in printed
