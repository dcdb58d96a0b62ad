"""Checks, answers and cells where learners really leave them, graded by stock nbgrader; the doctor warns before."""

from __future__ import annotations

import copy

import nbformat
import pytest
import test_plugins as plugins
from nbconvert.filters import markdown2html
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde

from autograder import cells, doctor, order
from autograder.endings import ends_process
from autograder.plugins import deaths

pytestmark = pytest.mark.xdist_group("hand-ins in order")

DOUBLE, TRIPLE = plugins.DOUBLE, plugins.TRIPLE
CHECK = 'check("double")'


def added(nb, role, exercise, *sources, above=False):
    """Cells of the learner's own below, or above, one of the course's."""
    at = nb.cells.index(plugins.code(nb, role, exercise)) + (not above)
    nb.cells[at:at] = [nbformat.v4.new_code_cell(source) for source in sources]
    return nb


def below_check(nb, *sources, stub=None):
    plugins.solve(nb, double=stub)
    return added(nb, "check", "double", *sources)


# --- the check not after its definition ------------------------------------------------------------------


def typed_below_the_check(nb):
    return below_check(nb, DOUBLE)


def helper_only(nb):
    return below_check(nb, "def double(x):\n    return plus(x)", stub="def plus(x):\n    return x + x")


def half_merged_into_the_check(nb):
    """Split between two functions; the second half bears the exercise's metadata, and the check's cell is gone."""
    plugins.solve(nb, double="def plus(x):\n    return x + x")
    check, half = (
        plugins.code(nb, "check", "double"),
        copy.deepcopy(plugins.code(nb, "exercise", "double")),
    )
    half.id, half.source = "half", f"def double(x):\n    return plus(x)\n\n{CHECK}"
    nb.cells[nb.cells.index(check)] = half
    return nb


def half_under_the_check_call(nb):
    plugins.code(nb, "check", "double").source = f"{CHECK}\n\n{DOUBLE}"
    return plugins.solve(nb, double=None)


def cut_inside_the_function(nb):
    plugins.code(nb, "check", "double").source = f"    return y\n\n{CHECK}"
    return plugins.solve(nb, double="def double(x):\n    y = x + x")


def cut_and_the_check_is_gone(nb):
    plugins.solve(nb, double="def double(x):\n    y = x + x")
    check = plugins.code(nb, "check", "double")
    nb.cells[nb.cells.index(check)] = nbformat.v4.new_code_cell(f"    return y\n\n{CHECK}")
    return nb


def started_and_left(nb):
    begun = "def double(x):\n    y = x * 2  # no\n    raise NotImplementedError()"
    return below_check(nb, "# again\n" + DOUBLE, stub=begun)


def under_a_condition(nb):
    return below_check(nb, "try:\n    import numpy\nfinally:\n    def double(x):\n        return x + x")


def given_a_name_below(nb):
    return below_check(nb, "my_double = lambda x: x + x", "double = my_double")


def helper_below_the_check(nb):
    return below_check(nb, "def plus(x):\n    return add(x, x)", "def add(x, y):\n    return x + y",
                       stub="def double(x):\n    return plus(x)")  # fmt: skip


def above_its_stub(nb):
    plugins.solve(nb, double=None)
    return added(nb, "exercise", "double", DOUBLE, above=True)


def at_the_end(nb):
    plugins.solve(nb, double=None)
    nb.cells += [nbformat.v4.new_code_cell(source) for source in (f"{CHECK}\n", DOUBLE, CHECK)]
    return nb


def answered_twice(nb):
    """At home the lower one was checked; nobody can know, so a person is asked."""
    return below_check(nb, DOUBLE, stub="def double(x):\n    return x")


# --- an answer beside its question -----------------------------------------------------------------------


def question(nb):
    return next(cell for cell in nb.cells if cells.role_of(cell) == "written")


def answered(nb, *own, at=1):
    place = nb.cells.index(question(nb)) + at
    nb.cells[place:place] = own
    return nb


markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell


def answer_below(nb):
    return answered(nb, markdown("Because <script>alert(1)</script> `adding` is *it*."))


def answer_in_a_code_cell(nb):
    return answered(nb, code("1 + 1"), code("Because adding is doubling, by definition."))


def answer_in_comments(nb):
    return answered(nb, code("# Because adding\n# is doubling."))


def answer_above(nb):
    return answered(nb, markdown("Because adding is doubling."), at=0)


def answer_at_the_end(nb):
    return answered(nb, markdown("## Notes"), code("2 + 2"), markdown("Question 1: adding is doubling."))


def answer_in_a_raw_cell(nb):
    return answered(nb, nbformat.v4.new_raw_cell("adding is doubling"))


def question_replaced(nb):
    nb.cells[nb.cells.index(question(nb))] = markdown("Mine: adding is doubling.")
    return nb


# --- a cell that ends the process ------------------------------------------------------------------------


def ends(*sources):
    """Cells of the learner's own between two exercises; the second needs what stood above them."""

    def change(nb):
        plugins.solve(nb, triple="def triple(x):\n    return plus(double(x), x) + offset")
        added(
            nb,
            "check",
            "double",
            "import numpy\noffset = int(numpy.zeros(1)[0])\ndef plus(x, y):\n    return x + y",
        )
        return added(nb, "exercise", "triple", *sources, above=True)

    return change


ENDS = {
    "by_exit": "exit()",
    "by_quit": "quit",
    "by_signal": "import os\nos.kill(os.getpid(), 9)",
    "by_shutdown": "get_ipython().kernel.do_shutdown(True)",
    "by_application": "import IPython\nIPython.Application.instance().kernel.do_shutdown(True)",
    "by_sys_exit": "import sys\nsys.exit()",
    "by_abort": "import os\nos.abort()",
    "by_pointer": "import ctypes\nctypes.string_at(0)",
    "by_shell": "import os\n!kill -9 $PPID\nos._exit(3)",
}


def exercise_ends(nb):
    return plugins.solve(nb, double=f"{DOUBLE}\n\nexit()")


def answer_ends(nb):
    return plugins.solve(nb, double="import os\n\ndef double(x):\n    os._exit(1)")


def ends_for_ever(nb):
    plugins.solve(nb)
    return added(nb, "check", "double", *["import os\nos._exit(0)"] * (deaths.RESTARTS + 1))


def state_is_gone(nb):
    """The answer needs what the dead cell had computed, and only that."""
    plugins.solve(nb, triple="def triple(x):\n    return x + x + len(kept) * x")
    return added(nb, "exercise", "triple", "kept = list(range(1))\nquit()", above=True)


PLACES = (
    typed_below_the_check, helper_only, half_merged_into_the_check, half_under_the_check_call,
    cut_inside_the_function, cut_and_the_check_is_gone, started_and_left, under_a_condition, given_a_name_below,
    helper_below_the_check, above_its_stub, at_the_end,
)  # fmt: skip
ANSWERS = (
    answer_below, answer_in_a_code_cell, answer_in_comments, answer_above, answer_at_the_end,
    answer_in_a_raw_cell, question_replaced,
)  # fmt: skip
FULL, ASKED = (3, False), (0, True)


def both(one, other):
    return lambda nb: other(one(nb))


# Who left a check before its definition answers beside the question, too: fewer kernels, and neither hides the other.
PAIRS = {one.__name__: both(one, other) for one, other in zip(PLACES, ANSWERS * 2, strict=False)}
CLASS = {
    **{student: (change, FULL, FULL) for student, change in PAIRS.items()},
    "ends_as_ipython_does": (ends(*list(ENDS.values())[:3]), FULL, FULL),
    "ends_by_restarting": (ends(*list(ENDS.values())[3:6]), FULL, FULL),
    "ends_by_a_crash": (ends(*list(ENDS.values())[6:]), FULL, FULL),
    "answered_twice": (answered_twice, ASKED, FULL),
    "exercise_ends": (exercise_ends, ASKED, FULL),
    "answer_ends": (answer_ends, ASKED, FULL),
    "ends_for_ever": (ends_for_ever, FULL, ASKED),
    "state_is_gone": (state_is_gone, FULL, ASKED),
}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    with plugins.released(tmp_path_factory.mktemp("course")) as root:
        yield root


@pytest.fixture(scope="module")
def graded(course):
    for student, (change, *_) in CLASS.items():
        plugins.submit(course, student, change(plugins.release(course)))
    plugins.run(Autograde, course)
    return course


def comment(root, student, grade_id):
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        return gradebook.find_comment(grade_id, "tiny", plugins.ASSIGNMENT, student).auto_comment


@pytest.mark.parametrize("student", CLASS)
def test_grades(graded, student):
    found = plugins.grades(graded, student)
    assert tuple(found[name][:2] for name in ("double", "triple")) == CLASS[student][1:]


@pytest.mark.parametrize("student", PAIRS)
def test_who_answered_beside_the_question_is_read_by_a_person(graded, student):
    assert plugins.grades(graded, student)["why"][:2] == (None, True)
    said = comment(graded, student, "why")
    assert "adding" in said
    assert "<script>" not in markdown2html(said)


def test_who_did_not_answer_is_not_asked_about(graded):
    assert plugins.grades(graded, "answered_twice")["why"][:2] == (0, False)


def test_what_a_death_cost_is_told(graded):
    assert "the kernel died (a cell asked for its end)" in comment(graded, "exercise_ends", "double-solution")
    assert "the kernel died (the process ended" in comment(graded, "answer_ends", "double-solution")
    assert "graded in a new kernel" in comment(graded, "state_is_gone", "triple-solution")
    assert "defined again in cell" in comment(graded, "answered_twice", "double-solution")


# --- the doctor, before --------------------------------------------------------------------------------


@pytest.fixture
def release(course):
    return plugins.release(course)


@pytest.mark.parametrize("change", PLACES, ids=lambda change: change.__name__)
def test_the_doctor_puts_every_check_after_its_definition(release, change):
    handed_in = change(copy.deepcopy(release))
    repaired, report = doctor.repair(handed_in, release)
    assert any("double" in says for says in report.sentences)
    kept = {cell.source for cell in repaired.cells}
    assert {cell.source for cell in handed_in.cells if not cells.is_check(cell)} <= kept
    space: dict = {"check": lambda name: None}
    for cell in repaired.cells:
        if cells.is_check(cell):
            break
        try:
            exec(cell.source if cell.cell_type == "code" else "", space)
        except SyntaxError:
            assert change.__name__.startswith("cut")
    assert cells.exercise_of(cell) == "double" or change is at_the_end
    if change is not at_the_end:
        assert space["double"](4) == 8
    again, second = doctor.repair(repaired, release)
    assert again.cells == repaired.cells
    assert not second.needs_repair


def test_what_nobody_defines_and_what_is_in_order_stays(release):
    for change in (plugins.untouched, plugins.solved):
        nb = change(copy.deepcopy(release))
        assert doctor.repair(nb, release)[1].sentences == []


@pytest.mark.parametrize(
    "own",
    [
        markdown("## A heading of mine"),
        code("double(3)"),
        code("values = [1, 2]\nvalues"),
        markdown("  "),
        markdown("---"),
    ],
)
def test_what_is_no_answer_below_a_question_that_was_answered_asks_nobody(release, own):
    question(release).source += "\nBecause."
    assert doctor.repair(answered(release, own), release)[1].asks == {}


@pytest.mark.parametrize("own", [code("double(3)"), markdown("  "), markdown("---")])
def test_code_and_rules_are_no_answers(release, own):
    assert doctor.repair(answered(copy.deepcopy(release), own), release)[1].asks == {}


def test_a_copy_of_the_question_is_no_answer(release):
    copied = markdown(question(release).source)
    assert doctor.repair(answered(copy.deepcopy(release), copied), release)[1].asks == {}


def test_an_answer_in_a_text_of_the_lecture_is_shown(release):
    nb = copy.deepcopy(release)
    text = next(cell for cell in reversed(nb.cells) if cells.role_of(cell) == "text")
    nb.cells.remove(text)
    nb.cells.append(text)
    text.source += "\n\nMy answer: adding is doubling."
    assert "adding is doubling" in doctor.repair(nb, release)[1].asks["why"]


@pytest.mark.parametrize("text", ["<b>x</b>", "a `b` **c**", "$x$ \\(y\\)", "![](http://x)", "x" * 999])
def test_a_quotation_is_one_span_of_code(text):
    page = markdown2html(f"It says {order.quoted(text)}.")
    assert page.count("<code>") == 1
    assert not any(tag in page for tag in ("<b>", "<strong>", "<img", "<a "))
    assert len(page) < 400


@pytest.mark.parametrize(
    ("source", "found"),
    [
        *((source, True) for name, source in ENDS.items() if name not in ("by_sys_exit", "by_pointer")),
        ("%matplotlib inline\nexit()", True),
        ("if done:\n    quit()", True),
        ("from os import _exit as leave\nleave(0)", True),
        ("import os as o\no.abort()", True),
        ("get_ipython().ask_exit()", True),
        ("some text\nexit()\n(", True),
        ("!kill -9 1", True),
        ("def exit():\n    pass\nexit()", False),
        ("exit = 3\nexit", False),
        ("import sys\nsys.exit()", False),
        ("print('exit()')  # quit()", False),
        ("process.kill()", False),
    ],
)
def test_what_ends_a_process_is_seen(source, found):
    assert bool(ends_process(source)) == found


def test_the_doctor_names_the_cell_that_ends_the_process(release):
    nb = ends("exit()")(copy.deepcopy(release))
    repaired, report = doctor.repair(nb, release)
    number = next(i for i, cell in enumerate(repaired.cells, 1) if cell.source == "exit()")
    assert [
        says for says in report.sentences if says.startswith(f"Cell {number} ends the process by `exit()`")
    ]
    assert not report.needs_repair
    assert doctor.examine(exercise_ends(copy.deepcopy(release)), release).needs_repair
