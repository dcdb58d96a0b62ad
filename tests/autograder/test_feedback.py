"""What a learner reads, what nbgrader reads, and that neither can be written by the learner's code."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.utils import determine_grade

from autograder.exercise import Finding, Outcome, PropertyResult, Verdict
from autograder.feedback import (
    STYLE,
    bounded,
    clean,
    headline,
    html,
    nbgrader_outputs,
    number,
    prose,
    symbol,
    text,
    verdict_of,
)

RIGHT = PropertyResult("values", "normalizes each channel over batch and pixels", Outcome.CORRECT, 2.0, 2.0)
WRONG = PropertyResult(
    "small_batch",
    "uses the biased variance, `÷N`",
    Outcome.WRONG_VALUES,
    0.0,
    1.0,
    tried=("x = tensor of shape (2, 1), float64:", "    [[0.], [1.]]", "gamma = [1.], beta = [0.]"),
    where="y[0, 0]",
    message="2 of 2 values differ, by up to 0.293.",
    expected="[[-1.], [1.]]",
    got="[[-0.7071], [0.7071]]",
    printed="var 0.5",
)
ERROR = PropertyResult(
    "images",
    "works on (N, C, H, W)",
    Outcome.RAISED,
    0.5,
    1.0,
    tried=("x = tensor of shape (2, 3, 5, 4), float32",),
    message="RuntimeError: The size of tensor a (4) must match the size of tensor b (3)",
)
VERDICT = Verdict(
    exercise="batchnorm_forward",
    outcome=Outcome.WRONG_VALUES,
    points=2.5,
    max_points=4.0,
    results=(RIGHT, WRONG, ERROR),
    seed=123,
    findings=(
        Finding(
            "unbiased_variance",
            "You divided by N − 1, the unbiased estimate.",
            "Batch normalization uses the batch's own variance: pass `unbiased=False`.",
            (WRONG.name, ERROR.name),
        ),
    ),
)


def with_outcome(outcome: Outcome) -> Verdict:
    """A verdict of each outcome, as the oracle would make it."""
    correct = outcome is Outcome.CORRECT
    points, message = (4.0, "") if correct else (0.0, "why")
    result = PropertyResult("values", "normalizes", outcome, points, 4.0, message=message)
    return Verdict("batchnorm_forward", outcome, points, 4.0, (result,), 7)


def hostile(payload: str) -> Verdict:
    """``payload`` in every field that could come from a learner."""
    result = replace(
        WRONG,
        **dict.fromkeys(("says", "where", "message", "expected", "got", "printed"), payload),
        tried=(payload,),
    )
    return replace(
        VERDICT,
        findings=(Finding(payload, payload, payload, (payload,)),),
        flags=(payload,),
        message=payload + " ",
        devices=(payload, "cuda"),
        results=(result, result),
    )


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_said_in_words_and_with_a_symbol(outcome):
    verdict = with_outcome(outcome)
    for shown in (text(verdict), BeautifulSoup(html(verdict), "html.parser").get_text()):
        assert headline(verdict) in shown
        assert outcome.value in shown.lower()
        assert symbol(outcome) in shown
        assert ("hint(" in shown) == (outcome not in (Outcome.CORRECT, Outcome.NO_VERDICT))
        assert ("seed=7" in shown) == (outcome not in (Outcome.NOT_ATTEMPTED, Outcome.NO_VERDICT))


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome.CORRECT, "Correct: 4 of 4 points"),
        (Outcome.NOT_ATTEMPTED, "Not attempted yet: 0 of 4 points"),
        (Outcome.UNSTABLE, "Not yet: 0 of 4 points"),
        (Outcome.TIMED_OUT, "Timed out: 0 of 4 points"),
        (Outcome.SHORTCUT, "Shortcut: 0 of 4 points"),
        (Outcome.NO_VERDICT, "No verdict: 0 of 4 points"),
    ],
)
def test_headline(outcome, said):
    assert headline(with_outcome(outcome)) == said


def test_points_are_never_rounded_up():
    shown = {2.5: "2.5", 4.0: "4", 0.0: "0", 3.999: "3.99", 1 / 3: "0.33", 0.29: "0.29", 10.0: "10"}
    assert {points: number(points) for points in shown} == shown


@pytest.mark.parametrize("render", [text, lambda v: BeautifulSoup(html(v), "html.parser").get_text()])
def test_blocks_come_in_the_order_in_which_they_help(render):
    shown = render(VERDICT)
    blocks = [
        "Not yet: 2.5 of 4 points",
        "unbiased variance",
        "You divided by N − 1",
        "uses the batch's own variance",
        "normalizes each channel",
        "uses the biased variance",
        "2 of 2 values differ",
        "[[0.], [1.]]",
        "[[-1.], [1.]]",
        "[[-0.7071], [0.7071]]",
        "y[0, 0]",
        "var 0.5",
        "works on (N, C, H, W)",
        'hint("batchnorm_forward")',
        'check("batchnorm_forward", seed=123)',
    ]
    places = [shown.find(block) for block in blocks]
    assert -1 not in places, blocks[places.index(-1)]
    assert places == sorted(places)


def test_only_the_first_failing_property_is_unfolded():
    items = BeautifulSoup(html(VERDICT), "html.parser").find_all("li")
    assert [bool(i.find("dl")) for i in items] == [False, True, True]
    assert [bool(i.find("details")) for i in items] == [False, False, True]
    assert "RuntimeError" not in text(VERDICT)


def test_text_stays_on_one_screen_however_much_there_is_to_say():
    long = "\n".join(f"row {i}: " + "0.123 " * 40 for i in range(500))
    many = tuple(replace(WRONG, name=f"p{i}", tried=tuple(long.split("\n"))) for i in range(3))
    wordy = replace(hostile(long), results=many, findings=(Finding(long, "One sentence.", "Another.", ()),))
    lines = text(wordy).split("\n")
    assert 15 < len(lines) <= 26
    assert max(map(len, lines)) <= 100
    assert any(line.lstrip().startswith("got ") for line in lines)


@pytest.mark.parametrize(
    "payload",
    [
        "<script>alert(1)</script>",
        "</pre></div><img src=x onerror=alert(1)>",
        '"><svg onload=alert(1)>',
        "`<b>`</style><style>*{display:none}",
        "<!--",
    ],
)
def test_learners_markup_is_shown_not_run(payload):
    soup = BeautifulSoup(html(hostile(payload)), "html.parser")
    for tag in ("script", "img", "svg", "b-", "iframe", "link"):
        assert not soup.find(tag)
    assert len(soup.find_all("style")) == 1
    assert not [t for t in soup.find_all(True) for a in t.attrs if a.startswith("on") or a == "style"]
    assert soup.find("pre").get_text() == payload
    assert len(soup.find_all(recursive=False)) == 1


@pytest.mark.parametrize("show", [text, html])
def test_terminal_and_invisible_characters_do_not_pass(show):
    payload = "a\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;http://evil\x1b\\link \x9b2J"
    payload += " \x00\x08\x7f \u202egnp\u2066 \ud800 b"
    shown = show(hostile(payload))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert "red" in shown
    assert "evil" not in shown
    shown.encode("utf-8")


def test_everything_is_bounded():
    for payload in ("x" * 10**7, "y\n" * 10**6, "\x1b[" * 10**6, "e" + "\u0301" * 10**6):
        outputs = nbgrader_outputs(hostile(payload))
        assert len(json.dumps(outputs)) < 400_000
        assert len(text(hostile(payload))) < 4_000


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("10%\r 50%\r100%\r\n", "100%\n"),
        ("a\r\nb", "a\nb"),
        ("tab\tstays", "tab\tstays"),
        ("naïve ∇ 🙂", "naïve ∇ 🙂"),
        ("e" + 9 * "\u0301", "e\u0301\u0301"),
        ("\u202ea\u200bb", "ab"),
        ("abcdefgh", "abcdefgh"),
        ("1234567890123", "123456789…"),
        ("a\nb\nc\nd\ne", "a\nb\nc\n…"),
    ],
)
def test_clean(raw, shown):
    assert clean(raw, lines=4, width=10) == shown
    assert clean(shown, lines=4, width=10) == shown


def test_a_dollar_sign_is_not_mathematics_and_code_is_set_as_code():
    soup = BeautifulSoup(html(replace(VERDICT, message="costs $1 and $2")), "html.parser")
    assert {"mathjax_ignore", "tex2jax_ignore"} <= set(soup.div["class"])
    assert "unbiased=False" in [c.get_text() for c in soup.find_all("code")]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colors_can_be_read_in_both_themes(theme):
    blocks = re.findall(r"\{([^}]*--bg:[^}]*)\}", STYLE)
    assert len(blocks) == 2
    colors = dict(re.findall(r"--(\w+):(#\w+)", blocks[theme]))
    for ink in ("ink", "soft", "good", "bad", "odd"):
        for ground in ("bg", "well"):
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2 between two ``#rgb`` or ``#rrggbb`` colors."""

    def luminance(color: str) -> float:
        digits = color[1:] if len(color) == 7 else "".join(2 * c for c in color[1:])
        srgb = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in srgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_nothing_is_fetched_and_nothing_runs():
    shown = html(VERDICT)
    assert not re.search(r"<script|<link|url\(|@import|https?:|javascript:", shown)


def test_the_tone_is_calm():
    for outcome in Outcome:
        assert "!" not in text(with_outcome(outcome))


def test_a_message_is_not_said_twice():
    assert text(replace(VERDICT, message=WRONG.message)).count(WRONG.message) == 1


@pytest.mark.parametrize("show", [text, html])
def test_what_was_seen_of_one_claim_is_said_with_it_and_of_all_above(show):
    error, wrong = (says if show is text else prose(says) for says in (ERROR.says, WRONG.says))
    zero, negative = "Your result is 0 everywhere.", "Your result has the opposite sign."
    shown = show(replace(VERDICT, findings=(), results=(ERROR, replace(WRONG, described=zero))))
    assert shown.index(wrong) < shown.index(zero)
    assert shown.count(zero) == 1

    both = replace(ERROR, described=zero), replace(WRONG, described=zero)
    shown = show(replace(VERDICT, findings=(), results=both))
    assert shown.index(zero) < shown.index(error) < shown.index(wrong)
    assert shown.count(zero) == 1

    both = replace(ERROR, described=negative), replace(WRONG, described=zero)
    shown = show(replace(VERDICT, findings=(), results=both))
    assert shown.index(error) < shown.index(negative) < shown.index(wrong) < shown.index(zero)


def graded_cell(verdict: Verdict, points: float):
    nbgrader = {"grade": True, "solution": False, "locked": True, "points": points, "grade_id": "x"}
    metadata = {"nbgrader": {**nbgrader, "schema_version": 3}}
    return new_code_cell("check(...)", metadata=metadata, outputs=nbgrader_outputs(verdict))


@pytest.mark.parametrize("points", [0.0, 2.5, 4.0, 1e-5])
def test_nbgrader_reads_exactly_these_points(points):
    verdict = replace(VERDICT, points=points)
    assert determine_grade(graded_cell(verdict, 4.0)) == (points, 4.0)


@pytest.mark.parametrize("outcome", Outcome)
def test_nbgrader_never_gives_more_than_the_oracle(outcome):
    verdict = with_outcome(outcome)
    assert determine_grade(graded_cell(verdict, 4.0)) == (verdict.points, 4.0)


@pytest.mark.parametrize("points", [float("nan"), float("inf"), -1.0, 4.0001])
@pytest.mark.parametrize("show", [text, html, nbgrader_outputs])
def test_impossible_points_are_refused(points, show):
    with pytest.raises(ValueError, match="points must be between 0 and"):
        show(replace(VERDICT, points=points))
    with pytest.raises(ValueError, match="small_batch"):
        show(replace(VERDICT, results=(replace(WRONG, points=points),)))


def test_the_verdict_comes_back_from_a_saved_notebook(tmp_path):
    for verdict in (VERDICT, *map(with_outcome, Outcome)):
        notebook = new_notebook(cells=[graded_cell(verdict, 4.0)])
        nbformat.validate(notebook)
        nbformat.write(notebook, tmp_path / "n.ipynb")
        saved = nbformat.read(tmp_path / "n.ipynb", as_version=4)
        assert verdict_of(saved.cells[0]) == verdict


def test_a_hostile_verdict_can_be_saved_and_comes_back_bounded(tmp_path):
    verdict = hostile("\ud800 \x1b[31m <b>" + "x" * 10**6)
    nbformat.write(new_notebook(cells=[graded_cell(verdict, 4.0)]), tmp_path / "n.ipynb")
    assert verdict_of(nbformat.read(tmp_path / "n.ipynb", as_version=4).cells[0]) == bounded(verdict)


STORED = json.loads(json.dumps(VERDICT.to_json()))


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        "correct",
        {},
        {**STORED, "points": "4"},
        {**STORED, "points": 5.0},
        {**STORED, "points": None},
        {**STORED, "outcome": "excellent"},
        {**STORED, "seed": "x"},
        {**STORED, "results": [{}]},
        {**STORED, "results": 3},
        {k: v for k, v in STORED.items() if k != "results"},
    ],
)
def test_metadata_that_is_no_verdict_is_none(stored):
    cell = {"outputs": [{"output_type": "display_data", "metadata": {"coursekit": {"verdict": stored}}}]}
    assert verdict_of(cell) is None


@pytest.mark.parametrize(
    "cell", [{}, {"outputs": []}, {"outputs": [{"output_type": "stream"}]}, {"outputs": 3}]
)
def test_a_cell_without_verdict_is_none(cell):
    assert verdict_of(cell) is None


def test_a_later_output_is_not_the_verdict():
    cell = graded_cell(VERDICT, 4.0)
    cell.outputs.insert(0, nbformat.v4.new_output("stream", text="printed"))
    assert verdict_of(cell) is None
