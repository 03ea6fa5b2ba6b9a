"""Read bytes and JSON from untrusted files, in bounded memory and time, from regular files only.

A FIFO would block forever and `/dev/zero` never ends, so both are rejected before they are read. Errors are an
`OSError` with a reason and the path, or a `ValueError` that says what is wrong with the text; callers add what to do.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MOST_BYTES = 1 << 26
"""Maximum bytes of a file that is read whole; our largest, a fingerprint or a trainer's state, has a few MB."""
DEEPEST = 100
"""Maximum depth of nested lists and objects: deeper ones raise RecursionError in code that copies or prints them."""
MOST_DIGITS = 1000
"""Maximum digits of a whole number; Python itself allows 4,300."""
SURROGATE = re.compile("[\ud800-\udfff]")


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading, without blocking on anything else.

    Raises:
        OSError: it does not exist, may not be read, or is a folder, a FIFO, a socket or a device.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """Read a whole regular file of at most `most` bytes.

    Raises:
        OSError: see `open_regular`, or it is larger.
    """
    with open_regular(path) as file:
        content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
    if content is None or len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most >> 20 or 1} MiB, which no such file has", str(path))
    return content


def wrong_download(head: bytes) -> str | None:
    """Describe what a failed download left instead of a file, and what to do; None if it may be the right file.

    `head` is the beginning of the file, a few hundred bytes.
    """
    if not head:
        return "is empty, because the download or the copy failed. Get it again."
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file itself. Run `git lfs pull` in its folder."
    # without the NUL, because a safetensors file with a header of 60 bytes also begins with "<"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" and b"\0" not in head:
        return "is a web page or XML, not the file itself. Download it from a link that works."
    return None


def read_json(path: str | Path, most: int = MOST_BYTES) -> Any:
    """Read a JSON file; `read_bytes` and `parse_json` state what is rejected, and so is half a surrogate pair."""
    return parse_json(read_bytes(path, most), surrogates=False)


def parse_json(text: bytes | str, surrogates: bool = True) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON in UTF-8, is nested too deeply, or has a number of hundreds of digits; without
            `surrogates` also for half a surrogate pair.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"its byte {error.start + 1} is not UTF-8") from error
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(value)
    if not surrogates and "\\u" in text and _has_surrogate(value):
        raise ValueError("it has a lone surrogate (half a character)")
    return value


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, (dict, list))]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _has_surrogate(value: Any) -> bool:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and SURROGATE.search(value):
            return True
        if isinstance(value, dict):
            waiting.extend(value)
        waiting.extend(_inside(value))
    return False


def _inside(value: Any) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
