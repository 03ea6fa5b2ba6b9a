"""Replies on disk: JSON lines, one file per process, kept when a run is interrupted.

    DIR/run.json              the settings that decide the replies; a resumed run must have the same
    DIR/replies.jsonl         or replies-1of4.jsonl ..., of a run with several processes

A line is appended in one call. The next start removes an incomplete last line of its own file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UsageError
from ..files.atomic import append, lock, open_append, write_file
from ..files.untrusted_files import open_regular, parse_json, read_json
from .queries import Reply

LONGEST_LINE = 1 << 24


@dataclass(frozen=True)
class Part:
    """Which part of the rows this process answers: those whose index modulo `count` is `index`."""

    index: int = 0
    count: int = 1

    @property
    def file_name(self) -> str:
        return "replies.jsonl" if self.count == 1 else f"replies-{self.index + 1}of{self.count}.jsonl"

    def has(self, row: int) -> bool:
        return row % self.count == self.index


def part_of_environment() -> Part:
    """Return the part that torchrun's RANK and WORLD_SIZE name; without them, everything.

    Raises:
        UsageError: they are not numbers that fit together.
    """
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and size.isdecimal() and len(size) < 6 and int(rank) < int(size)):
        raise UsageError(f"RANK is {rank!r} and WORLD_SIZE is {size!r}. Use torchrun, or unset both.")
    return Part(int(rank), int(size))


class ReplyStore:
    """The replies in a folder; those of this process are added to its own file, which is locked.

    Raises:
        UsageError: the folder holds another run, something else, or cannot be written; or another process has the file.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], part: Part) -> None:
        self.folder = folder
        self.replies: dict[str, Reply] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"-o {folder} cannot be made ({error.strerror}). Name another folder.") from error
        self._check_settings(settings)
        self._path = folder / part.file_name
        self._file = open_append(self._path)
        if lock(self._file.fileno()) is False:
            self._file.close()
            raise UsageError(f"{self._path} is being written by another process. Wait for it, or name another folder.")
        self._drop_incomplete_line()
        self.refresh()

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        note = self.folder / "run.json"
        if note.exists():
            try:
                before = read_json(note)
            except (OSError, ValueError) as error:
                raise UsageError(f"{note} cannot be read ({error}). Delete the folder, or name another -o.") from error
            different = [
                name for name in settings if not isinstance(before, dict) or before.get(name) != settings[name]
            ]
            if different and any(self.folder.glob("replies*.jsonl")):
                old = before.get(different[0]) if isinstance(before, dict) else None
                raise UsageError(
                    f"{self.folder} holds a run with {different[0]} {old!r}, and now it is {settings[different[0]]!r}. "
                    "Name another folder with -o, or delete that one."
                )
        write_file(note, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")

    def _drop_incomplete_line(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        end, begin = size, max(0, size - LONGEST_LINE)
        with open_regular(self._path) as file:
            file.seek(begin)
            tail = file.read()
        if tail and not tail.endswith(b"\n"):
            end = begin + tail.rfind(b"\n") + 1
        if end != size:
            self._file.truncate(end)

    def refresh(self) -> None:
        """Read the replies of every process."""
        for path in sorted(self.folder.glob("replies*.jsonl")):
            for reply in _read(path):
                self.replies[reply.id] = reply

    def add(self, reply: Reply) -> None:
        """Append a reply; a failed write leaves no part of it."""
        line = json.dumps({name: value for name, value in asdict(reply).items() if value is not None})
        append(self._file, self._path, line.encode() + b"\n")
        self.replies[reply.id] = reply

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            os.fsync(self._file.fileno())


def _read(path: Path) -> Iterator[Reply]:
    """Yield the replies of a file; an incomplete last line is another process's, in the making."""
    with open_regular(path) as file:
        while line := file.readline(LONGEST_LINE):
            if not line.endswith(b"\n"):
                return
            try:
                fields = parse_json(line)
                scores = fields.get("scores")
                yield Reply(
                    str(fields["id"]), fields.get("text"), tuple(scores) if scores else None, fields.get("error")
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"{path} holds {line[:60]!r}, which is not a reply. Name another folder with -o."
                ) from error
