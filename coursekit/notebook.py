"""The first cell of every notebook, and the question before a surprising result."""

import contextlib
import hashlib
import html
import os
import platform
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from coursekit import TOPICS, data, figures
from coursekit import _validate as validate
from coursekit._display import can_click, emit


class Lecture(NamedTuple):
    minutes: int
    data: tuple[str, ...]


# Minutes on a laptop for someone who solves the exercises, and the data sets as `data.whereabouts` knows them, of which
# the first that is here is used.
_LECTURES = (
    Lecture(120, ("small_images",)),
    Lecture(150, ("small_images",)),
    Lecture(180, ("small_images",)),
    Lecture(140, ("sealions", "textures")),
    Lecture(170, ("textures",)),
    Lecture(180, ("camvid", "scenes")),
    Lecture(210, ("cells",)),
)
LECTURES = {
    f"{number:02}_{topic}": lecture
    for number, (topic, lecture) in enumerate(zip(TOPICS, _LECTURES, strict=True), start=1)
}


@dataclass(frozen=True)
class Session:
    """What the cells of a notebook share.

    Attributes:
        topic: the notebook, as in "02_batchnorm".
        device: where tensors should live: the GPU where there is one.
        seed: what the random number generators were seeded with.
        fast: whether FAST=1 asks for a quick run that only shows that everything runs.
    """

    topic: str
    device: torch.device
    seed: int
    fast: bool

    def scaled(self, n: int, fast: int) -> int:
        """A size that a quick run shrinks: `n`, or `fast` under FAST=1."""
        return fast if self.fast else n


def start(topic: str, seed: int = 0) -> Session:
    """Begin a notebook: seed torch, numpy and random, set the figures' style, and say what this runs on.

    Args:
        topic: the notebook, as in "02_batchnorm".
        seed: for all random number generators.

    Raises:
        ValueError: an unknown topic.
    """
    if topic not in LECTURES:
        raise validate.refuse("topic", f"one of {', '.join(LECTURES)}", repr(topic))
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    figures.use_style()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    session = Session(topic, device, seed, os.environ.get("FAST", "0") not in ("", "0"))
    rows = {
        "Notebook": f"{topic}, about {LECTURES[topic].minutes} minutes with its exercises",
        "Versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "Device": _device_words(device),
        "Seed": str(seed),
        "Data": data.whereabouts(next(filter(data.here, LECTURES[topic].data))),
    }
    if session.fast:
        rows["FAST=1"] = "training is cut short; its results mean nothing"
    cells = "".join(
        f'<tr><th scope="row" style="text-align: left">{html.escape(name)}</th>'
        f'<td style="text-align: left">{html.escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    plain = "\n".join(f"{name:9} {value}" for name, value in rows.items())
    emit({"text/html": f"<table>{cells}</table>", "text/plain": plain})
    return session


def predict(question: str, options: Sequence[str], answer: str, because: str) -> None:
    """Let the reader commit to an answer before the result is seen, then say whether it holds and why.

    In a notebook someone sits at, it is a choice with a button; in a run without a front end, and in a page made of
    the notebook, the question with an answer that unfolds. Text between backticks is set as code.

    Args:
        question: what will happen?
        options: two or more possible answers, shown in an order that tells nothing: it follows from the question.
        answer: the right one of `options`.
        because: why it is right.

    Raises:
        ValueError: fewer than two options, the same one twice, or an answer that is none of them.
    """
    options = list(options)
    if len(options) < 2 or len(set(options)) < len(options):
        raise validate.refuse("options", "two or more different answers", options)
    if answer not in options:
        raise validate.refuse("answer", f"one of {options}", repr(answer))
    options.sort(key=lambda option: hashlib.sha256(f"{question}{option}".encode()).digest())
    bundle: dict[str, Any] = {
        "text/html": _static(question, options, answer, because),
        "text/plain": "\n".join([question, *(f"  ( ) {option}" for option in options)]),
    }
    if can_click():
        with contextlib.suppress(ImportError):
            widget = _quiz(question, options, answer, because)
            view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
            bundle["application/vnd.jupyter.widget-view+json"] = view
    emit(bundle)


def _quiz(question: str, options: list[str], answer: str, because: str) -> Any:
    import ipywidgets as widgets

    wide = widgets.Layout(width="auto")
    choice = widgets.RadioButtons(options=options, value=None, layout=wide)
    commit = widgets.Button(description="Commit", disabled=True, tooltip="Commit to this answer")
    verdict = widgets.HTML()

    def chosen(change: dict) -> None:
        commit.disabled = change["new"] is None

    def committed(button: widgets.Button) -> None:
        choice.disabled = commit.disabled = True
        verdict.value = f'<div role="status">{_verdict(choice.value, answer, because)}</div>'

    choice.observe(chosen, "value")
    commit.on_click(committed)
    title = widgets.HTML(f"<p><b>Predict, then run.</b> {_rich(question)}</p>")
    return widgets.VBox([title, choice, commit, verdict], layout=wide)


def _verdict(chosen: str, answer: str, because: str) -> str:
    if chosen == answer:
        return f"<b>✓ As you predicted.</b> {_rich(because)}"
    return f"<b>✗ Not this time:</b> {_rich(answer)}. {_rich(because)}"


def _static(question: str, options: list[str], answer: str, because: str) -> str:
    items = "".join(f"<li>{_rich(option)}</li>" for option in options)
    return (
        f"<p><b>Predict, then run.</b> {_rich(question)}</p><ul>{items}</ul>"
        f"<details><summary>Decide first, then unfold the answer</summary>"
        f"<p><b>{_rich(answer)}.</b> {_rich(because)}</p></details>"
    )


def _rich(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def _device_words(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
