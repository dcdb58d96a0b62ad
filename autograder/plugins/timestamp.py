"""When a submission was handed in, where its ``timestamp.txt`` may hold anything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dateutil import parser
from nbgrader.converters import Autograde
from nbgrader.utils import parse_utc

NAME = "timestamp.txt"
LONGEST = 200
"""More characters than any date has."""
ENCODINGS = ("utf-8-sig", "utf-16")


def date_of(folder: Path) -> datetime | None:
    """The date in a folder's ``timestamp.txt``, in UTC; None where there is none that can be."""
    path = folder / NAME
    if not path.is_file():
        return None
    for encoding in ENCODINGS:
        with contextlib.suppress(OSError, ValueError, OverflowError, TypeError):
            text = path.read_bytes()[: 4 * LONGEST].decode(encoding).strip()
            date = parse_utc(text) if text and len(text) <= LONGEST and _is_whole(text) else None
            now = datetime.now(UTC).replace(tzinfo=None)
            if date is not None and date < now + timedelta(days=1):
                return date
    return None


def _is_whole(text: str) -> bool:
    """Whether a text names year, month and day: of a bare number or an hour, today would be made."""
    days = {parser.parse(text, default=default, ignoretz=True).date() for default in _OTHER_DAYS}
    return len(days) == 1


_OTHER_DAYS = (datetime(2000, 1, 1), datetime(2003, 2, 2))


def undated(folder: Path) -> bool:
    """Whether a date was handed in that cannot be read."""
    return os.path.lexists(folder / NAME) and date_of(folder) is None


def tolerate(converter: Any) -> None:
    """Have ``nbgrader autograde`` take a submission whose date cannot be read as one without, and grade it anew where it
    came after its grading.

    nbgrader ends at such a file; and where one of two dates is missing it lets the old grade stand.
    """
    if not isinstance(converter, Autograde):
        return
    course, initialize = converter.coursedir, converter.init_destination

    def existing(folder: str) -> datetime | None:
        return date_of(Path(folder))

    def initialized(assignment: str, student: str) -> bool:
        source = Path(converter._format_source(assignment, student))
        graded = Path(converter._format_dest(assignment, student))
        dates_fail = (
            undated(source) or undated(graded) or (date_of(source) is None) != (date_of(graded) is None)
        )
        with _forced(converter, dates_fail and _changed_after(source, graded)):
            return bool(initialize(assignment, student))

    course.get_existing_timestamp = existing
    converter.init_destination = initialized


@contextlib.contextmanager
def _forced(converter: Autograde, wanted: bool) -> Iterator[None]:
    before = converter.force
    converter.force = before or wanted
    try:
        yield
    finally:
        converter.force = before


def _changed_after(source: Path, graded: Path) -> bool:
    """Whether anything was put into one folder after the other was finished."""
    # When a file came here: what it says of its own age may have been kept while it was copied.
    came = [path.lstat().st_ctime_ns for path in source.rglob("*")]
    done = [path.lstat().st_ctime_ns for path in graded.rglob("*")]
    return bool(came and done) and max(came) > max(done)
