"""A course of one small lecture, ``01_tiny``, for tests that need a whole course directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from autograder.exercise import Case, Exercise, Forbidden, Hint, Misconception, Property, Variant


def double(x):
    """Twice ``x``."""
    return 2 * x


def triple(x):
    """Three times ``x``."""
    return 3 * x


def _exercise(reference, title: str) -> Exercise:
    def draw(_):
        return Case(args=(3,))

    return Exercise(
        id=reference.__name__,
        topic="tiny",
        title=title,
        reference=reference,
        properties=(
            Property("values", "the right multiple of the input", 2, draw),
            Property("negative", "negative inputs too", 1, draw),
        ),
        misconceptions=(Misconception("squared", "You squared.", "Multiply.", ("values",), lambda x: x * x),),
        right=(Variant("sum", lambda x: x + x), Variant("same", reference)),
        hints=(
            Hint("I see no way", "Think of a sum."),
            Hint("Which sum?", "Add it to itself."),
            Hint("Still stuck", "`x + x`"),
        ),
        minutes=5,
        difficulty=2,
        forbidden=(Forbidden("torch.mul", ("mul",)),),
        seconds=4.0,
    )


EXERCISES = (_exercise(double, "Twice as much"), _exercise(triple, "Three times"))


def find(exercise_id: str) -> Exercise:
    for exercise in EXERCISES:
        if exercise.id == exercise_id:
            return exercise
    raise ValueError(f"no exercise {exercise_id!r}; known: double, triple")


def topic(name: str) -> tuple[Exercise, ...]:
    return EXERCISES if name == "tiny" else ()


SOURCE = '''\
# %% [markdown]
# # Tiny
#
# Doubling is adding. About 10 minutes on a laptop.

# %% role="setup"
import math
from autograder import check

# %% [markdown]
# ## Doubling
#
# Predict what comes out, then run.

# %%
from fractions import Fraction

def helper(x):
    return x + 1

values = [helper(n) for n in range(3)]
values

# %% exercise="double"
def double(x: "Tensor") -> "Tensor":
    """Twice x, of shape (N,)."""
    ### BEGIN SOLUTION
    summed_with_itself_once = x + x
    return summed_with_itself_once
    ### END SOLUTION

# %% exercise="triple"
def triple(x):
    """Three times x."""
    ### BEGIN SOLUTION
    return x + x + x
    ### END SOLUTION

# %% [markdown] written="why" points=3
# ### Why is doubling adding?
#
# ### BEGIN SOLUTION
# Because multiplication by two is one addition, by definition.
# ### END SOLUTION
'''

ADDRESS = "https://github.com/OWNER/course"


def write(root: Path, source: str = SOURCE, address: str = ADDRESS) -> Path:
    """Write the course's sources under ``root``; they are not built yet."""
    (root / "solutions").mkdir(parents=True, exist_ok=True)
    (root / "solutions" / "01_tiny.py").write_text(source, encoding="utf-8")
    project = f'[project]\nname = "x"\n[project.urls]\nRepository = "{address}"\n'
    (root / "pyproject.toml").write_text(project, encoding="utf-8")
    return root


CONFIG = """
import sys
import pytest

sys.path.insert(0, {tests!r})
import tiny_course

tiny_course.use_catalog(pytest.MonkeyPatch())
load_subconfig({config!r})
c = get_config()
c.Judge.patience = 2
"""


def nbgrader(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start stock nbgrader's own command in this course; what it says goes to ``nbgrader.log`` there."""
    tests = Path(__file__).parent
    config = CONFIG.format(tests=str(tests), config=str(tests.parents[1] / "nbgrader_config.py"))
    (root / "nbgrader_config.py").write_text(config, encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with open(root / "nbgrader.log", "a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "nbgrader", *arguments],
            cwd=root, env={**os.environ, "PATH": path}, stdout=log, stderr=subprocess.STDOUT, text=True,
            # What runs in the background is deaf to interrupts, and so is what it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def use_catalog(monkeypatch, course=sys.modules[__name__]) -> None:
    """Put the exercises of this course, or of another module like this one, in the catalogue's place."""
    from autograder import catalog
    from autograder.plugins import grading

    monkeypatch.setattr(catalog, "find", course.find, raising=False)
    monkeypatch.setattr(catalog, "topic", course.topic, raising=False)
    # The process that grades is another one, as long as this patch stands.
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import {course.__name__} as course; course.grade()"
    grading.GRADING.end()
    monkeypatch.setattr(grading, "COMMAND", ("-c", code))


def grade(course=sys.modules[__name__]) -> None:
    """Be the process that grades this course."""
    import pytest

    from autograder.plugins import work

    use_catalog(pytest.MonkeyPatch(), course)
    work.main()
