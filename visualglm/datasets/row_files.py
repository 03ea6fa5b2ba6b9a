"""Rows of a file of any size, each read on demand.

    .json         [{...}, ...] or {"data": [{...}, ...]}
    .jsonl        one object per line, or the content of a .json file; a .json file may have lines, too
    .csv, .tsv    a line of column names, then rows; separated by commas, semicolons or tabs

Memory holds two offsets per row.
"""

from __future__ import annotations

import csv
import io
import mmap
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import UsageError
from ..files.untrusted_files import open_regular, parse_json
from .text_encoding import require_utf8

TOKEN = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|[{}\[\]]|[^\s,:{}\[\]"]++', re.DOTALL)
"""Tokens of JSON. No backtracking and a single token for an unclosed string keep scanning linear in time."""
OPENING, CLOSING = (b"{", b"["), (b"}", b"]")
WRAPPERS = (b'"data"', b'"rows"', b'"samples"', b'"items"')
"""Names under which a JSON object may hold the list of rows."""
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv")
DELIMITERS = (",", ";", "\t")
MOST_BYTES = 1 << 26
"""Bytes of a row, which may contain images as base64."""
LINE_PIECE = 1 << 20
"""Bytes of a line that are read at once."""
MOST_HEADER = 1 << 20
"""Bytes of the line of column names."""
LONGEST_REASON = 800
LONGEST_FIELD = 1 << 17
"""Characters of a field of a table, unless the caller expects images as base64."""
SEPARATOR = re.compile(rb"(?:\xef\xbb\xbf)?sep=(.)\r?\n", re.IGNORECASE)
"""A first line in which Excel names the separator."""
BOM = b"\xef\xbb\xbf"


class RowError(UsageError):
    """A row that cannot be used; the message names the file and the row."""


@dataclass(frozen=True)
class Header:
    """The column names of a table, its separator, and the offset at which the line of names begins."""

    columns: list[str]
    delimiter: str
    start: int


def check_data_file(path: str | Path) -> Path:
    """Return the path of a file that exists and has a suffix of `SUFFIXES`.

    Raises:
        UsageError: it has not.
    """
    file = Path(path)
    if not file.exists():
        raise UsageError(f"There is no data file {path}. Give a {_listed(SUFFIXES)} file.")
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} has an unknown format. Give a {_listed(SUFFIXES)} file.")
    return file


class RowFile:
    """The objects in a file, indexed from 0; error messages count from 1.

    `known` are the names of columns that the caller knows; the separator of a table is the one that yields most of
    them. `lists` are the names, quoted, under which a JSON object may hold the list of rows. `longest_field` bounds the
    characters of a table's field.

    Raises:
        UsageError: the file does not exist, cannot be read, has an unknown format, or is not UTF-8.
        RowError: (when a row is read) it is not an object.
    """

    def __init__(
        self,
        path: str | Path,
        known: Sequence[str] = (),
        lists: Sequence[bytes] = WRAPPERS,
        longest_field: int = LONGEST_FIELD,
    ) -> None:
        self.path = check_data_file(path)
        self.longest_field = longest_field
        kind = self.path.suffix.lower()
        try:
            require_utf8(self.path)
            self.header = _read_header(self.path, known) if kind in (".csv", ".tsv") else None
            csv.field_size_limit(longest_field)  # of the module: set before each use
            self.offsets = array("q", _scan(self.path, self.header, lists))
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror}). Check the path and the rights.") from error

    def __len__(self) -> int:
        return len(self.offsets) // 2

    def __getitem__(self, number: int) -> dict[str, Any]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        with self._opened() as file:
            return self._read(file, number)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._opened() as file:
            for number in range(len(self)):
                yield self._read(file, number)

    def _opened(self) -> IO[bytes]:
        try:
            return open_regular(self.path)
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be read ({error.strerror}). Check the path and the rights."
            ) from error

    def _read(self, file: IO[bytes], number: int) -> dict[str, Any]:
        start, end = self.offsets[2 * number : 2 * number + 2]
        if end - start > MOST_BYTES:
            raise self.error(number, f"it has more than {MOST_BYTES >> 20} MiB; shorten it, and write one row per line")
        try:
            file.seek(start)
            row = self._parse(file.read(end - start))
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read ({error.strerror}). Check the disk.") from error
        except (ValueError, csv.Error) as error:
            raise self.error(number, error) from error
        if not isinstance(row, dict):
            raise self.error(number, "it is not a JSON object")
        return row

    def error(self, number: int, reason: str | Exception) -> RowError:
        """Build the error that says what is wrong with a row."""
        return RowError(f"{self.path}, row {number + 1}: {_explain(reason)}.")

    def _parse(self, raw: bytes) -> Any:
        if self.header is None:
            return parse_json(raw.removeprefix(BOM))
        columns, text = self.header.columns, io.StringIO(raw.decode(), newline="")
        csv.field_size_limit(self.longest_field)
        values = next(csv.reader(text, delimiter=self.header.delimiter, strict=True), [])
        if len(values) != len(columns):
            raise ValueError(f"it has {len(values)} fields, and the first line names {len(columns)}")
        return dict(zip(columns, values, strict=True))


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _explain(reason: str | Exception) -> str:
    """Describe the fault of a row as a clause."""
    if isinstance(reason, UnicodeDecodeError):
        return f"its byte {reason.start + 1} is not UTF-8"
    if isinstance(reason, csv.Error):
        return f'a quote (") does not begin or end its field ({reason}); double it if it is part of the text'
    return str(reason)[:LONGEST_REASON].rstrip(".")


def _scan(path: Path, header: Header | None, lists: Sequence[bytes]) -> Iterator[int]:
    """Yield begin and end of every row."""
    with open_regular(path) as file:
        if header is not None:
            yield from _scan_table(file, path, header)
        elif os.fstat(file.fileno()).st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                yield from _scan_items(text, path, lists) if _is_document(text, path, lists) else _scan_lines(file)


def _is_document(text: mmap.mmap, path: Path, lists: Sequence[bytes]) -> bool:
    """Return True if the file is a list, or an object that holds the list; False for an object per line.

    Raises:
        UsageError: a .json file is neither.
    """
    depth, name = 0, b""
    marks = TOKEN.finditer(text)
    for match in marks:
        mark = match[0]
        if mark == b"[" and (depth == 0 or (depth == 1 and name in lists)):
            return True
        depth += (mark in OPENING) - (mark in CLOSING)
        if depth <= 0 and mark != BOM:
            break
        name = mark
    another = next(marks, None)  # a second object behind the first: lines, whatever the name says
    del marks  # while it lives, the file cannot be closed
    if path.suffix.lower() == ".jsonl" or (another is not None and another[0] == b"{"):
        return False
    raise UsageError(
        f'{path} is not a JSON list. Write [ before the first row, put the rows under "data", or name it .jsonl.'
    )


def _scan_items(text: mmap.mmap, path: Path, lists: Sequence[bytes]) -> Iterator[int]:
    """Yield begin and end of every item of a JSON list, or of the list in an object, without parsing them."""
    depth, items, name = 0, 0, b""  # items: the depth of the rows, 0 outside their list
    for match in TOKEN.finditer(text):
        mark = match[0]
        if mark in OPENING:
            if items and depth == items:
                yield match.start()
            elif mark == b"[" and (depth == 0 or (depth == 1 and name in lists)):
                items = depth + 1
            depth += 1
        elif mark in CLOSING:
            depth -= 1
            if items and depth == items:
                yield match.end()
            elif depth < items:
                items = 0
        elif items and depth == items:
            yield from match.span()
        name = mark
    if depth != 0:
        raise UsageError(f"{path} is not a complete JSON list: brackets are open at its end. Copy it again.")


def _scan_lines(file: IO[bytes]) -> Iterator[int]:
    """Yield begin and end of every line that is not blank."""
    start = end = 0
    blank = True
    while piece := file.readline(LINE_PIECE):
        end += len(piece)
        blank = blank and not piece.strip()
        if piece.endswith(b"\n") or len(piece) < LINE_PIECE:
            if not blank:
                yield from (start, end)
            start, blank = end, True
    if not blank:
        yield from (start, end)


def _scan_table(file: IO[bytes], path: Path, header: Header) -> Iterator[int]:
    """Yield begin and end of every record; one may span lines."""
    offset = header.start
    file.seek(offset)

    def lines() -> Iterator[str]:
        nonlocal offset
        while line := file.readline(MOST_BYTES):
            if len(line) == MOST_BYTES:
                raise UsageError(f"{path} has a line of more than {MOST_BYTES >> 20} MiB. Write one row per line.")
            offset += len(line)
            yield line.decode("utf-8", errors="replace")

    records = csv.reader(lines(), delimiter=header.delimiter)
    number = 0
    try:
        next(records, None)
        start = offset
        for record in records:
            if record:
                number += 1
                yield from (start, offset)
            start = offset
    except csv.Error as error:
        raise UsageError(
            f'{path}, row {number + 1}: a field does not end ({error}), because a quote (") is not closed. '
            "Close it, or double it if it is part of the text."
        ) from error


def _read_header(path: Path, known: Sequence[str]) -> Header:
    """Read the column names in lower case, blanks inside them as `_`.

    The separator is the one that yields most known names, or else most names.
    """
    with open_regular(path) as file:
        line = file.readline(MOST_HEADER)
        separator = SEPARATOR.fullmatch(line)
        start = len(line) if separator else 0
        text = (file.readline(MOST_HEADER) if separator else line).decode("utf-8-sig", errors="replace")
    default = "\t" if path.suffix.lower() == ".tsv" else ","
    delimiters = [separator[1].decode("latin-1")] if separator else [default, *DELIMITERS]
    choices = [Header(_column_names(text, delimiter), delimiter, start) for delimiter in delimiters]
    return max(choices, key=lambda header: (len(set(header.columns) & set(known)), len(header.columns)))


def _column_names(line: str, delimiter: str) -> list[str]:
    try:
        names = next(csv.reader(io.StringIO(line, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return []
    return [re.sub(r"[\s-]+", "_", name.strip()).lower() for name in names]
