"""The course that is attacked: the tiny one with an exercise on tensors, and what in it nobody may see."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import tiny_course

from autograder.catalog.batchnorm.batchnorm_forward import EXERCISE

EXERCISES = (*tiny_course.EXERCISES, replace(EXERCISE, topic="tiny"))

PLACE = "ATTACKED_PLACE"
"""Names the folder in which kernels' private ones lie; the usual one where it is not set."""
SECRET = "secret-of-the-catalogue"
SOURCE = tiny_course.SOURCE.replace("import math\n", "import math\nimport torch\n").replace(
    "# %% [markdown] written",
    '''\
# %% exercise="batchnorm_forward"
def batchnorm_forward(x, gamma, beta, eps=1e-5):
    """x normalized over its batch, scaled by gamma and shifted by beta."""
    ### BEGIN SOLUTION
    # secret-of-the-solution
    return torch.nn.functional.batch_norm(x, None, None, gamma, beta, True, 0.0, eps)
    ### END SOLUTION

# %% [markdown] written''',
)


def find(exercise_id: str):
    for exercise in EXERCISES:
        if exercise.id == exercise_id:
            return exercise
    raise ValueError(f"no exercise {exercise_id!r}")


def topic(name: str):
    return EXERCISES if name == "tiny" else ()


def grade() -> None:
    """Be the process that grades this course."""
    if place := os.environ.get(PLACE):
        from autograder.sandbox import fork, kernel

        base = Path(tempfile.mkdtemp(prefix=f"{kernel.PREFIX}{os.getpid()}-", dir=place))
        kernel.base = fork.base = lambda: base
    tiny_course.grade(sys.modules[__name__])
