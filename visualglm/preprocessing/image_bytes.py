"""Read the bytes of an image from a file or stream."""

from __future__ import annotations

import errno
import io
import os
import re
from pathlib import Path
from typing import IO, Any

from ..errors import ImageError
from ..files.untrusted_files import open_regular

FILE_LIMIT = 256_000_000
"""Maximum bytes of an image file."""

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)

READ_BYTES = 1 << 20
"""Bytes read from a stream at once."""


def _open(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file, without blocking on a FIFO.

    Raises:
        OSError: it cannot be opened, or is a folder.
        ImageError: it is a pipe, a socket or a device.
    """
    try:
        return open_regular(path)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise ImageError(f"{os.fspath(path)[:200]} is not a file but a pipe or a device. Save it as a file.") from error


def read_image(path: str | os.PathLike[str], offset: int = 0, size: int | None = None) -> bytes:
    """Read a regular file, or the part of it that holds an image.

    Raises:
        OSError: it cannot be opened.
        ImageError: it is not a regular file, or the image has more than `FILE_LIMIT` bytes.
    """
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size - offset if size is None else size
        if size > FILE_LIMIT:
            raise ImageError(
                f"{os.fspath(path)[:200]} has {size:,} bytes: an image may have {FILE_LIMIT:,}; shrink it."
            )
        file.seek(offset)
        return file.read(max(size, 0))


def read_stream(file: Any, name: str) -> bytes:
    """Read all of an open file, from its beginning where it can seek.

    Raises:
        ImageError: it is opened as text, cannot be read, or has more than `FILE_LIMIT` bytes.
    """
    if isinstance(file, io.TextIOBase):
        raise ImageError("The image file is opened as text. Open it with mode 'rb'.")
    content = bytearray()
    try:
        if getattr(file, "seekable", lambda: False)():
            file.seek(0)
        while len(content) <= FILE_LIMIT and (part := file.read(READ_BYTES)):
            content += part
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(f"{name} cannot be read ({error}). Open it with mode 'rb'.") from error
    if len(content) > FILE_LIMIT:
        raise ImageError(f"{name} has more than {FILE_LIMIT:,} bytes: shrink it.")
    return bytes(content)


def read_path(path: str) -> bytes:
    """Read the image file that a user named.

    Raises:
        ImageError: it is a URL or a folder, does not exist, or cannot be read.
    """
    if path[:5].lower() == "file:":
        raise ImageError(f"{path[:200]} is the URL of a file. Give its path.")
    if URL.match(path):
        raise ImageError(
            f"{path[:100]} is a URL, and images are not fetched. Download it and give the file, or pipe it: "
            f"curl -L URL | visualglm ask -"
        )
    if not path.strip():
        raise ImageError("No image was named. Give its path.")
    try:
        return read_image(path)
    except FileNotFoundError as error:
        if Path(path).is_symlink():
            raise ImageError(f"{path[:200]} is a broken link. Restore the file that it points to.") from error
        raise ImageError(f"{path[:200]} does not exist. Check the path.") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path} is a folder. Give one image in it.") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{path[:200]!r} cannot be read ({error}). Check the path and its permissions.") from error
