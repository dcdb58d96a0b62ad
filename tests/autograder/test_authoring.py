"""From the text to the notebooks, and what ``build --check`` catches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import tiny_course
from click.testing import CliRunner

from autograder import authoring
from autograder.cli import main
from coursekit import quizzes


@pytest.fixture
def course(tmp_path, monkeypatch):
    tiny_course.use_catalog(monkeypatch)
    return tiny_course.write(tmp_path)


def notebooks(root):
    solution, lecture = authoring.build(root)
    return nbformat.read(solution, as_version=4), nbformat.read(lecture, as_version=4)


def rebuilt_problems(root, old, new, *, build=True):
    source = tiny_course.SOURCE
    assert old in source
    tiny_course.write(root, source.replace(old, new))
    if build:
        authoring.build(root)
    return authoring.check(root)


def test_a_clean_course_has_no_problems(course):
    authoring.build(course)
    assert authoring.check(course) == []


def test_building_twice_gives_the_same_bytes(course):
    first = [path.read_bytes() for path in authoring.build(course)]
    second = [path.read_bytes() for path in authoring.build(course)]
    assert first == second
    assert all(text.endswith(b"}\n") for text in first)


def test_cells_roles_and_points(course):
    _, lecture = notebooks(course)
    roles = [(c.metadata.coursekit.role, c.metadata.coursekit.get("exercise")) for c in lecture.cells]
    assert roles == [
        ("text", None), ("text", None), ("setup", None), ("text", None), ("story", None),
        ("text", "double"), ("exercise", "double"), ("check", "double"),
        ("text", "triple"), ("exercise", "triple"), ("check", "triple"), ("written", None),
    ]  # fmt: skip
    check = lecture.cells[7]
    assert check.source == 'check("double")'
    assert check.metadata.nbgrader.points == 3
    assert (check.metadata.nbgrader.grade, check.metadata.nbgrader.solution) == (True, False)
    assert check.metadata.nbgrader.grade_id == check.id == "double"
    assert lecture.cells[6].metadata.nbgrader.grade_id == "double-solution"
    assert lecture.cells[6].metadata.nbgrader.solution
    assert not lecture.cells[6].metadata.nbgrader.grade
    assert lecture.cells[2].metadata.nbgrader.locked
    assert len({c.id for c in lecture.cells}) == len(lecture.cells)
    assert lecture.metadata.kernelspec.name == "python3"


def test_badge_and_colab_line_come_from_the_repository_address(course):
    _, lecture = notebooks(course)
    badge, setup = lecture.cells[0], lecture.cells[2]
    assert badge.metadata.id == "view-in-github"
    assert "research.google.com/github/OWNER/course/blob/main/lectures/01_tiny/tiny.ipynb" in badge.source
    assert "pip" in setup.source
    assert "git+https://github.com/OWNER/course" in setup.source
    assert setup.source.endswith("from autograder import check")
    exec(compile(setup.source.split("import math")[0], "setup", "exec"), {})  # outside Colab it does nothing


def test_card_tells_what_the_catalogue_knows(course):
    _, lecture = notebooks(course)
    card = lecture.cells[5].source
    assert card.startswith("### Exercise: Twice as much")
    for part in (
        "●●○○○",
        "**3 points**",
        "**5 minutes**",
        "`torch.mul`",
        "negative inputs too (1 point)",
        "`double(x)`",
    ):
        assert part in card
    assert card.count("<details><summary>") == 3


def test_no_solution_reaches_the_release(course):
    _, lecture = notebooks(course)
    text = nbformat.writes(lecture)
    assert "summed_with_itself" not in text
    assert "one addition" not in text
    assert "raise NotImplementedError()" in lecture.cells[6].source
    assert "YOUR ANSWER HERE" in lecture.cells[-1].source
    assert "Why is doubling adding?" in lecture.cells[-1].source


def test_one_changed_character_is_drift(course):
    authoring.build(course)
    problems = rebuilt_problems(course, "Doubling is adding.", "Doubling is adding!", build=False)
    assert len(problems) == 2
    assert all("differs from what its source builds (first at cell 2)" in p for p in problems)


def test_what_differs_is_counted_right(course):
    _, lecture = authoring.build(course)
    notebook = nbformat.read(lecture, as_version=4)
    name = "lectures/01_tiny/tiny.ipynb: differs from what its source builds"
    last = notebook.cells.pop()
    nbformat.write(notebook, lecture)
    assert authoring.check(course) == [
        f"{name} (11 cells instead of 12, first at cell 12); run `autograder build`"
    ]
    notebook.cells += [last]
    notebook.metadata.kernelspec.display_name = "Another"
    nbformat.write(notebook, lecture)
    assert authoring.check(course) == [
        f"{name} (in its metadata or layout, in no cell); run `autograder build`"
    ]


def test_a_checkout_with_the_line_ends_of_windows_is_clean(course):
    files = [*authoring.build(course), course / "solutions" / "01_tiny.py", course / "pyproject.toml"]
    built = [path.read_bytes() for path in files]
    for path in files:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert authoring.check(course) == []
    authoring.build(course)
    assert [path.read_bytes() for path in files][:2] == built[:2]


def test_unbuilt_and_damaged_notebooks_are_named(course):
    assert any("not built" in p for p in authoring.check(course))
    _, lecture = authoring.build(course)
    lecture.write_text("{", encoding="utf-8")
    assert any("cannot be read as a notebook" in p for p in authoring.check(course))


@pytest.mark.parametrize("name", ["01_tiny/tiny.ipynb", "01_tiny/notes.md"])
def test_leaks_are_found_in_any_file(course, name):
    _, lecture = authoring.build(course)
    path = course / "lectures" / name
    if path == lecture:
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[4].source += "\nsummed_with_itself_once  =  x + x"
        nbformat.write(notebook, path)
    else:
        path.write_text("Because multiplication by two is one addition, by definition.", encoding="utf-8")
    assert any(f"lectures/{name}" in p and "line of the solution" in p for p in authoring.check(course))


def test_a_solution_pasted_into_a_story_cell_is_a_leak(course):
    problems = rebuilt_problems(course, "values = [", "summed_with_itself_once = x + x\nvalues = [")
    assert any("holds a line of the solution" in p for p in problems)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("# ## Doubling", "# #### Doubling", "skips from level 1 to 4"),
        ("# ## Doubling", "# # Doubling", "2 titles of level 1"),
        ("About 10 minutes on a laptop.", "Quick.", "how many minutes"),
        (
            "About 10 minutes on a laptop.",
            "About 9 minutes on a laptop.",
            "less than the 10 of its exercises",
        ),
        ("# Predict what comes out, then run.", "# Run.", "asked to predict"),
        ("of shape (N,).", "as a tensor.", "gives no shape"),
        ("of shape (N,).", f"of shape (N,), {100 * 'x'}.", "characters; 104 are shown"),
        ("# Predict what", "# Colour and behaviour. Predict what", "British spelling 'Colour'"),
        ("values\n\n# %% exercise", "figures.show(values)\n\n# %% exercise", "without alt="),
        ("values\n\n# %% exercise", "values = (\n\n# %% exercise", "does not compile"),
        ("# Predict what", "# ![](x.png) Predict what", "no alt text"),
        ("values\n\n# %% exercise", 'predict("none")\n\n# %% exercise', "'none', which is no quiz"),
        (
            "# Predict what",
            "# All of them take part in μ and σ. To make the first image brighter than the mean, darken the others. Predict",
            "holds what the quiz 'loss_of_one_image' says",
        ),
        ('# %% exercise="triple"', "# %%", "neither an exercise nor a written question"),
    ],
)
def test_what_a_reader_would_stumble_over(course, old, new, what):
    authoring.build(course)
    problems = rebuilt_problems(course, old, new, build=False)
    assert any(what in p for p in problems), problems


def test_an_exercise_left_out_is_missed(course):
    source = tiny_course.SOURCE
    start, end = source.index('# %% exercise="triple"'), source.index("# %% [markdown] written")
    tiny_course.write(course, source[:start] + source[end:])
    authoring.build(course)
    assert any("exercise 'triple' has 0 check cells" in p for p in authoring.check(course))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('exercise="double"', 'exercise="dubble"', "no exercise 'dubble'; known: double, triple"),
        ("def double(x", "def twofold(x", "does not define it"),
        ("    ### END SOLUTION\n\n# %% exercise", "\n# %% exercise", "BEGIN SOLUTION without END SOLUTION"),
        ('exercise="triple"', 'exercise="double"', "does not define it|stands twice"),
        ('role="setup"', 'role="setpu"', "unknown role 'setpu'"),
        ('role="setup"', 'rule="setup"', "unknown option rule"),
        ("points=3", "points=0", "needs points"),
        ('# %% role="setup"', "# %%", "no setup cell"),
    ],
)
def test_a_source_that_cannot_be_built_says_where_and_why(course, old, new, what):
    tiny_course.write(course, tiny_course.SOURCE.replace(old, new))
    with pytest.raises(authoring.AuthoringError, match=what) as caught:
        authoring.build(course)
    assert "solutions/01_tiny.py" in str(caught.value)


def test_errors_name_line_and_cell(course):
    tiny_course.write(course, tiny_course.SOURCE.replace('exercise="double"', 'exercise="dubble"'))
    with pytest.raises(authoring.AuthoringError, match=r"solutions/01_tiny\.py:24 \(cell 5\)"):
        authoring.build(course)


def test_strays_beside_the_notebooks_are_reported(course):
    authoring.build(course)
    (course / "solutions" / "01_tiny" / "answers.csv").write_text("1")
    (course / "lectures" / "07_old").mkdir()
    (course / "lectures" / "07_old" / "old.ipynb").write_text("{}")
    problems = authoring.check(course)
    assert any("answers.csv: nbgrader would hand" in p for p in problems)
    assert any("07_old/old.ipynb: no source" in p for p in problems)


def test_an_unknown_topic_names_the_known_ones(course):
    with pytest.raises(authoring.AuthoringError, match=r"no lecture called 'big'.*there: tiny"):
        authoring.build(course, ["big"])


def test_other_cells_keep_their_ids_when_one_changes(course):
    _, before = notebooks(course)
    tiny_course.write(course, tiny_course.SOURCE.replace("# Predict what", "# Predict first what"))
    _, after = notebooks(course)
    assert sum(a.id != b.id for a, b in zip(before.cells, after.cells, strict=True)) == 1


def test_nbgraders_own_command_makes_the_same_release(course):
    """An instructor who runs stock ``nbgrader generate_assignment`` changes nothing."""
    _, lecture = authoring.build(course)
    built = lecture.read_bytes()
    config = course / "nbgrader_config.py"
    config.write_text(
        "c = get_config()\nc.CourseDirectory.source_directory = 'solutions'\n"
        "c.CourseDirectory.release_directory = 'lectures'\n"
    )
    nbgrader = Path(sys.executable).with_name("nbgrader")
    command = [str(nbgrader), "generate_assignment", "01_tiny", "--force"]
    path = f"{nbgrader.parent}:{os.environ['PATH']}"  # nbgrader calls alembic
    subprocess.run(command, cwd=course, check=True, capture_output=True, env=os.environ | {"PATH": path})
    assert lecture.read_bytes() == built


def test_the_build_command(tmp_path, monkeypatch):
    tiny_course.use_catalog(monkeypatch)
    root = ["--root", str(tiny_course.write(tmp_path))]
    run = CliRunner().invoke
    assert run(main, ["build", "--check", *root]).exit_code == 1
    built = run(main, ["build", *root])
    assert (built.exit_code, built.output.split()) == (
        0, ["solutions/01_tiny/tiny.ipynb", "lectures/01_tiny/tiny.ipynb"]
    )  # fmt: skip
    checked = run(main, ["build", "--check", *root])
    assert checked.exit_code == 0
    assert "Warning: pyproject.toml: Repository is still the placeholder" in checked.output
    tiny_course.write(tmp_path, address="https://github.com/somebody/course")
    assert run(main, ["build", *root]).exit_code == 0
    checked = run(main, ["build", "--check", *root])
    assert (checked.exit_code, "Warning" in checked.output) == (0, False)
    wrong = run(main, ["build", "nothing", *root])
    assert wrong.exit_code == 1
    assert "no lecture called 'nothing'" in wrong.output


@pytest.mark.parametrize(
    ("right", "told"), [("a right option that says a lot more", True), ("a right option", False)]
)
def test_a_quiz_that_gives_itself_away_is_told(course, monkeypatch, right, told):
    quiz = quizzes.Quiz("?", right, "so", {"a wrong one": "no", "another one": "no"})
    monkeypatch.setattr("autograder.authoring.quizzes.all_of_them", lambda: {"long": quiz})
    authoring.build(course)
    assert any("'long' is the longest" in warning for warning in authoring.warnings(course)) is told


def test_no_quiz_of_the_course_gives_itself_away():
    assert not any("quiz" in warning for warning in authoring.warnings(Path(__file__).parents[2]))
