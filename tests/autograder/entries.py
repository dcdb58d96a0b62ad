"""Answers to batchnorm_forward, and entries of a catalogue that nobody looks up."""

from autograder import catalog
from autograder.exercise import Exercise


def forward(of_x):
    """An answer to batchnorm_forward that makes something of x."""

    def batchnorm_forward(x, gamma, beta, eps=1e-5):
        return of_x(x)

    return batchnorm_forward


def right(x, gamma, beta, eps=1e-5):
    return catalog.find("batchnorm_forward").right[0].answer(x, gamma, beta, eps)


def small(reference, *properties, **changes) -> Exercise:
    """A catalogue entry of a few properties, which nobody looks up."""
    changes = {"id": "small", "topic": "batchnorm", "title": "", "misconceptions": (), "right": ()} | changes
    return Exercise(
        reference=reference, properties=properties, hints=("", "", ""), minutes=1, difficulty=1, **changes
    )
