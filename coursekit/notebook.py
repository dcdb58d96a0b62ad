"""The first cell of every notebook, and the question before a surprising result."""

import hashlib
import html
import os
import platform
import random
import re
from dataclasses import dataclass
from typing import NamedTuple

import torch

from coursekit import TOPICS, data, figures, quizzes
from coursekit import _validate as validate
from coursekit._display import emit


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


def predict(quiz: str, **numbers: int) -> None:
    """Let the reader commit to an answer before the result is seen, then say whether it holds and why.

    Each option unfolds its reply. It is plain HTML: nothing has to run for it, so a saved notebook, a page made of it and
    every front end show the same. Text between backticks is set as code, between stars emphasized.

    Args:
        quiz: its name in `coursekit.quizzes`, where its text stands, out of the reader's sight.
        numbers: of this run, for the places that the text has for them.

    Raises:
        ValueError: there is no such quiz, or it asks for other numbers.
    """
    asked = quizzes.find(quiz)
    try:
        question, right, because = (
            text.format(**numbers) for text in (asked.question, asked.right, asked.because)
        )
        replies = {option.format(**numbers): reply.format(**numbers) for option, reply in asked.wrong.items()}
    except KeyError as error:
        raise validate.refuse("numbers", f"those that {quiz} asks for, {error} too", list(numbers)) from None
    shown = {option: f"<b>✗ Not this time.</b> {_rich(reply)}" for option, reply in replies.items()}
    shown[right] = f"<b>✓ As you predicted.</b> {_rich(because)}"
    # An order that tells nothing: it follows from the question.
    options = sorted(shown, key=lambda option: hashlib.sha256(f"{question}{option}".encode()).digest())
    folds = "".join(
        f'<details><summary style="cursor: pointer">{_rich(option)}</summary>'
        f'<p style="margin: 0.3em 0 0.8em 1.2em">{shown[option]}</p></details>'
        for option in options
    )
    emit(
        {
            "text/html": f"<p><b>Predict, then run.</b> {_rich(question)} Choose one:</p>{folds}",
            "text/plain": "\n".join([question, *(f"  ( ) {option}" for option in options)]),
        }
    )


def _rich(text: str) -> str:
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)


def _device_words(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
