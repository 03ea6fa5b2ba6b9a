"""Find the image file that a row of the user's data names.

Tools write paths relative to the file or to the working directory, with backslashes, with `~`, or as `file://`.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import ImageError

URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
FILE_URL = re.compile(r"file:", re.IGNORECASE)
WINDOWS_DRIVE = re.compile(r"/[a-z]:", re.IGNORECASE)
LONGEST_PATH = 1024
"""Characters of a path."""
LONGEST_QUOTE = 200
SEARCHED = "neither beside the data file nor in the working directory"


def locate_image(source: str, folder: Path) -> Path:
    """Return the existing file that `source` names: in `folder`, or else in the working directory.

    If there is none, the path in `folder` is returned, so that reading it fails.

    Raises:
        ImageError: it is a URL, base64, or a `~` of an unknown user.
    """
    source = local_path(source)
    spellings = dict.fromkeys((source, source.replace("\\", "/")))
    candidates = (root / spelling for spelling in spellings for root in (folder, Path()))
    return next(filter(is_file, candidates), folder / source)


def require_image(source: str, folder: Path) -> Path:
    """Return the existing file that `source` names.

    Raises:
        ImageError: as `locate_image`, or there is no such file.
    """
    path = locate_image(source, folder)
    if not is_file(path):
        raise ImageError(describe_missing(path, source))
    return path


def local_path(source: str) -> str:
    """Return the path that `source` means on this machine: `file://` decoded, `~` expanded.

    Raises:
        ImageError: it is a URL, base64, or a `~` of an unknown user.
    """
    quote = source[:LONGEST_QUOTE]
    if source[:5].lower() == "data:" or len(source) > LONGEST_PATH:
        raise ImageError(
            f"the image {source[:24]}… ({len(source)} characters) is not a path; if it is base64, write "
            "data:image/png;base64, before it, or save it as a file"
        )
    if FILE_URL.match(source):
        return _path_of_file_url(source)
    if URL.match(source):
        raise ImageError(f"the image {quote} is a URL, and images are not fetched; download it and write its path")
    if not source.startswith("~") or is_file(Path(source)):
        return source
    try:
        return str(Path(source).expanduser())
    except RuntimeError as error:
        raise ImageError(f"the image {quote} has a ~ of an unknown user; write the whole path") from error


def _path_of_file_url(source: str) -> str:
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise ImageError(f"the image {source[:LONGEST_QUOTE]} is not a valid file URL; write its path") from error
    if parts.netloc not in ("", "localhost"):
        raise ImageError(f"the image {source[:LONGEST_QUOTE]} is on another machine; copy it and write its path")
    path = unquote(parts.path)
    return path[1:] if WINDOWS_DRIVE.match(path) else path


def describe_missing(path: Path, source: str, searched: str = SEARCHED) -> str:
    """Say in a clause why no image can be read at `path`, which `source` names."""
    quote = source[:LONGEST_QUOTE]
    with contextlib.suppress(OSError, ValueError):  # a text that no file can be named
        if path.is_symlink():
            return f"the image {quote} is a broken link; restore the file that it points to"
    return f"the image {quote} is {searched}; check the path"


def is_file(path: Path) -> bool:
    """Return True if the file exists; a text that no file can be named does not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
