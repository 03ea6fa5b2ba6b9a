"""OUT.jsonl, one row per picture and question, that survives a kill and never repeats a row.

A row is one line, written at once and on the disk a second later; what a kill or a power loss tore is cut out at the
next start, but only where everything else is rows and it begins like one. A row with `error` is finished too, until
`forget_failed` takes it out. Knows nothing about pictures or models.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UsageError
from ..files.atomic import append, explain_write_errors, lock, open_append, open_replacement
from .result_store import ResultStore

BEGINNING = b'{"image": "'
"""Of every row that `write` wrote."""
SYNC_SECONDS = 1.0
"""A power loss costs at most the rows of so long."""
LONGEST_LINE = 1 << 26
"""Bytes that are read at once."""


class JsonlResults(ResultStore):
    """The open file: what it holds already, and `write`.

    Raises:
        UsageError: the file is no list of results, cannot be written, or another run is writing it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = locked(path)
            self._file = open_append(path)
            self._synced = time.monotonic()
            self._read()
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}): choose another -o.") from error

    def _read(self) -> None:
        """Remembers the rows; cuts out what was torn, once all else has proved to be rows."""
        begin, torn, more = 0, None, False
        for line in self._lines():
            rows = self._whole_rows(line)
            for row in rows:
                self.remember(self._row(row))
            if torn is not None:
                more = True
            elif rows == [line]:
                begin += len(line)
            else:
                torn = rows
        if more:
            self._rewrite(lambda row: True)
        elif torn is not None:
            self._file.truncate(begin)
            append(self._file, self.path, b"".join(torn))

    def _lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            yield from iter(partial(file.readline, LONGEST_LINE), b"")

    def _whole_rows(self, line: bytes) -> list[bytes]:
        """The line itself, or the whole rows in one that was torn: that has no end, or zeros of a power loss.

        Raises:
            UsageError: it is none of ours. What follows zeros may be the rest of a row, where whole rows come before.
        """
        if line.endswith(b"\n") and b"\0" not in line:
            return [line]
        first, *rest = line.split(b"\0")
        if not (first.startswith(BEGINNING) or BEGINNING.startswith(first)) or (any(rest) and not self.finished):
            raise self._foreign(line)
        if _is_json(first) and _parse_row(first) is None:
            raise self._foreign(line)
        return [piece.rstrip(b"\n") + b"\n" for piece in (first, *rest) if _parse_row(piece) is not None]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows in the file, in its order."""
        yield from map(self._row, self._lines())

    def forget_failed(self) -> None:
        """Leaves the rows with errors out: a new file takes the old one's place, whole or not at all."""
        self._rewrite(lambda row: row.get("error") is None)
        self.finished, self.failed = {}, 0
        self._read()

    def _rewrite(self, kept: Callable[[dict[str, Any]], bool]) -> None:
        with open_replacement(self.path) as file:
            for line in self._lines():
                file.writelines(row for row in self._whole_rows(line) if kept(self._row(row)))
        self._file.close()
        self._file = open_append(self.path)

    def _row(self, line: bytes) -> dict[str, Any]:
        row = _parse_row(line)
        if row is None:
            raise self._foreign(line)
        return row

    def _foreign(self, line: bytes) -> UsageError:
        return UsageError(f"{self.path} holds {line[:60]!r}, which is no row of results: choose another -o.")

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row, whole or not at all."""
        append(self._file, self.path, json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self._sync()
        self.remember(row)

    def _sync(self) -> None:
        with explain_write_errors(self.path):
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def __enter__(self) -> JsonlResults:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file, self._lock:
            self._sync()


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_row(line: bytes) -> dict[str, Any] | None:
    """A row; None for anything else."""
    try:
        row = json.loads(line)
        named = isinstance(row["image"], str) and isinstance(row["question"], str)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return row if named and ("text" in row or "error" in row) else None


def locked(path: Path) -> io.FileIO:
    """Holds `.OUT.lock` as long as this process lives, so that two runs do not write the same rows.

    Raises:
        UsageError: another run holds it.
    """
    file = open_append(path.with_name(f".{path.name}.lock"))
    if lock(file.fileno()) is False:
        file.close()
        raise UsageError(f"another run is writing {path}: wait for it, or choose another -o.")
    return file
