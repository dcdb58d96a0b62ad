"""Both notebooks of a lecture, out of its text and the catalogue."""

from __future__ import annotations

import ast
import hashlib
import logging
import re
import shutil
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from autograder import catalog
from autograder.authoring.source import (
    BEGIN,
    RELEASES,
    SOURCES,
    AuthoringError,
    Cell,
    Source,
    headings,
    plain_python,
    read,
    regions,
    sources,
)
from autograder.cells import KEY, defines, role_of
from autograder.exercise import Exercise

UNNAMED = "unnamed"
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LEVELS = ("warm-up", "easy", "medium", "hard", "very hard")
NUDGES = ("a nudge", "a closer look", "nearly the answer")


@dataclass
class Built:
    """What one source builds: both notebooks as text."""

    source: Source
    solution: str
    lecture: str

    def files(self) -> Iterator[tuple[Path, str]]:
        yield self.source.solution, self.solution
        yield self.source.lecture, self.lecture


def build(root: Path | str, topics: Sequence[str] | None = None) -> list[Path]:
    """Build the notebooks of ``topics`` (all when left out) and return the files written.

    A topic is named ``batchnorm`` or ``02_batchnorm``. Raises :class:`AuthoringError`.
    """
    written = []
    for source in sources(Path(root), topics):
        for path, text in render(source).files():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            written.append(path)
    return written


def render(source: Source) -> Built:
    """Both notebooks of one lecture, as text, without writing anything."""
    solution = nbformat.writes(_notebook(source), allow_nan=False) + "\n"
    return Built(source, solution, released(solution, source.assignment, source.topic))


def repository(root: Path) -> str:
    """The project's address, written once in ``pyproject.toml``."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["urls"]["Repository"]).rstrip("/")
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise AuthoringError(
            f"{root / 'pyproject.toml'}: the badge needs Repository under [project.urls] ({error})"
        ) from None


def _notebook(source: Source) -> NotebookNode:
    address = repository(source.root)
    cells: list[NotebookNode] = [_badge(source, address)]
    level, seen, setups = 1, set(), 0
    for cell in read(source):
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
        KEY: {"topic": source.topic, "assignment": source.assignment},
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
    metadata: dict = {KEY: {"role": role} | ({"exercise": exercise} if exercise else {})}
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
        name = f"{role_of(cell)}-{digest}"
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
    code = plain_python(cell.node.source)
    try:
        ast.parse(code)
    except SyntaxError as error:
        raise cell.error(f"does not compile: {error}") from None
    if exercise.id not in defines(code, assigned=False):
        raise cell.error(f"the cell of exercise {exercise.id!r} does not define it")
    return exercise


def _solution_cell(cell: Cell, exercise: Exercise) -> NotebookNode:
    regions(cell)
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
    regions(cell)
    nbgrader = _nbgrader(identity, grade=True, solution=True, points=points)
    return _cell(cell.node, "written", identity, nbgrader=nbgrader)


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


def released(solution: str, assignment: str, topic: str) -> str:
    """What nbgrader's own converter makes of a solution notebook, as text. Raises :class:`AuthoringError`."""
    from nbgrader.converters import GenerateAssignment
    from nbgrader.coursedir import CourseDirectory
    from traitlets.config import Config

    memory = _Memory()
    log = logging.Logger(__name__)  # not a child of the root logger: nothing is printed
    log.addHandler(memory)
    course = Path(tempfile.mkdtemp(prefix="autograder-build-")).resolve()
    try:
        place = course / SOURCES / assignment
        place.mkdir(parents=True)
        (place / f"{topic}.ipynb").write_text(solution, encoding="utf-8")
        config = Config()
        config.CourseDirectory.update(
            root=str(course),
            source_directory=SOURCES,
            release_directory=RELEASES,
            assignment_id=assignment,
        )
        config.GenerateAssignment.no_database = True
        config.SaveCells.enabled = False
        coursedir = CourseDirectory(config=config, log=log)
        try:
            GenerateAssignment(coursedir=coursedir, config=config, log=log).start()
        except Exception as error:
            said = "\n".join(memory.messages) or str(error)
            raise AuthoringError(
                f"{SOURCES}/{assignment}.py: nbgrader could not make the release: {said}"
            ) from error
        made = course / RELEASES / assignment / f"{topic}.ipynb"
        return made.read_text(encoding="utf-8")
    finally:
        shutil.rmtree(course, ignore_errors=True)
