"""The attack catalogue: every kind of attack in one class with honest students, graded by stock nbgrader."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import tiny_course
from attacks import classroom, course, forging, submission
from attacks.classroom import HONEST, LEFT, SECRETS, Classroom, Listener

from autograder.plugins import grading
from autograder.sandbox import machine

pytestmark = [
    pytest.mark.xdist_group("attack catalogue"),
    pytest.mark.skipif(bool(machine.trouble()) and not os.environ.get("CI"), reason=machine.trouble()),
]

FAMILIES = (submission, forging)
ATTACKS = {attack.id: attack for family in FAMILIES for attack in family.ATTACKS}


@pytest.fixture(scope="module", params=["outside", "inside"])
def room(request):
    """A class that was graded: the honest ones alone, and then with everybody. Kernels' folders lie outside the course
    or inside it."""
    root = Path(tempfile.mkdtemp(prefix="a-", dir="/var/tmp" if os.access("/var/tmp", os.W_OK) else None))
    listener = Listener()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setenv("SOME_TOKEN", SECRETS["environment"])
        if request.param == "inside":
            patch.setenv(course.PLACE, str(root))
        tiny_course.use_catalog(patch, course)
        patch.setattr(grading, "COMMAND", (*grading.COMMAND, SECRETS["arguments"]))
        try:
            found = Classroom(root, listener.port)
            resubmitted = [attack for attack in ATTACKS.values() if attack.earlier]
            for attack in resubmitted:
                found.hand_in_well(attack)
            found.grade()
            found.alone = {name: (found.points(name), found.flagged(name), found.told(name)) for name in HONEST}
            found.earlier = {attack.id: found.points(attack.id) for attack in resubmitted}
            for attack in ATTACKS.values():
                found.hand_in(attack)
            found.grade()
            found.left, found.reached = classroom.left_behind(), listener.reached
            yield found
        finally:
            grading.GRADING.end()
            listener.close()
            shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("name", ATTACKS)
def test_it_really_does_what_it_says(room, name):
    put_out = room.put_out(name)
    for did in ATTACKS[name].did:
        assert re.search(did, put_out), put_out[-2000:]


@pytest.mark.parametrize("name", ATTACKS)
def test_it_earns_what_it_earned(room, name):
    attack = ATTACKS[name]
    assert room.points(name) == attack.earns, room.told(name)
    assert room.flagged(name) >= set(attack.flagged)
    for said in attack.said:
        assert re.search(said, room.told(name)), room.told(name)
