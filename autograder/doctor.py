"""A submission examined, and repaired where that is safe, before it is handed in or graded.

What belongs to the course (check cells, setup, points, cell roles, kernel) is put back from the release. What
belongs to the learner, the source of exercise cells and of cells they added, is never changed. Everything
done is said in plain sentences, and so is what of the learner's code will not run when it is graded.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from autograder import foresight
from autograder.cells import ADDED, KEY, about, defines, exercise_of, grade_id_of, is_check, mapping, role_of

AnyNotebook = Path | str | bytes | Mapping[str, Any]
"""A path, a file's bytes, or a notebook."""

MAX_FILE = 2**30
MAX_OUTPUTS = 20 * 2**20
SIMILAR = 0.85
ID = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
SKIPPING = ("skip-execution", "raises-exception", "remove-cell", "remove_cell")
LOCKED = ("setup", "check")
NUMBERS = ("grade", "solution", "locked", "points", "task", "cell_type")


class Unreadable(ValueError):
    """A file that is no notebook; the message tells the learner why and what to hand in instead."""


@dataclass(frozen=True)
class Finding:
    """One thing found. ``level`` is ``note`` (nothing to do), ``repair`` (put right from the release) or
    ``problem`` (only the learner can put it right)."""

    level: str
    says: str

    def __str__(self) -> str:
        return self.says


@dataclass
class Report:
    """What was found in one submission."""

    findings: list[Finding] = field(default_factory=list)
    readable: bool = True

    @property
    def sentences(self) -> list[str]:
        return [finding.says for finding in self.findings]

    @property
    def needs_repair(self) -> bool:
        return any(finding.level != "note" for finding in self.findings)

    def note(self, says: str) -> None:
        self.findings.append(Finding("note", says))

    def repaired(self, says: str) -> None:
        self.findings.append(Finding("repair", says))

    def problem(self, says: str) -> None:
        self.findings.append(Finding("problem", says))


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
        return json.loads(text)
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


def _as_version_4(data: Any, report: Report) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise Unreadable("The file is JSON but not a notebook: it holds no cells.")
    if "worksheets" in data or data.get("nbformat") in (1, 2, 3):
        version = data.get("nbformat")
        try:
            data = dict(nbformat.convert(nbformat.from_dict(data), 4))
        except Exception:
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
            source=_text(cell.get("source", "")),
        )
        if made.cell_type == "code":
            count = cell.get("execution_count")
            made.execution_count = count if type(count) is int else None
            given = cell.get("outputs")
            made.outputs = list(_outputs(given)) if keep_outputs and isinstance(given, list) else []
            outputs += len(given) - len(made.outputs) if isinstance(given, list) else 0
        elif isinstance(cell.get("attachments"), dict) and kind == "markdown":
            made.attachments = _node(cell["attachments"])
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


def _size_of_outputs(cells: Iterable[Any]) -> int:
    total = 0
    for cell in cells:
        if isinstance(cell, Mapping) and cell.get("outputs"):
            try:
                total += len(json.dumps(cell["outputs"]))
            except (TypeError, ValueError, RecursionError):
                total += MAX_OUTPUTS + 1
    return total


def _outputs(given: Iterable[Any]) -> Iterator[NotebookNode]:
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
        return nbformat.from_dict(json.loads(_text(json.dumps(value, ensure_ascii=False))))
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


# --- matching ---------------------------------------------------------------------------------------------


def match(cells: Sequence[Mapping[str, Any]], release: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Release cell number → submitted cell number: by grade id, else by cell id, else by source."""
    found: dict[int, int] = {}
    free = set(range(len(cells)))

    def take(number: int, candidates: Sequence[int]) -> None:
        """Of several claimants (a copied cell): one that was worked on, else the one that kept its id."""
        usable = [c for c in candidates if c in free]
        if number in found or not usable:
            return
        original = release[number]
        best = min(
            usable,
            key=lambda c: (
                cells[c]["cell_type"] != original["cell_type"],
                cells[c]["source"] == original["source"] and role_of(original) in ("exercise", "written"),
                cells[c].get("id") != original["id"],
                c,
            ),
        )
        found[number] = best
        free.discard(best)

    by_grade: dict[str, list[int]] = {}
    by_id: dict[str, list[int]] = {}
    by_source: dict[str, list[int]] = {}
    for number, cell in enumerate(cells):
        by_grade.setdefault(grade_id_of(cell), []).append(number)
        by_id.setdefault(str(cell.get("id")), []).append(number)
        by_source.setdefault(cell["source"].strip(), []).append(number)
    for number, original in enumerate(release):
        if grade_id_of(original):
            take(number, by_grade.get(grade_id_of(original), []))
    for number, original in enumerate(release):
        take(number, by_id.get(original["id"], []))
    for number, original in enumerate(release):
        take(number, by_source.get(original["source"].strip(), []))
    for number, original in enumerate(release):
        name = exercise_of(original)
        if is_check(original):
            call = re.compile(rf"\bcheck\(\s*['\"]{re.escape(name)}['\"]")
            take(
                number,
                [
                    c
                    for c in free
                    if call.search(cells[c]["source"]) and name not in defines(cells[c]["source"])
                ],
            )
        elif role_of(original) == "exercise":
            take(number, [c for c in free if name in defines(cells[c]["source"], assigned=False)])
    for number, original in enumerate(release):
        if number not in found:
            take(number, [c for c in sorted(free) if _similar(cells[c], original)])
    return found


def _similar(cell: Mapping[str, Any], original: Mapping[str, Any]) -> bool:
    if cell["cell_type"] != original["cell_type"] or role_of(original) in ("check", "exercise"):
        return False
    one, other = cell["source"], original["source"]
    if not one or not other or max(len(one), len(other)) > 20_000:
        return False
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return (
        matcher.real_quick_ratio() >= SIMILAR
        and matcher.quick_ratio() >= SIMILAR
        and matcher.ratio() >= SIMILAR
    )


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
    _put_back(notebook, release, report)
    _put_in_order(notebook, report)
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
                own = NotebookNode(
                    cell_type="code", id=_fresh("edited", taken), source=cell.source, outputs=[],
                    execution_count=None, metadata=NotebookNode({KEY: NotebookNode(role=ADDED)}),
                )  # fmt: skip
                before = [own]
                report.note(f"What had been written into {what} is kept as a cell of its own beside it.")
        cell.source = original.source
    for key in ("nbgrader", KEY, "editable", "deletable", "tags"):
        cell.metadata.pop(key, None)
        if key in original.metadata:
            cell.metadata[key] = copy.deepcopy(original.metadata[key])
    return [cell, *before] if role == "setup" else [*before, cell]


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
        home = _defined_at(cells, exercise_of(original))
        return len(cells) if home is None else home + 1
    later = [here[c.id] for c in release[number + 1 :] if c.id in here]
    earlier = [here[c.id] for c in release[:number] if c.id in here]
    if role_of(original) == "setup":
        return min(later) if later else 0
    return max(earlier) + 1 if earlier else len(cells)


def _defined_at(cells: Sequence[NotebookNode], name: str) -> int | None:
    """Where an exercise's own cell stands, else the last cell that defines it."""
    for index, cell in enumerate(cells):
        if role_of(cell) == "exercise" and exercise_of(cell) == name:
            return index
    found = [i for i, cell in enumerate(cells) if cell.cell_type == "code" and name in defines(cell.source)]
    return found[-1] if found else None


def _put_in_order(notebook: NotebookNode, report: Report) -> None:
    """A check that stands before what it checks judges nothing, and setup comes first."""
    for cell in list(notebook.cells):
        index = notebook.cells.index(cell)
        if is_check(cell):
            name = exercise_of(cell)
            home = _defined_at(notebook.cells, name)
            before = any(c.cell_type == "code" and name in defines(c.source) for c in notebook.cells[:index])
            if home is not None and home > index and not before:
                notebook.cells.insert(home + 1, cell)
                del notebook.cells[index]
                report.repaired(f"The check of {name} stood before its exercise; it stands after it now.")
        elif role_of(cell) == "setup":
            work = [i for i, c in enumerate(notebook.cells) if role_of(c) in ("exercise", "check")]
            if work and work[0] < index:
                del notebook.cells[index]
                notebook.cells.insert(work[0], cell)
                report.repaired("The setup cell stood after the first exercise; it stands before it now.")


def _start(text: str) -> str:
    return text[0].upper() + text[1:]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
