"""Read Qt resource archives (.rcc).

The archive has a tree of nodes, a pool of names (UTF-16) and a pool of data; each entry is plain, zlib or Zstandard.
"""

from __future__ import annotations

import struct
import subprocess
import zlib
from collections.abc import Iterator

from visualglm.errors import UsageError

DIRECTORY, ZLIB, ZSTANDARD = 2, 1, 4


def read_rcc(archive: bytes) -> dict[str, bytes]:
    """Return all files of the archive, by path without a leading slash.

    Raises:
        UsageError: it is not a Qt resource archive.
    """
    if archive[:4] != b"qres":
        raise UsageError("This is not a Qt resource archive: it does not begin with 'qres'.")
    return dict(_walk(archive, struct.unpack(">4I", archive[4:20]), 0, ""))


def _walk(archive: bytes, header: tuple[int, ...], index: int, above: str) -> Iterator[tuple[str, bytes]]:
    version, tree, data, names = header
    node = tree + index * (22 if version >= 2 else 14)
    name, flags = struct.unpack(">IH", archive[node : node + 6])
    path = f"{above}/{_name(archive, names + name)}".lstrip("/") if index else ""
    if flags & DIRECTORY:
        count, first = struct.unpack(">II", archive[node + 6 : node + 14])
        for child in range(first, first + count):
            yield from _walk(archive, header, child, path)
    else:
        (start,) = struct.unpack(">I", archive[node + 10 : node + 14])
        yield path, _content(archive, data + start, flags)


def _name(archive: bytes, start: int) -> str:
    (length,) = struct.unpack(">H", archive[start : start + 2])
    return archive[start + 6 : start + 6 + 2 * length].decode("utf-16-be")


def _content(archive: bytes, start: int, flags: int) -> bytes:
    (length,) = struct.unpack(">I", archive[start : start + 4])
    content = archive[start + 4 : start + 4 + length]
    if flags & ZLIB:
        return zlib.decompress(content[4:])
    if flags & ZSTANDARD:
        return subprocess.run(["zstd", "-dc"], input=content, stdout=subprocess.PIPE, check=True).stdout
    return content
