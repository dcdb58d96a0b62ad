"""A verdict in words: for a terminal, for a notebook, and as the cell outputs that nbgrader reads.

A learner reads top down and may stop anywhere: how many points, the likely mistake by name, what each
property came to, the smallest evidence for the first one that fails, the way to a hint. Whatever a learner's
code could have written is cleaned, bounded and escaped before it is shown or stored.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from autograder.cells import KEY, about
from autograder.exercise import SCREEN, Finding, Outcome, PropertyResult, Verdict

if TYPE_CHECKING:
    from nbformat import NotebookNode

HEADLINES = {
    Outcome.CORRECT: "Correct",
    Outcome.NOT_ATTEMPTED: "Not attempted yet",
    Outcome.TIMED_OUT: "Timed out",
    Outcome.SHORTCUT: "Shortcut",
    Outcome.NO_VERDICT: "No verdict",
}
"""What the first line says; every other outcome is *Not yet*."""

WORDS = {Outcome.RAISED: "raised an error"}
"""What a property came to, where the outcome's own name is too terse."""

ADVICE = {
    Outcome.NOT_ATTEMPTED: "There is nothing to check yet. Write {id}, run its cell, then run this check "
    "again.",
    Outcome.TIMED_OUT: "The time for this check ran out before your code was done. Look for a loop that does "
    "not end, or one that a tensor operation could replace.",
    Outcome.SHORTCUT: "The exercise is to write this yourself, so the shortcut earns no points. When "
    "it is graded, a person looks at it too.",
    Outcome.NO_VERDICT: "The check could not be completed. It counts 0 points for now; a person looks at it.",
}
"""What to do about outcomes that no single property explains."""

_UNDECIDED = (Outcome.NOT_ATTEMPTED, Outcome.WAITING, Outcome.NO_VERDICT)
_TERMINAL_LINES, _TERMINAL_WIDTH = 25, 96


# -- what may be shown -----------------------------------------------------------------------------

# Control sequences; control strings (titles, hyperlinks: dropped with what they carry); other escapes.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
_INVISIBLE = {"Cc", "Cf"}  # Cf has the marks that reverse the direction of the text around them
_UNWRITABLE = {"Cs", "Co", "Cn"}  # a lone surrogate cannot even be saved as UTF-8


def clean(value: object, *, lines: int = 24, width: int = 160) -> str:
    """``value`` as text that is safe to show in a terminal and to store; HTML is still to escape.

    No terminal escapes, no invisible or unwritable characters, at most ``lines`` lines of ``width``
    characters, cut with ``…``.
    """
    text = str(value)[: 8 * lines * width]
    text = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    rows = []
    for row in text.split("\n"):
        row = row.rstrip("\r").rpartition("\r")[2]  # a progress bar overwrites itself
        row = _visible(row)
        rows.append(row if len(row) <= width else row[: width - 1] + "…")
    if len(rows) > lines:
        rows[lines - 1 :] = ["…"]
    return "\n".join(rows)


def _visible(row: str) -> str:
    if row.isascii() and row.isprintable():
        return row
    kept: list[str] = []
    stacked = 0
    for character in row:
        stacked = stacked + 1 if unicodedata.combining(character) else 0
        category = unicodedata.category(character)
        if category in _UNWRITABLE:
            kept.append("\ufffd")
        elif stacked <= 2 and (category not in _INVISIBLE or character == "\t"):
            kept.append(character)
    return "".join(kept)


def prose(value: str) -> str:
    """A sentence as HTML: escaped, with `` `names` `` set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(value))


def number(points: float) -> str:
    """Points as people write them, never rounded up: 2.5, 4, 0.33."""
    return f"{math.floor(points * 100 + 1e-6) / 100:.2f}".rstrip("0").rstrip(".")


def points_of(points: float, maximum: float) -> str:
    return f"{number(points)} of {number(maximum)} point{'' if maximum == 1 else 's'}"


def bounded(verdict: Verdict) -> Verdict:
    """The same verdict with every text cleaned and cut to length.

    Raises ``ValueError`` where points are not a number between 0 and the maximum: showing or storing such a
    verdict would make a grade of it.
    """
    _demand_points(verdict.exercise, verdict.points, verdict.max_points)
    for result in verdict.results:
        _demand_points(f"{verdict.exercise}, {result.name}", result.points, result.max_points)
    return replace(
        verdict,
        exercise=clean(verdict.exercise, lines=1, width=80),
        results=tuple(_bounded_result(r) for r in verdict.results),
        seed=int(verdict.seed),
        findings=tuple(_bounded_finding(f) for f in verdict.findings[:4]),
        message=clean(verdict.message, lines=8, width=400),
        flags=tuple(clean(f, lines=2, width=400) for f in verdict.flags[:8]),
        devices=tuple(clean(d, lines=1, width=40) for d in verdict.devices[:8]),
    )


def _bounded_finding(finding: Finding) -> Finding:
    return replace(
        finding,
        name=clean(finding.name, lines=1, width=120),
        mistake=clean(finding.mistake, lines=4, width=400),
        repair=clean(finding.repair, lines=4, width=400),
        claims=tuple(clean(claim, lines=1, width=120) for claim in finding.claims[:40]),
    )


def _bounded_result(result: PropertyResult) -> PropertyResult:
    return replace(
        result,
        name=clean(result.name, lines=1, width=120),
        says=clean(result.says, lines=2, width=300),
        tried=tuple(clean(entry, lines=SCREEN) for entry in result.tried[:12]),
        where=clean(result.where, lines=2),
        message=clean(result.message, lines=8, width=400),
        expected=clean(result.expected),
        got=clean(result.got),
        printed=clean(result.printed, lines=12),
        described=clean(result.described, lines=4, width=400),
    )


def _demand_points(what: str, points: float, maximum: float) -> None:
    if not (math.isfinite(points) and math.isfinite(maximum) and 0 <= points <= maximum):
        raise ValueError(f"{what}: points must be between 0 and {maximum}, got {points}")


# -- what is said, in words and in HTML ------------------------------------------------------------


def headline(verdict: Verdict) -> str:
    """``Not yet: 2.5 of 4 points``."""
    return f"{HEADLINES.get(verdict.outcome, 'Not yet')}: {points_of(verdict.points, verdict.max_points)}"


def symbol(outcome: Outcome) -> str:
    """✓ earned, ✗ checked and not right, – not judged."""
    return "✓" if outcome is Outcome.CORRECT else "–" if outcome in _UNDECIDED else "✗"


def _word(outcome: Outcome) -> str:
    return WORDS.get(outcome, outcome.value)


def _explained(verdict: Verdict) -> str:
    """How much the named mistakes explain, where that is not all."""
    rest = sum(r.max_points - r.points for r in verdict.unexplained)
    lost = sum(r.max_points - r.points for r in verdict.results if r.outcome is not Outcome.WAITING)
    if not verdict.findings or not rest:
        return ""
    what = "This explains" if len(verdict.findings) == 1 else "Together they explain"
    return f"{what} {number(lost - rest)} of the {number(lost)} points lost."


def _remarks(verdict: Verdict) -> list[str]:
    """The sentences about the answer as a whole, beside the named mistakes."""
    shown = {r.message for r in verdict.results}
    message = [verdict.message] if verdict.message and verdict.message not in shown else []
    message += [said for said in (_said_of_all(verdict), _explained(verdict)) if said]
    advice = ADVICE.get(verdict.outcome, "").format(id=verdict.exercise)
    return message + ([advice] if advice else [])


def _said_of_all(verdict: Verdict) -> str:
    """What can be said of each of several claims alike."""
    failing = _failing(verdict.results)
    said = {r.described for r in failing}
    return said.pop() if len(failing) > 1 and len(said) == 1 else ""


def _said_once(verdict: Verdict) -> Verdict:
    """The verdict with each description beside the first claim that has it, but for what is said of all of them."""
    met, results = {_said_of_all(verdict)}, []
    for result in verdict.results:
        results.append(replace(result, described="") if result.described in met else result)
        met.add(result.described)
    return replace(verdict, results=tuple(results))


def _evidence(result: PropertyResult) -> list[tuple[str, str]]:
    rows = [
        ("tried", "\n".join(result.tried)),
        ("expected", result.expected),
        ("got", result.got),
        ("where", result.where),
        ("printed", result.printed),
    ]
    return [(label, value) for label, value in rows if value.strip()]


def _failing(results: Iterable[PropertyResult]) -> list[PropertyResult]:
    return [r for r in results if r.outcome is not Outcome.CORRECT and (r.message or _evidence(r))]


def _hint(verdict: Verdict) -> str:
    return "" if verdict.correct or verdict.outcome is Outcome.NO_VERDICT else f'hint("{verdict.exercise}")'


def _replay(verdict: Verdict) -> str:
    drawn = verdict.outcome not in (Outcome.NOT_ATTEMPTED, Outcome.NO_VERDICT)
    return f'check("{verdict.exercise}", seed={verdict.seed})' if drawn else ""


def _objects(verdict: Verdict) -> str:
    """How to get at the input that the feedback shows, where it shows one."""
    shown = any(r.tried for r in verdict.results) and verdict.outcome is not Outcome.TIMED_OUT
    return f'example("{verdict.exercise}", seed={verdict.seed})' if shown and _replay(verdict) else ""


# -- terminal --------------------------------------------------------------------------------------


def text(verdict: Verdict) -> str:
    """The verdict for a terminal: about 25 lines at most, no colors."""
    verdict = bounded(verdict)
    remarks, verdict = _remarks(verdict), _said_once(verdict)
    failing = _failing(verdict.results)[:1]
    before = [f"{symbol(verdict.outcome)} {headline(verdict)} · {verdict.exercise}", ""]
    for finding in verdict.findings:
        before.append(f"{_likely(finding, verdict)}: {spoken(finding.name)}")
        before += _wrapped(finding.mistake) + _wrapped(finding.repair)
        before.append("")
    for remark in remarks:
        before += _cut(_wrapped(remark), 4)
    if before[-1]:
        before.append("")
    after = [""] if verdict.results else []
    if hint := _hint(verdict):
        after.append(f"For a hint: {hint}")
    if replay := _replay(verdict):
        after.append(f"{replay} replays these inputs")
    if objects := _objects(verdict):
        after.append(f"{objects} gives the first one that fails, as objects")
    if len(verdict.devices) > 1:
        after.append("checked on " + ", ".join(verdict.devices))

    lines_by_result = [_result_line(r) for r in verdict.results]
    room = _TERMINAL_LINES - len(before) - len(after) - sum(map(len, lines_by_result))
    for result, own in zip(verdict.results, lines_by_result, strict=True):
        before += own
        if result in failing:
            before += _evidence_lines(result, room)
            failing = []
    return "\n".join(line.rstrip() for line in before + after).rstrip()


def _result_line(result: PropertyResult) -> list[str]:
    points = f"{number(result.points)} of {number(result.max_points)}"
    line = _wrapped(
        f"{symbol(result.outcome)} {result.says} — {_word(result.outcome)}, {points}", "  ", "    "
    )
    return line + (_wrapped(result.described, " " * 6, " " * 6) if result.described else [])


def _evidence_lines(result: PropertyResult, room: int) -> list[str]:
    """The evidence in at most ``room`` lines where one line each allows it: the longest gives way first."""
    indent = " " * 6
    blocks = [_wrapped(result.message, indent, indent)] if result.message else []
    for label, value in _evidence(result):
        rows = [row.expandtabs(4) for row in value.split("\n")]
        heads = [label] + [""] * (len(rows) - 1)
        pairs = zip(heads, rows, strict=True)
        blocks.append([clean(f"{indent}{head:<10}{row}", width=_TERMINAL_WIDTH) for head, row in pairs])
    while sum(map(len, blocks)) > max(room, len(blocks)):
        longest = max(range(len(blocks)), key=lambda i: len(blocks[i]))
        blocks[longest] = _cut(blocks[longest], len(blocks[longest]) - 1)
    return [line for block in blocks for line in block]


def _cut(lines: list[str], most: int) -> list[str]:
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], lines[most - 1].removesuffix(" …")[: _TERMINAL_WIDTH - 2] + " …"]


def _wrapped(sentence: str, first: str = "  ", rest: str = "  ") -> list[str]:
    return wrap(sentence, _TERMINAL_WIDTH, initial_indent=first, subsequent_indent=rest)


def spoken(name: str) -> str:
    """A misconception's name as it is read: without underscores."""
    return name.replace("_", " ")


# -- notebook --------------------------------------------------------------------------------------

# Where the style is lost (an untrusted notebook, a mail), the bare markup still reads in the right order.
# Dark is what the host page says: the reader's system setting may differ from JupyterLab's or Colab's theme.
STYLE = """
.ck-verdict{--bg:#fff;--ink:#1f2328;--soft:#57606a;--line:#d0d7de;--well:#f6f8fa;--tone:var(--soft);
--good:#00694f;--bad:#a84300;--odd:#7a3b8f}
:is(body[data-jp-theme-light=false],html[theme=dark],body.vscode-dark,[data-ck-theme=dark]) .ck-verdict{
--bg:#1b1f24;--ink:#e6edf3;--soft:#a3adb8;--line:#3d444d;--well:#262c33;
--good:#4fd1ac;--bad:#ffa566;--odd:#d9a3e8}
.ck-verdict.ck-verdict{box-sizing:border-box;max-width:56em;margin:.3em 0;padding:.8em 1.1em .7em;
color:var(--ink);background:var(--bg);border:1px solid var(--line);
border-left:5px solid var(--tone);border-radius:6px;
font:14px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif;text-align:left}
.ck-verdict.ck-good,.ck-verdict .ck-good{--tone:var(--good)}
.ck-verdict.ck-bad,.ck-verdict .ck-bad{--tone:var(--bad)}
.ck-verdict.ck-odd,.ck-verdict .ck-odd{--tone:var(--odd)}
.ck-verdict .ck-open{--tone:var(--soft)}
.ck-verdict.ck-verdict :is(p,ul,li,pre,dl,dt,dd){margin:0;padding:0;border:0;background:none;color:inherit;
font-size:inherit;line-height:inherit}
.ck-verdict .ck-head{display:flex;flex-wrap:wrap;gap:0 .6em;align-items:baseline;font-size:17px;
font-weight:600}
.ck-verdict .ck-head b{color:var(--tone);font-weight:600}
.ck-verdict .ck-head code{margin-left:auto;font-weight:400}
.ck-verdict.ck-verdict .ck-likely{margin:.6em 0 .2em;padding:.5em .8em;background:var(--well);
border-radius:4px}
.ck-verdict.ck-verdict :is(p.ck-say,li p){margin:.4em 0 0;white-space:pre-line}
.ck-verdict.ck-verdict ul{margin:.6em 0 0;list-style:none}
.ck-verdict.ck-verdict li{padding:.35em 0 .35em 1.6em;border-top:1px solid var(--line);position:relative}
.ck-verdict .ck-mark{position:absolute;left:.15em;color:var(--tone);font-weight:700}
.ck-verdict .ck-row{display:flex;flex-wrap:wrap;gap:0 1em}
.ck-verdict .ck-row span:first-child{flex:1 1 20em}
.ck-verdict .ck-dash{display:none}
.ck-verdict .ck-word{color:var(--tone);white-space:nowrap}
.ck-verdict.ck-verdict dl{margin:.3em 0 .2em;display:grid;grid-template-columns:max-content minmax(0,1fr);
gap:.25em .9em}
.ck-verdict.ck-verdict :is(dt,dd){float:none;width:auto;white-space:nowrap}
.ck-verdict.ck-verdict dt{color:var(--soft);font-weight:400}
.ck-verdict.ck-verdict :is(code,pre){font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:12.5px;color:var(--ink);background:var(--well);border-radius:3px;white-space:pre;word-break:normal}
.ck-verdict.ck-verdict code{padding:.1em .35em;background:var(--well);white-space:pre-wrap}
.ck-verdict.ck-verdict .ck-likely code{background:var(--bg)}
.ck-verdict.ck-verdict pre{padding:.25em .5em;overflow:auto;max-height:22em;unicode-bidi:isolate}
.ck-verdict.ck-verdict summary{display:list-item;cursor:pointer;color:var(--soft)}
.ck-verdict.ck-verdict p.ck-foot{margin:.6em 0 0;padding:.5em 0 0;border-top:1px solid var(--line);
color:var(--soft);font-size:12.5px}
.ck-verdict.ck-verdict p.ck-foot+p.ck-foot{margin:.15em 0 0;padding:0;border:0}
@media (max-width:34em){.ck-verdict.ck-verdict dl{display:block}}
""".strip()

_LABELS = {"printed": "your code printed"}


def html(verdict: Verdict) -> str:
    """The verdict as a self-contained HTML fragment: one scoped style, no script, nothing fetched."""
    verdict = bounded(verdict)
    name = escape(verdict.exercise)
    likely = "".join(
        f'<div class="ck-likely"><p><strong>{_likely(f, verdict)}: {escape(spoken(f.name))}</strong></p>'
        f"<p>{prose(f.mistake)}</p><p>{prose(f.repair)}</p></div>"
        for f in verdict.findings
    )
    remarks = "".join(f'<p class="ck-say">{prose(r)}</p>' for r in _remarks(verdict))
    verdict = _said_once(verdict)
    first = next(iter(_failing(verdict.results)), None)
    items = "".join(_item(r, unfolded=r is first) for r in verdict.results)
    feet = []
    if hint := _hint(verdict):
        feet.append(f"For a hint, run <code>{escape(hint)}</code>")
    if replay := _replay(verdict):
        feet.append(f"<code>{escape(replay)}</code> replays these inputs.")
    if objects := _objects(verdict):
        feet.append(f"<code>{escape(objects)}</code> gives the first one that fails, as objects.")
    if len(verdict.devices) > 1:
        feet.append(escape("Checked on " + ", ".join(verdict.devices) + "."))
    return (
        # The two *_ignore classes keep a dollar sign in a message from being typeset as mathematics.
        f'<div class="ck-verdict {_tone(verdict.outcome)} mathjax_ignore tex2jax_ignore" role="group" '
        f'aria-label="Check of {name}"><style>{STYLE}</style>'
        f'<div class="ck-head" role="heading" aria-level="4"><b><span aria-hidden="true">'
        f"{symbol(verdict.outcome)} </span>{escape(headline(verdict))}</b> <code>{name}</code></div>"
        f"{likely}{remarks}"
        + (f"<ul>{items}</ul>" if items else "")
        + "".join(f'<p class="ck-foot">{foot}</p>' for foot in feet)
        + "</div>"
    )


def _likely(finding: Finding, verdict: Verdict) -> str:
    return "Likely mistake" if finding is verdict.findings[0] else "And another one"


def _item(result: PropertyResult, *, unfolded: bool) -> str:
    described = f"<p>{prose(result.described)}</p>" if result.described else ""
    evidence = f"<p>{prose(result.message)}</p>" if result.message else ""
    if rows := _evidence(result):
        pairs = (
            f'<dt>{_LABELS.get(label, label)}</dt><dd><pre dir="ltr">{escape(value)}</pre></dd>'
            for label, value in rows
        )
        evidence += f"<dl>{''.join(pairs)}</dl>"
    if result.outcome is Outcome.CORRECT:
        described = evidence = ""
    if evidence and not unfolded:
        evidence = f"<details><summary>what was tried</summary>{evidence}</details>"
    mark = f'<span class="ck-mark" aria-hidden="true">{symbol(result.outcome)}</span>'
    word = f"{_word(result.outcome)}, {points_of(result.points, result.max_points)}"
    return (
        f'<li class="{_tone(result.outcome)}">{mark} <span class="ck-row"><span>{prose(result.says)}</span>'
        f'<span class="ck-dash"> — </span><span class="ck-word">{word}</span></span>{described}{evidence}</li>'
    )


def _tone(outcome: Outcome) -> str:
    if outcome is Outcome.SHORTCUT or outcome is Outcome.NO_VERDICT:
        return "ck-odd"
    return {"✓": "ck-good", "✗": "ck-bad", "–": "ck-open"}[symbol(outcome)]


# -- nbgrader --------------------------------------------------------------------------------------


def nbgrader_outputs(verdict: Verdict) -> list[NotebookNode]:
    """The outputs of a graded check cell: what a person reads (its metadata holds the verdict), then the points.

    nbgrader takes the first ``execute_result`` for the grade, and full marks where it finds none.
    """
    from nbformat.v4 import new_output

    verdict = bounded(verdict)
    stored = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    return [
        new_output(
            "display_data",
            data={"text/html": html(verdict), "text/plain": text(verdict)},
            metadata={KEY: {"verdict": stored}},
        ),
        new_output("execute_result", data={"text/plain": repr(float(verdict.points))}, execution_count=1),
    ]


def verdict_of(cell: Mapping[str, Any]) -> Verdict | None:
    """The verdict that :func:`nbgrader_outputs` left in a cell, or ``None``.

    Any code can display such metadata: trust only a graded cell of a notebook whose outputs the grader wrote.
    """
    try:
        stored = about(cell["outputs"][0])["verdict"]
        return bounded(Verdict.from_json(json.loads(json.dumps(stored))))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError):
        return None
