"""OUT/, a folder of Parquet parts that many machines write at once, each part whole or not at all.

    OUT/.writing-RUN/DRAFT.parquet -- rename --> OUT/part-RUN-000007.parquet

The run fixes each part's name before anyone answers it, so a part that is answered twice, because the first machine
died, replaces itself: nothing is lost, nothing comes twice. A run begins by taking the older runs' `.writing` folders
away; a machine that still works for one of them can rename nothing any more. Knows nothing about Ray.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UsageError
from ..files.atomic import explain_write_errors, remove, sync_folder
from .jsonl_results import locked
from .parquet_source import arrow, parquet
from .result_store import ResultStore, written

PART = re.compile(r"part-[0-9a-f]{12}-\d{6,}\.parquet")
TEXTS = ("image", "question", "text", "finish_reason", "error")
COLUMNS = ("image", "question", "text", "finish_reason", "completion_tokens", "error")


class ParquetResults(ResultStore):
    """The open folder: what its parts hold already, and where a new part is drafted (`staging`).

    Raises:
        UsageError: the folder holds something else, cannot be written, or another run is writing it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.resolve())
        path = self.path
        self.run = uuid.uuid4().hex[:12]
        self.staging = path / f".writing-{self.run}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._check()
            self._lock = locked(path)
            self._take_over()
            for row in self.rows():
                self.remember(row)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror or error}): choose another -o.") from error

    def name(self, number: int) -> str:
        """Of a new part."""
        return f"part-{self.run}-{number:06}.parquet"

    def _check(self) -> None:
        for entry in self.path.iterdir():
            if not entry.name.startswith(".") and not PART.fullmatch(entry.name):
                raise UsageError(f"{self.path} holds {entry.name}, which is no part of results: choose another -o.")

    def _take_over(self) -> None:
        """Older runs lose their folders at once, by a rename; then what they drafted is deleted."""
        for old in self.path.glob(".writing-*"):
            old.rename(self.path / f".ended-{uuid.uuid4().hex}")
        for old in self.path.glob(".ended-*"):
            with suppress(OSError):
                remove(old)
        self.staging.mkdir()

    @property
    def _parts(self) -> list[Path]:
        return sorted(self.path.glob("part-*.parquet"))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all parts."""
        for part in self._parts:
            yield from _rows(part)

    def forget_failed(self) -> None:
        """Parts are written anew without their errors; those that hold nothing else go."""
        self.finished, self.failed = {}, 0
        for part in self._parts:
            rows = _rows(part)
            kept = [row for row in rows if row["error"] is None]
            if not kept:
                part.unlink()
            elif len(kept) < len(rows):
                write_part(self.staging, part.name, kept)
            for row in kept:
                self.remember(row)

    def __enter__(self) -> ParquetResults:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        self._lock.close()


def _rows(part: Path) -> list[dict[str, Any]]:
    """A part's rows.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        table = parquet().read_table(part, columns=list(COLUMNS), partitioning=None)
    except arrow().ArrowException as error:
        raise UsageError(f"{part} cannot be read ({error}): delete it, and its pictures are asked again.") from error
    return table.to_pylist()  # type: ignore[no-any-return]


def write_part(staging: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows -> the part of that name beside `staging`; on disk before it is seen.

    Raises:
        UsageError: this machine does not see the run's folder: it is not shared, or the run is over.
    """
    pyarrow = arrow()
    fields = [(column, pyarrow.string() if column in TEXTS else pyarrow.int64()) for column in COLUMNS]
    table = pyarrow.Table.from_pylist([_plain(row.items()) for row in rows], schema=pyarrow.schema(fields))
    draft = staging / f"{uuid.uuid4().hex}.parquet"
    with explain_write_errors(staging.parent / name):
        try:
            with draft.open("xb") as file:
                parquet().write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(staging.parent / name)
        except FileNotFoundError as error:
            raise UsageError(
                f"{staging} is not seen by {platform.node()}: -o must be a folder that all machines share, "
                "and of one run at a time."
            ) from error
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(staging.parent)


def _plain(row: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: written(value) if isinstance(value, str) else value for name, value in row}
