"""The house stands: imports run down its floors, close no circle, and a student's kernel loads no solution."""

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from autograder.sandbox import walls

ROOT = Path(__file__).parents[1]
PACKAGES = ("autograder", "coursekit")

# From the roof down: a room uses those below it, and those beside it as long as that closes no circle.
FLOORS = (
    {"cli"},
    {"classroom", "gate", "course"},
    {"plugins", "learner", "lms"},
    {"oracle", "authoring", "report", "sample_class"},
    {"catalog", "feedback", "attempt", "agent"},
    {
        "lean",
        "exercise",
        "draw",
        "values",
        "wire",
        "statements",
        "cells",
        "matching",
        "order",
        "endings",
        "reading",
        "foresight",
        "doctor",
        "beside",
        "unfinished",
        "named",
        "sandbox",
    },
)
# Two rooms of one floor of which the first lies under the second.
UNDER = {
    ("values", "wire"),
    ("agent", "attempt"),
    ("cells", "doctor"),
    ("cells", "matching"),
    ("matching", "doctor"),
    ("cells", "order"),
    ("order", "doctor"),
    ("endings", "doctor"),
    ("cells", "reading"),
    ("reading", "doctor"),
    ("beside", "doctor"),
    ("statements", "cells"),
    ("cells", "foresight"),
    ("foresight", "doctor"),
}

# What a kernel loads where a class is graded, and what must never lie there.
KERNEL = (
    "autograder.agent",
    "autograder.learner",
    "autograder.sandbox",
    "autograder.values",
    "autograder.wire",
)
SECRET = ("autograder.catalog", "autograder.oracle")
# Taken at home only, where the learner's process is the oracle's; and only late, inside a function.
AT_HOME = {("autograder.learner", f"autograder.{room}") for room in ("catalog", "feedback", "oracle")}


class Arrow(NamedTuple):
    """One import: from a module to a module, where it stands, and whether a function makes it."""

    source: str
    target: str
    place: str
    late: bool


def modules(root: Path) -> dict[str, Path]:
    """Every module of the packages by its name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(root: Path) -> list[Arrow]:
    """Every import between modules of the packages, the late ones too."""
    every = modules(root)
    found = (arrow for name, path in every.items() for arrow in _of_module(name, path, root, every))
    return list(dict.fromkeys(found))


def _of_module(name: str, path: Path, root: Path, every: dict[str, Path]) -> Iterator[Arrow]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        for target in _targets(node, package, every):
            if target != name:
                place = f"{path.relative_to(root).as_posix()}:{node.lineno}"
                yield Arrow(name, target, place, id(node) in late)


def _targets(node: ast.AST, package: str, every: dict[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in every)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *([base] if base else [])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            if inner in every:
                yield inner
            elif base in every:
                yield base
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        # A name that is put together may be any module below its fixed beginning.
        text = ast.unparse(node.args[0]).strip("f'\"").replace("{__name__}", package)
        fixed = text.partition("{")[0].rstrip(".")
        yield from (m for m in every if m == fixed or ("{" in text and m.startswith(fixed + ".")))


def room(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def faults(root: Path) -> list[str]:
    """Everything that is wrong with the imports below ``root``: which line, and what it breaks."""
    found = arrows(root)
    return [
        *_without_a_floor(root),
        *(f"{a.place}: {a.source} imports {a.target}: {why}" for a in found for why in _broken(a)),
        *_circles(found),
        *_into_kernels(found),
    ]


def _without_a_floor(root: Path) -> Iterator[str]:
    known = set().union(*FLOORS)
    for module, path in modules(root).items():
        if module.startswith("autograder.") and room(module) not in known:
            yield f"{path.relative_to(root).as_posix()}:1: {module} stands on no floor"


def _floor(module: str) -> int:
    return next((n for n, rooms in enumerate(FLOORS) if room(module) in rooms), -1)


def _broken(arrow: Arrow) -> Iterator[str]:
    one, other = (name.partition(".")[0] for name in (arrow.source, arrow.target))
    if one == "coursekit" and other == "autograder":
        yield "coursekit knows nothing of autograder"
    if one == other == "autograder" and room(arrow.source) and room(arrow.target):
        up = _floor(arrow.target) < _floor(arrow.source)
        above = (room(arrow.source), room(arrow.target)) in UNDER
        if up or above:
            yield f"{room(arrow.target)} lies above {room(arrow.source)}"


def _circles(found: list[Arrow]) -> Iterator[str]:
    """One line for each import that closes a circle of modules."""
    ways: dict[str, list[Arrow]] = {}
    for arrow in found:
        ways.setdefault(arrow.source, []).append(arrow)
    done: set[str] = set()
    path: list[str] = []

    def walk(module: str) -> Iterator[str]:
        path.append(module)
        for arrow in ways.get(module, ()):
            if arrow.target in path:
                circle = " → ".join([*path[path.index(arrow.target) :], arrow.target])
                yield f"{arrow.place}: closes the circle {circle}"
            elif arrow.target not in done:
                yield from walk(arrow.target)
        path.pop()
        done.add(module)

    for module in list(ways):
        if module not in done:
            yield from walk(module)


def _into_kernels(found: list[Arrow]) -> Iterator[str]:
    ways: dict[str, list[Arrow]] = {}
    for arrow in found:
        if not (arrow.late and (arrow.source, _top(arrow.target)) in AT_HOME):
            ways.setdefault(arrow.source, []).append(arrow)
    reached = {m for m in {a.source for a in found} | {a.target for a in found} if _top(m) in KERNEL}
    waiting = sorted(reached)
    while waiting:
        for arrow in ways.get(waiting.pop(), ()):
            if _top(arrow.target) in SECRET:
                yield f"{arrow.place}: {arrow.source} brings {arrow.target} into a student's kernel"
            elif arrow.target not in reached:
                reached.add(arrow.target)
                waiting.append(arrow.target)


def _top(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_the_house_stands():
    assert faults(ROOT) == []


def test_every_arrow_that_is_known_is_found():
    """A reader of imports that misses some proves nothing."""
    found = {(a.source, a.target, a.late) for a in arrows(ROOT)}
    assert ("autograder.attempt", "autograder.agent", False) in found
    assert ("autograder.learner", "autograder.oracle.evaluate", True) in found
    assert ("autograder.oracle.evaluate", "autograder.catalog", False) in found
    assert any(source == "autograder.catalog" and late for source, _, late in found)
    assert len(found) > 150


@pytest.fixture
def house(tmp_path):
    """``house({"autograder/wire.py": "import …"})``: the faults of a small tree."""

    def build(files):
        sound = {
            "autograder/__init__.py": "from autograder.learner import check",
            "autograder/learner.py": "from autograder import wire\ndef check():\n    from autograder import oracle",
            "autograder/wire.py": "from autograder import values",
            "autograder/values.py": "",
            "autograder/oracle/__init__.py": "from autograder.catalog import find",
            "autograder/catalog/__init__.py": "def find(name): import_module(f'{__name__}.{name}')",
            "autograder/catalog/unet.py": "from coursekit import unet",
            "coursekit/__init__.py": "",
            "coursekit/unet.py": "import torch",
        }
        for name, text in (sound | files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(textwrap.dedent(text))
        return faults(tmp_path)

    return build


def test_a_sound_house_has_no_fault(house):
    assert house({}) == []


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (
            {"autograder/values.py": "\n\ndef late():\n    from autograder.oracle import evaluate"},
            "autograder/values.py:4: autograder.values imports autograder.oracle: oracle lies above values",
        ),
        (
            {"autograder/values.py": "import autograder.wire"},
            "autograder/values.py:1: autograder.values imports autograder.wire: wire lies above values",
        ),
        (
            {"coursekit/unet.py": "import torch\ndef late():\n    import autograder.wire"},
            "coursekit/unet.py:3: coursekit.unet imports autograder.wire: coursekit knows nothing of autograder",
        ),
        (
            {"coursekit/fcn.py": "from . import unet", "coursekit/unet.py": "def late(): from .fcn import FCN"},
            "coursekit/fcn.py:1: closes the circle coursekit.unet → coursekit.fcn → coursekit.unet",
        ),
        (
            {"autograder/catalog/unet.py": "from autograder.catalog import find"},
            "autograder/catalog/unet.py:1: closes the circle",
        ),
        (
            {"autograder/learner.py": "from autograder import oracle"},
            "autograder/learner.py:1: autograder.learner brings autograder.oracle into a student's kernel",
        ),
        (
            {"autograder/learner.py": "import autograder.feedback", "autograder/feedback.py": "def f():\n import autograder.catalog"},
            "autograder/feedback.py:2: autograder.feedback brings autograder.catalog into a student's kernel",
        ),
        ({"autograder/attic.py": ""}, "autograder/attic.py:1: autograder.attic stands on no floor"),
    ],
    ids=["up a floor", "within a floor", "coursekit", "circle", "dynamic circle", "kernel", "kernel by detours", "no floor"],
)  # fmt: skip
def test_what_breaks_the_house_is_told_with_its_line(house, files, fault):
    assert any(fault in told for told in house(files)), house({})


def test_behind_the_walls_lies_what_a_kernel_loads_and_nothing_else():
    rooms = {f"autograder.{name.removesuffix('.py')}" for name in walls.LOADED if name != "__init__.py"}
    assert rooms == set(KERNEL)
