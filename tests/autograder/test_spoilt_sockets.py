"""Kernels whose own sockets are spoilt from inside: graded by stock nbgrader, each costs its own submission and no time of
the class's."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import test_plugins as plugins
import tiny_course
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback

from autograder import authoring
from autograder.plugins import grading

pytestmark = pytest.mark.xdist_group("spoilt sockets")

EACH = 60.0
"""Seconds that one attacker may cost the class."""
HONEST = ("a_first", "m_between", "z_last")

KNOWN = """
import glob, json, os, socket, threading, time
import zmq
from ipykernel.kernelapp import IPKernelApp

app = IPKernelApp.instance()
said = json.load(open(app.abs_connection_file))
channels = ("shell", "control", "stdin", "iopub", "hb")
paths = {name: f"{said['ip']}-{said[name + '_port']}" for name in channels}
assert all(map(os.path.exists, paths.values()))

def raw(path):
    one = socket.socket(socket.AF_UNIX)
    one.connect(path)
    one.setblocking(False)
    return one

def pour(one, data):
    try:
        while True:
            one.send(data)
    except OSError:
        pass
"""
RAW = KNOWN + "held = [raw(path) for path in paths.values() for _ in range(30)]\n"
IOPUB = KNOWN + "out = app.iopub_thread\n"
SPOILT = {
    "raw_bytes": RAW + "for one in held:\n    pour(one, os.urandom(2**16))",
    "half_a_greeting": RAW + "for one in held:\n    one.send(b'\\xff' + bytes(8) + b'\\x7f\\x03')",
    "never_reads": KNOWN + """
context = zmq.Context()
deaf = []
for name in ("shell", "control", "stdin"):
    one = context.socket(zmq.DEALER)
    one.connect("ipc://" + paths[name])
    for number in range(900):
        one.send_multipart([b"<IDS|MSG>", b"no signature", b"{}", b"{}", b"{}", os.urandom(1000)])
    deaf.append(one)
""",
    "frames_without_end": KNOWN + """
context = zmq.Context()
for name in ("shell", "control"):
    one = context.socket(zmq.DEALER)
    one.linger = 0
    one.connect("ipc://" + paths[name])
    one.send_multipart([b""] * 20_000)
""",
    "shell_closed": KNOWN + "app.shell_socket.close(linger=0)",
    "all_closed": KNOWN + """
for one in (app.shell_socket, app.control_socket, app.stdin_socket, app.iopub_thread.socket):
    one.close(linger=0)
""",
    "context_ended": KNOWN + "threading.Thread(target=app.context.destroy, kwargs={'linger': 0}).start()\ntime.sleep(1)",
    "heart_stopped": KNOWN + "app.heartbeat.socket.close(linger=0)\nos.unlink(paths['hb'])",
    "flood_on_iopub": IOPUB + """
for number in range(3000):
    out.send_multipart([b"stream", b"<IDS|MSG>", b"", b"{}", b"{}", b"{}", bytes(10**5)])
""",
    "signed_flood_for_ever": KNOWN + """
def flood():
    while True:
        app.session.send(app.iopub_socket, "stream", {"name": "stdout", "text": "x" * 10_000}, ident=b"stream")
for _ in range(3):
    threading.Thread(target=flood, daemon=True).start()
""",
    "a_message_too_large": IOPUB + "out.send_multipart([b'stream', bytes(200 * 2**20)])",
    "no_json": IOPUB + """
from jupyter_client.session import DELIM
for content in (b"", b"[", b"3", b"null", b"[]", b"\\xff", b"[" * 100_000):
    parts = [app.session.pack(app.session.msg_header("stream")), content, b"{}", content]
    out.send_multipart([b"stream", DELIM, app.session.sign(parts), *parts])
    out.send_multipart([b"stream", DELIM, app.session.sign([content] * 4), *[content] * 4])
""",
    "forged_replies": KNOWN + """
for number in range(2000):
    parts = [app.session.pack(app.session.msg_header("execute_reply")), b"{}", b"{}", b"{}"]
    ident = app.kernel.get_parent("shell")["header"]["session"].encode()
    app.shell_socket.send_multipart([ident, b"<IDS|MSG>", b"", os.urandom(100), b"", b"", b""])
""",
    "files_replaced": KNOWN + """
fake = []
for path in paths.values():
    os.unlink(path)
    one = socket.socket(socket.AF_UNIX)
    one.bind(path)
    one.listen(9)
    fake.append(one)
for one in (app.shell_socket, app.control_socket, app.stdin_socket):
    one.close(linger=0)
""",
    "links_in_their_places": KNOWN + """
for path in paths.values():
    os.unlink(path)
    os.symlink("/var/run/docker.sock", path)
app.shell_socket.close(linger=0)
""",
    "folder_filled": KNOWN + """
folder = os.path.dirname(paths["shell"])
try:
    for number in range(20_000):
        open(f"{folder}/{number}", "w").close()
except OSError:
    pass
app.shell_socket.close(linger=0)
""",
    "answers_nothing": KNOWN + "app.kernel.session.send = lambda *given, **named: None",
    "stopped": KNOWN + "import signal\nos.kill(os.getpid(), signal.SIGSTOP)",
}  # fmt: skip
TAKEN = ("half_a_greeting", "frames_without_end", "heart_stopped")
"""What a kernel takes."""
BY_CHANCE = ("raw_bytes", "never_reads", "signed_flood_for_ever")
"""What a kernel takes where it is quick enough."""
WHILE_CHECKED = ("raw_bytes", "all_closed", "files_replaced", "signed_flood_for_ever", "stopped")


def beside(source):
    """In the cell of an exercise, whose answer is right only where all of that was done."""
    return f"{within('spoil()', source)}\n    return True\n\nspoilt = spoil()\n\ndef double(x):\n    return x + x if spoilt else None"


def inside(source):
    """In the answer: it is spoilt while the oracle asks."""
    return f"{within('double(x)', source)}\n    return x + x"


def within(function, source):
    return f"def {function}:\n    " + source.strip().replace("\n", "\n    ")


ATTACKERS = {name: beside(source) for name, source in SPOILT.items()}
ATTACKERS |= {f"checked_{name}": inside(SPOILT[name]) for name in WHILE_CHECKED}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setattr(grading, "SILENT", 30.0)
        tiny_course.use_catalog(patch)
        root = tiny_course.write(tmp_path_factory.mktemp("course"))
        authoring.build(root)
        plugins.run(GenerateAssignment, root, force=True)
        for student in HONEST:
            plugins.submit(root, student, plugins.solve(plugins.release(root)))
        for student, source in ATTACKERS.items():
            plugins.submit(root, student, plugins.solve(plugins.release(root), double=source))
        start = time.monotonic()
        plugins.run(Autograde, root, patience=1, timeout=10, total_timeout=60)
        took = time.monotonic() - start
        plugins.run(GenerateFeedback, root)
        yield root, took


def said(root, student, name="double"):
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        return (
            gradebook.find_comment(f"{name}-solution", "tiny", plugins.ASSIGNMENT, student).auto_comment or ""
        )


def test_the_class_goes_on_in_bounded_time(graded):
    root, took = graded
    assert took < EACH * len(ATTACKERS) / 2
    assert len(list(root.glob("feedback/*/*/tiny.html"))) == len(ATTACKERS) + len(HONEST)


@pytest.mark.parametrize("student", HONEST)
def test_honest_grades_do_not_change(graded, student):
    found = [grade[:2] for grade in plugins.grades(graded[0], student).values()][:2]
    assert found == [(3, False)] * 2, said(graded[0], student)


@pytest.mark.parametrize("student", ATTACKERS)
def test_who_spoils_them_has_a_row_with_its_reason(graded, student):
    root = graded[0]
    found = {name: grade[:2] for name, grade in plugins.grades(root, student).items()}
    # What is done below in a new kernel is judged there; how it hides from the watch is told beside the points.
    assert found["triple"][0] == 3, said(root, student, "triple")
    may = {3} if student in TAKEN else {3, 0} if student in BY_CHANCE else {0}
    if student.startswith("checked_"):
        # The oracle has a socket of its own: what is right was seen to be.
        may.add(3)
    points, asked = found["double"]
    assert points in may
    assert asked or points
    assert bool(said(root, student)) == asked
