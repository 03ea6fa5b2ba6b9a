"""A folder, a glob, a JSONL or CSV list, Parquet, or tar shards -> items: name, bytes, question.

Nothing is decoded here, and nothing is unpacked: a picture in a tar is read in place. Knows nothing about models.
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
from ..files.reading import open_regular, parse_json
from ..preprocessing.image_files import read_image
from . import parquet_source

PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
MOST_MEMBERS = 5_000_000
"""Of a tar, pictures or not: each takes some memory and time to list."""
MOST_HEADER = 1 << 20
"""Bytes of a tar member's long name or extra header, which tarfile would read whole."""
LONGEST_LINE = 1 << 26
WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class CaptionItem:
    """One picture to describe: `image` names it in the results, `file` holds it.

    Inside a tar it has an `offset` and a `size` in bytes, inside a Parquet file a row `group` and an `offset` in rows.
    """

    image: str
    file: Path
    question: str | None = None
    offset: int = 0
    size: int | None = None
    group: int | None = None

    @property
    def inside(self) -> bool:
        """Whether other pictures lie in the same file."""
        return self.size is not None or self.group is not None

    def asks(self, question: str) -> str:
        """Its own question, or this one where it has none."""
        return self.question or question

    def read(self) -> bytes:
        """The picture's bytes.

        Raises:
            OSError: the file is gone, or may not be read, or no file can bear that name.
            ImageError: it is no regular file, or too large.
        """
        try:
            if self.group is not None:
                return parquet_source.picture(self.file, self.group, self.offset)
            return read_image(self.file, self.offset, self.size)
        except ImageError:
            raise
        except ValueError as error:  # a null character in the name, or one that the file system cannot encode
            raise OSError(f"{self.image!r} is no name of a file ({error})") from error


def read_source(source: str) -> list[CaptionItem]:
    """The items of a source, in a fixed order; the same picture with the same question comes once.

    Pictures inside one file that bear the same name are told apart by their order: `a.png`, `a.png#2`, `a.png#3`.

    Raises:
        UsageError: there is no such source, or it has no pictures, or a line of a list cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        found = _folder(path)
    elif path.suffix.lower() in (".jsonl", ".csv"):
        found = _list(path)
    elif path.suffix.lower() == ".tar" and path.is_file():
        found = _shard(path, "")
    elif path.suffix.lower() == ".parquet" and path.is_file():
        found = _table(path, "")
    elif WILD.search(source) and not path.exists():
        found = _glob(source)
    else:
        raise UsageError(
            f"{source[:200]} is no folder, glob, .jsonl or .csv list, .parquet, or uncompressed .tar: "
            "name the pictures by one of these."
        )
    items = list({(item.image, item.question): item for item in _told_apart(list(found))}.values())
    if not items:
        raise UsageError(f"{source[:200]} has no pictures ({', '.join(PICTURES)}): check the path.")
    return items


def _told_apart(items: Sequence[CaptionItem]) -> Iterator[CaptionItem]:
    """A name inside a file that came before gets the next number that no other name has."""
    names = {(item.image, item.question) for item in items}
    numbers: dict[tuple[str, str | None], Iterator[int]] = {}
    for item in items:
        named = item.image, item.question
        if item.inside and named in numbers:
            others = (f"{item.image}#{number}" for number in numbers[named])
            item = replace(item, image=next(name for name in others if (name, item.question) not in names))
        numbers.setdefault(named, itertools.count(2))
        yield item


def _folder(folder: Path) -> Iterator[CaptionItem]:
    """Pictures and tar shards below a folder; what begins with a dot is passed over, and so is Parquet: it may be a
    run's own captions."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                file = Path(here) / name
                yield from _file(file, file.relative_to(folder).as_posix())


def _file(file: Path, name: str) -> Iterator[CaptionItem]:
    if file.suffix.lower() in PICTURES:
        yield CaptionItem(name, file)
    elif file.suffix.lower() == ".tar":
        yield from _shard(file, f"{name}/")


def _glob(pattern: str) -> Iterator[CaptionItem]:
    """What matches; named from the last folder before the first wildcard."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if WILD.search(part))
    root = Path(*parts[:fixed])
    try:
        matches = sorted(root.glob(str(Path(*parts[fixed:]))))
    except (OSError, ValueError) as error:
        raise UsageError(f"{pattern[:200]} cannot be searched ({error}): name a folder, or another glob.") from error
    for match in matches:
        name = match.relative_to(root).as_posix()
        if match.is_file():
            yield from _table(match, f"{name}/") if match.suffix.lower() == ".parquet" else _file(match, name)


class _Member(tarfile.TarInfo):
    """A header whose extra parts are bounded, and whose holes are not filled."""

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        extra = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"X")
        if self.type in extra and not 0 <= self.size <= MOST_HEADER:
            raise tarfile.ReadError(f"a header has {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


class _Shard(tarfile.TarFile):
    tarinfo = _Member


def _shard(file: Path, prefix: str) -> Iterator[CaptionItem]:
    """The pictures inside a tar, by their place in it; links and folders are none."""
    try:
        with open_regular(file) as opened, _Shard.open(fileobj=opened, mode="r:") as shard:
            size = os.fstat(opened.fileno()).st_size
            for count, member in enumerate(shard):
                shard.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps every header
                if count >= MOST_MEMBERS:
                    raise UsageError(f"{file} has more than {MOST_MEMBERS} members: make several tars of it.")
                if not member.isreg() or member.issparse() or Path(member.name).suffix.lower() not in PICTURES:
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"the end of {member.name[:80]} is missing")
                yield CaptionItem(prefix + member.name, file, None, member.offset_data, member.size)
    except UsageError:
        raise
    except Exception as error:  # a damaged header fails in every way there is
        raise UsageError(
            f"{file} cannot be read as a tar ({error}): unpack it, or write it anew uncompressed."
        ) from error


def _table(file: Path, prefix: str) -> Iterator[CaptionItem]:
    """The pictures that a Parquet file holds or names."""
    for name, question, inside, group, row in parquet_source.entries(file):
        if inside:
            yield CaptionItem(prefix + name, file, question, row, group=group)
        else:
            yield CaptionItem(prefix + name, file.parent / name, question)


def _list(file: Path) -> Iterator[CaptionItem]:
    """Lines with `image` (or `path`) and, if they like, `question`; paths are relative to the file."""
    try:
        with open_regular(file) as opened, io.TextIOWrapper(opened, "utf-8-sig", newline="") as text:
            lines = _lines(text, file)
            rows = csv.DictReader(lines) if file.suffix.lower() == ".csv" else _json_lines(lines, file)
            for number, row in enumerate(rows, 1):
                yield _listed(file, number, row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file} cannot be read ({error}): give a UTF-8 file.") from error


def _lines(text: io.TextIOWrapper, file: Path) -> Iterator[str]:
    """The lines of a list.

    Raises:
        UsageError: one is too long to be one.
    """
    while line := text.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise UsageError(f"{file} has a line of more than {LONGEST_LINE >> 20} million characters: it is no list.")
        yield line


def _json_lines(lines: Iterator[str], file: Path) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                value = parse_json(line)
            except ValueError as error:
                raise UsageError(
                    f"{file}, line {number}: this is no JSON ({error}): mend it or leave it out."
                ) from error
            yield value


def _listed(file: Path, number: int, row: Any) -> CaptionItem:
    name = (row.get("image") or row.get("path")) if isinstance(row, Mapping) else None
    question = row.get("question") if name else None
    if not isinstance(name, str) or not isinstance(question, str | None):
        raise UsageError(f'{file}, row {number} names no picture: write {{"image": "a.png", "question": "..."}}.')
    return CaptionItem(name, file.parent / name, question or None)
