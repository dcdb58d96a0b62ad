"""The attack catalogue: every kind of attack in one class with honest students, graded by stock nbgrader, the folders of
kernels outside the course or in it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_plugins as plugins
import tiny_course
from attacks import bypassing, classroom, course, forging, harming, lying, stealing, submission
from attacks.classroom import HONEST, LEFT, SECRETS, Classroom, Listener
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateFeedback

from autograder.plugins import grading
from autograder.sandbox import machine

pytestmark = pytest.mark.skipif(
    bool(machine.trouble()) and not os.environ.get("CI"), reason=machine.trouble()
)

ROWS = """
cell-tag skip · test cell deleted, after an earlier good grade · duplicated ids · edited points · edited type ·
edited metadata · swapped kernelspec · forged execute_result · silenced showtraceback · patched run_cell ·
patched do_execute · AST transformers · input transformers · forged iopub messages with the kernel's own key ·
atexit hooks · later-cell hooks · sys.exit · os._exit · segfault · out of memory · ignored signals · endless loop ·
fork bomb · disk fill · output flood · reading the notebook, solutions, other students, gradebook ·
writing results or the gradebook · frame theft · closure theft · linecache theft · gc theft · /proc ·
inherited descriptors · tokens in env or argv · always-true __eq__ · Tensor subclass with __torch_function__ ·
overridden .double() · lazy outputs · patched torch, numpy, testing · NaN and huge-tolerance wildcards ·
mutated inputs · recycled memory through torch.empty · replay caches by id · replay caches by shape ·
predicted RNG · grading-time detection · time bombs · a library call behind a custom op ·
the same maths through another op · dispatch-mode disabling · another thread · pickle towards the grader ·
shadow modules · sitecustomize · network · a hand-spoken oracle protocol · ANSI and HTML in feedback ·
processes left behind
"""
"""What is tried, row by row; what needs a GPU is not here."""

FAMILIES = (submission, forging, lying, stealing, harming, bypassing)
ATTACKS = {attack.id: attack for family in FAMILIES for attack in family.ATTACKS}


def test_every_row_of_the_catalogue_is_tried():
    rows = {row.strip() for row in ROWS.replace("\n", " ").split("·")}
    assert {attack.row for attack in ATTACKS.values()} == rows
    assert len(ATTACKS) == sum(len(family.ATTACKS) for family in FAMILIES)


@contextlib.contextmanager
def classes(inside: bool = False) -> Iterator[tuple[Classroom, Listener]]:
    """A course whose grader has secrets, and a server on the machine that it is graded on."""
    root = Path(tempfile.mkdtemp(prefix="a-", dir="/var/tmp" if os.access("/var/tmp", os.W_OK) else None))
    listener = Listener()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setenv("SOME_TOKEN", SECRETS["environment"])
        if inside:
            patch.setenv(course.PLACE, str(root))
        tiny_course.use_catalog(patch, course)
        patch.setattr(grading, "COMMAND", (*grading.COMMAND, SECRETS["arguments"]))
        try:
            yield Classroom(root, listener.port), listener
        finally:
            grading.GRADING.end()
            listener.close()
            shutil.rmtree(root, ignore_errors=True)


def _places():
    for name, inside in (("outside", False), ("inside", True)):
        marks = [pytest.mark.xdist_group(f"attack catalogue, {name}")]
        yield pytest.param(inside, marks=[*marks, *([pytest.mark.slow] * inside)], id=name)


@pytest.fixture(scope="module", params=_places())
def room(request):
    """A class that was graded: the honest ones alone, and then with everybody."""
    with classes(inside=request.param) as (found, listener):
        resubmitted = [attack for attack in ATTACKS.values() if attack.earlier]
        for attack in resubmitted:
            found.hand_in_well(attack)
        found.grade()
        found.alone = {name: (found.points(name), found.comments(name)) for name in HONEST}
        found.earlier = {attack.id: found.points(attack.id) for attack in resubmitted}
        found.before = found.untouched()
        for attack in ATTACKS.values():
            found.hand_in(attack)
        found.grade()
        found.left, found.reached = classroom.left_behind(), listener.reached
        yield found


@pytest.mark.parametrize("name", ATTACKS)
def test_it_really_does_what_it_says(room, name):
    attack, put_out = ATTACKS[name], room.put_out(name)
    assert attack.did or attack.said or attack.edit(room.answered()) != room.answered()
    for did in attack.did:
        assert re.search(did, put_out), put_out[-2000:]


@pytest.mark.parametrize("name", ATTACKS)
def test_it_gets_what_it_earned_and_a_person_is_told(room, name):
    attack = ATTACKS[name]
    assert room.points(name) == attack.earns, room.told(name)
    assert room.flagged(name) >= set(attack.flagged)
    for said in attack.said:
        assert re.search(said, room.told(name)), room.told(name)


@pytest.mark.parametrize("name", [attack.id for attack in bypassing.ATTACKS])
def test_right_numbers_by_a_forbidden_way_earn_nothing_unseen(room, name):
    assert not room.points(name)[2] or "batchnorm_forward" in room.flagged(name)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_gets_hold_of_nothing_protected(room, name):
    found = room.written(name) + room.told(name).encode() + room.put_out(name).encode()
    assert [secret for secret in classroom.every_secret() if secret.encode() in found] == []


@pytest.mark.parametrize("name", HONEST)
def test_the_honest_ones_lose_no_point_and_no_word(room, name):
    assert (room.points(name), room.comments(name)) == room.alone[name]
    assert room.flagged(name) == set()


def test_the_class_is_of_many_kinds(room):
    assert room.points("ann") == (3, 3, 4)
    assert 0 < sum(room.points("zoe")) < sum(room.points("mia")) < 10
    assert set(room.earlier.values()) == {(3, 3, 4)}


def test_everybody_has_a_row(room):
    with Gradebook(f"sqlite:///{room.root}/gradebook.db") as gradebook:
        rows = {row.student_id for row in gradebook.assignment_submissions(plugins.ASSIGNMENT)}
        assert {(s.id, s.last_name) for s in gradebook.students if s.last_name} == {
            ("ann", SECRETS["gradebook"])
        }
    assert rows == {*HONEST, *ATTACKS}


def test_nothing_outside_was_changed_reached_or_left_behind(room):
    assert room.untouched() == room.before
    assert not list(room.root.rglob("*stolen-by-an-attack*")) + list(room.root.rglob("pickled"))
    assert room.reached == 0
    assert room.left == []


def test_a_page_of_feedback_shows_and_runs_nothing_of_an_attack(room):
    plugins.run(GenerateFeedback, room.root, student="decorates_feedback")
    page = (room.root / "feedback" / "decorates_feedback" / plugins.ASSIGNMENT / "tiny.html").read_text()
    assert "owned-by-text" in page
    assert not re.search(r"<(script|img|svg)[^<]*owned|\x1b|\u202e|<a[^>]*evil", page)


# --- the instruments themselves ---------------------------------------------------------------------------


THIEVES = ("reads_true_paths", "walks_up", "reads_environment", "searches_proc", "reaches_the_network")


@pytest.mark.xdist_group("attack catalogue, the instruments")
def test_without_walls_the_thieves_succeed():
    with classes() as (found, listener):
        found.grade()
        for name in THIEVES:
            found.hand_in(ATTACKS[name])
        found.grade(unsafe_no_sandbox=True, timeout=60)
        loot = {name: found.put_out(name) for name in THIEVES}
        reached = listener.reached
    of_grader = {SECRETS["environment"], SECRETS["arguments"]}
    assert {s for s in SECRETS.values() if s not in loot["reads_true_paths"]} <= of_grader
    for name in ("reads_environment", "searches_proc"):
        assert SECRETS["environment"] in loot[name]
        assert SECRETS["arguments"] in loot[name]
    assert SECRETS["neighbour"] in loot["walks_up"]
    assert reached > 0


@pytest.mark.xdist_group("attack catalogue, the instruments")
def test_a_process_that_is_left_behind_is_found():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", LEFT]) as process:
        try:
            assert any(line.startswith(f"{process.pid}:") for line in classroom.left_behind())
        finally:
            process.kill()
