"""Caption results in a folder of Parquet parts that many machines write at once.

    OUT/.writing-RUN/DRAFT.parquet -- rename --> OUT/part-RUN-000007.parquet

A part appears whole, by the rename. Part names are fixed up front, so a retry overwrites its own part: no row is lost
or duplicated. A run begins by removing the `.writing` folders of earlier runs, so a machine that still works for one of
them can no longer publish a part.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UsageError
from ..files.atomic import explain_write_errors, remove, sync_folder
from .jsonl_results import acquire_lock, release_lock
from .parquet_source import arrow, parquet
from .resume import ResultStore, encodable

PART = re.compile(r"part-[0-9a-f]{12}-\d{6,}\.parquet")
TEXTS = ("image", "question", "text", "finish_reason", "error", "model")
COLUMNS = ("image", "question", "text", "finish_reason", "completion_tokens", "error", "model")


class ParquetResults(ResultStore):
    """An open results folder: its parts are read at the start; `staging` is where new parts are drafted.

    Raises:
        UsageError: the folder holds other files, cannot be written, or another run is writing it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.resolve())
        path = self.path
        self.run = uuid.uuid4().hex[:12]
        self.staging = path / f".writing-{self.run}"
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._check_only_parts()
            self._lock = acquire_lock(path)
            self._end_earlier_runs()
            for row in self.rows():
                self.remember(row)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror or error}). Choose another -o.") from error

    def name(self, number: int) -> str:
        """Return the file name of part `number`."""
        return f"part-{self.run}-{number:06}.parquet"

    def _check_only_parts(self) -> None:
        for entry in self.path.iterdir():
            if not entry.name.startswith(".") and not PART.fullmatch(entry.name):
                raise UsageError(f"{self.path} holds {entry.name}, which is not a part of results. Choose another -o.")

    def _end_earlier_runs(self) -> None:
        """Rename the folders of earlier runs, so that they cannot publish any more; then delete their drafts."""
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
        """Yield the rows of all parts."""
        for part in self._parts:
            yield from _read_part(part)

    def forget_failed(self) -> None:
        """Rewrite parts without their errors; delete parts that hold only errors."""
        self.finished, self.failed = {}, 0
        for part in self._parts:
            rows = _read_part(part)
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
        release_lock(self.path, self._lock)


def _read_part(part: Path) -> list[dict[str, Any]]:
    """Read the rows of a part.

    Raises:
        UsageError: the part cannot be read.
    """
    try:
        table = parquet().read_table(part, columns=list(COLUMNS), partitioning=None)
    except arrow().ArrowException as error:
        raise UsageError(f"{part} cannot be read ({error}). Delete it; its images are then answered again.") from error
    return table.to_pylist()  # type: ignore[no-any-return]


def write_part(staging: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as the part `name` beside `staging`. The data is on disk before the part appears.

    Raises:
        UsageError: this machine cannot see the run's folder: it is not shared, or the run has ended.
    """
    pyarrow = arrow()
    fields = [(column, pyarrow.string() if column in TEXTS else pyarrow.int64()) for column in COLUMNS]
    stored = [
        {name: encodable(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    ]
    table = pyarrow.Table.from_pylist(stored, schema=pyarrow.schema(fields))
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
                f"{staging} does not exist on {platform.node()}. Give -o a folder that all machines share, "
                "and start one run at a time."
            ) from error
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(staging.parent)
