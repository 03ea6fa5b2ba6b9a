"""Caption results in a JSON lines file: one row per image and question.

Each row is one line, written in one call and synced to disk within a second. The next start removes a line that a kill
or a power loss tore, provided that it begins like a row and all other lines are rows. A row with `error` counts as
finished until `forget_failed` removes it.
"""

from __future__ import annotations

import contextlib
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
from .resume import ResultStore

BEGINNING = b'{"image": "'
"""First bytes of every row that `write` wrote."""
SYNC_SECONDS = 1.0
"""Seconds between syncs to disk; a power loss costs at most the rows of one interval."""
LONGEST_LINE = 1 << 26
"""Bytes read as one line."""


class JsonlResults(ResultStore):
    """An open results file: its existing rows are read at the start, new ones are appended.

    Raises:
        UsageError: the file holds other lines, cannot be written, or another run is writing it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = acquire_lock(path)
            self._file = open_append(path)
            self._synced = time.monotonic()
            self._read()
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}). Choose another -o.") from error

    def _read(self) -> None:
        """Remember the rows; remove a torn line once all other lines proved to be rows."""
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
        """Return [line], or for a torn line (without an end, or with zeros of a power loss) the whole rows in it.

        Raises:
            UsageError: the line is not a row. After zeros the rest of a row may follow, if whole rows came before.
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
        """Yield the rows in file order."""
        yield from map(self._row, self._lines())

    def forget_failed(self) -> None:
        """Remove the rows with errors by replacing the file atomically."""
        self._rewrite(lambda row: row.get("error") is None)
        self.finished, self.failed = {}, 0
        self._read()

    def _rewrite(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        with open_replacement(self.path) as file:
            for line in self._lines():
                file.writelines(row for row in self._whole_rows(line) if keep(self._row(row)))
        self._file.close()
        self._file = open_append(self.path)

    def _row(self, line: bytes) -> dict[str, Any]:
        row = _parse_row(line)
        if row is None:
            raise self._foreign(line)
        return row

    def _foreign(self, line: bytes) -> UsageError:
        return UsageError(f"{self.path} holds {line[:60]!r}, which is not a row of results. Choose another -o.")

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; a failed write leaves no part of it."""
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
        try:
            with self._file:
                self._sync()
        finally:
            release_lock(self.path, self._lock)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_row(line: bytes) -> dict[str, Any] | None:
    """Parse a row; return None for anything else."""
    try:
        row = json.loads(line)
        is_keyed = isinstance(row["image"], str) and isinstance(row["question"], str)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return row if is_keyed and ("text" in row or "error" in row) else None


def acquire_lock(path: Path) -> io.FileIO:
    """Lock `.OUT.lock` until `release_lock` or the end of the process, so that two runs do not write the same rows.

    Raises:
        UsageError: another run holds the lock.
    """
    name = _lock_name(path)
    while True:
        file = open_append(name)
        if lock(file.fileno()) is False:
            file.close()
            raise UsageError(f"another run is writing {path}. Wait for it, or choose another -o.")
        if name.exists() and os.path.samestat(os.fstat(file.fileno()), name.stat()):
            return file
        file.close()  # a run that ended in between deleted the file: it is another one now


def release_lock(path: Path, file: io.FileIO) -> None:
    """Delete the lock file and release the lock."""
    with contextlib.suppress(OSError):  # Windows does not delete an open file
        _lock_name(path).unlink()
    file.close()


def _lock_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")
