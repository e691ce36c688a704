"""Tables that people write themselves: CSV, JSON lines, a JSON list, Parquet.

A row is known by the number that its reader sees: in CSV a spreadsheet's, where the header is row 1, in JSON lines the
line's, elsewhere counted from 1.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from refseg_cli.data import storage
from refseg_cli.data.sources import Problem, Reason, Unusable
from refseg_cli.data.sources.downloads import recognised
from refseg_cli.data.sources.values import brief
from refseg_cli.errors import RefsegError
from refseg_cli.files import parse_json

T = TypeVar("T")

DELIMITERS = ",;\t"  # a spreadsheet takes ; where the comma is for decimals
LONGEST_CELL = 1 << 27  # characters; Python's own limit is below what a mask may take
_SPACES = re.compile(r"[\s-]+")


class Row(NamedTuple):
    """number: of the row, for messages.  cells: column -> value, without empty ones.  fault: why it is no row."""

    number: int
    cells: dict[str, Any]
    fault: str = ""


def read_rows(path: Path) -> tuple[list[Row], str]:
    """The rows of a table and the file's SHA-256. Columns' names are in small letters, with _ between words.

    Raises:
        RefsegError: no such file, none of these forms, or a header that is none.
    """
    place = storage.locate(str(path))
    if path.suffix.lower() == ".parquet":
        from refseg_cli.data import tables

        return [_row(n, cells) for n, cells in enumerate(tables.read_rows(str(path)), start=1)], place.sha256()
    data = place.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        unread = RefsegError(f"{path}: not UTF-8 at byte {error.start}", hint="save it as UTF-8 (CSV UTF-8 in Excel)")
        raise recognised(path, data, form="CSV or JSON", otherwise=unread) from error
    start = text.lstrip()[:1]
    if not start or start == "<":
        raise recognised(
            path,
            data,
            form="CSV or JSON",
            otherwise=RefsegError(f"{path}: no table", hint="rows as CSV, JSON, JSON lines or Parquet"),
        )
    if start == "[":
        rows = list(_json_list(text, path))
    else:
        rows = list(_json_lines(text) if start == "{" else _csv(text, path))
    return rows, place.sha256()


def use(rows: Iterable[Row], of: Callable[[Row], T], *, file: str, problems: list[Problem]) -> Iterator[T]:
    """What `of` makes of each row; those that cannot be used are appended to `problems`, with their numbers."""
    for row in rows:
        try:
            if row.fault:
                raise Unusable(Reason.BROKEN_REF, row.fault)
            yield of(row)
        except Unusable as error:
            problems.append(Problem(error.reason, file, (), f"row {row.number}: {error.detail}"))


def first(cells: Mapping[str, Any], columns: Iterable[str]) -> Any:
    """The value of the first of these columns that is there; None if none is."""
    return next((cells[name] for name in columns if name in cells), None)


def check_columns(rows: Sequence[Row], path: Path, wanted: Mapping[str, Sequence[str]]) -> None:
    """See that a table has a column for everything that is wanted.

    wanted: what -> the names that its column may have.

    Raises:
        RefsegError: one is missing.
    """
    if broken := [row for row in rows if row.fault] if not any(row.cells for row in rows) else []:
        raise RefsegError(f"{path}: row {broken[0].number}: {broken[0].fault}")
    columns = dict.fromkeys(name for row in rows for name in row.cells)
    for what, names in wanted.items():
        if not any(name in columns for name in names):
            there = f"there is {', '.join(columns)}" if columns else f"{len(rows)} rows"
            raise RefsegError(
                f"{path}: no row has a column {what!r}", hint=f"{there}; it may be called {', '.join(names)}"
            )


def _row(number: int, cells: Any) -> Row:
    if not isinstance(cells, dict):
        return Row(number, {}, f"{brief(cells)} in place of an object")
    return Row(number, {_column(name): value for name, value in cells.items() if not is_empty(value)})


def is_empty(value: Any) -> bool:
    """Whether a cell says nothing; pandas writes NaN for that."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def _column(name: str) -> str:
    return _SPACES.sub("_", name.strip().lower())


def _json_list(text: str, path: Path) -> Iterator[Row]:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise RefsegError(f"{path}: not valid JSON: {error}") from error
    return (_row(n, cells) for n, cells in enumerate(value, start=1))


def _json_lines(text: str) -> Iterator[Row]:
    # Not splitlines, to which U+2028 and the like inside a phrase are line ends too.
    for number, line in enumerate(text.split("\n"), start=1):
        if line and not line.isspace():
            try:
                yield _row(number, parse_json(line))
            except ValueError as error:
                yield Row(number, {}, f"not JSON: {error}")


def _csv(text: str, path: Path) -> Iterator[Row]:
    first = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        # Strict: a quote that nobody closes would make one cell of all the rows that follow.
        yield from _csv_rows(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), path)
    finally:
        csv.field_size_limit(limit)


def _csv_rows(reader: Iterable[list[str]], path: Path) -> Iterator[Row]:
    header: list[str] = []
    for number, cells in _numbered(reader, path):
        if not any(map(str.strip, cells)):
            continue
        if not header:
            header = [_column(name) for name in cells]
            if twice := {name for name in header if name and header.count(name) > 1}:
                raise RefsegError(
                    f"{path}: row {number}: two columns {min(twice)!r}", hint="the first row names columns"
                )
        elif len(cells) > len(header):
            yield Row(number, {}, f"{len(cells)} cells under {len(header)} columns: put text with commas in quotes")
        else:
            yield _row(number, dict(zip(header, cells, strict=False)))


def _numbered(reader: Iterable[list[str]], path: Path) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            yield number, cells
    except csv.Error as error:
        raise RefsegError(
            f"{path}: row {number + 1}: not CSV: {error}",
            hint='a cell that begins with a quote ends with one, and has "" for each one inside',
        ) from error


def as_json(value: Any) -> Any:
    """A cell's value where a table of text holds JSON, such as a list; anything else as it is.

    Raises:
        ValueError: it begins like JSON and is none.
    """
    return parse_json(value) if isinstance(value, str) and value.lstrip()[:1] in ("[", "{") else value
