"""How the answers of an exercise are written: right ones as plain functions and classes, a mistake as an edit of one.

Below the exercise's claims stand its answers::

    answers = Answers(CLAIMS)

    @answers.right
    def by_axes(x, factor):
        \"\"\"one axis, then the other\"\"\"
        return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    answers.edits(\"\"\"
    rows_only: all
    - .repeat_interleave(factor, 3)
    You repeated the rows and not the columns.
    Do the same along axis 3.
    \"\"\")

    EXERCISE = answers.exercise()

A block starts with the mistake's name and the claims that it fails (``all``, or ``all but`` some). Text behind ``-``
occurs once in the right answer above, a part of a line or whole lines, and gives way to what stands behind ``+``; a
line ``...`` parts two changes where the first has no ``+``. Then the mistake is told, and its repair; a line that goes
on is indented. What is no small edit is written out, under ``@answers.wrong``.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import re
import symtable
import sys
import textwrap
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from autograder.catalog.texts import Block, blocks, joined
from autograder.exercise import Claim, Exercise, Misconception, Variant, names

C = TypeVar("C", bound=Claim)
Thing = TypeVar("Thing", bound=Callable[..., Any])
PACKAGE = __name__.rpartition(".")[0]
ROOM = "catalogued"
"""The package that single answers seem to stand in: the learner's side, not ours."""


class EditError(ValueError):
    """An edit that cannot be read or does not fit its right answer; says file, line and the name of its block."""


class Change(NamedTuple):
    """Lines of a right answer, and those that take their place."""

    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """An answer as it is written: a text that stands alone, and the object that it makes, made when it is needed.

    Attributes:
        exercise: whose answer it is; the object bears that name.
        name: which answer it is.
        things: functions and classes of the catalogue that the text consists of, the answer itself last.
        changes: what is changed in their text.
    """

    exercise: str
    name: str
    things: tuple[Any, ...]
    changes: tuple[Change, ...] = ()

    @property
    def before(self) -> str:
        """The text of the answer itself and what it uses, before any change."""
        return "\n\n\n".join(_written(thing) for thing in self.things)

    @cached_property
    def body(self) -> str:
        """That text after the changes, under the exercise's name, without imports."""
        return _renamed(changed(self.before, self.changes), self.things[-1].__name__, self.exercise) + "\n"

    def imports(self, known: Collection[str] = ()) -> list[str]:
        """The import lines that the text needs, as the catalogue has them; names that are ``known`` need none."""
        body = ast.parse(self.body).body
        own = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        used = _asked_for(self.body) - own - set(known)
        found: dict[str, None] = {}
        for module in dict.fromkeys(thing.__module__ for thing in self.things):
            for name, line in _imports(module).items():
                if name in used:
                    found.setdefault(line)
        return list(found)

    def text(self, known: Collection[str] = ()) -> str:
        """What a learner could have typed into a module where those names are known."""
        return "\n".join([*self.imports(known), "", "", self.body]).lstrip()

    @cached_property
    def answer(self) -> Any:
        """The object, of a module of its own whose source can be had."""
        return self.below({})

    def below(self, setup: Mapping[str, Any]) -> Any:
        """The object that the text makes below what a notebook has set up."""
        text, file = self.text(setup.keys()), f"<{self.exercise}: {self.name}>"
        if setup:
            file = f"<{self.exercise}: {self.name}, in its lecture>"
        module = types.ModuleType(f"{ROOM}.{re.sub(r'[^.0-9A-Za-z]+', '_', file[1:-1])}")
        vars(module).update({k: v for k, v in setup.items() if not k.startswith("__")}, __file__=file)
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        # Where `inspect` looks for the source of a class, and `pickle` for the class, through its package.
        sys.modules.setdefault(ROOM, types.ModuleType(ROOM))
        sys.modules[module.__name__] = module
        exec(compile(text, file, "exec"), module.__dict__)
        return getattr(module, self.exercise)


class Answers(Generic[C]):
    """The answers to one exercise, in the order in which they are written."""

    def __init__(self, claims: Exercise[C]) -> None:
        self._claims = claims
        self._right: list[Variant] = []
        self._base: Any = None
        self._wrong: list[Misconception] = []

    def right(self, answer: Thing) -> Thing:
        """Another way to write a right answer; its docstring says which."""
        name = " ".join((answer.__doc__ or "").split())
        if not name:
            raise ValueError(f"{_place(answer)}: a right answer's docstring is its name, and there is none")
        self._right.append(Variant(name, Code(self._claims.id, name, _parts(answer))))
        self._base = answer
        return answer

    def wrong(self, fails: str) -> Callable[[Thing], Thing]:
        """A mistake that is no small edit: named by the answer's own name, told in the two paragraphs of its
        docstring, what it is and how it is mended. ``fails`` as at the head of an edit."""

        def add(answer: Thing) -> Thing:
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", answer.__name__).lower().strip("_")
            told = [" ".join(part.split()) for part in inspect.cleandoc(answer.__doc__ or "").split("\n\n")]
            if len(told) != 2 or not all(told):
                raise ValueError(
                    f"{_place(answer)}: a wrong answer's docstring has two paragraphs, the mistake and its repair"
                )
            try:
                failed = self._failed(fails)
            except ValueError as error:
                raise ValueError(f"{_place(answer)}: {error}") from None
            mistake, repair = told
            code = Code(self._claims.id, name, _parts(answer))
            self._add(Misconception(name, mistake, repair, failed, code))
            return answer

        return add

    def edits(self, text: str) -> None:
        """Mistakes that are edits of the right answer above, a block each. Raises :class:`EditError`."""
        if self._base is None:
            raise ValueError(f"{self._claims.id}: edits are of the right answer above, and there is none yet")
        things = _parts(self._base)
        before = Code(self._claims.id, "", things).before
        for block in blocks(text):
            try:
                name, fails, changes, mistake, repair = _read(block.lines)
                changed(before, changes)
                made = Misconception(
                    name, mistake, repair, self._failed(fails), Code(self._claims.id, name, things, changes)
                )
                self._add(made)
            except ValueError as error:
                _refuse(self._base, text, block, str(error))

    def exercise(self) -> Exercise[C]:
        """The entry of the catalogue: the claims with the answers."""
        return replace(self._claims, right=tuple(self._right), misconceptions=tuple(self._wrong))

    def _failed(self, fails: str) -> tuple[str, ...]:
        every, told = names(self._claims.properties), fails.split()
        but = told[:1] == ["all"]
        if but and told[1:2] not in ([], ["but"]):
            raise ValueError(f"behind `all` comes nothing or `but`, got {told[1]!r}")
        some = told[2:] if but else told
        if unknown := [name for name in some if name not in every]:
            raise ValueError(f"no claim is called {unknown[0]!r}; there are {', '.join(every)}")
        return tuple(name for name in every if (name in some) != but)

    def _add(self, made: Misconception) -> None:
        if made.name in [m.name for m in self._wrong]:
            raise ValueError(f"a second mistake of the name {made.name!r}")
        self._wrong.append(made)


# -- edits as text ------------------------------------------------------------------------------------------


def _read(lines: Sequence[str]) -> tuple[str, str, tuple[Change, ...], str, str]:
    rest = iter(joined(lines))
    name, colon, fails = next(rest).partition(":")
    if not colon or not name.isidentifier():
        raise ValueError("a block starts with `name: claims`")
    changes: list[tuple[list[str], list[str]]] = []
    told: list[str] = []
    apart = True
    for line in rest:
        mark, text = line[:1], line[2:]
        if line == "...":
            apart = True
        elif mark not in ("-", "+") or line[1:2] not in ("", " "):
            told.append(line)
        elif told:
            raise ValueError("changes come before the sentences")
        elif mark == "-":
            if apart or changes[-1][1]:
                changes.append(([], []))
            changes[-1][0].append(text)
            apart = False
        elif apart:
            raise ValueError("the first line of a change is one with `-`")
        else:
            changes[-1][1].append(text)
    if not changes:
        raise ValueError("nothing is changed")
    if len(told) != 2:
        raise ValueError(f"two sentences are told, the mistake and its repair; here are {len(told)}")
    mistake, repair = told
    return name, fails, tuple(Change(tuple(old), tuple(new)) for old, new in changes), mistake, repair


def changed(text: str, changes: Sequence[Change]) -> str:
    """The text after the changes; ValueError where what gives way does not occur exactly once."""
    lines = text.split("\n")
    found = [(*_find(lines, change.old), change) for change in changes]
    touched = [at + n for at, start, change in found if start is None for n in range(len(change.old))]
    parts = {at for at, start, _ in found if start is not None}
    if len(set(touched)) < len(touched) or parts & set(touched):
        raise ValueError("two changes touch the same line")
    for at, start, change in sorted(found, key=lambda f: (f[0], f[1] or 0), reverse=True):
        count = len(change.old)
        if start is None:
            margin = _margin(lines[at])
            lines[at : at + count] = [margin + line if line else line for line in change.new]
        else:
            line, old = lines[at], change.old[0]
            head, tail = line[:start], line[start + len(old) :]
            first, *rest = change.new or ("",)
            margin = _margin(line)
            made = [head + first, *(margin + line if line else line for line in rest)]
            made[-1] += tail
            lines[at : at + 1] = made if "".join(made).strip() else []
    return "\n".join(lines)


def _find(lines: Sequence[str], old: Sequence[str]) -> tuple[int, int | None]:
    """Where it stands: the number of the line and the place in it, None for whole lines."""
    if len(old) == 1:
        places = [
            (number, match.start())
            for number, line in enumerate(lines)
            for match in re.finditer(re.escape(old[0]), line)
        ]
        whole = [(number, None) for number, _ in places if lines[number].strip() == old[0]]
        found: list[tuple[int, int | None]] = list(whole or places) if len(places) == 1 else list(places)
    else:
        found = [
            (number, None)
            for number in range(len(lines) - len(old) + 1)
            if _same(lines[number : number + len(old)], old)
        ]
    if len(found) != 1:
        shown = " ⏎ ".join(old)
        raise ValueError(f"`{shown}` occurs {len(found)} times in the right answer, not once")
    return found[0]


def _same(lines: Sequence[str], old: Sequence[str]) -> bool:
    margin = _margin(lines[0])
    return all(line == margin + text if text else not line for line, text in zip(lines, old, strict=True))


def _margin(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _refuse(base: Any, text: str, block: Block, why: str) -> NoReturn:
    file = inspect.getsourcefile(base) or "?"
    tree = ast.parse("".join(linecache.getlines(file)) or "0")
    starts = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value == text]
    name = block.lines[0].partition(":")[0]
    raise EditError(f"{file}:{(starts or [0])[0] + block.first}: {name}: {why}") from None


# -- the text of answers ------------------------------------------------------------------------------------


def _place(thing: Any) -> str:
    return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}: {thing.__name__}"


@cache
def _written(thing: Any) -> str:
    """The source of a function or class, without decorators and docstring."""
    text = textwrap.dedent(inspect.getsource(thing))
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    lines = text.splitlines()
    if ast.get_docstring(node) is not None:
        told = node.body[0]
        del lines[told.lineno - 1 : told.end_lineno]
    return "\n".join(lines[node.lineno - 1 :]).rstrip()


def _parts(answer: Any) -> tuple[Any, ...]:
    """The answer and what it uses of the catalogue: what exercises share first, the answer last."""
    found: dict[str, Any] = {}
    waiting = [answer]
    while waiting:
        thing = waiting.pop()
        if thing.__name__ in found:
            continue
        found[thing.__name__] = thing
        home = vars(sys.modules[thing.__module__])
        for name in _asked_for(_written(thing)):
            used = home.get(name)
            ours = str(getattr(used, "__module__", "")).startswith(f"{PACKAGE}.")
            if ours and used is not answer and isinstance(used, types.FunctionType | type):
                waiting.append(used)
    uses = [t for t in found.values() if t is not answer]
    place = {t: (t.__module__ == answer.__module__, inspect.getsourcelines(t)[1]) for t in uses}
    return (*sorted(uses, key=place.__getitem__), answer)


def _asked_for(text: str) -> set[str]:
    """The names that a text takes from its module: none that a function has for its own."""

    def found(table: symtable.SymbolTable) -> Iterator[str]:
        outermost = table.get_type() == "module"
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (outermost or symbol.is_global()):
                yield symbol.get_name()
        for child in table.get_children():
            yield from found(child)

    return set(found(symtable.symtable(text, "<answer>", "exec")))


@cache
def _imports(module: str) -> dict[str, str]:
    """The name that each import at the top of a module makes, and a line that makes it alone."""
    found = {}
    file = sys.modules[module].__file__
    for node in ast.parse("".join(linecache.getlines(file or ""))).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                start = f"from {node.module} import" if isinstance(node, ast.ImportFrom) else "import"
                found[name] = f"{start} {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
    return found


def _renamed(text: str, name: str, new: str) -> str:
    return re.sub(rf"\b{re.escape(name)}\b", new, text)
