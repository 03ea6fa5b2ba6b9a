"""Rows to train on or to evaluate with: chats that end with an answer.

Formats of files: `row_files.py`. Formats of rows: `row_formats.py`. Image paths are relative to the file, or else to
the working directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ImageError, PromptError, UsageError
from ..preprocessing.prompt import Turn
from .image_paths import require_image
from .row_files import RowFile
from .row_formats import KNOWN_FIELDS, describe_unknown, row_to_turns


@dataclass(frozen=True)
class DataRow:
    """A chat that ends with an answer, and the paths or data URLs of its images in order."""

    turns: list[Turn]
    images: list[str]


class DataFile:
    """The rows of a file, indexed from 0; error messages count from 1.

    Raises:
        UsageError: the file does not exist, has an unknown format or no rows, or is not UTF-8.
        RowError: (when a row is read) it is not a chat, or an image is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.rows = RowFile(path, KNOWN_FIELDS)
        self.path = self.rows.path
        if self.rows.header is not None:
            _check_columns(self.path, self.rows.header.columns)
        if not len(self.rows):
            raise UsageError(f"{path} has no rows. Add at least one with a question and an answer.")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> DataRow:
        row = self.rows[number]
        try:
            turns, sources = row_to_turns(row)
            if turns[-1].answer is None or not all(turn.answer for turn in turns):
                raise PromptError("a question has no answer")
            return DataRow(turns, [_find_image(source, self.path.parent) for source in sources])
        except KeyError as error:
            raise self.rows.error(number, f"{error} is missing") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise self.rows.error(number, error) from error

    def __iter__(self) -> Iterator[DataRow]:
        return (self[number] for number in range(len(self)))


def _check_columns(path: Path, columns: list[str]) -> None:
    """Raise `UsageError` if no row of a table with these columns can be read."""
    try:
        row_to_turns(dict.fromkeys(columns, "x"))
    except ValueError as error:
        raise UsageError(f"{path}: {describe_unknown(dict.fromkeys(columns, 'x'))}. Correct its first line.") from error


def _find_image(source: Any, folder: Path) -> str:
    """Find an image; a data URL is returned unchanged."""
    if not isinstance(source, str):
        raise ImageError("an image of the row has no path")
    return source if source.startswith("data:") else str(require_image(source, folder))
