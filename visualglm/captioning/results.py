"""captioning/results: OUT.jsonl, one row per picture and question, that survives a kill and never repeats a row.

A row is one line, written and flushed at once; a last line that was torn by a kill is cut off at the next start, but
only where everything before it is rows and it begins like one. A row with `error` is finished too, until
`forget_failed` takes it out. Knows nothing about pictures or models.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
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


BEGINNING = b'{"image": "'
"""Of every row that `write` wrote."""


class Results(Finished):
    """The open file: what it holds already, and `write`.

    Raises:
        UsageError: the file is no list of results, cannot be written, or another run is writing it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = locked(path)
            self._file: IO[bytes] = path.open("a+b")
            self._read()
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}): choose another -o.") from error

    def _read(self) -> None:
        """Remembers the rows; mends the end of the file, once all before it has proved to be rows."""
        self._file.seek(0)
        whole, line = 0, b""
        for line in self._file:
            if line.endswith(b"\n"):
                self.remember(self._row(line))
                whole += len(line)
        if line and not line.endswith(b"\n"):
            self._mend(whole, line)

    def _mend(self, begin: int, tail: bytes) -> None:
        """The last line, from `begin` on, has no end: it is a whole row, or a torn one that goes, or none of ours."""
        try:
            json.loads(tail)
        except ValueError:
            if not (tail.startswith(BEGINNING) or BEGINNING.startswith(tail)):
                raise self._foreign(tail) from None
            self._file.truncate(begin)
        else:
            self.remember(self._row(tail))
            self._file.write(b"\n")
            self._file.flush()

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows in the file, in its order."""
        with self.path.open("rb") as file:
            yield from map(self._row, file)

    def forget_failed(self) -> None:
        """Leaves the rows with errors out: a new file takes the old one's place, whole or not at all."""
        self._file.seek(0)
        self.finished, self.failed = {}, 0
        with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=f".{self.path.name}.", delete=False) as kept:
            for line in self._file:
                row = self._row(line)
                if row.get("error") is None:
                    kept.write(line)
                    self.remember(row)
        Path(kept.name).chmod(self.path.stat().st_mode)
        Path(kept.name).replace(self.path)
        self._file.close()
        self._file = self.path.open("a+b")

    def _row(self, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line)
            named = isinstance(row["image"], str) and isinstance(row["question"], str)
            if named and ("text" in row or "error" in row):
                return row  # type: ignore[no-any-return]
        except (ValueError, KeyError, TypeError):
            pass
        raise self._foreign(line)

    def _foreign(self, line: bytes) -> UsageError:
        return UsageError(f"{self.path} holds {line[:60]!r}, which is no row of results: choose another -o.")

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
