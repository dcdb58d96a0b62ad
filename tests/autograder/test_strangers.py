"""Answers written from card and stub alone, by people who had not seen the catalogue, before the checks ever saw them.

`strangers/first`, `second` and `third` hold them, fifty right ones in odd styles and fifty wrong ones each, one a cell,
the wrong ones with a sentence that says what is wrong. What each of them was told, and whether it is true, was read
by hand.
"""

import itertools
import linecache
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from autograder import catalog
from autograder.exercise import Training
from autograder.oracle import evaluate
from coursekit import TOPICS

LESS = {"<first upsampling 7: right nearest_upsample>": 1.75}
"""What was meant to be right and is not: torch.kron raises an error on maps that do not lie in memory in order."""
UNSEEN = {
    "<third unet 15: wrong train_unet>": "only the weights follow the generator, the rest is the same each time",
}
CELL = re.compile(r"^# %% (right|wrong) (\w+): (.*)$", re.MULTILINE)


class Stranger(NamedTuple):
    kind: str
    exercise: str
    sentence: str
    code: str
    file: str


def strangers(rounds=("first", "second", "third")):
    for turn, topic in itertools.product(rounds, TOPICS):
        path = Path(__file__).parent / "strangers" / turn / f"{topic}.py"
        _, *parts = CELL.split(path.read_text(encoding="utf-8"))
        numbers = itertools.count(1)
        for kind, exercise, sentence, code in zip(*(parts[start::4] for start in range(4)), strict=True):
            yield Stranger(
                kind, exercise, sentence, code, f"<{turn} {topic} {next(numbers)}: {kind} {exercise}>"
            )


def params(kind):
    for stranger in strangers():
        if stranger.kind == kind:
            marks = [pytest.mark.slow] if isinstance(catalog.find(stranger.exercise), Training) else []
            if stranger.file in UNSEEN:
                marks.append(pytest.mark.xfail(reason=UNSEEN[stranger.file], strict=True))
            yield pytest.param(stranger, id=stranger.file[1:-1], marks=marks)


def verdict_on(stranger, set_up):
    linecache.cache[stranger.file] = (
        len(stranger.code),
        None,
        stranger.code.splitlines(keepends=True),
        stranger.file,
    )
    namespace = dict(set_up(catalog.find(stranger.exercise).topic))
    exec(compile(stranger.code, stranger.file, "exec"), namespace)
    return evaluate(stranger.exercise, namespace)


@pytest.mark.parametrize("stranger", params("right"))
def test_a_right_answer_of_a_stranger_gets_everything(stranger, set_up):
    verdict = verdict_on(stranger, set_up)
    assert verdict.points == LESS.get(stranger.file, verdict.max_points), (verdict.outcomes, verdict.message)


@pytest.mark.parametrize("stranger", params("wrong"))
def test_a_wrong_answer_of_a_stranger_loses_points_and_is_told_why(stranger, set_up):
    verdict = verdict_on(stranger, set_up)
    assert verdict.points < verdict.max_points
