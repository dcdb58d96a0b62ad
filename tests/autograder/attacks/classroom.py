"""One class of attackers and honest students, graded by stock nbgrader, and what can be seen of it afterwards."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import test_plugins as plugins
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateAssignment
from test_plugins import ASSIGNMENT

from attacks import DOUBLE, NORMALIZE, TRIPLE, Attack, course
from autograder import authoring, cells
from autograder.oracle.exam_file import digest

HONEST = {
    "ann": (DOUBLE, TRIPLE, NORMALIZE),
    "mia": (DOUBLE, "def triple(x):\n    return x * x", NORMALIZE.replace("+ eps).rsqrt()", ").rsqrt()")),
    "zoe": (DOUBLE, "", NORMALIZE.replace("return centered * scale *", "return centered *")),
}
"""Students who did what was asked for, more or less: before, between and behind the attackers."""
SECRETS = {
    name: f"secret-of-the-{name}"
    for name in ("catalogue", "solution", "gradebook", "environment", "arguments", "neighbour")
}
"""What stands in each thing that nobody may see."""
LEFT = "left-behind-by-an-attack"
"""In the command line of every process that outlives its notebook."""
LIMITS = {"timeout": 4, "total_timeout": 60, "patience": 1, "memory": 1.5, "seed": 20_260}
CODE = ("double", "triple", "batchnorm_forward")
OWN_FILES = Path(__file__).parents[3]


class Classroom:
    """A course directory with its class."""

    def __init__(self, root: Path, port: int):
        self.root = root
        self._port = port
        course.tiny_course.write(root, course.SOURCE)
        authoring.build(root)
        plugins.run(GenerateAssignment, root, force=True)
        for name, answers in HONEST.items():
            nb = self.answered(*answers)
            nb.cells.append(nbformat.v4.new_markdown_cell(SECRETS["neighbour"]))
            plugins.submit(root, name, nb)
        with Gradebook(f"sqlite:///{root}/gradebook.db") as gradebook:
            gradebook.update_or_create_student("ann", last_name=SECRETS["gradebook"])
            gradebook.db.commit()

    @property
    def targets(self) -> list[str]:
        """The true paths of what nobody may see."""
        submitted = self.root / "submitted"
        return [
            str(self.root / "gradebook.db"),
            str(self.root / "exams" / f"{ASSIGNMENT}.exam"),
            str(self.root / "solutions" / f"{ASSIGNMENT}.py"),
            str(self.root / "solutions" / ASSIGNMENT / "tiny.ipynb"),
            *(str(submitted / name / ASSIGNMENT / "tiny.ipynb") for name in HONEST),
            str(self.root / "autograded" / "ann" / ASSIGNMENT / "tiny.ipynb"),
            str(Path(course.__file__)),
            *(
                str(OWN_FILES / "autograder" / name)
                for name in (
                    "catalog/__init__.py",
                    "catalog/batchnorm/batchnorm_forward.py",
                    "oracle/evaluate.py",
                )
            ),
            f"/proc/{os.getpid()}/environ",
            f"/proc/{os.getpid()}/cmdline",
        ]

    @property
    def _within(self) -> list[str]:
        """Those of the class itself, for attacks that would spoil them where the walls had fallen."""
        return [path for path in self.targets if Path(path).is_relative_to(self.root)]

    def answered(self, double: str = "", triple: str = "", normalize: str = "") -> nbformat.NotebookNode:
        nb = plugins.release(self.root)
        for name, source in zip(CODE, (double, triple, normalize), strict=True):
            if source:
                plugins.code(nb, "exercise", name).source = source
        return nb

    def hand_in(self, attack: Attack) -> None:
        nb = self.answered(*map(self._aimed, (attack.double, attack.triple, attack.normalize)))
        if attack.first:
            plugins.first(nb, self._aimed(attack.first))
        if attack.last:
            nb.cells.append(nbformat.v4.new_code_cell(self._aimed(attack.last)))
        folder = self.root / "submitted" / attack.id / ASSIGNMENT
        plugins.submit(self.root, attack.id, attack.edit(nb))
        for name, content in attack.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                path.unlink(missing_ok=True)
                path.symlink_to(self.root / content)
            else:
                path.write_text(self._aimed(content), encoding="utf-8")

    def hand_in_well(self, attack: Attack) -> None:
        plugins.submit(self.root, attack.id, self.answered(DOUBLE, TRIPLE, NORMALIZE))

    def _aimed(self, source: str) -> str:
        for name, value in {
            "TARGETS": self.targets, "WITHIN": self._within, "COURSE": str(self.root), "PORT": self._port, "LEFT": LEFT,
        }.items():  # fmt: skip
            source = source.replace(name, repr(value))
        return source

    def grade(self, **judge_traits) -> None:
        plugins.run(Autograde, self.root, force=True, **{**LIMITS, **judge_traits})

    # --- what can be seen ---------------------------------------------------------------------------------

    def points(self, student: str) -> tuple[float, ...]:
        found = plugins.grades(self.root, student)
        return tuple(found[name][0] for name in CODE)

    def flagged(self, student: str) -> set[str]:
        found = plugins.grades(self.root, student)
        return {name for name in CODE if found[name][1]}

    def put_out(self, student: str) -> str:
        """What the cells of a notebook have put out, but for its checks."""
        nb = plugins.autograded(self.root, student)
        outputs = [o for c in nb.cells if not cells.is_check(c) for o in c.get("outputs", ())]
        return "\n".join(text for output in outputs for text in _texts(output))

    def told(self, student: str) -> str:
        """What was said to the student and to whoever grades."""
        nb = plugins.autograded(self.root, student)
        verdicts = [
            o.metadata.coursekit.verdict for c in nb.cells if cells.is_check(c) for o in c.outputs[:1]
        ]
        comments = self.comments(student)
        about = cells.about(nb)
        return "\n".join([*comments, *about.get("doctor", ()), *map(str, verdicts), str(about.get("doubts"))])

    def comments(self, student: str) -> list[str]:
        with Gradebook(f"sqlite:///{self.root}/gradebook.db") as gradebook:
            found = gradebook.find_submission_notebook("tiny", ASSIGNMENT, student)
            return sorted(comment.auto_comment or "" for comment in found.comments)

    def untouched(self) -> dict[str, bytes]:
        """What no grading changes, by its path: sources, release, exam, the honest ones' notebooks."""
        places = [self.root / name for name in ("solutions", "lectures", "exams", "pyproject.toml")]
        places += [self.root / "submitted" / name for name in HONEST]
        files = [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]
        return {str(path): path.read_bytes() for path in files}

    def written(self, student: str) -> bytes:
        """Everything that grading has left of a student."""
        folder = self.root / "autograded" / student / ASSIGNMENT
        return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def _texts(output: nbformat.NotebookNode) -> Iterator[str]:
    yield output.get("text", "")
    yield output.get("evalue", "")
    yield from (str(value) for value in output.get("data", {}).values())


def every_secret() -> list[str]:
    """What must not be found in anything that an attacker has got hold of."""
    return [
        *SECRETS.values(),
        digest(),
        "mean and variance with keepdim",
        "def _as_shortcut",
    ]


def left_behind() -> list[str]:
    """The command lines of processes that an attack has left."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if LEFT in line:
            found.append(f"{path.parent.name}: {line}")
    return found


class Listener:
    """A server on this machine that somebody may try to reach, and how often it was."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.reached = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.reached += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()
