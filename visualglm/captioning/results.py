"""captioning/results: OUT.jsonl, one row per picture and question, that survives a kill and never repeats a row.

A row is one line, written and flushed at once; a last line that was torn by a kill is cut off at the next start. A row
with `error` is finished too, until `retry_failed` takes it out. Knows nothing about pictures or models.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from types import ModuleType, TracebackType
from typing import IO, Any

from ..errors import UsageError
from .finished import Finished

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: two runs into one file are not told apart there
    fcntl = None


class Results(Finished):
    """The open file: what it holds already, and `write`.

    Raises:
        UsageError: the file is no list of results, cannot be written, or another run is writing it.
    """

    def __init__(self, path: Path, retry_failed: bool = False) -> None:
        super().__init__(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = locked(path)
            self._file: IO[bytes] = path.open("a+b")
            self._cut_torn_line()
            if retry_failed:
                self._drop_failed()
            self._read()
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}): choose another -o.") from error

    def _cut_torn_line(self) -> None:
        """Back to the last line that was written whole."""
        end = self._file.seek(0, os.SEEK_END)
        kept = end
        while kept > 0:
            begin = max(0, kept - 65536)
            self._file.seek(begin)
            found = self._file.read(kept - begin).rfind(b"\n")
            if found >= 0:
                kept = begin + found + 1
                break
            kept = begin
        if kept < end:
            self._file.truncate(kept)

    def _drop_failed(self) -> None:
        """Leaves the rows with errors out: a new file takes the old one's place, whole or not at all."""
        self._file.seek(0)
        with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=f".{self.path.name}.", delete=False) as kept:
            for line in self._file:
                if "error" not in self._row(line):
                    kept.write(line)
        Path(kept.name).chmod(self.path.stat().st_mode)
        Path(kept.name).replace(self.path)
        self._file.close()
        self._file = self.path.open("a+b")

    def _read(self) -> None:
        self._file.seek(0)
        for line in self._file:
            self.remember(self._row(line))

    def _row(self, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
            if isinstance(row["image"], str) and isinstance(row["question"], str):
                return row  # type: ignore[no-any-return]
        except (ValueError, KeyError, TypeError):
            pass
        raise UsageError(f"{self.path} holds {line[:60]!r}, which is no row of results: choose another -o.")

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row and flushes it."""
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._file.flush()
        self.remember(row)

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.close()


def locked(path: Path) -> IO[bytes]:
    """Holds `.OUT.lock` as long as this process lives, so that two runs do not write the same rows.

    Raises:
        UsageError: another run holds it.
    """
    lock = path.with_name(f".{path.name}.lock").open("ab")
    if fcntl is not None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise UsageError(f"another run is writing {path}: wait for it, or choose another -o.") from error
    return lock
