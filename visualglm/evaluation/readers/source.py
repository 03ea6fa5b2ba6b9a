"""The files that a user names, and helpers of all readers: images, texts and errors of rows."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets.image_paths import is_file, locate_image
from ...datasets.row_files import LONGEST_FIELD, WRAPPERS, RowFile
from ...datasets.row_formats import image_sources
from ...errors import ImageError, UsageError
from ..examples import ImageFile

Row = Mapping[str, Any]
ID_FIELDS = ("id", "question_id", "index")


@dataclass(frozen=True)
class DataSource:
    """The data file, the folder of its images (None: the file's own), and a file of answers of its own."""

    data: Path
    images: Path | None = None
    answers: Path | None = None

    @property
    def folder(self) -> Path:
        return self.images or self.data.parent

    def image(self, *names: str) -> ImageFile:
        """Return the first of the named images that exists, else the first one, which then fails when it is read.

        Raises:
            ImageError: a name is a URL or no path.
        """
        paths = [locate_image(name, self.folder) for name in names]
        return ImageFile(next(filter(is_file, paths), paths[0]))


class RowReader:
    """Rows of a file with their errors: whatever is wrong with a row is one sentence that names it.

    Raises:
        UsageError: see `RowFile`, or the file has no rows.
    """

    def __init__(
        self, path: Path, known: Sequence[str], lists: Sequence[bytes] = WRAPPERS, longest_field: int = LONGEST_FIELD
    ) -> None:
        self.file = RowFile(path, known, lists, longest_field)
        if not len(self.file):
            raise UsageError(f"{path} has no rows.")

    def convert(self, function: Callable[[int, Row], Any]) -> Iterator[Any]:
        """Yield the result of `function` for each row and its index; None is left out."""
        for number, row in enumerate(self.file):
            try:
                made = function(number, row)
            except KeyError as error:
                raise self.file.error(number, f"{error} is missing; its fields are {_fields(row)}") from error
            except (ValueError, TypeError, AttributeError) as error:
                raise self.file.error(number, error) from error
            if made is not None:
                yield made


def _fields(row: Row) -> str:
    return ", ".join(str(name)[:30] for name in list(row)[:12])


def text_field(row: Row, *names: str) -> str:
    """Return the first of these fields that is there.

    Raises:
        KeyError: none of them is there.
        ValueError: it is blank or no text.
    """
    for name in names:
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} is {str(value)[:40]!r}, which is not a text")
        return value
    raise KeyError(" or ".join(names))


def texts_field(row: Row, *names: str) -> tuple[str, ...]:
    """Return a field that holds a text or a list of texts (or of {"answer": text}), as `text_field` does."""
    for name in names:
        value = row.get(name)
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        values = [one.get("answer") if isinstance(one, dict) else one for one in values]
        if not values:
            raise ValueError(f"{name} is an empty list")
        return tuple(text_field({name: one}, name) for one in values)
    raise KeyError(" or ".join(names))


def one_image(source: DataSource, row: Row) -> tuple[Callable[[], bytes], str]:
    """Return the only image of a row, and its key.

    Raises:
        ValueError: the row has none, or several.
    """
    named = image_sources(row)
    if len(named) != 1 or not isinstance(named[0], str):
        raise ValueError(f"it has {len(named)} images, and one is needed; its fields are {_fields(row)}")
    if named[0].startswith("data:"):
        digest = hashlib.sha256(named[0].encode("utf-8", "replace")).hexdigest()
        return base64_image(named[0].partition(",")[2]), digest[:16]
    return source.image(named[0]), named[0]


def base64_image(text: str) -> Callable[[], bytes]:
    """Return the function that decodes an image written in base64."""

    def read() -> bytes:
        try:
            return base64.b64decode(text, validate=False)
        except (binascii.Error, ValueError) as error:
            raise ImageError(f"the image is not base64 ({error}); export the row again") from error

    return read


def row_id(row: Row, number: int) -> str:
    """Return the id that a row names, or its index."""
    return next((str(row[name]) for name in ID_FIELDS if row.get(name) not in (None, "")), str(number))
