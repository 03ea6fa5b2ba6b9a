"""Pictures listed by a Parquet file, or lying in it: their names and questions, and one's bytes.

A row has `image` (or `path`): a path, or what Hugging Face's `datasets` writes, {bytes, path}; and, if it likes,
`question`. Names are read without the pictures; a picture's row group is read when its turn comes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ..errors import UsageError, require_extra
from ..preprocessing.image_files import read_image


class ParquetImage(NamedTuple):
    """A row: its picture's name (a path, unless it is `inside`), question, and place in the file."""

    name: str
    question: str | None
    inside: bool
    group: int
    row: int


def entries(file: Path) -> Iterator[ParquetImage]:
    """The rows of a file, in its order; a picture without a name is called by its row's number.

    Raises:
        UsageError: it is no Parquet file, or names no pictures.
    """
    pyarrow = arrow()
    try:
        with parquet().ParquetFile(file) as opened:
            column, inside = _image_column(opened.schema_arrow, file)
            wanted = [f"{column}.path" if inside else column, "question"]
            count = 0
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group, columns=wanted)
                for row, values in enumerate(table.to_pylist()):
                    yield _entry(file, values, column, inside, count, group, row)
                    count += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{file} cannot be read as Parquet ({error}): check the file, or write it anew.") from error


def _image_column(schema: Any, file: Path) -> tuple[str, bool]:
    """The column of the pictures, and whether they lie in it."""
    types = arrow().types
    for name in ("image", "path"):
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and (types.is_string(kind) or types.is_large_string(kind)):
            return name, False
        if kind is not None and types.is_struct(kind) and {field.name for field in kind} >= {"bytes", "path"}:
            return name, True
    raise UsageError(f"{file} names no pictures: give it a column `image` of paths, or of {{bytes, path}}.")


def _entry(
    file: Path, values: dict[str, Any], column: str, inside: bool, count: int, group: int, row: int
) -> ParquetImage:
    value, question = values[column], values.get("question")
    name = (value or {}).get("path") or str(count) if inside else value
    if not isinstance(name, str) or not isinstance(question, str | None):
        raise UsageError(f"{file}, row {count + 1} names no picture: give `image` a path, and `question` a text.")
    return ParquetImage(name, question or None, inside, group, row)


def picture(file: Path, group: int, row: int) -> bytes:
    """The bytes of a picture that lies in the file, or beside it where its row has a path alone.

    Raises:
        OSError: there are none, or the file is gone.
        ImageError: it is no regular file, or too large.
    """
    value = _pictures(file, group)[row].as_py() or {}
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    if not value.get("path"):
        raise OSError(f"{file.name} has neither bytes nor a path in row {row} of row group {group}")
    return read_image(file.parent / value["path"])


@functools.lru_cache(maxsize=2)
def _pictures(file: Path, group: int) -> Any:
    """A row group's pictures: neighbours are asked for one after the other."""
    try:
        with parquet().ParquetFile(file) as opened:
            column, _ = _image_column(opened.schema_arrow, file)
            return opened.read_row_group(group, columns=[column]).column(column)
    except arrow().ArrowException as error:
        raise OSError(f"{file.name} cannot be read ({error})") from error


def arrow() -> ModuleType:
    """pyarrow, which the base install does without.

    Raises:
        UsageError: it is not installed.
    """
    require_extra("ray", "Parquet", "pyarrow")
    import pyarrow

    return pyarrow  # type: ignore[no-any-return]


def parquet() -> ModuleType:
    """pyarrow's Parquet half; raises as `arrow` does."""
    arrow()
    import pyarrow.parquet

    return pyarrow.parquet  # type: ignore[no-any-return]
