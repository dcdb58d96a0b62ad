"""Cells that run at home and would end when graded: what can run does, the rest is told and flagged."""

from __future__ import annotations

import copy

import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde
from test_plugins import (  # noqa: F401 (pytest finds the fixture by its name)
    ASSIGNMENT,
    DOUBLE,
    TRIPLE,
    autograded,
    code,
    course,
    first,
    grades,
    release,
    run,
    solve,
    submit,
)

from autograder import cells, doctor
from autograder.statements import after, assigned, changed, made, mended, needed, parsed, used

pytestmark = pytest.mark.xdist_group("cells as at home")

VALUES = "first_value = values[0]\n\n"
IN_STORY = {
    "magics": "%matplotlib inline\nhelper?\nimport decimal\n%load_ext autoreload\ndecimal??",
    "timed": "%%time\nimport decimal",
    "shell": "import decimal\n!pip install nothing-of-the-kind\nfiles = !ls\n%time counted = sum(range(3))",
    "captured": "\n%%capture out\n%%time\nimport decimal",
}
USES_STORY = "def double(x):\n    return decimal.Decimal(2).__int__() * x"


def lecture(nb, source, answer=USES_STORY):
    next(c for c in nb.cells if cells.role_of(c) == "story").source = source
    return solve(nb, answer)


# What stands in the cell of `double`, and what that earns: "?" wants a person.
ANSWERS = {
    "lecture_variable": (VALUES + DOUBLE, 3),
    "lecture_variable_as_default": ("def double(x, n=values[1]):\n    return n * x", 3),
    "lecture_variable_in_a_class": ("class Two:\n    n = values[1]\n\ndef double(x):\n    return Two.n * x", 3),
    "colab": ("from google.colab import drive\ndrive.mount('/content/drive')\n" + DOUBLE, 3),
    "at_home_only": (
        "import kaggle_secrets\nnotes = open('/home/ann/notes').read()\n%nothing_of_the_kind\n" + DOUBLE,
        3,
    ),
    "asks": ("name = input('your name? ')\nprint('hello', name)\n" + DOUBLE, 3),
    "asks_for_what_it_needs": ("n = int(input('factor? '))\n\ndef double(x):\n    return n * x", "?"),
    "needs_a_file_from_home": ("n = int(open('/home/ann/n').read())\n\ndef double(x):\n    return n * x", "?"),
    "fails_inside": ("%%time\nprint(undefined)\n" + DOUBLE, 3),
    "no_break_space": (DOUBLE.replace("    return", "\u00a0\u00a0\u00a0\u00a0return"), 3),
    "curly_quotes": ("title = “twice”\n" + DOUBLE.replace("x + x", "x +\u200b x"), 3),
    "stray_text": ("Here is my answer:\n" + DOUBLE, "?"),
    "decorated_by_nothing": ("@undefined\n" + DOUBLE, "?"),
    "under_an_error": ("if undefined:\n    pass\nelse:\n    " + DOUBLE.replace("\n", "\n    "), "?"),
    "check_variable": ("check = 3\n" + DOUBLE, 3),
    "check_function": ("def check(x):\n    return x == 2\n\n" + DOUBLE, 3),
    "check_deleted": ("del check\n__import__ = print = len = type = None\n" + DOUBLE, 3),
    "forgotten_calls": (
        "from autograder import example, hint, progress\nhint('double')\nprogress()\n"
        + DOUBLE
        + "\n\ncheck('double')\nfrom operator import eq as check",
        3,
    ),
    "honest_error_below": (DOUBLE.replace("x + x", "x * x") + "\nresult = double('a')", 0),
}  # fmt: skip


@pytest.fixture(scope="module")
def graded(course):  # noqa: F811
    for student, (source, _) in ANSWERS.items():
        submit(course, student, solve(release(course), source, TRIPLE))
    for student, source in IN_STORY.items():
        submit(course, student, lecture(release(course), source))
    helper = (
        "from google.colab import files\nfiles.upload()\nhalf = 1\n\ndef both(x):\n    return x + half * x"
    )
    submit(
        course, "own_helper_cell", first(solve(release(course), "def double(x):\n    return both(x)"), helper)
    )
    story = "helper_of_lecture = 1 / 0"
    submit(
        course,
        "lecture_fails",
        lecture(release(course), story, "def double(x):\n    return helper_of_lecture * x"),
    )
    run(Autograde, course)
    return course


def comment_on(root, student):
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        return gradebook.find_comment("double-solution", "tiny", ASSIGNMENT, student).auto_comment or ""


@pytest.mark.parametrize("student", ANSWERS)
def test_what_can_run_of_a_cell_counts(graded, student):
    points = ANSWERS[student][1]
    found = grades(graded, student)
    assert found["triple"][:2] == (3, False)
    if points == "?":
        assert found["double"][0] < 3
        assert found["double"][1]
    else:
        assert found["double"][:2] == (points, False)


@pytest.mark.parametrize("student", [*IN_STORY, "own_helper_cell"])
def test_ipythons_syntax_beside_it_costs_a_lecture_cell_nothing(graded, student):
    assert grades(graded, student)["double"][:2] == (3, False)


@pytest.mark.parametrize(
    ("student", "says"),
    [
        ("stray_text", "your cell ended with a SyntaxError in line 1, before it defined double"),
        ("decorated_by_nothing", "your cell ended with NameError in line 1, before it defined double"),
        ("under_an_error", "your cell ended with NameError in line 1, before it defined double"),
        ("asks_for_what_it_needs", "nobody is there to answer input()"),
        ("asks_for_what_it_needs", "before it made n, which double needs"),
        ("needs_a_file_from_home", "FileNotFoundError in line 1, before it made n, which double needs"),
        ("lecture_fails", "a cell of the lecture ended with ZeroDivisionError in line 1"),
    ],
)
def test_where_a_cell_ended_is_told_to_both(graded, student, says):
    assert says in comment_on(graded, student)
    check = code(autograded(graded, student), "check", "double")
    assert says in check.outputs[0].metadata.coursekit.verdict["message"]


def test_the_learners_own_cell_stands_unchanged_with_a_remark(graded):
    notebook = autograded(graded, "no_break_space")
    assert code(notebook, "exercise", "double").source == ANSWERS["no_break_space"][0]
    assert any("no-break spaces" in said for said in notebook.metadata.coursekit.doctor)


# --- what the doctor says before --------------------------------------------------------------------------

WARNINGS = {
    "no_break_space": ("problem", "line 2 holds no-break spaces"),
    "curly_quotes": ("problem", "line 1 holds no-break spaces, curly quotes"),
    "stray_text": ("problem", "SyntaxError in line 1"),
    "colab": ("note", "google.colab is not there when a class is graded"),
    "at_home_only": ("note", "kaggle_secrets is not there"),
    "asks": ("note", "line 1: nobody is there to answer input()"),
    "asks_for_what_it_needs": ("problem", "line 1: nobody is there to answer input()"),
    "decorated_by_nothing": ("problem", "line 1 uses undefined, which no cell above it makes"),
    "fails_inside": ("note", "line 2 uses undefined"),
    "check_variable": ("note", "line 1 gives the course's check another meaning"),
    "check_function": ("note", "another meaning"),
    "check_deleted": ("note", "line 1 deletes the course's check"),
    "forgotten_calls": ("note", "gives the course's check another meaning"),
}


@pytest.mark.parametrize("student", WARNINGS)
def test_the_doctor_warns_before(course, student):  # noqa: F811
    level, says = WARNINGS[student]
    notebook = solve(release(course), ANSWERS[student][0])
    found = doctor.examine(notebook, release(course)).findings
    assert [(f.level, says in f.says) for f in found if says in f.says] == [(level, True)]


OTHER = "gives the course's check another meaning"
REBOUND = {
    "from operator import eq as check": OTHER,
    "import math as check": OTHER,
    "import check": OTHER,
    "from autograder import hint as check": OTHER,
    "for check in range(3):\n    pass": OTHER,
    "with open(__file__) as check:\n    pass": OTHER,
    "print(check := 3)": OTHER,
    "print([check := n for n in range(3)])": OTHER,
    "match {}:\n    case {**check}:\n        pass": OTHER,
    "match 3:\n    case check:\n        pass": OTHER,
    "match {}:\n    case {'a': [*check], **rest}:\n        pass": OTHER,
    "check, other = 1, 2": OTHER,
    "check += 1": OTHER,
    "class check:\n    pass": OTHER,
    "if True:\n    import math as check": OTHER,
    "def set_up():\n    global check\n    check = 3": OTHER,
    "def set_up():\n    global check\n    import math as check": OTHER,
    "del check": "deletes the course's check",
    "if True:\n    del values[0], check": "deletes the course's check",
    "try:\n    pass\nexcept ValueError as check:\n    pass": "deletes the course's check",
}


def own(course, source):  # noqa: F811
    """What the doctor says of a cell of the learner's own, beside nothing that it would say without."""
    return doctor.examine(first(solve(release(course)), source), release(course)).findings


@pytest.mark.parametrize("source", REBOUND)
def test_the_doctor_sees_every_way_to_rebind_a_name_of_the_course(course, source):  # noqa: F811
    source = "import autograder\nfrom autograder import example, hint\n\n" + source
    assert [
        f.level
        for f in own(course, source)
        if f", line 4 {REBOUND[source.partition(chr(10) * 2)[2]]}, and" in f.says
    ] == ["note"]


@pytest.mark.parametrize(
    "source",
    [
        "from autograder import check",
        "from autograder import check as check, hint",
        "try:\n    from autograder import check\nexcept ImportError:\n    pass",
        "def f(check):\n    check = 3\n    return check",
        "print([check for check in range(3)])",
        "def f():\n    global check\n    return check",
        "values.check = 3",
        "f = lambda check: check",
    ],
)
def test_what_rebinds_nothing_of_the_course_is_not_said_to(course, source):  # noqa: F811
    assert not [f.says for f in own(course, source) if "the course's" in f.says]


ASKED = "nobody is there to answer input() when a class is graded."
DEFINES_ASKING = "asks by input(), and nobody is there to answer"
ANSWER = "def double(x):\n    return n * x"
QUESTIONS = {
    "n = 1 + int(input('n? ').strip() or 2)\n" + ANSWER: [("problem", ASKED)],
    "n = [int(input()) for k in range(3)][0]\n" + ANSWER: [("problem", ASKED)],
    "n = (lambda: int(input()))()\n" + ANSWER: [("problem", ASKED)],
    "def ask():\n    return int(input())\n\nn = ask()\n" + ANSWER: [("problem", "asks by"), ("problem", "ask() asks for it")],
    "ask = lambda: int(input())\nn = ask()\n" + ANSWER: [("problem", "asks by"), ("problem", "ask() asks for it")],
    "def ask():\n    return input()\n\ndef number():\n    return int(ask())\n\nprint(number())\n" + DOUBLE: [
        ("note", "asks by"), ("note", "asks by"), ("note", "number() asks for it"),
    ],
    "def double(x):\n    return x * int(input())": [("problem", DEFINES_ASKING)],
    "def ask():\n    return int(input())\n\ndef double(x):\n    return x * ask()": [
        ("problem", DEFINES_ASKING), ("problem", DEFINES_ASKING),
    ],
    "def play():\n    return input('again? ')\n\n" + DOUBLE: [("note", DEFINES_ASKING)],
    "class Game:\n    def play(self):\n        input()\n\n" + DOUBLE: [("note", DEFINES_ASKING)],
    "if False:\n    name = input()\n" + DOUBLE: [("note", ASKED)],
    "def input(text=''):\n    return '2'\n\nn = int(input())\n" + ANSWER: [],
    "inputs = [1]\nprint(len(inputs))\n" + DOUBLE: [],
}  # fmt: skip


@pytest.mark.parametrize("source", QUESTIONS)
def test_the_doctor_sees_who_asks(course, source):  # noqa: F811
    found = doctor.examine(solve(release(course), source), release(course)).findings
    found = [f for f in found if "input()" in f.says]
    assert [(f.level, says in f.says) for f, (_, says) in zip(found, QUESTIONS[source], strict=True)] == [
        (level, True) for level, _ in QUESTIONS[source]
    ]


def test_who_calls_in_another_cell_what_asks_is_told_there(course):  # noqa: F811
    notebook = solve(release(course), "n = ask()\n" + ANSWER)
    found = doctor.examine(first(notebook, "def ask():\n    return int(input())"), release(course)).findings
    assert [f.level for f in found if "ask() asks for it" in f.says] == ["problem"]


@pytest.mark.parametrize("student", ["lecture_variable", "lecture_variable_as_default"])
def test_the_doctor_says_nothing_of_what_runs(course, student):  # noqa: F811
    notebook = solve(release(course), ANSWERS[student][0])
    notebook.cells.append(
        nbformat.v4.new_code_cell("%%time\n%matplotlib inline\nn = [k for k in values]\ndouble?")
    )
    assert doctor.examine(notebook, release(course)).sentences == []


def test_what_is_not_seen_to_be_made_is_not_said_to_be_missing(course):  # noqa: F811
    notebook = solve(release(course), "print(undefined)\n" + DOUBLE)
    for hides in (
        "from math import *",
        "%run setup.py",
        "exec('undefined = 1')",
        "globals()['undefined'] = 1",
    ):
        given = copy.deepcopy(notebook)
        first(given, hides)
        assert not any("undefined" in said for said in doctor.examine(given, release(course)).sentences)


# --- cells and statements ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("%%time\ndef f(): pass", {"f"}),
        ("\n\n%%capture out\n%%time\nclass A: pass", {"A"}),
        ("!pip install x\nf = 3\nf?", {"f"}),
        ("%time f = 3", {"f"}),
        ("%%bash\ndef f(): pass", set()),
        ("%%writefile a.py\ndef f(): pass", set()),
        ("%%timeit\ndef f(): pass", set()),
    ],
)
def test_what_a_cell_defines_is_seen_through_ipythons_syntax(source, names):
    assert cells.defines(source) == names


def test_kept_statements_stand_in_their_own_lines():
    source = "%%time\nimport math\nprint(1)\n@math.cache\ndef f(x):\n    return x\n!ls"
    kept = cells.definitions(source)
    assert [n for n, line in enumerate(kept.split("\n")) if line != "#"] == [1, 3, 4, 5]
    assert after("a\nb\ndef f():\n    return 1", 2).split("\n") == ["#", "#", "def f():", "    return 1"]
    assert after("a\nb", 2) == ""


def test_a_text_keeps_its_typography():
    fine = 'says = "it’s “here”"\n'
    assert mended(fine) == fine
    assert mended(fine + "x\u00a0= 1") == fine + "x = 1"
    assert mended("say “it’s") == "say “it’s"
    assert mended("def f（x，y）：\n\u3000return x −\u200b y") == "def f(x,y):\n return x - y"


def test_only_what_is_needed_by_name_of_the_lecture_runs():
    lecture = [
        "base = load()\nscaled = base / 2\nfigure = draw(base)\nfigure.show()",
        "table = {}\ntable['a'] = scaled\nother = fit(base)\nfor n in range(3):\n    table[n] = n",
    ]
    wanted = needed(lecture, ["def f(x):\n    other = 3\n    return table[x] + other"]) & assigned(lecture)
    kept = "\n".join(cells.definitions(source, wanted) for source in lecture)
    assert [line for line in kept.split("\n") if line != "#"] == [
        "base = load()", "scaled = base / 2", "table = {}", "table['a'] = scaled", "for n in range(3):",
        "    table[n] = n",
    ]  # fmt: skip


def test_names_of_a_statement():
    (node,) = parsed(
        "for a, (b, *c) in d:\n    e.f[0] = [g for g in h]\n    i.append(j)\n    k = lambda l: l + m"
    ).body
    assert made(node) == {"a", "b", "c", "k"}
    assert changed(node) == {"e", "i"}
    assert used(node) >= {"d", "e", "h", "i", "j", "m"}
    assert not used(node) & {"g", "l"}
    (node,) = parsed("def f(x=a):\n    y = b\n    return y + x + c").body
    assert (used(node), used(node, at_once=True)) == ({"a", "b", "c"}, {"a"})
