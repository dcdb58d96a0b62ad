"""Code that can hide from the watch is seen in the source, and what honest notebooks hold is not."""

import nbformat
import pytest

from autograder.exercise import Outcome, Verdict
from autograder.plugins.audit import audit, audited


def code(source):
    return nbformat.v4.new_code_cell(source)


def seen(source, release=""):
    return " ".join(audit([code(source)], [code(release)]))


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("import autograder.agent.watch as w\nw.WATCHES.clear()", "autograder.agent.watch"),
        ("from autograder import agent", "autograder.agent"),
        ("from autograder.agent import watch", "autograder.agent"),
        ("import autograder\nautograder.wire.dump = None", "autograder.wire"),
        ("import sys\nsys.modules['autograder.agent'].Agent = None", "autograder.agent"),
        ("from sys import setprofile as s\ns(None)", "setprofile"),
        ("getattr(__import__('sys'), 'setprofile')(None)", "setprofile"),
        ("%matplotlib inline\ndef f():\n    import sys\n    return sys._getframe()", "_getframe"),
        ("from torch.utils import _python_dispatch", "_python_dispatch"),
        ("import os\nif not os.fork():\n    pass", "fork"),
        ("from concurrent.futures import ThreadPoolExecutor", "ThreadPoolExecutor"),
        ("import multiprocessing.pool", "multiprocessing"),
        ("exec('f = 1')", "exec"),
    ],
)
def test_it_is_seen_however_it_is_named(source, word):
    assert word in seen(source)
    assert seen(source, release=source) == ""


@pytest.mark.parametrize(
    "source",
    [
        "from autograder import check, hint\nfrom autograder.learner import check",
        "import autograder\nautograder.check('double')",
        "net.eval()\nmodel = torch.compile(net)\npattern = re.compile('a')",
        "import os, torch.nn.functional as F\nassert torch.allclose(mine(x), F.batch_norm(x, None, None))",
        "!pip install torch\n%timeit f(3)\nfiles = !ls",
        "__import__ = compile = None",
        "print('the fork in the road')",
        "def broken(:\n    threading",
    ],
)
def test_what_honest_notebooks_hold_is_not(source):
    assert seen(source) == ""


def test_files_beside_a_notebook_are_read_too(tmp_path):
    (tmp_path / "helpers.py").write_text("import threading\n")
    (tmp_path / "data.csv").write_text("threading")
    assert "threading" in " ".join(audit([], [], tmp_path.iterdir()))


def test_it_costs_nothing_and_asks_a_person_where_points_were_earned():
    verdict = Verdict("double", Outcome.CORRECT, 3.0, 3.0, (), 1)
    found = audited(verdict, ["its notebook uses exec"])
    assert (found.points, found.outcome) == (3.0, Outcome.CORRECT)
    assert "its notebook uses exec" in found.flags[0]
    assert audited(verdict, []) == verdict
    nothing = Verdict("double", Outcome.WRONG_VALUES, 0.0, 3.0, (), 1)
    assert audited(nothing, ["its notebook uses exec"]) == nothing
