"""Image sources: a folder, a glob, a JSONL or CSV list, Parquet files or tar files become caption items.

Images are neither decoded nor unpacked: an image in a tar is read in place.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..datasets.image_paths import describe_missing, local_path, locate_image
from ..datasets.row_files import SUFFIXES, RowFile
from ..datasets.row_formats import KNOWN_FIELDS, image_and_question
from ..errors import ImageError, UsageError
from ..files.untrusted_files import open_regular
from ..preprocessing.image_bytes import read_image
from ..preprocessing.image_decoding import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES
from . import parquet_source

MOST_MEMBERS = 5_000_000
"""Members of a tar, images or not: listing each takes memory and time."""
MOST_HEADER = 1 << 20
"""Bytes of a tar member's long name or extra header, which tarfile reads into memory."""
WILD = re.compile(r"[*?\[]")
TAR_FAULT = (
    "The image {} is a link or a sparse file inside a tar, which is not read in place. Write the tar again with "
    "--dereference --hard-dereference."
)


@dataclass(frozen=True)
class CaptionItem:
    """One image to caption: `image` is its name in the results, `file` contains it.

    `fault` says why it cannot be read, if that is known before.
    In a tar, `offset` and `size` are in bytes. In a Parquet file, `group` is the row group and `offset` the row in it.
    """

    image: str
    file: Path
    question: str | None = None
    offset: int = 0
    size: int | None = None
    group: int | None = None
    fault: str | None = None

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
        if self.fault is not None:
            raise ImageError(self.fault)
        try:
            if self.group is not None:
                return parquet_source.read_parquet_image(self.file, self.group, self.offset)
            return read_image(self.file, self.offset, self.size)
        except ImageError:
            raise
        except ValueError as error:  # a null character in the name, or one that the file system cannot encode
            raise OSError(f"{self.image!r} is not a valid file name ({error})") from error
        except OSError as error:
            raise OSError(self._explain(error)) from error

    def _explain(self, error: OSError) -> str:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return _sentence(describe_missing(self.file, self.image, "missing"))
        return f"The image {self.image[:200]} cannot be read ({error.strerror or error}). Check its permissions."


def read_source(source: str) -> list[CaptionItem]:
    """List the items of a source in a fixed order, without duplicates (same image and question).

    Duplicate names inside one file get a suffix in order: `a.png`, `a.png#2`, `a.png#3`.

    Raises:
        UsageError: the source does not exist or has no images, or a line of a list cannot be read.
    """
    source = source_path(source)
    path = Path(source)
    if path.is_dir():
        found = _folder(path)
    elif path.suffix.lower() in SUFFIXES:
        found = _list(path)
    elif path.suffix.lower() == ".tar" and path.is_file():
        found = _tar(path, "")
    elif path.suffix.lower() == ".parquet" and path.is_file():
        found = _parquet(path, "")
    elif WILD.search(source) and not path.exists():
        found = _glob(source)
    elif not path.exists():
        raise UsageError(f"{source[:200]} does not exist. Check the path.")
    elif _is_image(path.name):
        raise UsageError(f"{source[:200]} is one image. Give its folder, or use `visualglm ask`.")
    else:
        raise UsageError(
            f"{source[:200]} is not a folder, glob, list ({', '.join(SUFFIXES)}), .parquet or uncompressed .tar file. "
            "Give the images as one of these."
        )
    items = list({(item.image, item.question): item for item in _number_duplicates(list(found))}.values())
    if not items:
        raise UsageError(f"{source[:200]} has no images ({', '.join(IMAGE_SUFFIXES)}). Check the path.")
    return items


def source_path(source: str) -> str:
    """Return the path or glob that a source means on this machine: `file://` decoded, `~` expanded.

    Raises:
        UsageError: it is a URL.
    """
    try:
        return local_path(source)
    except ImageError as error:
        raise UsageError(f"The source cannot be read: {error}.") from error


def source_exists(source: str) -> bool:
    """Return True if a source is there: the path, or the folder that a glob searches."""
    with contextlib.suppress(OSError, ValueError):
        path = Path(source)
        return path.exists() or (WILD.search(source) is not None and _split_glob(source)[0].exists())
    return False


def _split_glob(pattern: str) -> tuple[Path, Path]:
    """Split a glob into the folder before the first wildcard, and the rest."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if WILD.search(part))
    return Path(*parts[:fixed]), Path(*parts[fixed:])


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def _number_duplicates(items: Sequence[CaptionItem]) -> Iterator[CaptionItem]:
    """Append the next free number to a name inside a file that occurred before."""
    if not any(item.inside for item in items):
        yield from items
        return
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
        root = Path(here)
        below = "" if root == folder else f"{root.relative_to(folder).as_posix()}/"
        for name in sorted(files):
            if not name.startswith("."):
                yield from _file(root / name, below + name)


def _file(file: Path, name: str) -> Iterator[CaptionItem]:
    if _is_image(name):
        yield CaptionItem(name, file, fault=_suffix_fault(name))
    elif _suffix(name) == ".tar":
        yield from _tar(file, f"{name}/")


def _suffix(name: str) -> str:
    """Return the suffix in lower case; unlike `Path.suffix`, cheap enough for every file of a large folder."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def _is_image(name: str) -> bool:
    """Return True for the name of an image, also of one that cannot be decoded: it becomes a row with an error."""
    return _suffix(name) in (*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES)


def _suffix_fault(name: str) -> str | None:
    """Say that an image is of a kind that is not decoded, as its suffix shows; None if it may be decoded."""
    if _suffix(name) in IMAGE_SUFFIXES:
        return None
    return f"The image {name[:200]} is of a kind that is not decoded. Save it as JPEG or PNG."


def _glob(pattern: str) -> Iterator[CaptionItem]:
    """Yield the matching files, named relative to the last folder before the first wildcard."""
    root, rest = _split_glob(pattern)
    try:
        matches = sorted(root.glob(str(rest)))
    except (OSError, ValueError) as error:
        raise UsageError(f"{pattern[:200]} cannot be searched ({error}). Give a folder, or another glob.") from error
    for match in matches:
        name = match.relative_to(root).as_posix()
        if not match.is_dir():
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
    """Yield the images inside a tar with their offsets; a link or a sparse file is an image that cannot be read."""
    try:
        with open_regular(file) as opened, _BoundedTarFile.open(fileobj=opened, mode="r:") as archive:
            size = os.fstat(opened.fileno()).st_size
            for count, member in enumerate(archive):
                archive.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps every header
                if count >= MOST_MEMBERS:
                    raise UsageError(f"{file} has more than {MOST_MEMBERS} members. Split it into several tar files.")
                if member.isdir() or not _is_image(member.name):
                    continue
                if not member.isreg() or member.issparse():
                    yield CaptionItem(prefix + member.name, file, None, 0, 0, fault=TAR_FAULT.format(member.name[:200]))
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"the end of {member.name[:80]} is missing")
                fault = _suffix_fault(member.name)
                yield CaptionItem(prefix + member.name, file, None, member.offset_data, member.size, fault=fault)
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
            yield _listed_item(prefix + name, name, file.parent, question)


def _listed_item(image: str, source: str, folder: Path, question: str | None) -> CaptionItem:
    """Build the item of a path in a list; one that cannot be a file has a `fault`."""
    try:
        return CaptionItem(image, locate_image(source, folder), question)
    except ImageError as error:
        return CaptionItem(image, folder / "image", question, fault=_sentence(str(error)))


def _list(file: Path) -> Iterator[CaptionItem]:
    """Yield the rows of a list: an image, relative to the file, and optionally a question (`row_formats.py`)."""
    rows = RowFile(file, KNOWN_FIELDS)
    for number, row in enumerate(rows):
        try:
            source, question = image_and_question(row)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise rows.error(number, error) from error
        if not isinstance(source, str):
            raise rows.error(number, "its image is not a path")
        yield _listed_item(source, source, file.parent, question)
