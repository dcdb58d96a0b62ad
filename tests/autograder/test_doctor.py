"""A submission examined and repaired; the learner's code never touched."""

from __future__ import annotations

import copy
import json

import nbformat
import pytest
import tiny_course
from click.testing import CliRunner

from autograder import authoring, doctor
from autograder.cells import exercise_of, grade_id_of, role_of
from autograder.cli import main

DOUBLE = "def double(x):\n    return x + x  # mine\n"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        tiny_course.use_catalog(patch)
        root = tiny_course.write(tmp_path_factory.mktemp("course"))
        authoring.build(root)
    return nbformat.read(root / "lectures" / "01_tiny" / "tiny.ipynb", as_version=4)


@pytest.fixture
def mine(release):
    """The release with one exercise solved and a cell of the learner's own."""
    notebook = copy.deepcopy(release)
    find(notebook, "exercise", "double").source = DOUBLE
    notebook.cells.insert(8, nbformat.v4.new_code_cell("mine = double(2)\n\n"))
    return notebook


def find(notebook, role, exercise=None):
    for cell in notebook.cells:
        if role_of(cell) == role and (exercise is None or exercise_of(cell) == exercise):
            return cell
    raise LookupError((role, exercise))


def repaired(notebook, release):
    result, report = doctor.repair(notebook, release)
    nbformat.validate(result)
    checks = {grade_id_of(c) for c in result.cells if role_of(c) == "check"}
    assert checks == {"double", "triple"}
    again, second = doctor.repair(result, release)
    assert not second.needs_repair, second.sentences
    assert again.cells == result.cells
    return result, report


def sources(notebook):
    return [cell.source for cell in notebook.cells]


def test_the_release_and_honest_work_need_nothing(release, mine):
    for notebook in (release, mine):
        result, report = repaired(notebook, release)
        assert report.sentences == []
        assert sources(result) == sources(notebook)


def test_a_missing_check_is_put_back_after_its_exercise(release, mine):
    mine.cells.remove(find(mine, "check", "double"))
    result, report = repaired(mine, release)
    assert report.sentences == ["The check of double was missing; it has been put back."]
    index = sources(result).index(DOUBLE)
    assert result.cells[index + 1].source == 'check("double")'
    assert result.cells[index + 1].metadata == find(release, "check", "double").metadata


def test_a_check_without_its_exercise_goes_after_who_defines_the_name(release, mine):
    for role in ("check", "exercise"):
        mine.cells.remove(find(mine, role, "double"))
    mine.cells.append(nbformat.v4.new_code_cell("double = lambda x: x + x"))
    mine.cells.append(nbformat.v4.new_code_cell("1 + 1"))
    result, report = repaired(mine, release)
    assert sources(result)[-3:] == ["double = lambda x: x + x", 'check("double")', "1 + 1"]
    assert "The cell of exercise double is gone, but another cell defines double." in report.sentences


def test_an_exercise_nobody_defines_is_not_put_back(release, mine):
    mine.cells.remove(find(mine, "exercise", "triple"))
    result, report = doctor.repair(mine, release)
    assert report.needs_repair
    assert any("no cell defines triple: not attempted" in s for s in report.sentences)
    assert not any("def triple" in source for source in sources(result))


def test_copied_cells_stay_as_plain_cells_with_their_code(release, mine):
    for role in ("exercise", "check"):
        twin = copy.deepcopy(find(mine, role, "double"))
        mine.cells.insert(mine.cells.index(find(mine, role, "double")) + 1, twin)
    result, report = repaired(mine, release)
    assert sources(result) == sources(mine)
    assert sources(result).count(DOUBLE) == 2
    assert sum("bore the grading id" in s for s in report.sentences) == 2
    assert len({c.id for c in result.cells}) == len(result.cells)


def test_of_a_copied_exercise_the_one_worked_on_is_the_learners_answer(release, mine):
    stub = copy.deepcopy(find(release, "exercise", "double"))
    mine.cells.insert(mine.cells.index(find(mine, "exercise", "double")), stub)
    find(mine, "exercise", "double").id = "copy"
    mine.cells[mine.cells.index(stub)].id = stub.id
    result, _ = repaired(mine, release)
    assert find(result, "exercise", "double").source == DOUBLE


def test_everything_stripped_is_recognized_by_its_source(release, mine):
    data = json.loads(nbformat.writes(mine))
    data["nbformat_minor"] = 4
    for cell in data["cells"]:
        cell["metadata"] = {}
        del cell["id"]
    result, report = repaired(json.dumps(data).encode(), release)
    assert sources(result) == sources(mine)
    marked = [(c.id, c.metadata) for c in result.cells if role_of(c) != "added"]
    assert [m for m, _ in marked] == [c.id for c in release.cells]
    assert any("cell ids had been lost, as Colab does" in s for s in report.sentences)
    assert any("lost its grading metadata" in s for s in report.sentences)


def test_colabs_widgets_without_state(release, mine):
    mine.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"abc": {"model_name": "X"}}}
    result, report = repaired(mine, release)
    assert "widgets" not in result.metadata
    assert len(report.sentences) == 1


def test_edited_checks_and_setup_are_restored_and_work_in_them_is_kept(release, mine):
    find(mine, "check", "double").source = 'helper = 3\ncheck("double")'
    find(mine, "setup").source += "\nimport collections"
    result, report = repaired(mine, release)
    assert find(result, "check", "double").source == 'check("double")'
    assert find(result, "setup").source == find(release, "setup").source
    added = [c.source for c in result.cells if role_of(c) == "added"]
    assert 'helper = 3\ncheck("double")' in added
    assert any(source.endswith("import collections") for source in added)
    assert sum("had been edited; the original is back" in s for s in report.sentences) == 2


def test_points_type_and_tags(release, mine):
    check, exercise = find(mine, "check", "double"), find(mine, "exercise", "double")
    check.metadata.nbgrader.points = 300
    check.metadata.nbgrader.solution = True
    check.metadata.tags = ["skip-execution", "mine"]
    exercise.cell_type = "markdown"
    for key in ("outputs", "execution_count"):
        del exercise[key]
    result, report = repaired(mine, release)
    check = find(result, "check", "double")
    assert check.metadata.nbgrader == find(release, "check", "double").metadata.nbgrader
    assert "tags" not in check.metadata
    exercise = find(result, "exercise", "double")
    assert (exercise.cell_type, exercise.source) == ("code", DOUBLE)
    said = "\n".join(report.sentences)
    for part in (
        "points had been changed to 300; it is 3 again",
        "'skip-execution'",
        "had become a markdown cell",
    ):
        assert part in said


def test_roles_a_learner_writes_down_count_for_nothing(release, mine):
    mine.cells[8].metadata.coursekit = {"role": "story"}
    find(mine, "exercise", "double").metadata.coursekit = {"role": "story"}
    mine.metadata.coursekit = {"unreadable": "no", "doctor": ["fine"]}
    result, _ = repaired(mine, release)
    assert result.cells[8].metadata.coursekit == {"role": "added"}
    assert find(result, "exercise", "double").source == DOUBLE
    assert result.metadata.coursekit == release.metadata.coursekit


def test_a_check_above_its_exercise_is_moved_below(release, mine):
    check = find(mine, "check", "double")
    mine.cells.remove(check)
    mine.cells.insert(3, check)
    result, report = repaired(mine, release)
    index = sources(result).index(DOUBLE)
    assert result.cells[index + 1].source == 'check("double")'
    assert any("stood before its exercise" in s for s in report.sentences)


def test_setup_gone_or_last_comes_first_again(release, mine):
    setup = find(mine, "setup")
    mine.cells.remove(setup)
    result, _ = repaired(mine, release)
    assert result.cells.index(find(result, "setup")) == 2
    mine.cells.append(setup)
    result, _ = repaired(mine, release)
    assert result.cells.index(find(result, "setup")) < result.cells.index(find(result, "exercise"))


def test_another_kernel(release, mine):
    mine.metadata.kernelspec = {"name": "ir", "display_name": "R", "language": "R"}
    result, report = repaired(mine, release)
    assert result.metadata.kernelspec.name == "python3"
    assert report.needs_repair
    mine.metadata.kernelspec = {"name": ".venv", "display_name": "x", "language": "python"}
    assert not doctor.examine(mine, release).needs_repair


def test_a_deleted_written_question_comes_back_unanswered(release, mine):
    mine.cells.remove(find(mine, "written"))
    result, _ = repaired(mine, release)
    assert find(result, "written").source == find(release, "written").source


def test_huge_outputs_are_dropped(release, mine, monkeypatch):
    monkeypatch.setattr(doctor, "MAX_OUTPUTS", 1000)
    output = nbformat.v4.new_output("stream", text="x" * 2000)
    find(mine, "exercise", "double").outputs = [output]
    result, report = repaired(mine, release)
    assert find(result, "exercise", "double").outputs == []
    assert report.sentences == ["The outputs were too large to keep; they have been dropped."]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"%PDF-1.4", "PDF"),
        (b"PK\x03\x04zip", "zip archive"),
        (b"<!DOCTYPE html>", "web page"),
        (b"# %%\nimport x", "Python script"),
        (b"<<<<<<< HEAD\n{}\n=======\n>>>>>>> x", "web page|merge conflict"),
        (b"{\n<<<<<<< HEAD\n{}\n=======\n>>>>>>> x", "merge conflict"),
        (b'{"cells": [{"source": "abc', "breaks off"),
        (b'{"cells": [', "breaks off"),
        (b"hello", "not valid JSON"),
        (b"[1, 2]", "no cells"),
        (b'{"cells": 3}', "no cells"),
        (b'{"nbformat": 3, "worksheets": 7}', "old format"),
        (b"[" * 200_000, "nested|breaks off"),
        (b"\xff\xfe\x00", "empty|not valid JSON|breaks off"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON|no cells"),
    ],
)
def test_what_is_no_notebook_is_said_in_words(release, content, why):
    with pytest.raises(doctor.Unreadable, match=why):
        doctor.repair(content, release)
    report = doctor.examine(content, release)
    assert not report.readable
    assert report.needs_repair


def test_truncated_anywhere_never_crashes(release, mine):
    content = nbformat.writes(mine).encode()
    for end in range(0, len(content) - 2, max(1, len(content) // 97)):
        assert not doctor.examine(content[:end], release).readable


ODD = [None, 3, "x", [], {}, ["a", 1], {"a": {"b": []}}, True, float("nan"), "\ud800"]


@pytest.mark.parametrize(
    "key", ["cell_type", "source", "metadata", "outputs", "id", "execution_count", "attachments"]
)
def test_odd_cells_become_valid_ones(release, mine, key):
    for odd in ODD:
        data = json.loads(nbformat.writes(mine))
        for cell in data["cells"][4:9]:
            cell[key] = odd
        data["cells"] += [odd]
        result, _ = doctor.repair(json.dumps(data).encode(), release)
        nbformat.validate(result)
        nbformat.writes(result).encode("utf-8")


@pytest.mark.parametrize("key", ["nbgrader", "coursekit", "tags", "collapsed", "name", "jupyter", "id"])
def test_odd_metadata_becomes_valid(release, mine, key):
    for odd in ODD:
        data = json.loads(nbformat.writes(mine))
        for cell in data["cells"]:
            cell["metadata"][key] = odd
        data["metadata"][key] = data["metadata"]["kernelspec"] = data["metadata"]["widgets"] = odd
        result, _ = doctor.repair(json.dumps(data).encode(), release)
        nbformat.validate(result)
        assert sum(role_of(c) == "check" for c in result.cells) == 2
        assert DOUBLE in sources(result)


def test_an_old_notebook_is_converted(release):
    old = nbformat.convert(copy.deepcopy(release), 3)
    result, report = doctor.repair(nbformat.writes(old, version=3).encode(), release)
    assert any("old format 3" in s for s in report.sentences)
    assert sum(role_of(c) == "check" for c in result.cells) == 2


def test_the_command(release, mine, tmp_path):
    handed_out, submission, out = (tmp_path / name for name in ("release.ipynb", "mine.ipynb", "out.ipynb"))
    nbformat.write(release, handed_out)
    nbformat.write(mine, submission)
    run = CliRunner().invoke
    given = ["doctor", str(submission), "--release", str(handed_out)]
    fine = run(main, given)
    assert (fine.exit_code, "ready" in fine.output) == (0, True), fine.output
    mine.cells.remove(find(mine, "check", "double"))
    nbformat.write(mine, submission)
    broken = run(main, given)
    assert broken.exit_code == 1
    assert "check of double was missing" in broken.output
    assert run(main, [*given, "--fix", str(out)]).exit_code == 1
    assert run(main, ["doctor", str(out), "--release", str(handed_out)]).exit_code == 0
    submission.write_text("%PDF")
    unreadable = run(main, given)
    assert (unreadable.exit_code, "Traceback" in unreadable.output) == (1, False)
    assert "PDF" in unreadable.output
    assert run(main, ["doctor", str(tmp_path / "none.ipynb")]).exit_code == 1


@pytest.mark.parametrize("command", [["doctor", "mine.ipynb", "--fix"], ["gate", "--json"]])
def test_a_file_for_a_folder_that_is_not_there_is_refused_in_words(command, tmp_path):
    out = tmp_path / "nowhere" / "out"
    done = CliRunner().invoke(main, [*command, str(out)])
    assert done.exit_code == 2
    assert f"there is no folder {out.parent}" in done.output
    assert isinstance(done.exception, SystemExit)
