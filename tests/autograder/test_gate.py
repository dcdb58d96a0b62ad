"""The gate itself: what it notices. Each exercise goes through it in a test of its own (contract.py)."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from autograder import catalog, gate
from autograder.cli import main
from autograder.exercise import Forbidden
from autograder.oracle.exam import Exam


def test_rows_have_the_form_of_the_file():
    (row,) = gate.published(gate.run([catalog.find("segmentation_scores")], wire=False, seed=1))
    assert json.loads(json.dumps(row)) == row
    assert list(row) == ["exercise", "reference", "right", "misconceptions", "same_through_wire"]
    assert row["exercise"] == "segmentation_scores"
    assert row["reference"] == {"points": 4.0, "max_points": 4.0}
    assert [r["name"] for r in row["right"]] == ["three vectors", "counting in plain Python", "numpy"]
    assert all(list(r) == ["name", "points", "max_points"] for r in row["right"])
    assert all(list(m) == ["name", "points", "max_points", "diagnosis"] for m in row["misconceptions"])
    assert all(m["diagnosis"] == m["name"] for m in row["misconceptions"])
    assert row["same_through_wire"] is False, "nothing went through the wire"


def test_wrong_answers_that_are_shown_what_can_be_retyped_are_counted():
    rows = gate.run([catalog.find("segmentation_scores")], wire=False, seed=1)
    assert gate.shown(rows) == (len(rows[0]["misconceptions"]), len(rows[0]["misconceptions"]))
    assert gate.shown([{"shown": [True, False]}, {"shown": []}]) == (1, 2)


def weakened(exercise, **changes):
    """A check that lost something, put in the catalogue's place."""
    return replace(exercise, **changes)


@pytest.fixture
def scores(monkeypatch):
    """``scores(change)``: the problems of segmentation_scores after a change to its entry, some mistakes left out."""
    whole = catalog.find("segmentation_scores")
    some = ("precision_for_accuracy", "dice", "false_alarms_forgiven")
    exercise = replace(whole, misconceptions=tuple(m for m in whole.misconceptions if m.name in some))

    def problems(change):
        changed = change(exercise)
        monkeypatch.setattr(catalog, "find", lambda exercise_id: changed)
        return gate.examine(changed, None, Exam(changed, 1))["problems"]

    return problems


def test_the_entry_as_it_is_has_no_problem(scores):
    assert scores(lambda e: e) == []


def test_a_property_that_is_gone_makes_a_problem(scores):
    found = scores(
        lambda e: replace(e, properties=tuple(p for p in e.properties if p.name != "only_predicted"))
    )
    assert any("false_alarms_forgiven: fails []" in problem for problem in found)


def test_a_property_that_sees_nothing_makes_a_problem(scores):
    def blind(exercise):
        return replace(exercise, properties=tuple(
            replace(p, observe=lambda subject, case: None) if p.name == "iou" else p for p in exercise.properties
        ))  # fmt: skip

    assert any(problem.startswith("dice: fails") for problem in scores(blind))


def test_a_tolerance_that_is_too_wide_makes_a_problem(scores):
    found = scores(
        lambda e: replace(e, properties=tuple(replace(p, tolerance=(10.0, 10.0)) for p in e.properties))
    )
    assert found


@pytest.mark.parametrize("fails", [("iou",), ("iou", "kinds"), ()])
def test_a_misconception_that_declares_the_wrong_properties_makes_a_problem(scores, fails):
    def change(exercise):
        first, *rest = exercise.misconceptions
        return replace(exercise, misconceptions=(replace(first, fails=fails), *rest))

    assert any(problem.startswith("precision_for_accuracy: ") for problem in scores(change))


def test_a_misconception_that_another_hides_makes_a_problem(scores):
    def change(exercise):
        one = exercise.misconception("dice")
        return replace(exercise, misconceptions=(replace(one, name="another"), *exercise.misconceptions))

    assert any("dice: diagnosed as another" in problem for problem in scores(change))


def test_a_right_variant_that_is_wrong_makes_a_problem(scores):
    def change(exercise):
        return replace(exercise, right=(replace(exercise.right[0], code=exercise.misconceptions[0].answer),))

    assert any("right/three vectors: " in problem for problem in scores(change))


def test_a_right_variant_that_takes_a_shortcut_makes_a_problem(scores):
    def change(exercise):
        return replace(exercise, right=(replace(exercise.right[0], code=exercise.reference),))

    assert any("shortcut" in problem for problem in scores(change))


def test_a_reference_that_does_not_meet_its_own_claims_makes_a_problem(scores):
    found = scores(lambda e: replace(e, reference=lambda matrix: {}))
    assert found


def test_a_wire_that_changes_a_verdict_makes_a_problem(far_side):
    exercise = catalog.find("segmentation_scores")

    def crossed(exercise, answer):
        swap = {"right/numpy": "misconception/dice", "misconception/dice": "right/numpy"}
        return far_side(exercise, swap.get(answer, answer))

    row = gate.examine(exercise, crossed, Exam(exercise, 1))
    assert not row["same_through_wire"]
    assert len([problem for problem in row["problems"] if "through the wire" in problem]) == 2


def test_a_sample_of_the_wrong_answers_goes_through_the_wire(far_side):
    exercise, sent = catalog.find("segmentation_scores"), []

    def noted(exercise, answer):
        sent.append(answer)
        return far_side(exercise, answer)

    assert gate.examine(exercise, noted, Exam(exercise), sample=2)["same_through_wire"]
    assert sum(answer.startswith("misconception/") for answer in sent) == 2
    assert {"reference", *(f"right/{v.name}" for v in exercise.right)} <= set(sent)


def test_a_misconception_that_calls_what_is_forbidden_is_noticed_in_the_sample(far_side, monkeypatch):
    whole = catalog.find("nearest_upsample")
    (wrong, *_) = whole.misconceptions
    calls = tuple(f"aten.{name}" for name in ("repeat", "repeat_interleave"))
    exercise = replace(whole, misconceptions=(wrong,), forbidden=(Forbidden("the answer", calls),))
    monkeypatch.setattr(catalog, "find", lambda exercise_id: exercise)
    problems = gate.examine(exercise, far_side, Exam(exercise, 1), sample=1)["problems"]
    assert any(p.startswith(f"misconception/{wrong.name}: local") and "shortcut" in p for p in problems)


# -- luck ---------------------------------------------------------------------------------------------------


def test_a_mistake_that_no_exam_shows_is_luck_and_one_that_every_exam_shows_is_none(monkeypatch):
    exercise = catalog.find("segmentation_scores")
    first = exercise.properties[0]
    blind = replace(first, name="blind", observe=lambda subject, case: subject(*case.args) and None)
    wrong = next(m for m in exercise.misconceptions if first.name in m.fails)
    changed = replace(
        exercise, properties=(first, blind), misconceptions=(replace(wrong, fails=(first.name, "blind")),)
    )
    monkeypatch.setattr(catalog, "find", lambda exercise_id: changed)
    (found,) = gate.luck(changed, 3)
    assert found == (f"misconception/{wrong.name}", "blind", True, (0, 1, 2))


def test_a_mistake_that_some_exams_show_is_told_by_their_seeds(monkeypatch):
    exercise = catalog.find("segmentation_scores")
    first = exercise.properties[0]
    wrong = next(m for m in exercise.misconceptions if first.name in m.fails)

    def seldom(subject, case):
        shows = case.args[0].sum() % 16 == 3
        return subject(*case.args) and (first.observe(subject, case) if shows else None)

    changed = replace(
        exercise,
        properties=(replace(first, observe=seldom, examples=8),),
        right=(),
        misconceptions=(replace(wrong, fails=(first.name,)),),
    )
    monkeypatch.setattr(catalog, "find", lambda exercise_id: changed)
    (found,) = gate.luck(changed, 12, first=100)
    assert found.declared
    assert 0 < len(found.seeds) < 12
    assert set(found.seeds) < set(range(100, 112))


def test_an_answer_that_fails_what_it_should_pass(monkeypatch):
    exercise = catalog.find("segmentation_scores")
    wrong = exercise.misconceptions[0]
    changed = replace(exercise, misconceptions=(replace(wrong, fails=()),))
    monkeypatch.setattr(catalog, "find", lambda exercise_id: changed)
    found = gate.luck(changed, 2)
    assert {(f.answer, f.property) for f in found} == {
        (f"misconception/{wrong.name}", n) for n in wrong.fails
    }
    assert all(not f.declared and f.seeds == (0, 1) for f in found)


def test_luck_is_told_by_the_command(monkeypatch):
    def run(*arguments):
        return CliRunner().invoke(main, ["gate", *arguments])

    told = run("nearest_upsample", "--chances", "2")
    assert (told.exit_code, told.output.split()) == (0, ["nearest_upsample", "ok"])
    asked = []
    found = gate.Luck("misconception/hasty", "mean_iou", True, (7, 31))
    monkeypatch.setattr(gate, "luck", lambda exercise, exams, first: asked.append((exams, first)) or [found])
    told = run("segmentation_scores", "--chances")
    assert told.exit_code == 1
    assert asked == [(40, 0)]
    assert "mean_iou passes misconception/hasty in 2 of 40 exams: seeds 7, 31" in told.output
    assert run("--chances", "2", "--local").exit_code == 2
