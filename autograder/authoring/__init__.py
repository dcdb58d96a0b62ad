"""From the text people edit to the notebooks people open.

``solutions/NN_topic.py`` (jupytext percent) becomes ``solutions/NN_topic/topic.ipynb``, with exercise
cards, check cells, points and cell roles out of the catalogue; nbgrader's own ``GenerateAssignment`` makes
``lectures/NN_topic/topic.ipynb`` of that. The same source always gives the same bytes.
"""

from autograder.authoring.build import Built, build, card, released, render
from autograder.authoring.check import check, warnings
from autograder.authoring.source import AuthoringError, Source, sources

__all__ = [
    "AuthoringError",
    "Built",
    "Source",
    "build",
    "card",
    "check",
    "released",
    "render",
    "sources",
    "warnings",
]
