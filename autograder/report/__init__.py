"""What an instructor reads after a class is graded: who stands where, what was hard, which mistakes the class
shares, and what a person should look at.

:func:`collect` reads it out of a graded course directory; :func:`html`, :func:`table` and :func:`summary_lines`
show it. Names, notes and messages come from students as well: everything shown is cleaned and escaped.
"""

from autograder.report.collect import State, Submission, collect
from autograder.report.page import html
from autograder.report.statistics import Hardness, Shared, hardness, misconceptions
from autograder.report.terminal import summary_lines, table

__all__ = [
    "Hardness",
    "Shared",
    "State",
    "Submission",
    "collect",
    "hardness",
    "html",
    "misconceptions",
    "summary_lines",
    "table",
]
