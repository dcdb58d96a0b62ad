"""The right notebook in another wrapping, links, and ids that are patterns: graded by stock nbgrader."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
import test_plugins as plugins
import tiny_course
from click.testing import CliRunner
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback

from autograder import authoring
from autograder.cli import main

pytestmark = pytest.mark.xdist_group("wrappings")
NAME = "tiny.ipynb"
ODD_IDS = ("smith [audit]", "jones (2)", "müller* ?", 'o\'neil "x"')


def solved(release):
    return nbformat.writes(plugins.solve(copy.deepcopy(release))).encode()


def half(release):
    return nbformat.writes(plugins.solve(copy.deepcopy(release), triple=None)).encode()


def untouched(release):
    return nbformat.writes(release).encode()


def put(name):
    def write(folder, release):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(solved(release))

    return write


def zipped(inner):
    def write(folder, release):
        with zipfile.ZipFile(folder / "hand-in.zip", "w") as archive:
            archive.writestr(inner, solved(release))
            archive.writestr("__MACOSX/._tiny.ipynb", b"\0\5\26\7")
            archive.writestr("../../escaped.ipynb", b"{}")

    return write


def several(**contents):
    def write(folder, release):
        for name, content in contents.items():
            (folder / name.replace("__", " ")).with_suffix(".ipynb").write_bytes(content(release))

    return write


def twin(folder, release):
    put(NAME)(folder, release)
    (folder / "._tiny.ipynb").write_bytes(b"\0\5\26\7 Mac OS X")


def only_a_twin(folder, release):
    put("my homework.ipynb")(folder, release)
    (folder / "._tiny.ipynb").write_bytes(b"\0\5\26\7 Mac OS X")


def without_metadata(folder, release):
    notebook = json.loads(solved(release))
    notebook["metadata"] = {}
    for cell in notebook["cells"]:
        cell["metadata"] = {}
    (folder / "Kopie von Übung 1.ipynb").write_text(json.dumps(notebook))


RIGHT = {
    "ipynb_txt": put("tiny.ipynb.txt"),
    "json": put("tiny.json"),
    "capitals": put("TINY.IPYNB"),
    "a_folder_down": put(f"01_tiny/{NAME}"),
    "two_folders_down": put(f"hand in/final/{NAME}"),
    "no_suffix": put("tiny"),
    "another_name": put("Abgabe Müller.ipynb"),
    "in_a_zip": zipped(NAME),
    "deep_in_a_zip": zipped("ann/01_tiny/final.ipynb"),
    "downloaded_twice": several(**{"tiny__(1)": solved, "tiny__(2)": solved}),
    "beside_the_release": several(mine=solved, original=untouched),
    "twin": twin,
    "only_a_twin": only_a_twin,
    "without_metadata": without_metadata,
}
"""Who gets full marks, nobody asked."""


def linked(folder, release):
    os.symlink(folder.parents[1] / "good" / tiny_course_name() / NAME, folder / NAME)


def linked_folder(folder, release):
    os.symlink(folder.parents[1] / "good" / tiny_course_name(), folder / "mine")


def gradebook(folder, release):
    put(NAME)(folder, release)
    os.symlink(folder.parents[2] / "gradebook.db", folder / "data.db")


def dangling(folder, release):
    put(NAME)(folder, release)
    os.symlink("/nowhere/at/all", folder / "notes.txt")


def dated_by_a_link(folder, release):
    put(NAME)(folder, release)
    os.symlink("/etc/hostname", folder / "timestamp.txt")


def a_pipe(folder, release):
    put(NAME)(folder, release)
    os.mkfifo(folder / "pipe")


LINKS = {
    "linked": (linked, 0),
    "linked_folder": (linked_folder, 0),
    "gradebook_linked": (gradebook, 3),
    "dangling": (dangling, 3),
    "dated_by_a_link": (dated_by_a_link, 3),
    "a_pipe": (a_pipe, 3),
}
ASKED = {
    "two_that_differ": (several(**{"tiny__a": half, "tiny__b": solved}), (3, 3)),
    "another_beside_it": (several(tiny=half, **{"tiny__(1)": solved}), (3, 0)),
}


def tiny_course_name():
    return plugins.ASSIGNMENT


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        tiny_course.use_catalog(patch)
        root = tmp_path_factory.mktemp("course")
        tiny_course.write(root)
        authoring.build(root)
        plugins.run(GenerateAssignment, root, force=True)
        kinds = {"good": put(NAME)} | RIGHT | {name: write for name, (write, _) in {**LINKS, **ASKED}.items()}
        for student, write in {**kinds, **dict.fromkeys(ODD_IDS, put(NAME))}.items():
            folder = root / "submitted" / student / plugins.ASSIGNMENT
            folder.mkdir(parents=True)
            write(folder, plugins.release(root))
        plugins.run(Autograde, root, force=True)
        plugins.run(GenerateFeedback, root, force=True)
        yield root


@pytest.mark.parametrize("student", [*RIGHT, *ODD_IDS])
def test_in_another_wrapping_it_is_the_same_notebook(graded, student):
    assert {grade[:2] for grade in list(plugins.grades(graded, student).values())[:2]} == {(3, False)}
    assert (graded / "feedback" / student / plugins.ASSIGNMENT / "tiny.html").exists()


def test_nothing_of_a_submission_is_changed_and_nothing_of_an_archive_unpacked(graded):
    assert [path.name for path in (graded / "submitted" / "in_a_zip" / plugins.ASSIGNMENT).iterdir()] == [
        "hand-in.zip"
    ]
    assert not list(graded.rglob("escaped.ipynb"))


@pytest.mark.parametrize("student", LINKS)
def test_links_are_not_followed_and_cost_nothing_else(graded, student):
    points = LINKS[student][1]
    found = plugins.grades(graded, student)
    assert [found[name][0] for name in ("double", "triple")] == [points, points]
    copied = graded / "autograded" / student / plugins.ASSIGNMENT
    assert not [path for path in copied.rglob("*") if path.is_symlink() or path.name == "data.db"]
    if points == 0:
        assert found["double"][1]
    about = plugins.autograded(graded, student).metadata.coursekit
    said = [*about.doctor, about.get("unreadable", "")]
    assert any("link" in sentence or "read" in sentence for sentence in said) or student in (
        "dated_by_a_link",
        "a_pipe",
    )


@pytest.mark.parametrize("student", ASKED)
def test_where_two_differ_a_person_is_asked(graded, student):
    found = plugins.grades(graded, student)
    assert tuple(found[name][0] for name in ("double", "triple")) == ASKED[student][1]
    said = plugins.autograded(graded, student).metadata.coursekit.doctor
    assert any("for a person to say" in sentence for sentence in said)
    if ASKED[student][1] == (3, 0):
        with Gradebook(f"sqlite:///{graded}/gradebook.db") as book:
            comment = book.find_comment("triple-solution", "tiny", plugins.ASSIGNMENT, student)
            assert "tiny (1).ipynb" in comment.auto_comment


@pytest.mark.parametrize(
    "name",
    [
        "Copy of tiny",
        "tiny (1)",
        "tiny-1",
        "ann_tiny",
        "Kopie von tiny",
        "Copie de tiny",
        "tiny のコピー",
        "lesson",
    ],
)
def test_the_doctor_knows_the_lecture_by_what_it_holds(graded, tmp_path, name, monkeypatch):
    shutil.copytree(graded / "lectures", tmp_path / "lectures")
    path = tmp_path / "work" / f"{name}.ipynb"
    path.parent.mkdir()
    path.write_bytes(solved(plugins.release(graded)))
    monkeypatch.chdir("/")
    ended = CliRunner().invoke(main, ["doctor", str(path)])
    assert ended.exit_code == 0, ended.output
    assert "ready to be handed in" in ended.output


def test_a_notebook_of_no_lecture_is_told_so(graded, tmp_path, monkeypatch):
    shutil.copytree(graded / "lectures", tmp_path / "lectures")
    path = tmp_path / "tiny.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])))
    monkeypatch.chdir("/")
    ended = CliRunner().invoke(main, ["doctor", str(path)])
    assert ended.exit_code == 1
    assert "--release" in ended.output
