"""A notebook's file as strict JSON of format 4, whatever an editor, a merge or another decade has made of it.

Nothing here depends on a release, and nothing is said: what was odd is handed back, for the doctor to tell.
"""

from __future__ import annotations

import base64
import binascii
import copy
import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import nbformat

from autograder.cells import KEY, about, grade_id_of

OLD = (1, 2, 3)
"""Versions of the notebook format that nbformat still reads and converts."""

_CONTENT = ("cells", "worksheets", "source", "input")
"""Keys under which a notebook holds what somebody wrote."""
_TOLD = (*_CONTENT, "metadata", "outputs", "attachments", "nbgrader", KEY, "cell_type")
"""Keys of which it is said where they stand twice."""

_MIME = re.compile(r"[\w.+-]+/[\w.+-]+")

STAND_IN = {
    "image/svg+xml": base64.b64encode(
        b'<svg xmlns="http://www.w3.org/2000/svg" width="260" height="40"><rect width="260" height="40" '
        b'fill="#eee"/><text x="12" y="25" font-family="sans-serif" font-size="14">This picture is not in the '
        b"file.</text></svg>"
    ).decode()
}
"""What is shown in the place of a picture that is not there."""


@dataclass
class Oddities:
    """What a file held that strict JSON has no place for.

    Attributes:
        numbers: how many NaN and Infinity; null stands in their place.
        doubled: keys that an object held twice, of those that matter.
    """

    numbers: int = 0
    doubled: list[str] = field(default_factory=list)


def loads(text: str) -> tuple[Any, Oddities]:
    """What a JSON text holds, finite and each key once. Raises ValueError and RecursionError as ``json.loads``."""
    odd = Oddities()

    def nothing(_: str) -> None:
        odd.numbers += 1

    def number(digits: str) -> float | None:
        value = float(digits)
        if math.isfinite(value):
            return value
        odd.numbers += 1
        return None

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in pairs:
            if key in made:
                if key in _TOLD:
                    odd.doubled.append(key)
                value = _together(key, made[key], value)
            made[key] = value
        return made

    return json.loads(text, parse_constant=nothing, parse_float=number, object_pairs_hook=once), odd


def _together(key: str, first: Any, last: Any) -> Any:
    """What two values of one key hold: both where that can be. Every editor shows the last, but one that holds nothing
    must not hide the other."""
    if key in _CONTENT:
        return max(last, first, key=_holds)
    if isinstance(first, dict) and isinstance(last, dict):
        for name, value in last.items():
            first[name] = _together(name, first[name], value) if name in first else value
        return first
    if key == "outputs" and isinstance(first, list) and isinstance(last, list):
        if first != last:
            first += last
        return first
    if key == "cell_type":
        return "code" if first == "code" else last
    return max(last, first, key=lambda value: (isinstance(value, dict | list), bool(value)))


def _holds(value: Any) -> tuple[bool, bool]:
    """Whether the value of a key that stands twice holds anything of the course, and anything at all."""
    if not isinstance(value, list):
        return False, bool(str(value).strip())
    parts = [part for part in value if isinstance(part, Mapping)]
    inner = [cell for part in parts for cell in part.get("cells") or () if isinstance(cell, Mapping)]
    cells = [*parts, *inner]
    written = any(str(part).strip() for part in value if isinstance(part, str)) or any(map(source_of, cells))
    return any(grade_id_of(cell) or about(cell) for cell in cells), written


def is_old(data: Mapping[str, Any]) -> bool:
    """Whether the cells of a notebook lie where only an older format has them, whatever version it names."""
    cells = data.get("cells")
    if data.get("nbformat") == 1 and isinstance(cells, list):
        return not any(isinstance(cell, Mapping) and "source" in cell for cell in cells)
    return "worksheets" in data and not cells


def converted(data: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook of an older format in format 4, by nbformat's own reader. Raises ValueError."""
    version = data.get("nbformat")
    whole = {**data, "nbformat": version if version in OLD else 3}
    problem: Exception | None = None
    # Of an old notebook it is mostly an output that the reader stumbles over.
    for tried in (whole, _without_outputs(whole)):
        try:
            return dict(nbformat.reads(json.dumps(tried), as_version=4))
        except Exception as error:
            problem = error
    raise ValueError(f"format {version} could not be converted: {problem}")


def _without_outputs(data: Mapping[str, Any]) -> dict[str, Any]:
    bare = copy.deepcopy(dict(data))
    for sheet in _mappings(bare.get("worksheets")):
        for cell in _mappings(sheet.get("cells")):
            if cell.get("cell_type") == "code":
                cell["outputs"] = []
    return bare


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    yield from (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def source_of(cell: Mapping[str, Any]) -> Any:
    """What was written into a cell, also where it stands under format 3's name for it."""
    found = cell.get("source")
    return found if found is not None else cell.get("input", "")


# --- pictures ---------------------------------------------------------------------------------------------


def pictures(source: str, given: Any) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The attachments of a markdown cell, sound and under the names that its page asks for, and the names of those
    that are missing or no pictures: a stand-in is shown for them."""
    offered = given if isinstance(given, Mapping) else {}
    kept = {str(name): sound for name, bundle in offered.items() if (sound := _sound(bundle))}
    lost = [str(name) for name in offered if str(name) not in kept]
    plain = {unquote(name): bundle for name, bundle in kept.items()}
    for name in _asked(source) if "attachment:" in source else ():
        if name in kept:
            continue
        asked = unquote(html.unescape(name))
        if asked not in plain and asked not in lost:
            lost.append(asked)
        kept[name] = plain.get(asked, STAND_IN)
    return kept, lost


def _sound(bundle: Any) -> dict[str, str]:
    """What of one attachment is a media type with data."""
    offered = bundle if isinstance(bundle, Mapping) else {}
    encoded = {kind: _encoded(data) for kind, data in offered.items() if _MIME.fullmatch(str(kind))}
    return {str(kind): data for kind, data in encoded.items() if data}


def _encoded(data: Any) -> str:
    """Base64 in one piece, or "" for anything else."""
    parts = data if isinstance(data, list) else [data]
    if not all(isinstance(part, str) for part in parts):
        return ""
    joined = "".join("".join(parts).split())
    try:
        base64.b64decode(joined, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return joined


def _asked(source: str) -> Sequence[str]:
    """The attachments that the page of a text asks for, by the names it asks by."""
    try:
        from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
    except ImportError:
        return ()  # no page is made here
    names = _Asked()
    try:
        MarkdownWithMath(renderer=IPythonRenderer(escape=False, attachments=names)).render(source)
    except Exception:
        return tuple(names.seen)
    return tuple(names.seen)


class _Asked(dict[str, dict[str, str]]):
    """Has every attachment, and remembers which were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, None] = {}

    def __contains__(self, name: object) -> bool:
        self.seen[str(name)] = None
        return True

    def __getitem__(self, name: str) -> dict[str, str]:
        return STAND_IN
