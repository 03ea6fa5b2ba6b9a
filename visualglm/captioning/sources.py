"""Image sources: a folder, a glob, a JSONL or CSV list, Parquet files or tar files become caption items.

Images are neither decoded nor unpacked: an image in a tar is read in place.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ImageError, UsageError
from ..files.untrusted_files import open_regular, parse_json
from ..preprocessing.image_files import read_image
from . import parquet_source

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
MOST_MEMBERS = 5_000_000
"""Members of a tar, images or not: listing each takes memory and time."""
MOST_HEADER = 1 << 20
"""Bytes of a tar member's long name or extra header, which tarfile reads into memory."""
LONGEST_LINE = 1 << 26
WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class CaptionItem:
    """One image to caption: `image` is its name in the results, `file` contains it.

    In a tar, `offset` and `size` are in bytes. In a Parquet file, `group` is the row group and `offset` the row in it.
    """

    image: str
    file: Path
    question: str | None = None
    offset: int = 0
    size: int | None = None
    group: int | None = None

    @property
    def inside(self) -> bool:
        """True if `file` is an archive of several images."""
        return self.size is not None or self.group is not None

    def asks(self, question: str) -> str:
        """Return the item's own question, or else `question`."""
        return self.question or question

    def read(self) -> bytes:
        """Read the encoded image.

        Raises:
            OSError: the file is missing or may not be read, or its name is not valid.
            ImageError: it is not a regular file, or too large.
        """
        try:
            if self.group is not None:
                return parquet_source.read_parquet_image(self.file, self.group, self.offset)
            return read_image(self.file, self.offset, self.size)
        except ImageError:
            raise
        except ValueError as error:  # a null character in the name, or one that the file system cannot encode
            raise OSError(f"{self.image!r} is not a valid file name ({error})") from error


def read_source(source: str) -> list[CaptionItem]:
    """List the items of a source in a fixed order, without duplicates (same image and question).

    Duplicate names inside one file get a suffix in order: `a.png`, `a.png#2`, `a.png#3`.

    Raises:
        UsageError: the source does not exist or has no images, or a line of a list cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        found = _folder(path)
    elif path.suffix.lower() in (".jsonl", ".csv"):
        found = _list(path)
    elif path.suffix.lower() == ".tar" and path.is_file():
        found = _tar(path, "")
    elif path.suffix.lower() == ".parquet" and path.is_file():
        found = _parquet(path, "")
    elif WILD.search(source) and not path.exists():
        found = _glob(source)
    else:
        raise UsageError(
            f"{source[:200]} is not a folder, glob, .jsonl or .csv list, .parquet or uncompressed .tar file. "
            "Give the images as one of these."
        )
    items = list({(item.image, item.question): item for item in _number_duplicates(list(found))}.values())
    if not items:
        raise UsageError(f"{source[:200]} has no images ({', '.join(IMAGE_SUFFIXES)}). Check the path.")
    return items


def _number_duplicates(items: Sequence[CaptionItem]) -> Iterator[CaptionItem]:
    """Append the next free number to a name inside a file that occurred before."""
    names = {(item.image, item.question) for item in items}
    numbers: dict[tuple[str, str | None], Iterator[int]] = {}
    for item in items:
        key = item.image, item.question
        if item.inside and key in numbers:
            others = (f"{item.image}#{number}" for number in numbers[key])
            item = replace(item, image=next(name for name in others if (name, item.question) not in names))
        numbers.setdefault(key, itertools.count(2))
        yield item


def _folder(folder: Path) -> Iterator[CaptionItem]:
    """Yield the images and tar files below a folder.

    Hidden entries are skipped. Parquet files are skipped too, because they may be the captions of a run.
    """
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                file = Path(here) / name
                yield from _file(file, file.relative_to(folder).as_posix())


def _file(file: Path, name: str) -> Iterator[CaptionItem]:
    if file.suffix.lower() in IMAGE_SUFFIXES:
        yield CaptionItem(name, file)
    elif file.suffix.lower() == ".tar":
        yield from _tar(file, f"{name}/")


def _glob(pattern: str) -> Iterator[CaptionItem]:
    """Yield the matching files, named relative to the last folder before the first wildcard."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if WILD.search(part))
    root = Path(*parts[:fixed])
    try:
        matches = sorted(root.glob(str(Path(*parts[fixed:]))))
    except (OSError, ValueError) as error:
        raise UsageError(f"{pattern[:200]} cannot be searched ({error}). Give a folder, or another glob.") from error
    for match in matches:
        name = match.relative_to(root).as_posix()
        if match.is_file():
            yield from _parquet(match, f"{name}/") if match.suffix.lower() == ".parquet" else _file(match, name)


class _Member(tarfile.TarInfo):
    """A tar header with bounded extra parts."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        extra = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")
        if self.type in extra and not 0 <= self.size <= MOST_HEADER:
            raise tarfile.ReadError(f"a header has {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class _BoundedTarFile(tarfile.TarFile):
    tarinfo = _Member


def _tar(file: Path, prefix: str) -> Iterator[CaptionItem]:
    """Yield the images inside a tar with their offsets; links and folders are skipped."""
    try:
        with open_regular(file) as opened, _BoundedTarFile.open(fileobj=opened, mode="r:") as archive:
            size = os.fstat(opened.fileno()).st_size
            for count, member in enumerate(archive):
                archive.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps every header
                if count >= MOST_MEMBERS:
                    raise UsageError(f"{file} has more than {MOST_MEMBERS} members. Split it into several tar files.")
                if not member.isreg() or member.issparse() or Path(member.name).suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"the end of {member.name[:80]} is missing")
                yield CaptionItem(prefix + member.name, file, None, member.offset_data, member.size)
    except UsageError:
        raise
    except Exception as error:  # a damaged header can raise almost anything
        raise UsageError(
            f"{file} cannot be read as a tar ({error}). Unpack it, or write it again, uncompressed."
        ) from error


def _parquet(file: Path, prefix: str) -> Iterator[CaptionItem]:
    """Yield the images that a Parquet file contains or lists."""
    for name, question, inside, group, row in parquet_source.list_images(file):
        if inside:
            yield CaptionItem(prefix + name, file, question, row, group=group)
        else:
            yield CaptionItem(prefix + name, file.parent / name, question)


def _list(file: Path) -> Iterator[CaptionItem]:
    """Yield the rows of a list: `image` (or `path`) and optionally `question`; paths are relative to the file."""
    try:
        with open_regular(file) as opened, io.TextIOWrapper(opened, "utf-8-sig", newline="") as text:
            lines = _lines(text, file)
            rows = csv.DictReader(lines) if file.suffix.lower() == ".csv" else _json_lines(lines, file)
            for number, row in enumerate(rows, 1):
                yield _parse_row(file, number, row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file} cannot be read ({error}). Give a UTF-8 file.") from error


def _lines(text: io.TextIOWrapper, file: Path) -> Iterator[str]:
    """Yield the lines of a list.

    Raises:
        UsageError: a line is too long.
    """
    while line := text.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise UsageError(
                f"{file} has a line of more than {LONGEST_LINE >> 20} million characters. Write one image per line."
            )
        yield line


def _json_lines(lines: Iterator[str], file: Path) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                value = parse_json(line)
            except ValueError as error:
                raise UsageError(
                    f"{file}, line {number} is not valid JSON ({error}). Correct the line or remove it."
                ) from error
            yield value


def _parse_row(file: Path, number: int, row: Any) -> CaptionItem:
    name = (row.get("image") or row.get("path")) if isinstance(row, Mapping) else None
    question = row.get("question") if name else None
    if not isinstance(name, str) or not isinstance(question, str | None):
        raise UsageError(f'{file}, row {number} names no image. Write {{"image": "a.png", "question": "..."}}.')
    return CaptionItem(name, file.parent / name, question or None)
