"""An exam as a file: what is read is what was drawn, in whatever process, and gives the same verdicts."""

import json
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace

import pytest
import torch
from alike import same
from click.testing import CliRunner

from autograder import catalog, wire
from autograder.cli import main
from autograder.exercise import Training
from autograder.oracle import evaluate, exam_file
from autograder.oracle.exam_file import WrongExam
from autograder.plugins.course import exam_at


def some():
    return catalog.topic("batchnorm")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "exams" / "02_batchnorm.exam"


def test_what_is_read_is_what_was_drawn(path):
    drawn = exam_file.draw(catalog.every(), 7)
    exam_file.write(path, drawn)
    read = exam_file.read(path)
    assert list(read) == [e.id for e in catalog.every()]
    for name, exam in drawn.items():
        assert read[name].seed == exam.seed == 7
        one, other = exam.every(), read[name].every()
        assert list(one) == list(other)
        for claim in one:
            assert len(one[claim]) == len(other[claim]) > 0
            assert all(same(a, b) for a, b in zip(one[claim], other[claim], strict=True)), (name, claim)


@pytest.mark.parametrize("exercise", [e for e in some() if not isinstance(e, Training)], ids=lambda e: e.id)
def test_the_verdict_of_a_read_exam_is_that_of_its_seed(path, exercise):
    exam_file.write(path, exam_file.draw([exercise], 11))
    wrong = exercise.misconceptions[-1].answer
    verdicts = [
        evaluate(exercise.id, wrong, exam=exam_file.read(path)[exercise.id]),
        evaluate(exercise.id, wrong, exam=exam_file.draw([exercise], 11)[exercise.id]),
        evaluate(exercise.id, wrong, seed=11),
    ]
    first, *others = [replace(v, seconds=0, learner_seconds=0) for v in verdicts]
    assert first.points < first.max_points
    assert all(other == first for other in others)


def test_another_process_reads_and_judges_the_same(path):
    exam_file.write(path, exam_file.draw(some(), 3))
    program = f"""
        import json
        from pathlib import Path
        from autograder import catalog
        from autograder.oracle import evaluate, exam_file
        exam = exam_file.read(Path({str(path)!r}))["batchnorm_forward"]
        wrong = catalog.find("batchnorm_forward").misconception("unbiased_variance").answer
        print(json.dumps(evaluate("batchnorm_forward", wrong, exam=exam, devices=("cpu",)).to_json()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    there = json.loads(done.stdout)
    wrong = catalog.find("batchnorm_forward").misconception("unbiased_variance").answer
    exam = exam_file.read(path)["batchnorm_forward"]
    here = json.loads(json.dumps(evaluate("batchnorm_forward", wrong, exam=exam, devices=("cpu",)).to_json()))
    for verdict in (here, there):
        del verdict["seconds"], verdict["learner_seconds"]
    assert here == there


def test_two_exams_share_no_drawn_tensor(path):
    """What is constant must be so: empty, all of one value, or whole numbers."""
    for exercise in some():
        one, other = (exam_file.draw([exercise], seed)[exercise.id].every() for seed in (1, 2))
        for claim in one:
            for a, b in zip(one[claim], other[claim], strict=False):
                for x, y in zip(a.args, b.args, strict=False):
                    if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and len(x.unique()) > 2:
                        assert x.shape != y.shape or not torch.equal(x, y), (exercise.id, claim)


def test_an_exam_is_written_once(path):
    exam_file.write(path, exam_file.draw(some(), 1))
    with pytest.raises(FileExistsError):
        exam_file.write(path, exam_file.draw(some(), 2))
    assert exam_file.about(path)["seed"] == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_all_who_come_at_once_sit_one_exam(path):
    seeds = []
    threads = [
        threading.Thread(
            target=lambda: seeds.append(
                exam_file.shared(path, [catalog.find("group_norm")])["group_norm"].seed
            )
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seeds) == 6
    assert len(set(seeds)) == 1


def test_a_file_that_is_no_exam_is_refused_by_name(path):
    path.parent.mkdir()
    whole = {"format": 1, "seed": 3, "catalogue": exam_file.digest(), "versions": {}, "exercises": {}}
    bad = {
        "noise": b"not a frame",
        "a list": wire.dump([1, 2]),
        "another format": wire.dump(whole | {"format": 99}),
        "no seed": wire.dump({k: v for k, v in whole.items() if k != "seed"}),
        "an unknown exercise": wire.dump(whole | {"exercises": {"nonsense": {}}}),
        "cases of another kind": wire.dump(whole | {"exercises": {"group_norm": {"groups": [3]}}}),
    }
    for name, content in bad.items():
        path.write_bytes(content)
        with pytest.raises(WrongExam, match=r"02_batchnorm\.exam is no exam"):
            exam_file.read(path)
        assert name
    with pytest.raises(WrongExam):
        exam_file.read(path.with_name("missing"))


def test_an_exam_of_another_catalogue_is_not_sat(path, monkeypatch):
    monkeypatch.setattr(exam_file, "digest", lambda: "older")
    exam_file.write(path, exam_file.draw(some(), 1))
    monkeypatch.undo()
    with pytest.raises(WrongExam, match="another version of the catalogue"):
        exam_file.read(path)


def test_an_exam_is_drawn_and_shown_by_commands(path):
    run = CliRunner().invoke
    path.parent.mkdir()
    made = run(main, ["exam", "draw", "batchnorm", str(path), "--seed", "5"])
    assert made.exit_code == 0, made.output
    assert "seed 5, 5 exercises" in made.output
    assert run(main, ["exam", "draw", "batchnorm", str(path)]).exit_code == 1
    shown = run(main, ["exam", "show", str(path), "group_norm"])
    assert shown.exit_code == 0, shown.output
    exercise = catalog.find("group_norm")
    assert [f"group_norm, {p.name}: " in shown.output for p in exercise.properties] == [True] * len(
        exercise.properties
    )
    assert "batchnorm_forward" not in shown.output
    assert "num_groups = " in shown.output
    assert run(main, ["exam", "show", str(path), "nonsense"]).exit_code == 1
    path.write_bytes(b"x")
    assert "is no exam" in run(main, ["exam", "show", str(path)]).output


def test_an_assignment_without_exercises_has_no_exam(tmp_path):
    path = tmp_path / "homework.exam"
    assert exam_at(path, ["an essay"], None) == {}
    assert not path.exists()
    assert exam_at(path, ["batchnorm_forward"], 3)["batchnorm_forward"].seed == 3
    assert set(exam_at(path, [], None)) == {"batchnorm_forward"}
