"""What lies inside a file that was handed in, and beside it: stock nbgrader grades a class of such hand-ins."""

from __future__ import annotations

import copy
import json
import logging
import os
import sys
import time
from pathlib import Path

import nbformat
import pytest
import tiny_course
from click.testing import CliRunner
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from traitlets.config import PyFileConfigLoader

from autograder import authoring, beside, cells, doctor, reading
from autograder.cli import main
from autograder.plugins import timestamp

ROOT = Path(__file__).parents[2]
ASSIGNMENT = "01_tiny"
DOUBLE = "def double(x):\n    return x + x"
TRIPLE = "def triple(x):\n    return x + x + x"
NOTED = {
    "shadowing": "bears the name of a module",
    "linked": "secret.csv",
    "undated": "timestamp.txt",
    "no_picture": "stand-in",
}

pytestmark = pytest.mark.xdist_group("class of files")


def strict(text):
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def code(notebook, role, exercise):
    return next(c for c in notebook.cells if (cells.role_of(c), cells.exercise_of(c)) == (role, exercise))


def solved(release, double=DOUBLE):
    notebook = copy.deepcopy(release)
    code(notebook, "exercise", "double").source = double
    code(notebook, "exercise", "triple").source = TRIPLE
    return notebook


def as_json(notebook):
    return json.loads(nbformat.writes(notebook))


def old(notebook, version):
    made = json.loads(nbformat.writes(nbformat.convert(copy.deepcopy(notebook), 3), version=3))
    for cell in made["worksheets"][0]["cells"] if version == 2 else ():
        for key in {"input", "source"} & cell.keys():
            cell[key] = [line.rstrip("\n") for line in cell[key]]
    return json.dumps({**made, "nbformat": version})


def first_version(notebook):
    kinds = {"code": ("code", "code"), "markdown": ("text", "text")}
    made = [{"cell_type": kinds[c.cell_type][0], kinds[c.cell_type][1]: c.source} for c in notebook.cells]
    return json.dumps({"nbformat": 1, "cells": made})


def doubled(notebook, last="[]"):
    return nbformat.writes(notebook).rstrip().rstrip("}") + f', "cells": {last}}}'


def doubled_source(notebook):
    text = json.dumps(as_json(notebook))
    whole = json.dumps(as_json(notebook)["cells"][-1]["source"])
    assert f'"source": {whole}' in text
    data = as_json(notebook)
    return json.dumps(data).replace('"cell_type": "code"', '"source": [], "cell_type": "code"')


def doubled_in_cells(notebook, key, *last):
    """Every cell, or the code cells, with a second value under a key, the last of which is what Python's reader keeps."""
    data = as_json(notebook)
    for number, cell in enumerate(data["cells"]):
        if key in cell:
            cell[f"{key} again"] = last[number % len(last)]
    return json.dumps(data).replace(f'"{key} again"', f'"{key}"')


def doubled_metadata(notebook):
    """As a merge of two versions leaves it, one of which Colab had stripped; the ids are gone, too."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"new-{number}"
    return doubled_in_cells(notebook, "metadata", {}, {"collapsed": True}, None, {"nbgrader": {}})


def doubled_outputs(notebook):
    code(notebook, "exercise", "double").outputs = [nbformat.v4.new_output("stream", text="first")]
    return doubled_in_cells(
        notebook, "outputs", [{"output_type": "stream", "name": "stdout", "text": "last"}], []
    )


def doubled_kinds(notebook):
    notebook.cells.insert(3, nbformat.v4.new_code_cell("def helper_of_mine(x):\n    return x + x"))
    code(notebook, "exercise", "double").source = "def double(x):\n    return helper_of_mine(x)"
    return doubled_in_cells(notebook, "cell_type", "markdown")


def doubled_about_all(notebook):
    return (
        nbformat.writes(notebook).rstrip().rstrip("}")
        + ', "metadata": {"title": "mine", "kernelspec": null}}'
    )


TWICE = {
    "metadata": doubled_metadata,
    "outputs": doubled_outputs,
    "cell_type": doubled_kinds,
    "attachments": lambda nb: doubled_in_cells(picture(nb, "![](attachment:a.png)", {"a.png": PICTURE}), "attachments", {}),
}  # fmt: skip


def with_numbers(notebook):
    notebook.metadata.loss = [float("nan"), float("inf")]
    code(notebook, "exercise", "double").outputs = [
        nbformat.v4.new_output("display_data", {"application/json": {"loss": float("-inf")}})
    ]
    return nbformat.writes(notebook).replace('"loss": [', '"huge": 1e999, "loss": [', 1)


def picture(notebook, source, attachments=None):
    cell = nbformat.v4.new_markdown_cell(source)
    if attachments is not None:
        cell.attachments = attachments
    notebook.cells.append(cell)
    return notebook


def files(course, student, notebook, beside_it=()):
    folder = course / "submitted" / student / ASSIGNMENT
    folder.mkdir(parents=True, exist_ok=True)
    text = notebook if isinstance(notebook, str) else nbformat.writes(notebook)
    (folder / "tiny.ipynb").write_text(text, encoding="utf-8")
    for name, content in dict(beside_it).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder


HELPED = "import helpers, tools.more, json\nK = json.load(open('data.json'))\ndef double(x):\n    return helpers.twice(x) * K * tools.more.ONE"
HELPERS = {
    "helpers.py": b"def twice(x):\n    return x + x",
    "tools/__init__.py": b"",
    "tools/more.py": b"ONE = 1",
    "data.json": b"1",
}


def hand_in(course, release):
    files(course, "third_format", old(solved(release), 3))
    files(course, "doubled", doubled(solved(release)))
    for key, made in TWICE.items():
        files(course, f"twice_{key}", made(solved(release)))
        files(course, f"half_twice_{key}", made(solved(release, "def double(x):\n    return x - x")))
    files(course, "twice_about_all", doubled_about_all(solved(release)))
    files(course, "another_file", nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]))
    files(course, "numbers", with_numbers(solved(release)))
    shown = "from IPython.display import display\ndisplay({'text/plain': float('nan'), 'application/json': float('nan')}, raw=True)"
    noisy = solved(release)
    noisy.cells.append(nbformat.v4.new_code_cell(shown))
    files(course, "noisy", noisy)
    files(
        course,
        "no_picture",
        picture(solved(release), "![x](attachment:my%20pic.png) and ![](attachment:b.png)"),
    )
    files(course, "helped", solved(release, HELPED), HELPERS)
    bad = b"raise RuntimeError('taken over')"
    names = ("torch", "json", "sitecustomize", "ipykernel_launcher", "autograder", "pathlib")
    lost = solved(release, "import torch, os\ndef double(x):\n    return x * os.path.exists('torch.py')")
    files(course, "shadowing", lost, {f"{name}.py": bad for name in names})
    folder = files(course, "linked", solved(release, "def double(x):\n    return open('secret.csv')"))
    (course / "secret.csv").write_text("1")
    (folder / "secret.csv").symlink_to(course / "secret.csv")
    for student, content in DATES.items():
        files(course, student, solved(release), {"timestamp.txt": content})
    (files(course, "date_folder", solved(release)) / "timestamp.txt").mkdir()


DATES = {
    "marked": b"\xef\xbb\xbf2024-03-03 10:00:00.000000 UTC",
    "undated": b"see the mail",
    "future": b"9998-01-01 00:00:00 UTC",
}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        tiny_course.use_catalog(patch)
        root = tiny_course.write(tmp_path_factory.mktemp("files"))
        authoring.build(root)
        run(root, GenerateAssignment, force=True)
        hand_in(root, release_of(root))
        run(root, Autograde)
        run(root, GenerateFeedback)
        yield root


@pytest.fixture
def release(course):
    return release_of(course)


def release_of(root):
    return nbformat.read(root / "lectures" / ASSIGNMENT / "tiny.ipynb", as_version=4)


def run(root, converter, student="*", force=False, **judge_traits):
    config = PyFileConfigLoader("nbgrader_config.py", path=str(ROOT)).load_config()
    config.CourseDirectory.update(root=str(root), assignment_id=ASSIGNMENT, student_id=student)
    config.Judge.update({"patience": 2, **judge_traits})
    tool = converter(coursedir=CourseDirectory(config=config), config=config, log=logging.getLogger("quiet"))
    tool.force = force
    tool.start()


def found(root, student):
    with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
        notebook = gradebook.find_submission_notebook("tiny", ASSIGNMENT, student)
        return {g.name: (g.auto_score, g.needs_manual_grade) for g in notebook.grades}


def said(root, student):
    text = (root / "autograded" / student / ASSIGNMENT / "tiny.ipynb").read_text(encoding="utf-8")
    return " ".join(strict(text)["metadata"]["coursekit"]["doctor"])


RIGHT = [
    "third_format",
    "doubled",
    *(f"twice_{key}" for key in TWICE),
    "twice_about_all",
    "numbers",
    "noisy",
    "no_picture",
    "helped",
    *DATES,
    "date_folder",
]


@pytest.mark.parametrize("student", RIGHT)
def test_right_answers_earn_what_they_earn_at_home(course, student):
    assert [found(course, student)[name] for name in ("double", "triple")] == [(3, False)] * 2


@pytest.mark.parametrize("student", [*RIGHT, "another_file", "shadowing", "linked"])
def test_everybody_has_a_page_and_a_notebook_in_strict_json(course, student):
    assert (course / "feedback" / student / ASSIGNMENT / "tiny.html").is_file()
    strict((course / "autograded" / student / ASSIGNMENT / "tiny.ipynb").read_text(encoding="utf-8"))


def test_a_file_without_the_lectures_exercises_is_for_a_person(course):
    assert [found(course, "another_file")[name] for name in ("double", "triple")] == [(0, True)] * 2
    assert "none of this lecture's exercises" in said(course, "another_file")


@pytest.mark.parametrize(("student", "triple"), [("shadowing", (3, False)), ("linked", (3, False))])
def test_what_was_left_out_is_said_and_where_points_are_lost_a_person_is_asked(course, student, triple):
    assert found(course, student)["double"] == (0, True)
    assert found(course, student)["triple"] == triple
    assert NOTED[student] in said(course, student)
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        comment = gradebook.find_comment("double-solution", "tiny", ASSIGNMENT, student).auto_comment
        assert "left out when it was graded" in comment


@pytest.mark.parametrize("student", ["undated", "future", "date_folder", "no_picture"])
def test_what_costs_nothing_is_noted(course, student):
    assert NOTED.get(student, "timestamp.txt") in said(course, student)


def test_a_date_behind_a_byte_order_mark_is_read(course):
    assert "timestamp" not in said(course, "marked")
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        assert gradebook.find_submission(ASSIGNMENT, "marked").timestamp.year == 2024


@pytest.mark.parametrize("content", [b"soon", b"2024-03-04 10:00:00 UTC"])
def test_a_later_hand_in_is_graded_whatever_its_date_looks_like(course, release, content):
    student = "undated"
    files(course, student, release, {"timestamp.txt": content})
    run(course, Autograde, student)
    assert [found(course, student)[name][0] for name in ("double", "triple")] == [0, 0]
    before = (course / "autograded" / student / ASSIGNMENT / "tiny.ipynb").stat().st_mtime_ns
    run(course, Autograde, student)
    assert (course / "autograded" / student / ASSIGNMENT / "tiny.ipynb").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "how", [{"warm": False}, {"unsafe_no_sandbox": True}], ids=lambda how: next(iter(how))
)
def test_what_lies_beside_is_there_cold_and_without_walls(course, release, how):
    student = f"helped_{next(iter(how))}"
    beside_it = {**HELPERS, "ipykernel.py": b"raise SystemExit", "numpy.py": b"raise SystemExit"}
    files(course, student, solved(release, HELPED), beside_it)
    run(course, Autograde, student, **how)
    assert [found(course, student)[name] for name in ("double", "triple")] == [(3, False)] * 2
    assert "ipykernel.py, numpy.py" in said(course, student)


# --- without a kernel -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "dated"),
    [
        (b"10:30", False),
        (b"12", False),
        (b"0", False),
        (b"2024-03-03T10:00:00+01:00", True),
        (b"x" * 10_000, False),
        (b"", False),
        (bytes(range(256)), False),
        ("Sonntag, 3. März 2024, 10 Uhr".encode(), False),
        ("2024 年 3 月 3 日".encode(), False),
    ],
)
def test_only_a_whole_date_is_one(tmp_path, text, dated):
    (tmp_path / "timestamp.txt").write_bytes(text)
    assert (timestamp.date_of(tmp_path) is not None) is dated


def test_notepads_encoding_of_a_date_is_read(tmp_path):
    (tmp_path / "timestamp.txt").write_text("2024-03-03 10:00", encoding="utf-16")
    assert timestamp.date_of(tmp_path).hour == 10


@pytest.mark.parametrize(
    "make",
    [
        lambda nb: old(nb, 3),
        lambda nb: old(nb, 2),
        lambda nb: old(nb, 4),
        first_version,
        lambda nb: json.dumps({**as_json(nb), "nbformat_minor": 9}),
        lambda nb: json.dumps({**as_json(nb), "nbformat": 3}),
        lambda nb: json.dumps({"nbformat": 4, "cells": [{"cell_type": c.cell_type, "input": c.source} for c in nb.cells]}),
        lambda nb: old(nb, 3).replace('"outputs": []', '"outputs": [{"output_type": "pyout", "prompt_number": {}}, 7]'),
        doubled,
        lambda nb: doubled(nb, '[{"cell_type": "code", "source": ""}]'),
        doubled_source,
    ],
)  # fmt: skip
def test_the_answers_of_every_format_are_read(release, make):
    notebook, report = doctor.repair(make(solved(release)).encode(), release)
    assert report.readable
    assert {DOUBLE, TRIPLE} <= {cell.source for cell in notebook.cells}
    assert not any("none of this lecture" in sentence for sentence in report.doubts)


def test_keys_that_stand_twice_are_told(release):
    report = doctor.examine(doubled(solved(release)).encode(), release)
    assert report.needs_repair
    assert any("'cells' twice" in sentence for sentence in report.doubts)


@pytest.mark.parametrize("key", [key for key in TWICE if key != "cell_type"])
def test_where_points_are_lost_in_a_file_with_keys_that_stand_twice_a_person_is_asked(course, key):
    assert found(course, f"half_twice_{key}")["double"] == (0, True)
    assert found(course, f"half_twice_{key}")["triple"] == (3, False)
    assert f"{key!r} twice" in said(course, f"half_twice_{key}")


def test_of_keys_that_stand_twice_nothing_is_lost(release):
    def outcome(text):
        return doctor.repair(text.encode(), release)[0]

    made = solved(release)
    code(made, "exercise", "double").metadata.mine = {"one": 1}
    again = {"other": 3, "mine": {"two": 2}}
    cell = code(outcome(doubled_in_cells(made, "metadata", again)), "exercise", "double")
    assert (cell.metadata.mine, cell.metadata.other) == ({"one": 1, "two": 2}, 3)
    printed = code(outcome(doubled_outputs(solved(release))), "exercise", "double").outputs
    assert ["".join(output.text) for output in printed] == ["first", "last"]
    assert all(
        c.outputs
        for c in outcome(doubled_in_cells(solved(release), "outputs", [SAYS])).cells
        if "outputs" in c
    )
    assert all(
        c.outputs
        for c in outcome(doubled_in_cells(with_output(release), "outputs", [])).cells
        if "outputs" in c
    )
    assert outcome(doubled_about_all(solved(release))).metadata.title == "mine"
    shown = doubled_in_cells(
        picture(solved(release), "![](attachment:a.png)", {"a.png": PICTURE}), "attachments", {}, None
    )
    assert outcome(shown).cells[-1].attachments == {"a.png": PICTURE}


SAYS = {"output_type": "stream", "name": "stdout", "text": "says"}


def with_output(release):
    notebook = copy.deepcopy(release)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.from_dict(SAYS)]
    return notebook


def test_a_key_that_stands_a_hundred_thousand_times_costs_no_time():
    start = time.monotonic()
    for value in ("{}", "[1]", '{"a": {"b": []}}'):
        reading.loads("{" + ", ".join([f'"outputs": {value}, "metadata": {value}'] * 100_000) + "}")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e400"])
def test_numbers_that_are_no_json_are_replaced_and_told(release, number, tmp_path):
    text = nbformat.writes(solved(release)).replace('"metadata": {', f'"metadata": {{"loss": {number},')
    (tmp_path / "tiny.ipynb").write_text(text)
    (tmp_path / "release.ipynb").write_text(nbformat.writes(release))
    out = tmp_path / "out.ipynb"
    arguments = [
        "doctor",
        str(tmp_path / "tiny.ipynb"),
        "--release",
        str(tmp_path / "release.ipynb"),
        "--fix",
        str(out),
    ]
    assert "null stands there now" in CliRunner().invoke(main, arguments).output
    strict(out.read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="JSON"):
        doctor.written(nbformat.v4.new_notebook(metadata={"loss": float("nan")}))


PICTURE = {"image/png": "aGk="}


@pytest.mark.parametrize(
    ("source", "attachments", "lost"),
    [
        ("![](attachment:a.png)", None, ["a.png"]),
        ("![](attachment:a.png)", {"a.png": PICTURE}, []),
        ("![](attachment:a.png)", {"a.png": ["no mapping"]}, ["a.png"]),
        ("![](attachment:a.png)", {"a.png": {}}, ["a.png"]),
        ("![](attachment:a.png)", {"a.png": {"png": "aGk="}}, ["a.png"]),
        ("![](attachment:a.png)", {"a.png": {"image/png": "%%%"}}, ["a.png"]),
        ("![](attachment:a.png)", "nothing", ["a.png"]),
        ("![](attachment:my%20pic.png)", {"my pic.png": PICTURE}, []),
        ("![](<attachment:my pic.png>)", {"my pic.png": PICTURE}, []),
        ("![](attachment:Bild(1)ä&b.png)", None, ["Bild(1)ä&b.png"]),
        ("![a][b]\n\n[b]: attachment:b.png", None, ["b.png"]),
        ("`![](attachment:a.png)`", None, []),
    ],
)
def test_every_picture_that_a_page_asks_for_is_there_or_stood_in_for(source, attachments, lost):
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    kept, missing = reading.pictures(source, attachments)
    assert missing == lost
    page = MarkdownWithMath(renderer=IPythonRenderer(escape=False, attachments=kept)).render(source)
    assert ("data:image" in page) is ("`" not in source)


def test_what_lies_beside_is_bounded_and_shadows_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(beside, "BYTES", 1000)
    for name, size in {
        "big.csv": 2000,
        "helpers.py": 600,
        "small.csv": 10,
        "numpy.py": 1,
        "code.py": 1,
    }.items():
        (tmp_path / name).write_bytes(b"#" * size)
    for folder in ("data", "torch", ".git", "__pycache__"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / ("__init__.py" if folder == "torch" else "x.csv")).write_text("")
    (tmp_path / "other.ipynb").write_text("{}")
    found = beside.look(tmp_path)
    assert sorted(found.given) == ["data/x.csv", "helpers.py", "small.csv"]
    assert sorted(found.shadows) == ["code.py", "numpy.py", "torch"]
    assert found.over == ["big.csv"]


@pytest.mark.parametrize("name", ["helpers", "data", "utils_of_mine", "test", "lectures"])
def test_a_name_that_nobody_needs_is_free(name):
    assert not beside.is_module(name)


def test_the_doctor_names_the_files_that_a_notebook_needs(release, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    names = ("helpers.py", "data.csv", "json.py")
    for path in (*(folder / name for name in names), tmp_path / "far.csv"):
        path.write_text("")
    nb = solved(release, f"import helpers, json\nd = open('data.csv'), open('../far.csv')\n{DOUBLE}")
    (folder / "tiny.ipynb").write_text(nbformat.writes(nb))
    (tmp_path / "release.ipynb").write_text(nbformat.writes(release))
    arguments = ["doctor", str(folder / "tiny.ipynb"), "--release", str(tmp_path / "release.ipynb")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "Your code uses helpers.py, data.csv: hand in that too" in done.output
    assert "Your code uses json.py, which will not be there" in done.output
    assert "Your code uses ../far.csv, which lies outside" in done.output
