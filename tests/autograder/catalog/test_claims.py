"""Claims and hints as texts, mistakes as differences."""

import re

import pytest
from click.testing import CliRunner

from autograder import catalog
from autograder.catalog.claims import claims, hints, on
from autograder.catalog.differences import difference
from autograder.cli import main
from autograder.exercise import Case, Hint


def drawn(d):
    return Case((d.integer(1, 3),))


def looked(subject, case):
    return subject(*case.args)


def judged(case, expected, got):
    return None


def test_a_text_tells_claims_and_how_they_are_tried():
    first, second = claims(
        """
        rows (1.25): the first claim, in a sentence: with a colon,
          that goes on
        tried: twice, and
          once more
        dtype (1): the second
        """,
        dtype=on(drawn),
        rows=on(drawn, looked, judged, examples=3, tolerance=(0.1, 0.2)),
    )
    assert (first.name, first.points) == ("rows", 1.25)
    assert first.says == "the first claim, in a sentence: with a colon, that goes on"
    assert first.tried == "twice, and once more"
    assert (first.draw, first.observe, first.judge) == (drawn, looked, judged)
    assert (first.examples, first.tolerance) == (3, (0.1, 0.2))
    assert (second.name, second.points, second.says, second.tried) == ("dtype", 1.0, "the second", "")


@pytest.mark.parametrize(
    ("text", "trials", "why"),
    [
        ("rows: no points", {}, "a claim is `name (points): what is claimed`, got 'rows: no points'"),
        ("tried: nothing", {}, "got 'tried: nothing'"),
        ("rows (1): told", {}, "'rows' is told and not tried"),
        ("rows (1): told", {"rows": on(drawn), "dtype": on(drawn)}, "'dtype' is tried and not told"),
    ],
)
def test_claims_that_do_not_fit_are_refused(text, trials, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        claims(text, **trials)


def test_three_hints_are_told():
    text = "One.\nHelp,\n  and more.\n\nTwo.\nHelp.\n\nThree.\nHelp."
    assert hints(text) == (Hint("One.", "Help, and more."), Hint("Two.", "Help."), Hint("Three.", "Help."))
    with pytest.raises(ValueError, match="three hints"):
        hints("One.\nHelp.\n\nTwo.\nHelp.")


# -- differences --------------------------------------------------------------------------------------------


def within(some, lines):
    """Whether they are among the lines, in that order."""
    rest = iter(lines)
    return all(any(line == other for other in rest) for line in some)


@pytest.mark.parametrize("exercise", catalog.every(), ids=lambda e: e.id)
def test_a_difference_drops_lines_of_a_right_answer_and_adds_the_wrong_one_s(exercise):
    for wrong in exercise.misconceptions:
        lines = [line for line in difference(exercise, wrong) if line != "  ..."]
        whole = wrong.code.body.splitlines()
        before, after = ([line[2:] for line in lines if line[:1] != mark] for mark in "+-")
        assert within(after, whole), wrong.name
        if len(after) == len(whole) == len(lines):
            continue  # told as a whole
        grown = len(after) - len(before)
        rights = [right.code.body.splitlines() for right in exercise.right]
        assert any(len(whole) - len(r) == grown and within(before, r) for r in rights), wrong.name


def run(*arguments):
    return CliRunner().invoke(main, ["show", *arguments])


def test_a_mistake_is_shown_as_a_difference():
    told = run("group_norm", "over_the_batch")
    assert told.exit_code == 0
    assert "You took the statistics over the batch as well." in told.output
    assert re.search(r"^    -     axes = \(2, 3, 4\)$", told.output, re.MULTILINE)
    assert re.search(r"^    \+     axes = \(0, 2, 3, 4\)$", told.output, re.MULTILINE)
    assert "fails groups, layer_and_instance, eps, gradients" in told.output
    assert "instance_norm" not in told.output


def test_without_a_name_the_right_answer_and_every_mistake_are_shown():
    exercise = catalog.find("nearest_upsample")
    told = run("nearest_upsample").output
    assert exercise.right[0].code.body in told
    for wrong in exercise.misconceptions:
        assert wrong.mistake in told
        assert wrong.repair in told


def test_unknown_names_are_told_with_the_known():
    assert "batchnorm_forward" in run("batchnorm").output
    told = run("group_norm", "over_the_moon")
    assert told.exit_code == 1
    assert "group_norm has no mistake 'over_the_moon'; there are over_the_batch" in told.output


@pytest.mark.parametrize("beside", ["other", "form", "further"])
def test_a_claim_stands_beside_one_that_counts_alone(beside):
    trials = {"values": on(drawn), "form": on(drawn, beside="values"), "further": on(drawn, beside=beside)}
    with pytest.raises(ValueError, match="'further' stands beside one that counts alone"):
        claims("values (1): a\nform (1): b\nfurther (1): c", **trials)
