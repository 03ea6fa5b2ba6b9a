"""Images that a browser uploaded, in a private folder that is limited in bytes, files and age.

The folder is deleted when the server stops; one whose server was killed is deleted by the next start of the same user.
"""

from __future__ import annotations

import contextlib
import mimetypes
import os
import secrets
import shutil
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType

from ..errors import ImageError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX = "visualglm-uploads-"
FILE_LIMIT = 1000
AGE_LIMIT = 2 * 60 * 60
"""Seconds."""
SETTLED = 60
"""Seconds after which a folder that no process locks was left by a killed server; a new one is locked within them."""


class Uploads:
    """Stored images, the oldest first. Beyond a limit the oldest are deleted; `close()` deletes the folder."""

    def __init__(self, byte_limit: int, file_limit: int = FILE_LIMIT, age_limit: float = AGE_LIMIT) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        self.byte_limit, self.file_limit, self.age_limit = byte_limit, file_limit, age_limit
        self._temporary = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name).resolve()
        self._folder_lock = _try_lock(self.folder)
        self._samples: frozenset[str] = frozenset()
        self._stored: dict[str, tuple[float, int]] = {}
        self._changing = threading.Lock()

    def store(self, content: bytes, client_name: str) -> str:
        """Write an image under a random name; of the client's name only the suffix is kept. Returns its path.

        Raises:
            ImageError: the name is not an image's, or the image is larger than everything that may be stored.
        """
        suffix = Path(client_name).suffix.lower()
        if not (mimetypes.guess_type(f"image{suffix}")[0] or "").startswith("image/"):
            raise ImageError("The file is not an image. Choose a JPEG, PNG or WebP file.")
        if len(content) > self.byte_limit:
            raise ImageError(f"The image has more than {self.byte_limit} bytes. Choose a smaller one.")
        file = str(self.folder / f"{secrets.token_hex(16)}{suffix}")
        with self._changing:
            self._make_room(len(content))
            self._stored[file] = (time.monotonic(), len(content))
            Path(file).write_bytes(content)
        return file

    def keep_samples(self) -> None:
        """Keep the files that are in the folder now until it is closed: the page's examples."""
        self._samples = frozenset(str(file) for file in self.folder.rglob("*") if file.is_file())

    def holds(self, path: object) -> bool:
        """Whether this is the path of a stored image or a sample, exactly as `store` wrote it."""
        return isinstance(path, str) and (path in self._stored or path in self._samples)

    def expire(self) -> None:
        """Delete the images that are too old."""
        with self._changing:
            self._make_room(0)

    def _make_room(self, size: int) -> None:
        oldest_kept = time.monotonic() - self.age_limit
        held = sum(size for _, size in self._stored.values())
        for file, (stored, bytes_) in list(self._stored.items()):
            fits = held + size <= self.byte_limit and len(self._stored) < self.file_limit
            if fits and stored > oldest_kept:
                return
            del self._stored[file]
            held -= bytes_
            Path(file).unlink(missing_ok=True)

    def close(self) -> None:
        """Delete the folder and everything in it. Calling it again does nothing."""
        with self._changing:
            self._stored.clear()
            self._temporary.cleanup()
            if self._folder_lock is not None:
                os.close(self._folder_lock)
                self._folder_lock = None


def remove_abandoned(parent: Path) -> None:
    """Delete upload folders of this user that no running server has locked."""
    if fcntl is None:
        return
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if folder.is_symlink() or found.st_uid != os.getuid() or time.time() - found.st_mtime < SETTLED:
                continue
            lock = _try_lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _try_lock(folder: Path) -> int | None:
    """A descriptor that locks the folder until it is closed or the process ends; None where another process has it."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
