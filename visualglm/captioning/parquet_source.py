"""Images that a Parquet file lists or contains.

A row has `image` (or `path`), which is a path or {bytes, path} as Hugging Face's `datasets` writes it, and optionally
`question`. Listing reads the names without the images; a row group of images is read when one of them is needed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ..datasets.image_paths import locate_image
from ..errors import UsageError, require_extra
from ..preprocessing.image_bytes import read_image


class ParquetImage(NamedTuple):
    """A row: the image's name (a path, unless the image is `inside`), its question, row group and row in the group."""

    name: str
    question: str | None
    inside: bool
    group: int
    row: int


def list_images(file: Path) -> Iterator[ParquetImage]:
    """Yield the rows of a file in order. An image without a name is named by its row number.

    Raises:
        UsageError: the file is not Parquet, or names no images.
    """
    pyarrow = arrow()
    try:
        with parquet().ParquetFile(file) as opened:
            column, inside = _image_column(opened.schema_arrow, file)
            columns = [f"{column}.path" if inside else column, "question"]
            count = 0
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group, columns=columns)
                for row, values in enumerate(table.to_pylist()):
                    yield _parse_entry(file, values, column, inside, count, group, row)
                    count += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(f"{file} cannot be read as Parquet ({error}). Check the file, or write it again.") from error


def _image_column(schema: Any, file: Path) -> tuple[str, bool]:
    """Return the name of the image column, and True if it contains the images themselves."""
    types = arrow().types
    for name in ("image", "path"):
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and (types.is_string(kind) or types.is_large_string(kind)):
            return name, False
        if kind is not None and types.is_struct(kind) and {field.name for field in kind} >= {"bytes", "path"}:
            return name, True
    raise UsageError(f"{file} names no images. Give it a column `image` of paths, or of {{bytes, path}}.")


def _parse_entry(
    file: Path, values: dict[str, Any], column: str, inside: bool, count: int, group: int, row: int
) -> ParquetImage:
    value, question = values[column], values.get("question")
    name = (value or {}).get("path") or str(count) if inside else value
    if not isinstance(name, str) or not isinstance(question, str | None):
        raise UsageError(f"{file}, row {count + 1} names no image. Give `image` a path, and `question` a text.")
    return ParquetImage(name, question or None, inside, group, row)


def read_parquet_image(file: Path, group: int, row: int) -> bytes:
    """Read the bytes of an image inside the file, or beside it if its row has only a path.

    Raises:
        OSError: the row has neither, or a file is missing.
        ImageError: the image is not a regular file, or too large.
    """
    value = _read_row_group(file, group)[row].as_py() or {}
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    if not value.get("path"):
        raise OSError(f"{file.name} has neither bytes nor a path in row {row} of row group {group}")
    return read_image(locate_image(value["path"], file.parent))


@functools.lru_cache(maxsize=2)
def _read_row_group(file: Path, group: int) -> Any:
    """Read the images of a row group. It is cached, because its rows are asked for one after another."""
    try:
        with parquet().ParquetFile(file) as opened:
            column, _ = _image_column(opened.schema_arrow, file)
            return opened.read_row_group(group, columns=[column]).column(column)
    except arrow().ArrowException as error:
        raise OSError(f"{file.name} cannot be read ({error})") from error


def arrow() -> ModuleType:
    """Import pyarrow, which is not in the base install.

    Raises:
        UsageError: it is not installed.
    """
    require_extra("ray", "Parquet", "pyarrow")
    import pyarrow

    return pyarrow  # type: ignore[no-any-return]


def parquet() -> ModuleType:
    """Import pyarrow.parquet; raises as `arrow` does."""
    arrow()
    import pyarrow.parquet

    return pyarrow.parquet  # type: ignore[no-any-return]
