"""The class as a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from urllib.parse import quote

from autograder import catalog
from autograder.catalog.differences import difference
from autograder.exercise import Verdict
from autograder.feedback import clean, number, prose, spoken, symbol
from autograder.report.collect import State, Submission
from autograder.report.statistics import (
    Hardness,
    Shared,
    counted,
    hardest_of,
    hardness,
    median_share,
    misconceptions,
    only_graded,
    percent,
)
from autograder.report.terminal import flag_line, summary_lines

STYLE = """
:root{color-scheme:light dark;--bg:#f6f8fa;--card:#fff;--ink:#1f2328;--soft:#57606a;--line:#d0d7de;
--good:#00694f;--bad:#a84300;--odd:#7a3b8f;--bar:#0072b2;--tint:#dcebf5;--well:#f6f8fa}
@media (prefers-color-scheme:dark){:root{--bg:#0f1216;--card:#1b1f24;--ink:#e6edf3;--soft:#a3adb8;--line:#3d444d;
--good:#4fd1ac;--bad:#ffa566;--odd:#d9a3e8;--bar:#5ab4e6;--tint:#223a4d;--well:#262c33}}
*{box-sizing:border-box}
body{margin:0;padding:2rem clamp(1rem,4vw,3.5rem) 4rem;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main{max-width:84rem;margin:0 auto}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .2em}h2{font-size:1.15rem;margin:0 0 .6rem}
p{margin:.3em 0}a{color:var(--bar)}
code{font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.88em;overflow-wrap:break-word}
.soft{color:var(--soft)}.odd{color:var(--odd)}.bad{color:var(--bad)}.good{color:var(--good)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.4rem 0 0;padding:0}
.tiles div,section{background:var(--card);border:1px solid var(--line);border-radius:8px}
.tiles div{padding:.7rem 1rem}.tiles dt{color:var(--soft)}
.tiles dd{margin:0;font-size:1.6rem;line-height:1.25;font-weight:600;overflow-wrap:anywhere}
.tiles dd small{display:block;font-size:.85rem;font-weight:400;color:var(--soft);line-height:1.4}
section{padding:1.1rem 1.3rem 1.2rem;margin-top:1.2rem;min-width:0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(24rem,100%),1fr));gap:0 1.2rem}
svg{display:block;width:100%;height:auto;max-width:44rem}
svg text{fill:var(--ink);font:13px system-ui,"Liberation Sans",sans-serif;paint-order:stroke;stroke:var(--card);stroke-width:3px}
svg .s{fill:var(--soft)}svg .m{font-family:ui-monospace,Menlo,"DejaVu Sans Mono",monospace;font-size:12.5px}
svg .b{fill:var(--bar)}svg .h{fill:var(--bad)}svg .t{fill:var(--tint)}svg .l{stroke:var(--line)}
svg .d{stroke:var(--ink);stroke-dasharray:4 3}
details{margin-top:.6rem}summary{cursor:pointer;color:var(--soft)}
td details{margin:0}pre{margin:.4em 0 0;font:12.5px/1.4 ui-monospace,Menlo,"DejaVu Sans Mono",monospace;overflow-x:auto}td ul{margin:.2em 0;padding-left:1.2em}
.wrap{overflow:auto;max-height:60vh;border:1px solid var(--line);border-radius:6px}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:14px}
th,td{text-align:left;vertical-align:top;padding:.4rem .65rem;border-bottom:1px solid var(--line)}
tbody tr:last-child>*{border-bottom:0}
thead th{position:sticky;top:0;z-index:2;background:var(--well);font-weight:600;vertical-align:bottom}
tbody th{font-weight:600;position:sticky;left:0;z-index:1;background:var(--card);min-width:8rem;
overflow-wrap:break-word}
thead th:first-child{left:0;z-index:3}
.nowrap{white-space:nowrap}.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid var(--bar);outline-offset:2px}
th button::after{content:" ↕";color:var(--soft);font-weight:400}
th[aria-sort=ascending] button::after{content:" ↑"}th[aria-sort=descending] button::after{content:" ↓"}
thead code{font-weight:600}thead small{display:block;font-weight:400;color:var(--soft)}
.tall{max-height:88vh}.total{background:linear-gradient(to right,var(--tint) var(--s),transparent 0)}
.remarks{min-width:15rem}.who{min-width:12rem;overflow-wrap:anywhere}
tbody tr:hover>*{background-color:var(--well)}
@media print{.wrap{max-height:none;overflow:visible;border:0}body{padding:0}section,.tiles div{border:0}
thead th,tbody th{position:static}th button::after{content:""}}
""".strip()

# Sorting is a convenience: without it the page says the same.
_SCRIPT = """
document.querySelectorAll("th button").forEach(b=>b.onclick=()=>{const h=b.parentNode,i=h.cellIndex,
t=h.closest("table").tBodies[0],d=h.ariaSort=="ascending"?-1:1,k=r=>r.cells[i].dataset.v??r.cells[i].textContent;
[...h.parentNode.cells].forEach(c=>c.removeAttribute("aria-sort"));
h.setAttribute("aria-sort",d>0?"ascending":"descending");
t.append(...[...t.rows].sort((a,b)=>d*k(a).localeCompare(k(b),undefined,{numeric:true})))})
""".strip()


def html(submissions: Sequence[Submission], title: str) -> str:
    """The report as one page that needs nothing else; links to feedback are relative to the course directory."""
    exercises = hardness(submissions)
    parts = [
        f"<header><h1>{_shown(title)}</h1>",
        "".join(f"<p>{_shown(line)}</p>" for line in summary_lines(submissions)[:1]),
        f"{_tiles(submissions, exercises)}</header>",
        _flags(submissions),
        f'<div class="pair">{_histogram(submissions)}{_bars(exercises)}</div>',
        _misconceptions(submissions),
        _students(submissions, exercises),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_shown(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main><script>{_SCRIPT}</script></body></html>\n"
    )


def _shown(value: object, width: int = 400) -> str:
    return escape(clean(value, lines=4, width=width))


def _tiles(submissions: Sequence[Submission], exercises: Sequence[Hardness]) -> str:
    graded, median, hardest = only_graded(submissions), median_share(submissions), hardest_of(exercises)
    flagged, waiting = sum(bool(s.flags) for s in submissions), sum(s.waiting for s in submissions)
    tiles = [
        ("students", str(len({s.student for s in submissions})), f"{len(graded)} graded"),
        ("median", "–" if median is None else percent(median), "of the points, over what is graded"),
        ("to look at", str(flagged), "flagged for a person" if flagged else "nothing is flagged"),
    ]
    if waiting:
        tiles.append(("by hand", str(waiting), "written answers to grade"))
    if hardest is not None:
        name = f"<code>{_breakable(hardest.exercise)}</code>"
        tiles.append(("hardest exercise", percent(hardest.share), f"of its points: {name}"))
    rows = (f"<div><dt>{a}</dt><dd>{b}<small>{c}</small></dd></div>" for a, b, c in tiles)
    return f'<dl class="tiles">{"".join(rows)}</dl>'


def _breakable(name: str) -> str:
    return _shown(name, 80).replace("_", "_<wbr>")


def _flags(submissions: Sequence[Submission]) -> str:
    rows = [
        f"<tr><th scope=row>{_student(s)}</th><td>{f'<code>{_breakable(exercise)}</code>' if exercise else '–'}</td>"
        f"<td>{prose(clean(reason, lines=4, width=400))}</td></tr>"
        for s in submissions
        for exercise, reason in s.flags
    ]
    if not rows:
        return ""
    note = "The machine's word is not enough here. Points that a person gives in formgrader replace it."
    return _section(
        "For a person to look at", _wrapped("Flags", _table(["student", "exercise", "why"], rows)), note
    )


def _student(submission: Submission) -> str:
    name = _shown(submission.student, 40)
    if submission.feedback is None:
        return name
    return f'<a href="{escape(quote(submission.feedback))}">{name}</a>'


def _section(heading: str, body: str, note: str = "") -> str:
    said = f'<p class="soft">{note}</p>' if note else ""
    return f"<section><h2>{heading}</h2>{said}{body}</section>"


def _table(heads: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th scope=col>{h}</th>" for h in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _wrapped(label: str, table: str, shape: str = "wrap") -> str:
    """A table that scrolls within the page, with its header in sight; the keyboard can scroll it."""
    return f'<div class="{shape}" role="region" aria-label="{label}" tabindex="0">{table}</div>'


def _as_table(summary: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    cells = ("<tr>" + "".join(f"<td>{_shown(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<details><summary>{summary}</summary>{_table(heads, cells)}</details>"


def _histogram(submissions: Sequence[Submission]) -> str:
    graded, median = only_graded(submissions), median_share(submissions)
    if median is None:
        return ""
    counts = [0] * 10
    for s in graded:
        counts[min(int(10 * s.share + 1e-9), 9)] += 1
    labels = [f"{10 * i}–{10 * i + 10}%" for i in range(10)]
    left, bottom, width, height = 14, 200, 48, 150
    at = left + 10 * width * median
    side = "end" if median > 0.5 else "start"
    drawn = [f'<line class="d" x1="{at:.1f}" x2="{at:.1f}" y1="26" y2="{bottom}"/>']
    drawn.append(f'<text x="{at:.1f}" y="18" text-anchor="{side}">median {percent(median)}</text>')
    for i, count in enumerate(counts):
        x, h = left + i * width, height * count / max(counts)
        drawn.append(
            f'<rect class="b" x="{x + 2}" y="{bottom - h:.1f}" width="{width - 4}" height="{h:.1f}" rx="2"/>'
        )
        if count:
            middle = x + width / 2
            drawn.append(f'<text x="{middle}" y="{bottom - h - 6:.1f}" text-anchor="middle">{count}</text>')
    ticks = "".join(
        f'<text class="s" x="{left + i * width}" y="{bottom + 18}" text-anchor="middle">{10 * i}</text>'
        for i in range(0, 11, 2)
    )
    drawn.append(f'<line class="l" x1="{left}" x2="{left + 10 * width}" y1="{bottom}" y2="{bottom}"/>{ticks}')
    drawn.append(
        f'<text class="s" x="{left + 5 * width}" y="{bottom + 38}" text-anchor="middle">% of the points</text>'
    )
    told = ", ".join(f"{label}: {count}" for label, count in zip(labels, counts, strict=True) if count)
    svg = _svg("h", 512, 244, "Histogram of grades", f"Submissions by share of the points. {told}.", drawn)
    rows = zip(labels, counts, strict=True)
    return _section("Grades", svg + _as_table("as a table", ["share of the points", "submissions"], rows))


def _bars(exercises: Sequence[Hardness]) -> str:
    if not exercises:
        return ""
    hardest, drawn, width = hardest_of(exercises), [], 480
    for i, e in enumerate(exercises):
        y = 46 * i
        last = e is hardest
        word = "hardest, " if last else ""
        drawn.append(
            f'<text class="m" x="0" y="{y + 15}">{_shown(e.exercise, 48)}</text>'
            f'<text x="{width}" y="{y + 15}" text-anchor="end">{word}{percent(e.share)}</text>'
            f'<rect class="t" x="0" y="{y + 22}" width="{width}" height="12" rx="2"/>'
            f'<rect class="{"h" if last else "b"}" x="0" y="{y + 22}" width="{width * e.share:.1f}" height="12" rx="2"/>'
        )
    told = ", ".join(f"{clean(e.exercise, lines=1, width=80)} {percent(e.share)}" for e in exercises)
    svg = _svg("e", width, 46 * len(exercises), "Mean share of points by exercise", f"{told}.", drawn)
    heads = ["exercise", "points", "mean share", "answers", "all points", "not attempted"]
    rows = (
        (e.exercise, number(e.max_points), percent(e.share), e.answers, e.full, e.not_attempted)
        for e in exercises
    )
    return _section("Points by exercise, on average", svg + _as_table("as a table", heads, rows))


def _svg(key: str, width: float, height: float, title: str, told: str, drawn: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(told)}</desc>'
        f"{''.join(drawn)}</svg>"
    )


def _misconceptions(submissions: Sequence[Submission]) -> str:
    rows = [
        f"<tr><th scope=row>{_shown(spoken(m.name))}</th><td><code>{_breakable(m.exercise)}</code></td>"
        f"<td>{prose(clean(m.mistake, lines=4, width=400))}{_difference(m)}</td><td class=n>{len(m.students)}</td>"
        f'<td class="who">{_people(m.students)}</td></tr>'
        for m in misconceptions(submissions)
    ]
    if not rows:
        return ""
    heads = ["mistake", "exercise", "what happens", "students", "who"]
    return _section("Misconceptions of the class", _wrapped("Misconceptions", _table(heads, rows)))


def _difference(shared: Shared) -> str:
    """The mistake as what it changes of a right answer; nothing where the catalogue has none of that name."""
    try:
        exercise = catalog.find(shared.exercise)
        lines = difference(exercise, exercise.misconception(shared.name))
    except (ValueError, StopIteration):
        return ""
    classes = {"-": ' class="bad"', "+": ' class="good"'}
    shown = "".join(f"<span{classes.get(line[:1], '')}>{escape(line)}</span>\n" for line in lines)
    return f"<details><summary>in code</summary><pre>{shown}</pre></details>"


def _people(students: Sequence[str], most: int = 6) -> str:
    names = [_shown(s, 60) for s in students]
    if len(names) <= most + 1:
        return ", ".join(names)
    rest = f"<details><summary>and {len(names) - most} more</summary>{', '.join(names[most:])}</details>"
    return ", ".join(names[:most]) + rest


def _students(submissions: Sequence[Submission], exercises: Sequence[Hardness]) -> str:
    several = len({s.notebook for s in submissions}) > 1
    written = any(s.waiting for s in submissions)
    heads = ["<th scope=col><button>student</button></th>"]
    heads += ["<th scope=col><button>notebook</button></th>"] * several
    heads += [
        f"<th scope=col class=n><button><code>{_breakable(e.exercise)}</code></button>"
        f"<small>of {number(e.max_points)}</small></th>"
        for e in exercises
    ]
    heads += ["<th scope=col class=n><button>points</button></th>"]
    heads += ["<th scope=col><button>by hand</button></th>"] * written + ["<th scope=col>remarks</th>"]
    rows = (_row(s, exercises, several, written) for s in submissions)
    body = f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    note = (
        "✓ all points, ✗ not all, – not judged, ✎ given by a person. A name links to the student's feedback."
    )
    return _section("Students", _wrapped("Students", body, "wrap tall"), note)


def _row(submission: Submission, exercises: Sequence[Hardness], several: bool, written: bool) -> str:
    cells = [f"<th scope=row>{_student(submission)}</th>"]
    cells += [f"<td>{_shown(submission.notebook, 40)}</td>"] * several
    cells += [_points_cell(submission, submission.by_exercise.get(e.exercise)) for e in exercises]
    cells.append(
        f'<td class="n total" data-v="{submission.points}" style="--s:{100 * submission.share:.0f}%">'
        f"{number(submission.points)} of {number(submission.max_points)}</td>"
    )
    cells += [
        f'<td class="soft nowrap">{f"{submission.waiting} to grade" if submission.waiting else ""}</td>'
    ] * written
    return f'<tr>{"".join(cells)}<td class="remarks">{_remarks_cell(submission)}</td></tr>'


def _points_cell(submission: Submission, verdict: Verdict | None) -> str:
    if verdict is None:
        return '<td class=n data-v="-1"></td>'
    points = submission.given(verdict)
    tone = {"✓": "good", "✗": "bad", "–": "soft"}[symbol(verdict.outcome)]
    mark, word = symbol(verdict.outcome), verdict.outcome.value
    if verdict.exercise in submission.overruled:
        mark, tone, word = "✎", "odd", f"given by a person; the verdict: {number(verdict.points)}, {word}"
    elif verdict.diagnosis:
        word += f", {spoken(verdict.diagnosis)}"
    return (
        f'<td class="n {tone}" data-v="{points}" title="{_shown(word, 200)}">'
        f'<span aria-hidden="true">{mark}</span> {number(points)}</td>'
    )


def _remarks_cell(submission: Submission) -> str:
    parts = []
    if submission.state is not State.GRADED:
        parts.append(f'<span class="odd">{submission.state.value}</span>')
    for exercise, reason in submission.flags:
        parts.append(f'<span class="odd">{_shown(flag_line(exercise, reason), 200)}</span>')
    shown = "<br>".join(parts)
    if submission.notes:
        items = "".join(f"<li>{_shown(n)}</li>" for n in submission.notes[:50])
        label = counted(len(submission.notes), "note")
        shown += f"<details><summary>{label}</summary><ul>{items}</ul></details>"
    return shown
