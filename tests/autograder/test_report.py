"""The report has a row for everyone, says what the class got wrong, and shows nothing a student could inject."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.api import Gradebook
from rich.console import Console

from autograder import report
from autograder.exercise import Finding, Outcome, PropertyResult, Verdict
from autograder.feedback import nbgrader_outputs
from autograder.report import State, Submission, page

ASSIGNMENT = "02_batchnorm"
POINTS = {"batchnorm_forward": 4.0, "group_norm": 3.0}


def verdict(exercise: str, share: float = 1.0, outcome: Outcome | None = None, **more) -> Verdict:
    points = share * POINTS[exercise]
    outcome = outcome or (Outcome.CORRECT if share == 1 else Outcome.WRONG_VALUES)
    result = PropertyResult("values", "normalizes", outcome, points, POINTS[exercise])
    return Verdict(exercise, outcome, points, POINTS[exercise], (result,), 5, **more)


def diagnosed(share: float, name: str = "unbiased_variance", exercise: str = "batchnorm_forward") -> Verdict:
    finding = Finding(name, "You divided by N − 1.", "Divide by N.", ("values",))
    return verdict(exercise, share, findings=(finding,))


def submission(student: str, *verdicts: Verdict, **more) -> Submission:
    points = sum(v.points for v in verdicts)
    return Submission(student, ASSIGNMENT, "batchnorm", points, 7.0, list(verdicts), **more)


SHORTCUT = verdict("batchnorm_forward", 0, Outcome.SHORTCUT, flags=("it calls F.batch_norm",))
CLASS = [
    submission("ada", verdict("batchnorm_forward"), verdict("group_norm"), feedback="feedback/ada b/x.html"),
    submission("ben", diagnosed(0.5), verdict("group_norm"), waiting=1, notes=["A tag has been removed."]),
    submission("cy", diagnosed(0.25), verdict("group_norm", 0, Outcome.NOT_ATTEMPTED)),
    submission("dee", SHORTCUT, diagnosed(0.5, "one_group", "group_norm")),
    submission("eve", state=State.UNREADABLE, concerns=["The file is a PDF."]),
    submission("flo", state=State.MISSING),
]


def soup(submissions=CLASS, title="Batch normalization") -> BeautifulSoup:
    return BeautifulSoup(report.html(submissions, title), "html.parser")


def section(page: BeautifulSoup, heading: str):
    return next(s for s in page.find_all("section") if s.h2.get_text() == heading)


def printed(submissions, width: int = 120) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.table(submissions))
    return console.export_text()


# -- numbers ----------------------------------------------------------------------------------------


def test_the_hardest_exercise_and_the_mean_shares():
    first, second = report.hardness(CLASS)
    assert (first.exercise, first.share, first.answers, first.full) == ("batchnorm_forward", 0.4375, 4, 1)
    assert (second.exercise, second.share, second.not_attempted) == ("group_norm", 0.625, 1)


def test_misconceptions_come_most_common_first_with_everyone_who_has_them():
    shared = report.misconceptions(CLASS)
    assert [(m.exercise, m.name, m.students) for m in shared] == [
        ("batchnorm_forward", "unbiased_variance", ["ben", "cy"]),
        ("group_norm", "one_group", ["dee"]),
    ]


def test_how_common_counts_before_the_alphabet():
    others = [submission(s, diagnosed(0.5, "one_group", "group_norm")) for s in ("gus", "hal")]
    assert [m.name for m in report.misconceptions(CLASS + others)] == ["one_group", "unbiased_variance"]


def test_the_same_name_in_two_exercises_is_two_misconceptions():
    both = [submission("ada", diagnosed(0.5, "eps"), diagnosed(0.5, "eps", "group_norm"))]
    assert len(report.misconceptions(both)) == 2


def test_summary_lines():
    assert report.summary_lines(CLASS) == [
        "6 students: 4 graded, 1 could not be read, 1 not handed in.",
        "The median is 46% of the points.",
        "The hardest exercise is batchnorm_forward: 43% of its points on average.",
        "The most common mistake is unbiased variance in batchnorm_forward: 2 students.",
        "2 submissions are flagged for a person to look at.",
        "1 written answer waits to be graded by hand.",
    ]


def test_a_class_without_mistakes_has_no_hardest_exercise():
    assert report.summary_lines(CLASS[:1]) == ["1 student: 1 graded.", "The median is 100% of the points."]


def test_a_share_is_never_rounded_up_to_everything():
    almost = [replace(CLASS[0], points=6.99)]
    assert "The median is 99% of the points." in report.summary_lines(almost)


@pytest.mark.parametrize("submissions", [[], CLASS[5:], CLASS[4:]])
def test_a_class_with_nothing_graded_still_has_its_report(submissions):
    page = soup(submissions)
    assert [r.th.get_text() for r in section(page, "Students").tbody.find_all("tr")] == [
        s.student for s in submissions
    ]
    assert not page.find("svg")
    assert printed(submissions)
    assert report.summary_lines(submissions)


# -- flags ------------------------------------------------------------------------------------------


def test_flags_are_what_a_person_has_not_decided_yet():
    assert CLASS[3].flags == [("batchnorm_forward", "it calls F.batch_norm")]
    assert replace(CLASS[3], overruled={"batchnorm_forward": 4.0}).flags == []
    assert CLASS[4].flags == [("", "The file is a PDF.")]
    assert CLASS[0].flags == CLASS[5].flags == []


@pytest.mark.parametrize("outcome", [Outcome.SHORTCUT, Outcome.NO_VERDICT])
def test_a_shortcut_or_missing_verdict_is_flagged_even_without_a_flag(outcome):
    assert submission("ada", verdict("group_norm", 0, outcome)).flags == [("group_norm", outcome.value)]


def test_one_reason_for_several_exercises_is_one_flag():
    dead = [verdict(e, 0, Outcome.NO_VERDICT, flags=("the kernel died",)) for e in POINTS]
    assert submission("ada", *dead).flags == [("batchnorm_forward, group_norm", "the kernel died")]


# -- the page ---------------------------------------------------------------------------------------


def test_everyone_has_a_row_with_points_state_and_feedback():
    rows = {r.th.get_text(): r for r in section(soup(), "Students").tbody.find_all("tr")}
    assert list(rows) == ["ada", "ben", "cy", "dee", "eve", "flo"]
    cells = {name: [c.get_text() for c in row.find_all("td")] for name, row in rows.items()}
    assert cells["ben"] == ["✗ 2", "✓ 3", "5 of 7", "1 to grade", "1 noteA tag has been removed."]
    assert cells["cy"][:3] == ["✗ 1", "– 0", "1 of 7"]
    assert "could not be read" in cells["eve"][-1]
    assert "The file is a PDF." in cells["eve"][-1]
    assert cells["flo"][-1] == "not handed in"
    assert rows["ada"].th.a["href"] == "feedback/ada%20b/x.html"
    assert rows["ben"].th.a is None
    assert "unbiased variance" in rows["ben"].find_all("td")[0]["title"]


def test_points_given_by_a_person_are_shown_as_such():
    row = section(soup([replace(CLASS[3], overruled={"batchnorm_forward": 3.5})]), "Students").tbody.tr
    assert row.find_all("td")[0].get_text() == "✎ 3.5"


def test_two_notebooks_of_an_assignment_are_told_apart():
    two = [CLASS[0], replace(CLASS[0], notebook="second")]
    cells = [r.td.get_text() for r in section(soup(two), "Students").tbody.find_all("tr")]
    assert cells == ["batchnorm", "second"]
    assert "second" in printed(two)
    assert report.summary_lines(two)[0] == "1 student: 2 graded."


def test_the_plots_say_in_words_and_as_a_table_what_they_draw():
    page = soup()
    grades, exercises = section(page, "Grades"), section(page, "Points by exercise, on average")
    for part in (grades, exercises):
        named = part.svg["aria-labelledby"].split()
        assert [t.name for t in (part.svg.find(id=i) for i in named)] == ["title", "desc"]
    counts = [int(r.find_all("td")[1].get_text()) for r in grades.tbody.find_all("tr")]
    assert counts == [0, 1, 1, 0, 0, 0, 0, 1, 0, 1]
    heights = [float(r["height"]) for r in grades.svg.find_all("rect")]
    assert [h / max(heights) for h in heights] == counts
    assert "hardest, 43%" in exercises.svg.get_text()
    shares = [float(r["width"]) for r in exercises.svg.find_all("rect")]
    assert shares[1::2] == pytest.approx([480 * 0.4375, 480 * 0.625])
    assert [r.find_all("td")[2].get_text() for r in exercises.tbody.find_all("tr")] == ["43%", "62%"]


def test_the_page_needs_nothing_else():
    page = report.html(CLASS, "x")
    assert not re.search(r"<link|<img|src=|url\(|@import|https?:", page)
    assert len(re.findall("<script", page)) == 1
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))


PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style></svg></td><iframe>",
    "' onmouseover='alert(1)",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_nothing_a_student_wrote_is_markup(payload):
    poor = replace(
        verdict("group_norm", 0.5),
        exercise=payload, findings=(Finding(payload, payload, payload, ()),), flags=(payload,), message=payload,
    )  # fmt: skip
    row = submission(payload, poor, notes=[payload], concerns=[payload], feedback=payload)
    page = soup([replace(row, notebook=payload), CLASS[0]], payload)
    expected = soup()
    for tag in ("script", "style", "title", "svg", "img", "iframe"):
        assert len(page.find_all(tag)) <= len(expected.find_all(tag)), tag
    assert not [t for t in page.find_all(True) for a in t.attrs if a.startswith("on") or a == "src"]
    assert payload in section(page, "Students").tbody.get_text()
    assert page.title.get_text() == payload


def test_control_characters_and_lengths_do_not_get_through():
    nasty = "\x1b[31mred\x07\u202e \ud800" + "x" * 10**6
    finding = Finding(nasty, nasty, nasty, (nasty,))
    poor = replace(verdict("group_norm", 0.5), exercise=nasty, findings=(finding,), flags=(nasty,))
    rows = [submission(nasty, poor, notes=[nasty] * 1000, concerns=[nasty])]
    for shown in (report.html(rows, nasty), printed(rows), "\n".join(report.summary_lines(rows))):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)
        assert len(shown) < 60_000


def test_brackets_in_a_name_are_no_markup_in_the_terminal():
    assert "[red]ada[/red]" in printed([replace(CLASS[0], student="[red]ada[/red]")])


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_has_a_row_for_everyone(width):
    shown = printed(CLASS, width)
    for s in CLASS:
        assert re.search(rf"│ {s.student}\b", shown)
    assert "1 batchnorm_forward, of 4" in shown
    assert re.search(r"ben .* 2 .* 3 .* 5 of 7", shown)
    assert max(map(len, shown.split("\n"))) <= width


def test_three_hundred_students_take_no_time():
    many = [replace(CLASS[i % 6], student=f"student{i:03}") for i in range(300)]
    start = time.perf_counter()
    page = soup(many)
    assert time.perf_counter() - start < 3
    assert len(section(page, "Students").tbody.find_all("tr")) == 300


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colors_can_be_read_in_both_themes(theme):
    colors = dict(re.findall(r"--(\w+):(#\w+)", re.findall(r":root\{([^}]*)\}", page.STYLE)[theme]))
    for ink in ("ink", "soft", "good", "bad", "odd", "bar"):
        for ground in ("bg", "card", "well"):
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
    assert contrast(colors["ink"], colors["tint"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2 between two colors."""

    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(2 * c for c in color[1:])
        srgb = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in srgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# -- reading a graded course ------------------------------------------------------------------------


@pytest.fixture
def course(graded_course, tmp_path):
    return shutil.copytree(graded_course, tmp_path / "course")


@pytest.fixture(scope="module")
def graded_course(tmp_path_factory):
    """A graded course: ada is right, ben is told why not, cy's graded notebook is damaged, dee's is missing,
    eve's submission was no notebook, flo handed nothing in, gus is unknown to the gradebook."""
    tmp_path = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:
        # A new gradebook is made with the `alembic` command, which lies beside this interpreter.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}").close()
    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as book:
        book.add_assignment(ASSIGNMENT)
        book.add_notebook("batchnorm", ASSIGNMENT)
        for name, points in POINTS.items():
            book.add_grade_cell(name, "batchnorm", ASSIGNMENT, max_score=points, cell_type="code")
        book.add_grade_cell("why", "batchnorm", ASSIGNMENT, max_score=3, cell_type="markdown")
        for student in ("ada", "ben", "cy", "dee", "eve", "flo"):
            book.add_student(student)
        for student in ("ada", "ben", "cy", "dee", "eve"):
            book.add_submission(ASSIGNMENT, student)
    write(tmp_path, "ada", verdict("batchnorm_forward"), verdict("group_norm"))
    write(tmp_path, "ben", diagnosed(0.5), verdict("group_norm"), doctor=["A tag has been removed.", 3])
    write(tmp_path, "cy", verdict("batchnorm_forward"), verdict("group_norm"))
    notebook_of(tmp_path, "cy").write_text('{"cells": [')
    write(tmp_path, "eve", *(verdict(e, 0, Outcome.NO_VERDICT) for e in POINTS), unreadable="It is a PDF.")
    (tmp_path / "submitted" / "gus" / ASSIGNMENT).mkdir(parents=True)
    (tmp_path / "feedback" / "ada" / ASSIGNMENT).mkdir(parents=True)
    (tmp_path / "feedback" / "ada" / ASSIGNMENT / "batchnorm.html").write_text("")
    return tmp_path


def notebook_of(root, student):
    return root / "autograded" / student / ASSIGNMENT / "batchnorm.ipynb"


def check_cell(v: Verdict, **more):
    nbgrader = {"grade": True, "solution": False, "grade_id": v.exercise, **more}
    return new_code_cell("check(...)", metadata={"nbgrader": nbgrader}, outputs=nbgrader_outputs(v))


def write(root, student, *verdicts, **coursekit):
    """A graded notebook, and its points in the gradebook."""
    notebook = new_notebook(cells=[check_cell(v) for v in verdicts], metadata={"coursekit": coursekit})
    notebook_of(root, student).parent.mkdir(parents=True)
    nbformat.write(notebook, notebook_of(root, student))
    for v in verdicts:
        book_grade(root, student, v.exercise, auto_score=v.points, needs_manual_grade=False)


def book_grade(root, student, cell, **values):
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}") as book:
        grade = book.find_grade(cell, "batchnorm", ASSIGNMENT, student)
        for name, value in values.items():
            setattr(grade, name, value)
        book.db.commit()


def collected(root) -> dict[str, Submission]:
    rows = report.collect(root, ASSIGNMENT)
    assert len({r.student for r in rows}) == len(rows)
    return {r.student: r for r in rows}


def test_everyone_is_collected_whatever_became_of_them(course):
    rows = collected(course)
    assert {s: r.state for s, r in rows.items()} == {
        "ada": State.GRADED,
        "ben": State.GRADED,
        "cy": State.UNREADABLE,
        "dee": State.UNGRADED,
        "eve": State.UNREADABLE,
        "flo": State.MISSING,
        "gus": State.UNGRADED,
    }
    assert {r.max_points for r in rows.values()} == {10.0}
    assert [s for s, r in rows.items() if r.flags] == ["cy", "dee", "eve", "gus"]
    assert rows["eve"].flags == [("", "It is a PDF.")]
    assert report.html(list(rows.values()), "x")


def test_points_verdicts_notes_and_feedback_are_read(course):
    rows = collected(course)
    assert rows["ada"].points == 7.0
    assert rows["ada"].verdicts == [verdict("batchnorm_forward"), verdict("group_norm")]
    assert rows["ada"].feedback == f"feedback/ada/{ASSIGNMENT}/batchnorm.html"
    assert rows["ben"].feedback is None
    assert rows["ben"].verdicts[0].diagnosis == "unbiased_variance"
    assert rows["ben"].notes == ["A tag has been removed."]
    assert [r.waiting for r in rows.values()] == [1, 1, 1, 1, 1, 0, 0]


def test_a_persons_points_count_and_settle_the_flag(course):
    write(course, "dee", SHORTCUT, verdict("group_norm"))
    assert collected(course)["dee"].flags == [("batchnorm_forward", "it calls F.batch_norm")]
    book_grade(course, "dee", "batchnorm_forward", manual_score=3.5)
    book_grade(course, "dee", "why", manual_score=2.0, needs_manual_grade=False)
    dee = collected(course)["dee"]
    assert (dee.points, dee.overruled, dee.flags) == (8.5, {"batchnorm_forward": 3.5}, [])
    assert dee.waiting == 0


def test_a_late_penalty_is_taken_off_and_said(course):
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        book.find_submission_notebook("batchnorm", ASSIGNMENT, "ada").late_submission_penalty = 2.0
        book.db.commit()
    ada = collected(course)["ada"]
    assert (ada.points, ada.notes) == (5.0, ["handed in late: 2 taken off the points"])


def test_a_verdict_counts_only_in_a_cell_the_grader_wrote(course):
    """Any code can display a verdict's metadata."""
    path = notebook_of(course, "ben")
    notebook = nbformat.read(path, as_version=4)
    right = verdict("batchnorm_forward")

    def forged():
        own = [{"grade": False}, {"solution": True}, {"grade_id": "unknown"}]
        displayed = new_code_cell("display(...)", outputs=nbgrader_outputs(right))
        return [displayed, *(check_cell(right, **metadata) for metadata in own)]

    notebook.cells = [*forged(), *notebook.cells, *forged()]
    nbformat.write(notebook, path)
    assert collected(course)["ben"].verdicts == [diagnosed(0.5), verdict("group_norm")]


def test_a_gradebook_that_differs_from_the_verdict_is_flagged(course):
    book_grade(course, "ada", "group_norm", auto_score=1.0)
    assert collected(course)["ada"].flags == [("", "group_norm: the verdict says 3, the gradebook has 1")]


def test_a_grade_without_a_verdict_is_flagged(course):
    path = notebook_of(course, "ada")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].outputs = [
        nbformat.v4.new_output("execute_result", {"text/plain": "3.0"}, execution_count=1)
    ]
    nbformat.write(notebook, path)
    assert collected(course)["ada"].flags == [("", "graded, but the notebook holds no verdict on group_norm")]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"cells": 3, "metadata": {}}',
        '{"cells": [], "metadata": []}',
        "[" * 10**5,
        "\x00",
        "\udcff",
    ],
)
def test_a_damaged_notebook_is_a_row(course, content):
    notebook_of(course, "ada").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert collected(course)["ada"].state is State.UNREADABLE
    assert collected(course)["ada"].points == 7.0
    assert collected(course)["ben"].state is State.GRADED


@pytest.mark.parametrize("kept", [[], "x", {"doctor": "x"}, {"doctor": [{}]}, {"unreadable": None}])
def test_odd_metadata_is_no_note(course, kept):
    notebook = json.loads(notebook_of(course, "ada").read_text())
    notebook["metadata"]["coursekit"] = kept
    notebook["cells"] += [3, {"metadata": 3}, {"cell_type": "code", "metadata": {"nbgrader": 3}}]
    notebook_of(course, "ada").write_text(json.dumps(notebook))
    ada = collected(course)["ada"]
    assert (ada.notes, len(ada.verdicts)) == ([], 2) if ada.state is State.GRADED else kept == "x"


def test_a_course_without_gradebook_is_refused_and_none_is_made(tmp_path):
    with pytest.raises(FileNotFoundError, match="no gradebook"):
        report.collect(tmp_path, ASSIGNMENT)
    assert not list(tmp_path.iterdir())


def test_another_gradebook_can_be_named(course):
    (course / "gradebook.db").rename(course / "other.db")
    assert len(report.collect(course, ASSIGNMENT, db_url=f"sqlite:///{course / 'other.db'}")) == 7
