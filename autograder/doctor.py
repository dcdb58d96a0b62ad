"""A submission examined, and repaired where that is safe, before it is handed in or graded.

What belongs to the course (check cells, setup, points, cell roles, kernel) is put back from the release. What
belongs to the learner, the source of exercise cells and of cells they added, is never changed. Everything
done is said in plain sentences, and so is what of the learner's code will not run when it is graded.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from autograder import beside, foresight, order, reading
from autograder.cells import ADDED, KEY, about, defines, exercise_of, grade_id_of, is_check, mapping, role_of
from autograder.endings import ends_process
from autograder.matching import match

AnyNotebook = Path | str | bytes | Mapping[str, Any]
"""A path, a file's bytes, or a notebook."""

MAX_FILE = 2**30
MAX_OUTPUTS = 20 * 2**20
ID = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
SKIPPING = ("skip-execution", "raises-exception", "remove-cell", "remove_cell")
LOCKED = ("setup", "check")
NUMBERS = ("grade", "solution", "locked", "points", "task", "cell_type")


class Unreadable(ValueError):
    """A file that is no notebook; the message tells the learner why and what to hand in instead."""


@dataclass(frozen=True)
class Finding:
    """One thing found. ``level`` is ``note`` (nothing to do), ``repair`` (put right from the release),
    ``problem`` (only the learner can put it right) or ``doubt`` (that too, and where it costs points when it is graded,
    a person is asked)."""

    level: str
    says: str

    def __str__(self) -> str:
        return self.says


@dataclass
class Report:
    """What was found in one submission. ``asks``: grade id → why a person should look at that grade."""

    findings: list[Finding] = field(default_factory=list)
    readable: bool = True
    asks: dict[str, str] = field(default_factory=dict)

    @property
    def sentences(self) -> list[str]:
        return [finding.says for finding in self.findings]

    @property
    def doubts(self) -> list[str]:
        return [finding.says for finding in self.findings if finding.level == "doubt"]

    @property
    def needs_repair(self) -> bool:
        return any(finding.level != "note" for finding in self.findings)

    def note(self, says: str) -> None:
        self.findings.append(Finding("note", says))

    def repaired(self, says: str) -> None:
        self.findings.append(Finding("repair", says))

    def problem(self, says: str) -> None:
        self.findings.append(Finding("problem", says))

    def doubt(self, says: str) -> None:
        self.findings.append(Finding("doubt", says))


def examine(submission: AnyNotebook, release: AnyNotebook) -> Report:
    """What is wrong with a submission, measured against its release; nothing is written."""
    try:
        return repair(submission, release)[1]
    except Unreadable as error:
        return Report([Finding("problem", str(error))], readable=False)


def repair(submission: AnyNotebook, release: AnyNotebook) -> tuple[NotebookNode, Report]:
    """The submission with everything of the course's put back from the release, and what was done.

    ``submission`` is a path, the file's bytes, or a notebook. Raises :class:`Unreadable`.
    """
    report = Report()
    notebook = read(submission, report)
    original = _load_release(release)
    _restore(notebook, original, report)
    return notebook, report


# --- reading ----------------------------------------------------------------------------------------------


def read(submission: AnyNotebook, report: Report | None = None) -> NotebookNode:
    """A valid nbformat 4.5 notebook out of whatever the file holds. Raises :class:`Unreadable`."""
    report = Report() if report is None else report
    if isinstance(submission, Mapping):
        data: Any = copy.deepcopy(dict(submission))
    else:
        data = _parse(_content(submission), report)
    data = _as_version_4(data, report)
    return _clean(data, report)


def _content(submission: Path | str | bytes) -> bytes:
    if isinstance(submission, bytes):
        return submission
    path = Path(submission)
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise Unreadable(
                f"The file has {size / 2**20:.0f} MB, too much to read: clear its outputs, then hand it in."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise Unreadable(f"There is no file {path.name}.") from None
    except IsADirectoryError:
        raise Unreadable(f"{path.name} is a folder, not a notebook.") from None
    except OSError as error:
        raise Unreadable(f"The file could not be opened: {error.strerror}.") from None


STARTS = (
    (b"%PDF", "The file is a PDF, not a notebook: hand in the .ipynb file itself."),
    (b"PK\x03\x04", "The file is a zip archive, not a notebook: unpack it and hand in the .ipynb file."),
    (b"\x89PNG", "The file is an image, not a notebook: hand in the .ipynb file itself."),
    (b"<", "The file is a web page, not a notebook: download the .ipynb file itself."),
    (
        b"version https://git-lfs",
        "The file is a Git LFS pointer, not the notebook: hand in the .ipynb itself.",
    ),
    (b"# %%", "The file is a Python script, not a notebook: hand in the .ipynb file."),
    (b"import ", "The file is a Python script, not a notebook: hand in the .ipynb file."),
)


def _parse(content: bytes, report: Report) -> Any:
    if not content.strip(b"\0 \t\r\n\xef\xbb\xbf"):
        raise Unreadable("The file is empty: save the notebook and hand it in again.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
        text = content.decode(encoding, errors="replace")
        report.repaired("The file was not encoded in UTF-8; it has been re-encoded.")
    try:
        data, odd = reading.loads(text)
        _tell(odd, report)
        return data
    except RecursionError:
        raise Unreadable("The file is nested too deeply to be a notebook.") from None
    except ValueError as error:
        for start, reason in STARTS:
            if content.lstrip().startswith(start):
                raise Unreadable(reason) from None
        if "<<<<<<<" in text and ">>>>>>>" in text:
            raise Unreadable(
                "The file holds unresolved Git merge conflicts (<<<<<<<): resolve them first."
            ) from None
        where = getattr(error, "pos", None)
        if (where is not None and where >= len(text.rstrip()) - 1) or "Unterminated string" in str(error):
            raise Unreadable(
                "The file breaks off in the middle, as after an interrupted download or a full disk: "
                "save the notebook and hand it in again."
            ) from None
        raise Unreadable(f"The file is not a notebook: it is not valid JSON ({error}).") from None


def _tell(odd: reading.Oddities, report: Report) -> None:
    if odd.numbers:
        report.repaired(
            f"The file held NaN or Infinity in {_number(odd.numbers, 'place')} outside the cells' text, which is no valid "
            "JSON; null stands there now."
        )
    for key in dict.fromkeys(odd.doubled):
        report.doubt(
            f"The file holds {key!r} twice in one place, as after a merge, and no editor shows both: open it, see whether "
            "your work is all there, save it and hand it in again."
        )


def _as_version_4(data: Any, report: Report) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise Unreadable("The file is JSON but not a notebook: it holds no cells.")
    if reading.is_old(data):
        version = data.get("nbformat")
        try:
            data = reading.converted(data)
        except ValueError:
            raise Unreadable(
                f"The notebook is in the old format {version} and could not be converted: "
                "open it in JupyterLab, save it, and hand it in again."
            ) from None
        report.repaired(f"The notebook was in the old format {version}; it has been converted to format 4.")
    if not isinstance(data.get("cells"), list):
        raise Unreadable("The file is JSON but not a notebook: it holds no cells.")
    return data


def _clean(data: dict[str, Any], report: Report) -> NotebookNode:
    """Only what the notebook format allows, cell by cell; nothing here depends on the release."""
    cells, broken, outputs = [], 0, 0
    keep_outputs = _size_of_outputs(data["cells"]) <= MAX_OUTPUTS
    taken: set[str] = set()
    for cell in data["cells"]:
        if not isinstance(cell, Mapping):
            broken += 1
            continue
        kind = cell.get("cell_type")
        made = NotebookNode(
            cell_type=kind if kind in ("code", "markdown", "raw") else "raw",
            id=_identity(cell, taken),
            metadata=_node(cell.get("metadata")),
            source=_text(reading.source_of(cell)),
        )
        if made.cell_type == "code":
            count = cell.get("execution_count")
            made.execution_count = count if type(count) is int else None
            given = cell.get("outputs")
            made.outputs = list(outputs_in(given)) if keep_outputs and isinstance(given, list) else []
            outputs += len(given) - len(made.outputs) if isinstance(given, list) else 0
        elif kind == "markdown":
            _attach(made, cell.get("attachments"), report)
        cells.append(made)
    metadata = _node(data.get("metadata"))
    if broken:
        report.repaired(f"{_number(broken, 'cell')} could not be read and {_was(broken)} left out.")
    if not keep_outputs:
        report.repaired("The outputs were too large to keep; they have been dropped.")
    elif outputs:
        report.repaired(f"{_number(outputs, 'output')} could not be read and {_was(outputs)} dropped.")
    if "widgets" in metadata and not _good_widgets(metadata["widgets"]):
        del metadata["widgets"]
        report.repaired("The notebook's widget data had no state, as Colab writes it; it has been removed.")
    notebook = NotebookNode(nbformat=4, nbformat_minor=5, metadata=metadata, cells=cells)
    try:
        nbformat.validate(notebook, relax_add_props=True)
    except nbformat.ValidationError:
        # Whatever is left is in metadata or outputs, and neither is worth losing the learner's code for.
        for cell in cells:
            cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in ("nbgrader", KEY)})
            cell.pop("attachments", None)
            if cell.cell_type == "code":
                cell.outputs = []
        notebook.metadata = NotebookNode()
        report.repaired("Outputs and metadata that are not valid in a notebook have been removed.")
        nbformat.validate(notebook, relax_add_props=True)
    return notebook


def _attach(cell: NotebookNode, given: Any, report: Report) -> None:
    kept, lost = reading.pictures(cell.source, given)
    if kept:
        cell.attachments = _node(kept)
    for name in lost:
        report.note(
            f"The picture {name[:80]} of a text cell is not in the file, or is no picture: a stand-in is shown. Paste it "
            "anew if it matters."
        )


def _size_of_outputs(cells: Iterable[Any]) -> int:
    total = 0
    for cell in cells:
        if isinstance(cell, Mapping) and cell.get("outputs"):
            try:
                total += len(json.dumps(cell["outputs"]))
            except (TypeError, ValueError, RecursionError):
                total += MAX_OUTPUTS + 1
    return total


def outputs_in(given: Iterable[Any]) -> Iterator[NotebookNode]:
    """Those that are outputs of a notebook, as strict JSON."""
    for output in given:
        node = _node(output)
        try:
            nbformat.validate(node, ref="output", version=4, relax_add_props=True)
        except Exception:
            continue
        yield node


def _identity(cell: Mapping[str, Any], taken: set[str]) -> str:
    """The cell's own id, or what Colab keeps of it, or a new one."""
    metadata = cell.get("metadata")
    for given in (cell.get("id"), metadata.get("id") if isinstance(metadata, Mapping) else None):
        if isinstance(given, str) and ID.match(given) and given not in taken:
            taken.add(given)
            return given
    return _fresh("added", taken)


def _fresh(stem: str, taken: set[str]) -> str:
    """An id that nothing bears yet; it counts as taken from here on."""
    number = len(taken)
    while f"{stem}-{number}" in taken:
        number += 1
    taken.add(f"{stem}-{number}")
    return f"{stem}-{number}"


def _node(value: Any) -> NotebookNode:
    if not isinstance(value, Mapping):
        return NotebookNode()
    try:
        return nbformat.from_dict(reading.loads(_text(json.dumps(value, ensure_ascii=False)))[0])
    except (TypeError, ValueError, RecursionError):
        return NotebookNode()


def _text(value: Any) -> str:
    text = "".join(str(part) for part in value) if isinstance(value, list) else str(value)
    # A lone surrogate can be written as JSON but not as a file.
    return text.encode("utf-8", "replace").decode("utf-8")


def _good_widgets(widgets: Any) -> bool:
    return isinstance(widgets, Mapping) and all(
        isinstance(w, Mapping) and isinstance(w.get("state"), Mapping) for w in widgets.values()
    )


def _load_release(release: AnyNotebook) -> NotebookNode:
    if isinstance(release, Mapping):
        return nbformat.from_dict(copy.deepcopy(dict(release)))
    content = release if isinstance(release, bytes) else Path(release).read_bytes()
    return nbformat.reads(content.decode("utf-8"), as_version=4)


def look_beside(path: Path, notebook: NotebookNode, report: Report) -> None:
    """Say which files a notebook needs besides itself, and which of them will not be there when it is graded."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    inside, outside = beside.used(sources, path.parent)
    found = beside.look(path.parent)
    kept_out = {name for name in inside if name not in found.given and not name.endswith(".ipynb")}
    if wanted := [name for name in inside if name in found.given]:
        report.note(
            f"Your code uses {', '.join(wanted)}: hand in that too, beside the notebook, under the same name."
        )
    for name in sorted(kept_out):
        report.problem(
            f"Your code uses {name}, which will not be there when it is graded: it bears the name of a module that Python "
            "needs itself, is a link, or is too large. Rename it, or hand in something smaller."
        )
    for name in outside:
        report.problem(
            f"Your code uses {name}, which lies outside the notebook's folder and will not be there when it is graded: "
            "copy it beside the notebook, and hand it in too."
        )


def written(notebook: NotebookNode) -> str:
    """The text of a notebook's file: strict JSON. Raises ValueError where that cannot be."""
    return str(nbformat.writes(notebook, allow_nan=False)) + "\n"


# --- repairing --------------------------------------------------------------------------------------------


def _restore(notebook: NotebookNode, release: NotebookNode, report: Report) -> None:
    pairs = match(notebook.cells, release.cells)
    matched = {submitted: number for number, submitted in pairs.items()}
    _restore_ids(notebook, release, pairs, report)
    _restore_kernel(notebook, release, report)
    taken = {cell.id for cell in (*notebook.cells, *release.cells)}
    keep: list[NotebookNode] = []
    for index, cell in enumerate(notebook.cells):
        _untag(cell, index, report)
        if index in matched:
            keep += _restore_cell(cell, release.cells[matched[index]], taken, report)
        else:
            keep.append(_as_added(cell, report))
    notebook.cells = keep
    _join(notebook, taken, report)
    _doubt_nothing(notebook, release, report)
    _put_back(notebook, release, report)
    _put_in_order(notebook, release, report)
    _warn(notebook, release, report)
    notebook.metadata[KEY] = NotebookNode(copy.deepcopy(about(release)))
    report.findings += [Finding(level, says) for level, says in foresight.warnings(notebook.cells)]


def _restore_ids(
    notebook: NotebookNode, release: NotebookNode, pairs: Mapping[int, int], report: Report
) -> None:
    wanted = {submitted: release.cells[number].id for number, submitted in pairs.items()}
    lost = sum(notebook.cells[index].id != identity for index, identity in wanted.items())
    reserved = {cell.id for cell in release.cells}
    taken = reserved | {cell.id for cell in notebook.cells}
    for index, cell in enumerate(notebook.cells):
        if index in wanted:
            cell.id = wanted[index]
        elif cell.id in reserved:
            cell.id = _fresh("added", taken)
    if lost:
        report.repaired(
            f"{_number(lost, 'cell id')} had been lost, as Colab does, and {_was(lost)} put back."
        )


def _restore_kernel(notebook: NotebookNode, release: NotebookNode, report: Report) -> None:
    given, wanted = notebook.metadata.get("kernelspec"), release.metadata.get("kernelspec")
    if not wanted:
        return
    name = mapping(given).get("name")
    if name != wanted.name:
        # Every editor writes the name of its own environment there; another language is another matter.
        tell = report.note if mapping(given).get("language") == "python" else report.repaired
        tell(f"The notebook asked for the kernel {name!r}; it asks for {wanted.name!r} again.")
    notebook.metadata.kernelspec = copy.deepcopy(wanted)
    notebook.metadata.pop("language_info", None)


def _untag(cell: NotebookNode, index: int, report: Report) -> None:
    if "tags" not in cell.metadata:
        return
    tags = cell.metadata.pop("tags")
    good = [t for t in tags if isinstance(t, str)] if isinstance(tags, list) else []
    bad = [t for t in good if t in SKIPPING]
    if bad:
        report.repaired(f"Cell {index + 1} was tagged {', '.join(map(repr, bad))}; the tag has been removed.")
    if kept := [t for t in good if t not in SKIPPING]:
        cell.metadata.tags = kept


def _name(original: NotebookNode) -> str:
    """How a sentence calls a cell of the release."""
    role, name = role_of(original), exercise_of(original)
    return {
        "check": f"the check of {name}",
        "exercise": f"the cell of exercise {name}",
        "setup": "the setup cell",
        "written": f"the written question {grade_id_of(original)}",
        "story": "a cell of the lecture",
        "text": "a text of the lecture",
    }.get(role, "a cell")


def _restore_cell(
    cell: NotebookNode, original: NotebookNode, taken: set[str], report: Report
) -> list[NotebookNode]:
    """The matched cell with the release's metadata; a locked one with the release's source as well."""
    what, role = _name(original), role_of(original)
    before = []
    if cell.cell_type != original.cell_type:
        report.repaired(
            f"{_start(what)} had become a {cell.cell_type} cell; it is a {original.cell_type} cell again."
        )
        _retype(cell, original.cell_type)
    _report_metadata(cell, original, what, report)
    if role in LOCKED and cell.source != original.source:
        if _lines(cell.source) != _lines(original.source):
            report.repaired(f"{_start(what)} had been edited; the original is back.")
            if _own_work(cell.source, original.source):
                before = [_own_cell(_fresh("edited", taken), cell.source)]
                report.note(f"What had been written into {what} is kept as a cell of its own beside it.")
        cell.source = original.source
    for key in ("nbgrader", KEY, "editable", "deletable", "tags"):
        cell.metadata.pop(key, None)
        if key in original.metadata:
            cell.metadata[key] = copy.deepcopy(original.metadata[key])
    return [cell, *before] if role == "setup" else [*before, cell]


def _own_cell(identity: str, source: str) -> NotebookNode:
    return NotebookNode(
        cell_type="code", id=identity, source=source, outputs=[], execution_count=None,
        metadata=NotebookNode({KEY: NotebookNode(role=ADDED)}),
    )  # fmt: skip


def _lines(source: str) -> list[str]:
    return [line.rstrip() for line in source.strip().splitlines()]


def _own_work(source: str, original: str) -> list[str]:
    known = set(_lines(original))
    own = [line for line in _lines(source) if line.strip() and line not in known]
    return [line for line in own if not line.lstrip().startswith("#") and not re.match(r"\s*check\(", line)]


def _retype(cell: NotebookNode, kind: str) -> None:
    cell.cell_type = kind
    for key in ("outputs", "execution_count", "attachments"):
        cell.pop(key, None)
    if kind == "code":
        cell.outputs, cell.execution_count = [], None


def _report_metadata(cell: NotebookNode, original: NotebookNode, what: str, report: Report) -> None:
    wanted = original.metadata.get("nbgrader")
    if not wanted:
        return
    given = mapping(cell.metadata.get("nbgrader"))
    if not given or grade_id_of(cell) != wanted.grade_id:
        report.repaired(f"{_start(what)} had lost its grading metadata; it has been put back.")
        return
    changed = [key for key in NUMBERS if key in wanted and given.get(key) != wanted[key]]
    for key in changed:
        report.repaired(
            f"{_start(what)}: {key} had been changed to {given.get(key)!r}; it is {wanted[key]!r} again."
        )
    if not changed and dict(given) != dict(wanted):
        report.repaired(f"{_start(what)} had changed grading metadata; it has been put back.")


def _as_added(cell: NotebookNode, report: Report) -> NotebookNode:
    if grade_id := grade_id_of(cell):
        report.repaired(f"A second cell bore the grading id {grade_id!r}; it stays, as an ordinary cell.")
    cell.metadata.pop("nbgrader", None)
    for key in ("editable", "deletable"):
        cell.metadata.pop(key, None)
    cell.metadata[KEY] = NotebookNode(role=ADDED)
    return cell


def _doubt_nothing(notebook: NotebookNode, release: NotebookNode, report: Report) -> None:
    """Where a file holds none of the lecture's exercises it is hardly the one that was meant."""
    names = {exercise_of(cell) for cell in release.cells if role_of(cell) == "exercise"}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if names and not any(
        (exercise_of(c) in names and role_of(c) == "exercise") or names & defines(c.source) for c in code
    ):
        report.doubt(
            "The file holds none of this lecture's exercises. Is it the right one? Open it, see whether your work is "
            "there, and hand it in again."
        )


def _put_back(notebook: NotebookNode, release: NotebookNode, report: Report) -> None:
    """Insert what is missing and belongs to the course; say which exercise cells are gone."""
    for number, original in enumerate(release.cells):
        role, name = role_of(original), exercise_of(original)
        if role not in ("setup", "check", "written", "exercise"):
            continue
        here = {cell.id: index for index, cell in enumerate(notebook.cells)}
        if original.id in here:
            continue
        if role == "exercise":
            if any(name in defines(cell.source) for cell in notebook.cells if cell.cell_type == "code"):
                report.note(f"The cell of exercise {name} is gone, but another cell defines {name}.")
            else:
                report.problem(
                    f"The cell of exercise {name} is gone and no cell defines {name}: not attempted."
                )
            continue
        cell = copy.deepcopy(original)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        notebook.cells.insert(_place(notebook.cells, release.cells, number, here), cell)
        report.repaired(f"{_start(_name(original))} was missing; it has been put back.")


def _place(
    cells: Sequence[NotebookNode], release: Sequence[NotebookNode], number: int, here: Mapping[str, int]
) -> int:
    original = release[number]
    if is_check(original):
        home = order.home_of(cells, release, exercise_of(original))
        return len(cells) if home is None else home + 1
    later = [here[c.id] for c in release[number + 1 :] if c.id in here]
    earlier = [here[c.id] for c in release[:number] if c.id in here]
    if role_of(original) == "setup":
        return min(later) if later else 0
    return max(earlier) + 1 if earlier else len(cells)


def _join(notebook: NotebookNode, taken: set[str], report: Report) -> None:
    """A function that was cut in two works again, in a cell of its own; both halves stay as they are."""
    for place, joined, name in reversed(list(order.halves(notebook.cells))):
        notebook.cells.insert(place, _own_cell(_fresh("joined", taken), joined))
        report.repaired(
            f"{name} was cut in two, its halves in two cells; they are joined in a cell below them."
        )


def _put_in_order(notebook: NotebookNode, release: NotebookNode, report: Report) -> None:
    """A check that stands before what it checks judges nothing, and setup comes first."""
    for says in order.put_checks_in_order(notebook.cells, release.cells):
        report.repaired(says)
    for cell in [cell for cell in notebook.cells if role_of(cell) == "setup"]:
        index = notebook.cells.index(cell)
        work = [i for i, c in enumerate(notebook.cells) if role_of(c) in ("exercise", "check")]
        if work and work[0] < index:
            del notebook.cells[index]
            notebook.cells.insert(work[0], cell)
            report.repaired("The setup cell stood after the first exercise; it stands before it now.")


def _warn(notebook: NotebookNode, release: NotebookNode, report: Report) -> None:
    """Say what stays as it is, and will be graded otherwise than its learner may think."""
    for check, at in order.defined_again(notebook.cells, release.cells):
        name = exercise_of(check)
        again = f"{name} is defined again in cell {at + 1}, below its check"
        report.note(f"{again}: graded is the one above the check. Leave only the one that counts.")
        report.asks[grade_id_of(check)] = f"{again}, and the one above the check was graded"
    for grade_id, text in order.answers_beside(notebook.cells, release.cells).items():
        report.note(
            f"The written question {grade_id} is as it was handed out, but text of yours stands beside it: a person "
            "will be asked to read that. Better write the answer into the question's own cell."
        )
        report.asks[grade_id] = (
            f"the question's own cell is unanswered, but beside it stands {order.quoted(text)}"
        )
    for number, cell in enumerate(notebook.cells, 1):
        theirs = cell.cell_type == "code" and role_of(cell) in ("exercise", ADDED)
        if theirs and (by := ends_process(cell.source)):
            tell = report.problem if role_of(cell) == "exercise" else report.note
            tell(
                f"Cell {number} ends the process by {order.quoted(by)}: everything in memory is gone then. Grading "
                "goes on below it in a new kernel, but an exercise that ends its process gets no points. Take it out."
            )


def _start(text: str) -> str:
    return text[0].upper() + text[1:]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
