"""The half of a check that lives beside the learner's objects: it builds arguments, calls, and answers.

An agent is handed requests as plain structures and returns plain structures; :mod:`autograder.wire` carries
them when the oracle is another process. It decides nothing: every verdict is made on the oracle's side.
"""

from autograder.agent.calm import preserved
from autograder.agent.serve import Agent
from autograder.agent.source import fingerprint, source_of

__all__ = ["Agent", "fingerprint", "preserved", "source_of"]
