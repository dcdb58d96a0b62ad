"""From the text people edit to the notebooks people open.

``solutions/NN_topic.py`` (jupytext percent) becomes ``solutions/NN_topic/topic.ipynb``, with exercise
cards, check cells, points and cell roles out of the catalogue; nbgrader's own ``GenerateAssignment`` makes
``lectures/NN_topic/topic.ipynb`` of that. The same source always gives the same bytes.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import re
import shutil
import tempfile
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from autograder import catalog
from autograder.exercise import Exercise

SOURCES, RELEASES = "solutions", "lectures"
BEGIN, END = "BEGIN SOLUTION", "END SOLUTION"
OPTIONS = {"role", "exercise", "written", "points", "tags"}
UNNAMED = "unnamed"
LEAK_LENGTH = 30
"""A solution's line this long, found in a lecture, is a leak; shorter ones may well be coincidence."""

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
WIDTH = 104
"""Characters of a line of code that a page of 1100 pixels shows without scrolling."""

BRITISH = re.compile(
    r"\b(colour\w*|behaviour\w*|neighbour\w*|favour\w*|honour\w*|grey\w*|centred?|centres|metres?|"
    r"modell(?:ed|ing)|labell(?:ed|ing)|cancelled|travell(?:ed|ing)|artefacts?|defence|licence|analys(?:e|ed|ing)|"
    r"(?:normal|initial|optim|visual|regular|general|organ|recogn|real|summar|minim|maxim|standard|emphas|util|"
    r"parametr|vector|quant|local|character|penal)is(?:e|es|ed|ing|ation|ations|er|ers))\b",
    re.IGNORECASE,
)


class AuthoringError(ValueError):
    """A source that no notebook can be built from: file, cell and what is wrong with it."""


@dataclass(frozen=True)
class Source:
    """One lecture's text: ``path`` is ``solutions/NN_topic.py`` below ``root``."""

    root: Path
    path: Path

    @property
    def assignment(self) -> str:
        return self.path.stem

    @property
    def topic(self) -> str:
        return self.assignment.split("_", 1)[1]

    @property
    def name(self) -> str:
        return self.path.relative_to(self.root).as_posix()

    @property
    def solution(self) -> Path:
        return self.root / SOURCES / self.assignment / f"{self.topic}.ipynb"

    @property
    def lecture(self) -> Path:
        return self.root / RELEASES / self.assignment / f"{self.topic}.ipynb"


@dataclass
class Built:
    """What one source builds: both notebooks as text."""

    source: Source
    solution: str
    lecture: str

    def files(self) -> Iterator[tuple[Path, str]]:
        yield self.source.solution, self.solution
        yield self.source.lecture, self.lecture


@dataclass
class Cell:
    """A cell of the source with where it stands, for messages."""

    node: NotebookNode
    number: int
    line: int | None
    source: Source
    options: dict = field(default_factory=dict)

    def error(self, what: str) -> AuthoringError:
        where = self.source.name if self.line is None else f"{self.source.name}:{self.line}"
        return AuthoringError(f"{where} (cell {self.number}): {what}")


def build(root: Path | str, topics: Sequence[str] | None = None) -> list[Path]:
    """Build the notebooks of ``topics`` (all when left out) and return the files written.

    A topic is named ``batchnorm`` or ``02_batchnorm``. Raises :class:`AuthoringError`.
    """
    written = []
    for source in sources(Path(root), topics):
        for path, text in render(source).files():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def check(root: Path | str, topics: Sequence[str] | None = None) -> list[str]:
    """Every problem of the sources and the notebooks built from them, a sentence each; empty when clean."""
    root = Path(root).resolve()
    problems: list[str] = []
    try:
        found = sources(root, topics)
    except AuthoringError as error:
        return [str(error)]
    for source in found:
        try:
            built = render(source)
        except AuthoringError as error:
            problems.append(str(error))
            continue
        for path, text in built.files():
            problems += drift(root, path, text)
        solution = nbformat.reads(built.solution, as_version=4)
        lecture = nbformat.reads(built.lecture, as_version=4)
        problems += _catalogue_covered(source, lecture)
        problems += _reads_well(source, solution, lecture)
        problems += leaks(root, solution)
    if topics is None:
        problems += _strays(root, found)
    return problems


def sources(root: Path, topics: Sequence[str] | None = None) -> list[Source]:
    """The lectures' texts in order, or those of ``topics``."""
    root = root.resolve()
    found = [Source(root, path) for path in sorted((root / SOURCES).glob("[0-9][0-9]_*.py"))]
    if topics is None:
        return found
    by_name = {name: source for source in found for name in (source.topic, source.assignment)}
    for topic in topics:
        if topic not in by_name:
            known = ", ".join(source.topic for source in found) or "none"
            raise AuthoringError(f"no lecture called {topic!r} in {SOURCES}/ (there: {known})")
    return [by_name[topic] for topic in topics]


# --- building ---------------------------------------------------------------------------------------------


def render(source: Source) -> Built:
    """Both notebooks of one lecture, as text, without writing anything."""
    solution = nbformat.writes(_notebook(source)) + "\n"
    return Built(source, solution, _release(source, solution))


def repository(root: Path) -> str:
    """The project's address, written once in ``pyproject.toml``."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["urls"]["Repository"]).rstrip("/")
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise AuthoringError(
            f"{root / 'pyproject.toml'}: the badge needs Repository under [project.urls] ({error})"
        ) from None


def _read(source: Source) -> list[Cell]:
    import jupytext

    text = source.path.read_text(encoding="utf-8")
    nodes = jupytext.reads(text, fmt="py:percent").cells
    lines = [n for n, line in enumerate(text.splitlines(), 1) if re.match(r"# %%(?:\s|$)", line)]
    at = lines if len(lines) == len(nodes) else [None] * len(nodes)
    cells = []
    for number, (node, line) in enumerate(zip(nodes, at, strict=True), 1):
        node.metadata.pop("lines_to_next_cell", None)
        cell = Cell(node, number, line, source, dict(node.metadata))
        unknown = set(cell.options) - OPTIONS
        if unknown:
            known = ", ".join(sorted(OPTIONS))
            raise cell.error(f"unknown option {', '.join(sorted(unknown))}; known: {known}")
        if node.cell_type not in ("code", "markdown"):
            raise cell.error(f"a {node.cell_type} cell; only code and markdown are built")
        cells.append(cell)
    return cells


def _notebook(source: Source) -> NotebookNode:
    address = repository(source.root)
    cells: list[NotebookNode] = [_badge(source, address)]
    level, seen, setups = 1, set(), 0
    for cell in _read(source):
        options, node = cell.options, cell.node
        if "exercise" in options:
            exercise = _exercise_of(cell)
            if exercise.id in seen:
                raise cell.error(f"exercise {exercise.id!r} stands twice in this lecture")
            seen.add(exercise.id)
            cells.append(card(exercise, level + 1))
            cells.append(_solution_cell(cell, exercise))
            cells.append(_check_cell(exercise))
        elif "written" in options:
            cells.append(_written_cell(cell))
        elif options.get("role") == "setup":
            setups += 1
            if setups == 1:
                node.source = _colab_line(address) + "\n\n" + node.source
            identity = f"{source.topic}-setup" + ("" if setups == 1 else f"-{setups}")
            cells.append(_cell(node, "setup", identity, nbgrader=_nbgrader(identity, locked=True)))
        elif "role" in options:
            raise cell.error(f'unknown role {options["role"]!r}; only role="setup" is written down')
        elif BEGIN in node.source:
            raise cell.error(f"{BEGIN} in a cell that is neither an exercise nor a written question")
        else:
            role = "story" if node.cell_type == "code" else "text"
            cells.append(_cell(node, role, None))
        if node.cell_type == "markdown":
            level = next((h for h, _ in reversed(headings(node.source))), level)
    if not setups:
        raise AuthoringError(f'{source.name}: no setup cell (# %% role="setup")')
    _name_cells(cells)
    metadata = {
        "kernelspec": dict(KERNELSPEC),
        "language_info": {"name": "python"},
        "coursekit": {"topic": source.topic, "assignment": source.assignment},
    }
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    notebook.nbformat_minor = 5
    nbformat.validate(notebook)
    return notebook


def _cell(
    node: NotebookNode,
    role: str,
    identity: str | None,
    *,
    exercise: str | None = None,
    nbgrader: dict | None = None,
) -> NotebookNode:
    make = nbformat.v4.new_code_cell if node.cell_type == "code" else nbformat.v4.new_markdown_cell
    metadata: dict = {"coursekit": {"role": role} | ({"exercise": exercise} if exercise else {})}
    if nbgrader:
        metadata["nbgrader"] = nbgrader
    if node.metadata.get("tags"):
        metadata["tags"] = list(node.metadata["tags"])
    return make(node.source, metadata=metadata, id=identity or UNNAMED)


def _nbgrader(
    grade_id: str,
    *,
    grade: bool = False,
    solution: bool = False,
    locked: bool = False,
    points: float | None = None,
) -> dict:
    given = {} if points is None else {"points": int(points) if points == int(points) else points}
    return {
        "schema_version": 3,
        "grade": grade,
        "solution": solution,
        "locked": locked,
        "task": False,
        "grade_id": grade_id,
        **given,
    }


def _name_cells(cells: Sequence[NotebookNode]) -> None:
    """Give the unnamed cells an id of their own text: one edited, moved or added changes no other's."""
    taken = Counter(cell.id for cell in cells)
    for cell in cells:
        if cell.id != UNNAMED:
            continue
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        name = f"{cell.metadata.coursekit.role}-{digest}"
        taken[name] += 1
        cell.id = name if taken[name] == 1 else f"{name}-{taken[name]}"


def _badge(source: Source, address: str) -> NotebookNode:
    place = source.lecture.relative_to(source.root).as_posix()
    target = address.replace("https://github.com/", "https://colab.research.google.com/github/")
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    node = nbformat.v4.new_markdown_cell(f"[![Open in Colab]({image})]({target}/blob/main/{place})")
    badge = _cell(node, "text", "view-in-github")
    badge.metadata.update(id="view-in-github", colab_type="text")
    return badge


def _colab_line(address: str) -> str:
    return (
        "import sys\n\n"
        'if "google.colab" in sys.modules:  # elsewhere the course is installed already\n'
        f'    get_ipython().run_line_magic("pip", "install -q git+{address}")'
    )


def _exercise_of(cell: Cell) -> Exercise:
    if cell.node.cell_type != "code":
        raise cell.error("an exercise is a code cell")
    try:
        exercise = catalog.find(cell.options["exercise"])
    except (KeyError, ValueError) as error:
        raise cell.error(str(error.args[0] if error.args else error)) from None
    if exercise.topic != cell.source.topic:
        raise cell.error(f"exercise {exercise.id!r} belongs to the lecture {exercise.topic!r}")
    try:
        defined = {name for name, _ in definitions(cell.node.source)}
    except SyntaxError as error:
        raise cell.error(f"does not compile: {error}") from None
    if exercise.id not in defined:
        raise cell.error(f"the cell of exercise {exercise.id!r} does not define it")
    return exercise


def _solution_cell(cell: Cell, exercise: Exercise) -> NotebookNode:
    _regions(cell)
    nbgrader = _nbgrader(f"{exercise.id}-solution", solution=True)
    return _cell(cell.node, "exercise", f"{exercise.id}-solution", exercise=exercise.id, nbgrader=nbgrader)


def _check_cell(exercise: Exercise) -> NotebookNode:
    node = nbformat.v4.new_code_cell(f'check("{exercise.id}")')
    nbgrader = _nbgrader(exercise.id, grade=True, locked=True, points=exercise.points)
    return _cell(node, "check", exercise.id, exercise=exercise.id, nbgrader=nbgrader)


def _written_cell(cell: Cell) -> NotebookNode:
    identity, points = str(cell.options["written"]), cell.options.get("points")
    if cell.node.cell_type != "markdown":
        raise cell.error("a written question is a markdown cell")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", identity):
        raise cell.error(f"written={identity!r}: letters, digits, _ and - only")
    if not isinstance(points, int | float) or points <= 0:
        raise cell.error(f"written={identity!r} needs points, a positive number, got {points!r}")
    _regions(cell)
    nbgrader = _nbgrader(identity, grade=True, solution=True, points=points)
    return _cell(cell.node, "written", identity, nbgrader=nbgrader)


def _regions(cell: Cell) -> list[list[str]]:
    """The solution regions of a cell; an error where the markers are missing or do not pair."""
    found: list[list[str]] = []
    inside = False
    for line in cell.node.source.splitlines():
        if BEGIN in line:
            if inside:
                raise cell.error(f"{BEGIN} inside a solution region")
            inside = True
            found.append([])
        elif END in line:
            if not inside:
                raise cell.error(f"{END} without {BEGIN}")
            inside = False
        elif inside:
            found[-1].append(line)
    if inside:
        raise cell.error(f"{BEGIN} without {END}")
    if not any(line.strip() for region in found for line in region):
        raise cell.error(f"no solution between ### {BEGIN} and ### {END}")
    return found


LEVELS = ("warm-up", "easy", "medium", "hard", "very hard")
NUDGES = ("a nudge", "a closer look", "nearly the answer")


def card(exercise: Exercise, level: int = 3) -> NotebookNode:
    """The markdown cell above an exercise, written from its catalogue entry."""
    dots = "●" * exercise.difficulty + "○" * (5 - exercise.difficulty)
    lines = [
        f"{'#' * min(level, 6)} Exercise: {exercise.title}",
        "",
        f"`{exercise.signature}`",
        "",
        f"**Difficulty** {dots} {LEVELS[exercise.difficulty - 1]} · **{_count(exercise.points, 'point')}** · "
        f"about **{_count(exercise.minutes, 'minute')}**",
        "",
        "What is checked:",
        "",
        *(f"- {p.says.rstrip('.')} ({_count(p.points, 'point')})" for p in exercise.properties),
    ]
    if exercise.forbidden:
        calls = ", ".join(f"`{f.name}`" for f in exercise.forbidden)
        lines += ["", f"Calls that *are* the answer earn nothing here: {calls}."]
    for hint, nudge in zip(exercise.hints, NUDGES, strict=True):
        summary = f"{hint.symptom} <small>({nudge})</small>"
        lines += ["", f"<details><summary>{summary}</summary>", "", hint.help, "", "</details>"]
    node = nbformat.v4.new_markdown_cell("\n".join(lines))
    return _cell(node, "text", f"{exercise.id}-card", exercise=exercise.id)


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


class _Memory(logging.Handler):
    """Keeps what a converter logs, so that its error can be shown and its chatter cannot."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _release(source: Source, solution: str) -> str:
    """What nbgrader's own converter makes of the solution notebook."""
    from nbgrader.converters import GenerateAssignment
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import Config

    memory = _Memory()
    log = logging.Logger(__name__)  # not a child of the root logger: nothing is printed
    log.addHandler(memory)
    course = Path(tempfile.mkdtemp(prefix="autograder-build-")).resolve()
    try:
        place = course / SOURCES / source.assignment
        place.mkdir(parents=True)
        (place / f"{source.topic}.ipynb").write_text(solution, encoding="utf-8")
        config = Config()
        config.CourseDirectory.update(
            root=str(course),
            source_directory=SOURCES,
            release_directory=RELEASES,
            assignment_id=source.assignment,
        )
        config.GenerateAssignment.no_database = True
        config.SaveCells.enabled = False
        coursedir = CourseDirectory(config=config, log=log)
        try:
            GenerateAssignment(coursedir=coursedir, config=config, log=log).start()
        except Exception as error:
            said = "\n".join(memory.messages) or str(error)
            raise AuthoringError(f"{source.name}: nbgrader could not make the release: {said}") from error
        made = course / RELEASES / source.assignment / f"{source.topic}.ipynb"
        return made.read_text(encoding="utf-8")
    finally:
        shutil.rmtree(course, ignore_errors=True)


# --- checking ---------------------------------------------------------------------------------------------


def drift(root: Path, path: Path, text: str) -> list[str]:
    """One sentence if the file is not, byte for byte, what its source builds."""
    name = path.relative_to(root).as_posix()
    if not path.exists():
        return [f"{name}: not built; run `autograder build`"]
    there = path.read_bytes().decode("utf-8", errors="replace")
    if there == text:
        return []
    where = ""
    try:
        old, new = nbformat.reads(there, as_version=4), nbformat.reads(text, as_version=4)
        pairs = enumerate(zip(old.cells, new.cells, strict=False), 1)
        first = next((n for n, (a, b) in pairs if a != b), min(len(old.cells), len(new.cells)) + 1)
        where = f" (first at cell {first})"
    except Exception:
        where = " (it cannot be read as a notebook)"
    return [f"{name}: differs from what its source builds{where}; run `autograder build`"]


def solution_lines(notebook: NotebookNode) -> list[tuple[int, str]]:
    """(cell number, line) of every line of every solution region that is telling enough to look for."""
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        inside = False
        for line in cell.source.splitlines():
            if BEGIN in line or END in line:
                inside = BEGIN in line
            elif inside and len(_plain(line)) >= LEAK_LENGTH and not _boilerplate(line):
                found.append((number, _plain(line)))
    return found


def _plain(line: str) -> str:
    return re.sub(r"\s+", " ", line).strip()


def _boilerplate(line: str) -> bool:
    return re.match(r"\s*(def |class |import |from |super\(\)|\"\"\"|#)", line) is not None


def leaks(root: Path, solution: NotebookNode) -> list[str]:
    """Lines of this solution that stand in any file under ``lectures/``."""
    secrets = solution_lines(solution)
    problems = []
    for path in sorted((root / RELEASES).rglob("*")):
        if not path.is_file():
            continue
        name = path.relative_to(root).as_posix()
        for where, text in _texts(path):
            plain = _plain(text)
            for number, line in secrets:
                if line in plain:
                    problems.append(f"{name}{where}: holds a line of the solution in cell {number}: {line!r}")
    return problems


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    raw = path.read_bytes().decode("utf-8", errors="replace")
    if path.suffix == ".ipynb":
        try:
            notebook = nbformat.reads(raw, as_version=4)
        except Exception:
            yield "", raw
            return
        for number, cell in enumerate(notebook.cells, 1):
            yield f" (cell {number})", cell.source
            if cell.get("outputs"):
                yield f" (output of cell {number})", str(cell.outputs)
        yield " (metadata)", str(notebook.metadata)
    else:
        yield "", raw


def _strays(root: Path, found: Sequence[Source]) -> list[str]:
    """Files that nbgrader would hand to students, or that no source stands behind."""
    problems = []
    expected = {path for source in found for path in (source.solution, source.lecture)}
    for folder in (SOURCES, RELEASES):
        for path in sorted((root / folder).glob("*/**/*")):
            name = path.relative_to(root).as_posix()
            if not path.is_file() or path in expected or re.search("ipynb_checkpoints|__pycache__", name):
                continue
            if path.suffix == ".ipynb":
                problems.append(f"{name}: no source in {SOURCES}/ builds it")
            else:
                problems.append(f"{name}: nbgrader would hand this to students; only notebooks belong here")
    return problems


def _catalogue_covered(source: Source, lecture: NotebookNode) -> list[str]:
    """Every exercise of the topic stands in its lecture once: card, stub and check."""
    problems = []
    marks = [cell.metadata.coursekit for cell in lecture.cells]
    try:
        exercises = catalog.topic(source.topic)
    except (KeyError, ValueError):
        return [f"{source.name}: the catalogue has no topic {source.topic!r}"]
    for exercise in exercises:
        roles = Counter(m.role for m in marks if m.get("exercise") == exercise.id)
        for role, what in (("text", "card"), ("exercise", "stub"), ("check", "check cell")):
            if roles[role] != 1:
                problems.append(f"{source.name}: exercise {exercise.id!r} has {roles[role]} {what}s, not one")
    if not any(m.role == "written" for m in marks):
        problems.append(f"{source.name}: no written question")
    return problems


def _reads_well(source: Source, solution: NotebookNode, lecture: NotebookNode) -> list[str]:
    """What a reader would stumble over."""
    name = source.lecture.relative_to(source.root).as_posix()
    problems = []
    level, titles = 0, 0
    for number, cell in enumerate(lecture.cells, 1):
        where = f"{name} (cell {number})"
        if cell.cell_type == "code":
            if cell.outputs or cell.execution_count is not None:
                problems.append(f"{where}: an output is committed")
            problems += [f"{where}: {what}" for what in _code_problems(cell)]
        else:
            for depth, title in headings(cell.source):
                titles += depth == 1
                if depth > level + 1:
                    problems.append(f"{where}: heading {title!r} skips from level {level} to {depth}")
                level = depth
            if re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"]+\")[^>]*>", cell.source):
                problems.append(f"{where}: an image has no alt text")
        problems += [f"{where}: British spelling {word!r}" for word in british(cell)]
    if titles != 1:
        problems.append(f"{name}: {titles} titles of level 1 instead of one")
    # the solution's own lines call show() too, and its prose is read by instructors
    for number, cell in enumerate(solution.cells, 1):
        if cell.cell_type == "code" and cell.metadata.coursekit.role == "exercise":
            where = f"{source.solution.relative_to(source.root).as_posix()} (cell {number})"
            problems += [f"{where}: {what}" for what in _code_problems(cell) if "alt=" in what]
    prose = [c.source for c in lecture.cells if c.cell_type == "markdown"][:4]
    stated = [re.search(r"(\d+)\s+minutes", text) for text in prose if "Exercise:" not in text]
    minutes = max((int(found[1]) for found in stated if found), default=0)
    exercises = sum(exercise.minutes for exercise in catalog.topic(source.topic))
    if not minutes:
        problems.append(f"{name}: the opening does not say how many minutes it takes")
    elif minutes < exercises:
        problems.append(f"{name}: {minutes} minutes are less than the {exercises} of its exercises")
    telling = [c.source for c in lecture.cells if c.metadata.coursekit.role in ("text", "story")]
    if not any(re.search(r"\bpredict", text, re.IGNORECASE) for text in telling):
        problems.append(f"{name}: the reader is nowhere asked to predict a result before seeing it")
    return problems


def headings(markdown: str) -> list[tuple[int, str]]:
    """(level, text) of the headings of a markdown cell; code fences are not looked into."""
    found, fence = [], None
    for line in markdown.splitlines():
        mark = re.match(r"\s{0,3}(```+|~~~+)", line)
        if mark:
            fence = mark[1][:3] if fence is None else (None if mark[1].startswith(fence) else fence)
        elif fence is None and (heading := re.match(r"(#{1,6})\s+(.*\S)", line)):
            found.append((len(heading[1]), heading[2]))
    return found


def plain_python(source: str) -> str:
    """A cell's code with IPython's magics turned into calls."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)


def definitions(source: str) -> list[tuple[str, ast.stmt]]:
    """(name, statement) of the functions and classes a cell defines at its top level. Raises SyntaxError."""
    tree = ast.parse(plain_python(source))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [(node.name, node) for node in tree.body if isinstance(node, kinds)]


def _code_problems(cell: NotebookNode) -> list[str]:
    try:
        tree = ast.parse(plain_python(cell.source))
    except SyntaxError as error:
        return [f"does not compile: {error}"]
    problems = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _shows(node.func) and "alt" not in {k.arg for k in node.keywords}:
            problems.append(f"line {node.lineno}: show() without alt=")
    if cell.metadata.coursekit.role == "exercise":
        stubs: list[Any] = [
            n for n in tree.body if getattr(n, "name", None) == cell.metadata.coursekit.exercise
        ]
        problems += [
            f"the docstring of {stub.name} gives no shape such as (N, C, H, W)"
            for stub in stubs
            if _takes_tensors(stub) and not _gives_shape(stub)
        ]
        problems += [
            f"the docstring of {stub.name} has a line of {len(line)} characters; {WIDTH} are shown"
            for stub in stubs
            for line in (ast.get_docstring(stub, clean=False) or "").splitlines()
            if len(line) > WIDTH
        ]
    return problems


def _shows(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr == "show" and ast.unparse(function.value).endswith("figures")
    return isinstance(function, ast.Name) and function.id == "show"


def _functions(stub: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(stub) if isinstance(node, ast.FunctionDef)]


def _takes_tensors(stub: ast.AST) -> bool:
    arguments = [a for f in _functions(stub) for a in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs)]
    return any(a.annotation is not None and "Tensor" in ast.unparse(a.annotation) for a in arguments)


def _gives_shape(stub: ast.AST) -> bool:
    documented = [stub, *_functions(stub)]
    texts = [ast.get_docstring(node) or "" for node in documented]  # type: ignore[arg-type]
    return any(re.search(r"\((?:N|n|C|H|D|K|L|M)\b", text) for text in texts)


def british(cell: NotebookNode) -> list[str]:
    """British spellings in a cell's prose: text outside code spans, comments, strings."""
    if cell.cell_type == "markdown":
        text = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$|\]\([^)]*\)|<[^>]*>", " ", cell.source, flags=re.DOTALL)
    else:
        text = ""
        try:
            for token in tokenize.generate_tokens(StringIO(plain_python(cell.source)).readline):
                if token.type in (tokenize.COMMENT, tokenize.STRING):
                    text += token.string + "\n"
        except (tokenize.TokenError, SyntaxError, IndentationError):
            return []
    return sorted({m[0] for m in BRITISH.finditer(text)})
