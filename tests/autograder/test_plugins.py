"""A class graded by stock nbgrader with the project's configuration: honest, hostile and broken submissions.

The kernels are real and so is the oracle; the course is one small lecture.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import sys
import time
from pathlib import Path

import nbformat
import pytest
import tiny_course
from nbclient import NotebookClient
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from autograder import authoring, cells, statements
from autograder.oracle.exam import Exam
from autograder.plugins import judge
from autograder.plugins.hearing import Hearing
from autograder.sandbox import kernel, machine

ROOT = Path(__file__).parents[2]
DOUBLE = "def double(x):\n    return x + x"
TRIPLE = "def triple(x):\n    return x + x + x"
ASSIGNMENT = "01_tiny"

# The class is graded once, whatever the number of test workers.
pytestmark = pytest.mark.xdist_group("graded class")


def configuration(root: Path, **judge_traits):
    config = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT)).load_config()
    config.CourseDirectory.root = str(root)
    config.CourseDirectory.assignment_id = ASSIGNMENT
    config.Judge.update({"patience": 2, **judge_traits})
    return config


def run(converter, root: Path, *, force=False, student="*", **judge_traits):
    config = configuration(root, **judge_traits)
    config.CourseDirectory.student_id = student
    course = CourseDirectory(config=config)
    tool = converter(coursedir=course, config=config, log=logging.getLogger("quiet"))
    tool.force = force
    tool.start()
    return tool


def code(notebook, role, exercise):
    return next(c for c in notebook.cells if (cells.role_of(c), cells.exercise_of(c)) == (role, exercise))


def solve(notebook, double=DOUBLE, triple=TRIPLE):
    if double is not None:
        code(notebook, "exercise", "double").source = double
    if triple is not None:
        code(notebook, "exercise", "triple").source = triple
    return notebook


def first(notebook, source):
    """A cell of the learner's own before everything but the setup cell."""
    notebook.cells.insert(3, nbformat.v4.new_code_cell(source))
    return notebook


def drop(notebook, *cells):
    notebook.cells = [c for c in notebook.cells if c not in cells]
    return notebook


# Each student is a change to the release, and what double and triple must earn (3 each); "?" wants a person.
def solved(nb):
    return solve(nb)


def untouched(nb):
    return nb


def patched_run_cell(nb):
    return first(
        nb,
        "shell = get_ipython()\n"
        "real = type(shell).run_cell_async\n"
        "async def nothing(self, source, *a, **k):\n"
        "    return await (real(self, '3.0') if 'check(' in source else real(self, source, *a, **k))\n"
        "type(shell).run_cell_async = nothing",
    )


def ast_transformer(nb):
    return first(
        nb,
        "import ast\n"
        "class Drop(ast.NodeTransformer):\n"
        "    def visit_Expr(self, node):\n"
        "        return ast.parse('3.0').body[0] if 'check' in ast.unparse(node) else node\n"
        "get_ipython().ast_transformers.append(Drop())",
    )


def fake_result(nb):
    return first(
        nb,
        "import autograder.learner\n"
        "def check(name):\n"
        "    get_ipython().display_pub.publish({'text/plain': '3.0'})\n"
        "    return 3.0\n"
        "autograder.check = autograder.learner.check = check",
    )


def silenced_traceback(nb):
    return first(nb, "get_ipython().showtraceback = lambda *a, **k: None\ncheck = None")


def always_equal(nb):
    lie = (
        "class Yes(float):\n"
        "    def __eq__(self, other): return True\n"
        "    __ne__ = lambda self, other: False\n"
        "    __sub__ = __rsub__ = lambda self, other: 0.0\n"
        "    __abs__ = lambda self: 0.0\n"
    )
    return solve(nb, f"{lie}def double(x):\n    return Yes(99)", "def triple(x):\n    return Yes(99)")


def warns_and_exits(nb):
    loud = "    import warnings, sys\n    warnings.warn('slow')\n    print('x', file=sys.stderr)\n"
    return solve(nb, f"def double(x):\n{loud}    return x + x", f"import sys\n{TRIPLE}\nsys.exit(0)")


def duplicated(nb):
    """Exercise and check copied with their metadata, as copy and paste does."""
    solve(nb)
    for role in ("exercise", "check"):
        cell = code(nb, role, "double")
        twin = copy.deepcopy(cell)
        twin.id = f"twin-{role}"
        nb.cells.insert(nb.cells.index(cell) + 1, twin)
    return nb


def edited_points(nb):
    solve(nb, triple=None)
    check = code(nb, "check", "double")
    check.metadata.nbgrader.points = 300
    check.metadata.nbgrader.grade_id = "double"
    code(nb, "check", "triple").metadata.nbgrader.grade = False
    return nb


def tagged_and_edited_checks(nb):
    for cell in nb.cells:
        cell.metadata.tags = ["skip-execution", "raises-exception"]
    code(nb, "check", "double").source = "3.0"
    code(nb, "check", "triple").source = "print('fine')"
    return nb


def stripped(nb):
    """All metadata and ids gone."""
    solve(nb)
    for number, cell in enumerate(nb.cells):
        cell.metadata = nbformat.NotebookNode()
        cell.id = f"c{number}"
    return nb


def dies(nb):
    return solve(nb, triple="import os\n" + TRIPLE + "\nos._exit(0)")


def loops(nb):
    return solve(nb, double="def double(x):\n    while True:\n        pass")


def edited_story(nb):
    """A helper defined in a cell of the lecture; the curve it also draws would break."""
    story = next(c for c in nb.cells if cells.role_of(c) == "story")
    story.source += "\n\ndef twice(x):\n    return helper(x) + x - 1\n\nraise RuntimeError('a long curve')"
    story.source = story.source.replace("x + 1", "1 + x")
    return solve(nb, "def double(x):\n    return twice(x)")


def checks_deleted(nb):
    return drop(nb, code(nb, "check", "double"), code(nb, "check", "triple"))


def all_deleted(nb):
    nb.cells = [nbformat.v4.new_markdown_cell("nothing")]
    return nb


def early_connection(nb):
    """Connecting, and hammering, from a thread outside a check."""
    return first(
        nb,
        "import os, socket\n"
        "try:\n"
        "    early = socket.socket(socket.AF_UNIX)\n"
        "    early.connect(os.environ['AUTOGRADER_SOCKET'])\n"
        "    served = True\n"
        "except OSError:\n"
        "    served = False\n"
        "print('served', served)",
    )


CLASS = {
    solved: (3, 3),
    untouched: (0, 0),
    patched_run_cell: ("?", "?"),
    ast_transformer: ("?", "?"),
    fake_result: ("?", "?"),
    silenced_traceback: (0, 0),
    always_equal: (0, 0),
    warns_and_exits: (3, 3),
    duplicated: (3, 3),
    edited_points: (3, 0),
    tagged_and_edited_checks: (0, 0),
    stripped: (3, 3),
    dies: (3, "?"),
    loops: ("?", 3),
    edited_story: (3, 3),
    checks_deleted: (0, 0),
    all_deleted: ("?", "?"),
    early_connection: (0, 0),
}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        patch.setenv("SOME_TOKEN", "secret")
        tiny_course.use_catalog(patch)
        root = tmp_path_factory.mktemp("course")
        tiny_course.write(root)
        authoring.build(root)
        run(GenerateAssignment, root, force=True)
        yield root


@contextlib.contextmanager
def released(folder):
    """The tiny course in a folder, its one assignment handed out; for a module's tests to hand in to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        tiny_course.use_catalog(patch)
        root = tiny_course.write(folder)
        authoring.build(root)
        run(GenerateAssignment, root, force=True)
        yield root


def submit(root, student, content):
    folder = root / "submitted" / student / ASSIGNMENT
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.ipynb"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(nbformat.writes(content), encoding="utf-8")


def release(root):
    return nbformat.read(root / "lectures" / ASSIGNMENT / "tiny.ipynb", as_version=4)


@pytest.fixture(scope="module")
def graded(course):
    submit(course, "checks_deleted", solve(release(course)))
    run(Autograde, course)
    assert scores(course, "checks_deleted") == (3, 3)
    for change in CLASS:
        submit(course, change.__name__, change(release(course)))
    submit(course, "not_json", b'{"cells": [{"cell_type": "code", "source": "x')
    submit(course, "a_pdf", b"%PDF-1.4 ...")
    submit(course, "second_download", solve(release(course)))
    folder = course / "submitted" / "second_download" / ASSIGNMENT
    (folder / "tiny.ipynb").rename(folder / "tiny (1).ipynb")
    (course / "submitted" / "no_notebook" / ASSIGNMENT).mkdir(parents=True)
    (course / "submitted" / "no_notebook" / ASSIGNMENT / "photo.png").write_bytes(b"x")
    run(Autograde, course, force=True)
    return course


def grades(root, student):
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        notebook = gradebook.find_submission_notebook("tiny", ASSIGNMENT, student)
        return {g.name: (g.auto_score, g.needs_manual_grade, g.max_score) for g in notebook.grades}


def scores(root, student):
    found = grades(root, student)
    return found["double"][0], found["triple"][0]


def autograded(root, student):
    return nbformat.read(root / "autograded" / student / ASSIGNMENT / "tiny.ipynb", as_version=4)


@pytest.mark.parametrize("student", [change.__name__ for change in CLASS])
def test_grades(graded, student):
    expected = next(points for change, points in CLASS.items() if change.__name__ == student)
    found = grades(graded, student)
    for name, points in zip(("double", "triple"), expected, strict=True):
        score, manual, best = found[name]
        assert best == 3
        assert (score, manual) == ((0, True) if points == "?" else (points, False)), (name, found)


def test_the_outputs_of_a_check_are_the_verdict_and_nothing_else(graded):
    for student in ("solved", "fake_result", "untouched"):
        check = code(autograded(graded, student), "check", "double")
        assert [o.output_type for o in check.outputs] == ["display_data", "execute_result"]
        verdict = check.outputs[0].metadata.coursekit.verdict
        assert verdict.points == float(check.outputs[1].data["text/plain"])


@pytest.mark.parametrize("student", ["not_json", "a_pdf", "no_notebook"])
def test_an_unreadable_file_is_a_row_with_its_reason(graded, student):
    assert scores(graded, student) == (0, 0)
    assert grades(graded, student)["double"][1]
    notebook = autograded(graded, student)
    assert "could not be read" in notebook.cells[0].source
    assert notebook.metadata.coursekit.unreadable in notebook.cells[0].source


def test_a_second_download_is_read_under_its_other_name(graded):
    assert scores(graded, "second_download") == (3, 3)
    assert "tiny (1).ipynb" in autograded(graded, "second_download").metadata.coursekit.doctor[0]


def test_the_doctors_sentences_stand_in_the_notebook(graded):
    assert autograded(graded, "solved").metadata.coursekit.doctor == []
    said = " ".join(autograded(graded, "edited_points").metadata.coursekit.doctor)
    assert "points had been changed to 300" in said


def test_a_flag_says_why_on_the_learners_cell(graded):
    with Gradebook(f"sqlite:///{graded}/gradebook.db") as gradebook:
        comment = gradebook.find_comment("triple-solution", "tiny", ASSIGNMENT, "dies")
        assert "kernel died" in comment.auto_comment


def test_figures_of_story_cells_do_not_run_and_added_cells_do(graded):
    notebook = autograded(graded, "early_connection")
    assert not next(c for c in notebook.cells if cells.role_of(c) == "story").outputs
    added = next(c for c in notebook.cells if cells.role_of(c) == "added")
    assert "served False" in added.outputs[0].text


def test_no_solution_reaches_the_autograded_notebook(graded):
    assert "summed_with_itself" not in (
        graded / "autograded" / "untouched" / ASSIGNMENT / "tiny.ipynb"
    ).read_text(encoding="utf-8")  # fmt: skip


def test_feedback_can_be_made_for_everybody(graded):
    run(GenerateFeedback, graded)
    assert len(list((graded / "feedback").glob(f"*/{ASSIGNMENT}/tiny.html"))) == len(CLASS) + 4


def test_without_walls_or_consent_nothing_is_touched(graded, monkeypatch):
    before = scores(graded, "solved")
    monkeypatch.setattr(machine, "trouble", lambda: "bubblewrap is not installed")
    with pytest.raises(NbGraderException, match=r"no sandbox on this machine.*bubblewrap is not installed"):
        run(Autograde, graded, force=True)
    assert scores(graded, "solved") == before == (3, 3)


def test_no_execute_does_not_trust_what_was_submitted(course):
    nb = release(course)
    result = nbformat.v4.new_output("execute_result", {"text/plain": "3.0"}, execution_count=1)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = [result]
    submit(course, "outputs", nb)
    config = configuration(course)
    config.Execute.enabled = False
    config.ClearOutput.enabled = False
    config.CourseDirectory.student_id = "outputs"
    Autograde(coursedir=CourseDirectory(config=config), config=config).start()
    assert scores(course, "outputs") == (0, 0)


def grade_one(root, student, notebook, change=lambda config: None, **judge_traits):
    submit(root, student, notebook)
    config = configuration(root, **judge_traits)
    config.CourseDirectory.student_id = student
    change(config)
    Autograde(coursedir=CourseDirectory(config=config), config=config).start()
    return grades(root, student)


def test_with_consent_the_grades_are_the_same_without_walls(course, monkeypatch):
    monkeypatch.setattr(machine, "trouble", lambda: "bubblewrap is not installed")
    mark = course / "outside"
    nb = first(solve(release(course)), f"open({str(mark)!r}, 'w').close()")
    found = grade_one(course, "trusted", nb, unsafe_no_sandbox=True)
    assert [found[name][:2] for name in ("double", "triple")] == [(3, False), (3, False)]
    assert mark.exists()


HOG = "import mmap\nm = mmap.mmap(-1, 2**32)\nfor _ in range(4000):\n    m.write(b'x' * 2**20)"
IN_THE_ANSWER = "def double(x):\n    " + HOG.replace("\n", "\n    ") + "\n    return x + x"


@pytest.mark.parametrize("double", [f"{DOUBLE}\n\n{HOG}", IN_THE_ANSWER], ids=["cell", "answer"])
def test_what_stopped_a_kernel_at_its_limit_is_told(course, double):
    found = grade_one(course, "hog", solve(release(course), double=double), memory=1.5)
    assert found["double"][:2] == (0, True)
    assert found["triple"][:2] == (3, False)
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        comment = gradebook.find_comment("double-solution", "tiny", ASSIGNMENT, "hog")
        told = comment.auto_comment.removeprefix("For a person to look at: ")
        assert told.startswith("the kernel died (its kernel took more than 1.5 GiB of memory)")


def test_behind_walls_nothing_of_the_course_is_there(course):
    looked = "import os\nfound = [os.path.exists(p) for p in {!r}]\nassert not any(found), found"
    there = [
        str(course),
        str(course / "gradebook.db"),
        str(ROOT / "solutions"),
        str(ROOT / "autograder" / "catalog" / "texts.py"),
    ]
    nb = first(solve(release(course)), looked.format(there))
    grade_one(course, "thief", nb)
    said = [
        o for c in autograded(course, "thief").cells for o in c.get("outputs", []) if o.output_type == "error"
    ]
    assert said == []


def test_a_flood_and_a_loop_that_cannot_be_interrupted_cost_only_their_own_exercise(course):
    nb = solve(release(course))
    flood = "for n in range(3000):\n    print('x' * 10_000, flush=True)"
    stubborn = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass"
    first(solve(nb, double=f"{DOUBLE}\n\n{stubborn}"), flood)
    start = time.monotonic()
    found = grade_one(course, "stubborn", nb, timeout=10, patience=1)
    assert time.monotonic() - start < 60
    assert found["double"][:2] == (0, True)
    assert found["triple"][:2] == (3, False)
    assert (course / "autograded" / "stubborn" / ASSIGNMENT / "tiny.ipynb").stat().st_size < 2_000_000
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        comment = gradebook.find_comment("double-solution", "tiny", ASSIGNMENT, "stubborn")
        assert "had to be stopped" in comment.auto_comment


def test_with_stock_execute_in_the_judges_place_nobody_gets_points_unseen(course):
    def stock(config):
        chain = config.Autograde.autograde_preprocessors
        chain[chain.index("autograder.plugins.Judge")] = "nbgrader.preprocessors.Execute"

    found = grade_one(course, "stock", fake_result(release(course)), stock)
    assert found["double"][:2] == found["triple"][:2] == (0, True)


def test_without_the_release_old_scores_stay(course):
    grade_one(course, "early", solve(release(course)))
    path = course / "lectures" / ASSIGNMENT / "tiny.ipynb"
    notebook = release(course)
    path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(NbGraderException):
            grade_one(course, "early", notebook, lambda config: config.Autograde.update(force=True))
    finally:
        path.with_suffix(".away").rename(path)
    assert scores(course, "early") == (3, 3)


# --- without a kernel -------------------------------------------------------------------------------------


def test_a_check_may_run_longer_than_a_cell():
    """A training does: nothing but the judge's own clock ends it."""
    plugin = judge.Judge(timeout=1)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("check('train_unet')")])
    NotebookClient.__init__(plugin, notebook)
    plugin._configure()
    assert plugin._get_timeout(notebook.cells[0]) is None


def test_of_a_story_cell_only_what_it_defines_runs():
    source = """
import math
VOID = 255
names: list = ["a", "b"]
computed = math.factorial(VOID)
names[0] = "c"
print(undefined)

class Broken(undefined):
    pass

def twice(x):
    '''Two
lines.'''
    return 2 * x
"""
    found: dict = {}
    with pytest.raises(NameError, match="undefined"):
        exec(cells.definitions(source), found)
    exec(statements.after(cells.definitions(source), 9), found)
    assert {name for name in found if not name.startswith("__")} == {"math", "VOID", "names", "twice"}
    assert found["names"] == ["a", "b"]
    assert found["twice"](found["VOID"]) == 510


@pytest.mark.parametrize("source", ["def g(:\n", "%matplotlib inline", "", "f(3)", "a, b = 1, 2"])
def test_a_story_cell_without_definitions_does_not_run(source):
    assert cells.definitions(source) == ""


def test_the_kernel_gets_no_tokens(monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    given = kernel.environment(tmp_path, tmp_path / "s")
    assert "secret" not in given.values()
    assert "NBGRADER_EXECUTION" not in given
    assert given["AUTOGRADER_SOCKET"] == str(tmp_path / "s")


def test_a_place_that_cannot_be_listened_in_costs_the_verdict_only(tmp_path):
    exercise = tiny_course.find("double")
    exam = Exam(exercise)
    with Hearing(exercise, tmp_path / "gone" / "s", exam) as hearing:
        pass
    assert hearing.verdict is None
    assert "could not listen" in hearing.trouble
    (tmp_path / "s").mkdir()
    with Hearing(exercise, tmp_path / "s", exam) as hearing:
        assert (tmp_path / "s").is_socket()
    assert (hearing.verdict, hearing.trouble) == (None, "")


def test_scratch_is_private_short_and_gone_afterwards(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with kernel.scratch() as place:
        assert place.stat().st_mode & 0o777 == 0o700
        assert len(str(place / "s")) < 100
    assert not place.exists()


def test_outputs_that_run_code_are_dropped():
    script = nbformat.v4.new_output("display_data", {"text/html": "<script>", "text/plain": "x"})
    assert judge.harmless(script).data == {"text/plain": "x"}
    assert judge.harmless(nbformat.v4.new_output("display_data", {"text/html": "<script>"})) is None


def test_outputs_keep_colors_and_steer_no_terminal():
    said = nbformat.v4.new_output("stream", text="\x1b[31mred\x1b[0m\tx\n\x1b]0;title\x07\x1b[2J\x9b1m\x00")
    assert judge.harmless(said).text == "\x1b[31mred\x1b[0m\tx\n]0;title[2J1m"
    raised = nbformat.v4.new_output("error", ename="E", evalue="\x1bc", traceback=["\x1b[2Ja", "b"])
    assert (judge.harmless(raised).evalue, judge.harmless(raised).traceback) == ("c", ["[2Ja", "b"])
