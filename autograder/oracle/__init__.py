"""Verdicts: fresh inputs are drawn here, the learner's object is asked, and the comparison is made here.

``evaluate("batchnorm_forward", fn)`` judges a function or class of this process; an
:class:`~autograder.attempt.Attempt` judges one at the far end of a wire in exactly the same way.
"""

from autograder.oracle.evaluate import devices_present, evaluate, first_failure

__all__ = ["devices_present", "evaluate", "first_failure"]
