"""The process that grades, watched: whatever blocks it costs one submission."""

import json
import logging
import os
import subprocess
import sys
import textwrap
import time

import nbformat
import pytest

from autograder.exercise import without_verdict
from autograder.plugins import grading
from autograder.plugins.grading import Blocked, Grading, Task

NOTEBOOK = nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]))
TASK = Task(NOTEBOOK, NOTEBOOK, "", [], True, ["", ""])
LOG = logging.getLogger("quiet")

BEGINNING = """
import json, os, sys, time
def tell(message):
    print(json.dumps(message), flush=True)
"""
TO_THE_END = 'for line in sys.stdin:\n    tell({"done": json.loads(line)["notebook"]})\n'


@pytest.fixture
def told(monkeypatch):
    """``told(code)``: a Grading whose process does that; ``tell`` sends a message."""
    made = []

    def start(code):
        monkeypatch.setattr(grading, "COMMAND", ("-c", BEGINNING + textwrap.dedent(code)))
        made.append(Grading())
        return made[-1]

    yield start
    for one in made:
        one.end()


def judged():
    from autograder import catalog

    return json.dumps(["double", without_verdict(catalog.find("batchnorm_forward"), "as it is").to_json()])


def test_what_is_graded_comes_back_and_the_process_stays(told):
    grader = told(TO_THE_END)
    notebook, verdicts = grader.graded(TASK, LOG)
    assert notebook.cells[0].source == "1"
    assert verdicts == {}
    first = grader._process.pid
    grader.graded(TASK, LOG)
    assert grader._process.pid == first


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        ("time.sleep(600)", "without a sign of life"),
        ("while True: pass", "without a sign of life"),
        ("os.kill(os.getpid(), 19)", "without a sign of life"),
        ("os._exit(3)", "ended before it was done"),
        ("print('{no json', flush=True); time.sleep(600)", "ended before it was done"),
    ],
    ids=["asleep", "at work", "stopped", "gone", "garbage"],
)
def test_what_blocks_it_costs_one_submission(told, monkeypatch, blocks, why):
    monkeypatch.setattr(grading, "SILENT", 1.5)
    grader = told(f"next(sys.stdin)\ntell({{'verdict': json.loads({judged()!r})}})\n{blocks}\n")
    start = time.monotonic()
    with pytest.raises(Blocked, match=why) as caught:
        grader.graded(TASK, LOG)
    assert time.monotonic() - start < 10
    assert caught.value.verdicts["double"].message == "as it is"
    monkeypatch.setattr(grading, "COMMAND", ("-c", BEGINNING + TO_THE_END))
    grader.graded(TASK, LOG)


def test_signs_of_life_keep_it_going(told, monkeypatch):
    monkeypatch.setattr(grading, "SILENT", 1.5)
    slow = "for line in sys.stdin:\n    for _ in range(8):\n        time.sleep(0.4); tell({})\n    "
    grader = told(slow + 'tell({"done": json.loads(line)["notebook"]})\n')
    assert grader.graded(TASK, LOG)[0].cells


def test_what_it_has_started_ends_with_it(told, monkeypatch):
    monkeypatch.setattr(grading, "SILENT", 1.5)
    code = "import subprocess\nnext(sys.stdin)\nchild = subprocess.Popen(['sleep', '600'])\n"
    grader = told(code + "tell({'log': [30, str(child.pid)]})\ntime.sleep(600)")
    said = []

    class Log:
        def log(self, level, text, *values):
            said.append(text % values)

    with pytest.raises(Blocked):
        grader.graded(TASK, Log())
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{said[0]}/cmdline") and time.monotonic() < deadline:
        with open(f"/proc/{said[0]}/cmdline") as file:
            if not file.read():
                break
        time.sleep(0.05)
    else:
        assert not os.path.exists(f"/proc/{said[0]}/cmdline")


def test_an_exam_that_cannot_be_sat_is_said_and_nothing_is_graded(told):
    grader = told("for line in sys.stdin:\n    tell({'refused': 'no exam, but a picture'})")
    for _ in range(2):
        with pytest.raises(ValueError, match="but a picture"):
            grader.graded(TASK, LOG)


def test_a_process_that_has_gone_for_want_of_work_is_started_anew(told):
    grader = told(TO_THE_END)
    grader.graded(TASK, LOG)
    grader._process.kill()
    grader._process.wait()
    assert grader.graded(TASK, LOG)[0].cells


def test_where_another_command_is_meant_the_process_is_another(told, monkeypatch):
    grader = told(TO_THE_END)
    grader.graded(TASK, LOG)
    refusing = 'for line in sys.stdin:\n    tell({"refused": "another one"})\n'
    monkeypatch.setattr(grading, "COMMAND", ("-c", BEGINNING + refusing))
    with pytest.raises(ValueError, match="another one"):
        grader.graded(TASK, LOG)


def test_told_that_nothing_is_left_it_ends_by_itself(told, tmp_path):
    mark = tmp_path / "ended"
    grader = told(f"{TO_THE_END}open({str(mark)!r}, 'w').close()")
    grader.graded(TASK, LOG)
    grader.end()
    assert mark.exists()


def test_nobody_waits_for_torch_who_does_not_need_it():
    """nbgrader's process judges nothing, and no command should take seconds to say how it is called."""
    code = "import sys\nfrom autograder.plugins import {}\nimport autograder.cli\nprint('torch' in sys.modules)\n"
    code += "print(autograder.check.__module__, 'hint' in dir(autograder))"
    from autograder.plugins import __all__

    ended = subprocess.run(
        [sys.executable, "-c", code.format(", ".join(__all__))], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split("\n")[:2] == ["False", "autograder.learner True"]


@pytest.mark.parametrize("name", ["autograder.checks", "autograder.plugins.Judges"])
def test_what_is_not_there_is_named(name):
    import importlib

    module, _, wanted = name.rpartition(".")
    with pytest.raises(AttributeError, match=f"{module}.*{wanted}"):
        getattr(importlib.import_module(module), wanted)
