"""Write files and folders atomically, also across a kill or a power loss.

    replace a file:    PARENT/.NAME-xxxxxxxx.HOST.visualglm -- fsync, rename, fsync of PARENT --> PARENT/NAME
    temporary folder:  PARENT/.NAME-xxxxxxxx.HOST.visualglm/, deleted when its block ends, by SIGTERM or SIGHUP too

A symbolic link at a target is replaced or rejected, never written through. Every temporary is locked (flock) while its
process lives: what SIGKILL leaves is not locked, and the next run in the same place deletes it. A temporary of another
host, or on a file system without locks, is left alone. Every error is one `UsageError` that names the file.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import platform
import re
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from safetensors import SafetensorError

from ..errors import UsageError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: no locks, and no leftover is deleted
    fcntl = None

SUFFIX = f".{re.sub('[^A-Za-z0-9-]', '-', platform.node())[:20]}.visualglm"
"""Suffix of every temporary; it has the host, because locks say nothing about processes on another host."""
LONGEST_NAME = 40
"""Characters of the target's name in a temporary's; a file name may have 255 bytes."""
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
ADVICE = "make room, change the permissions, or choose another path"


def sync_file(path: Path) -> None:
    """Sync a file to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk, if its file system supports that."""
    with suppress(OSError):
        sync_file(folder)


def sync_tree(folder: Path) -> None:
    """Sync everything in a folder to disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync_file(Path(root) / name)
        sync_folder(Path(root))


def remove(path: Path) -> None:
    """Delete a file, a symbolic link or a folder; do nothing if it does not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def explain_write_errors(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Convert errors of the system, torch or safetensors during a write into a `UsageError` that names the file."""
    try:
        yield
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
        file = str(error.filename or path)
        where = "" if file == str(path) or file.endswith(SUFFIX) else f": {file}"
        raise UsageError(f"{path} cannot be written ({reason}{where}): {advice}.") from error
    except (SafetensorError, RuntimeError) as error:
        reason = _reason_of_library(str(error))
        if not reason:
            raise
        raise UsageError(f"{path} cannot be written ({reason}): {advice}.") from error


def _reason_of_library(message: str) -> str:
    """Return why safetensors or torch could not write; None if the message is about something else."""
    number = re.search(r"os error (\d+)", message)
    if number is not None:
        return os.strerror(int(number[1]))
    return "writing stopped, as on a full disk" if "inline_container.cc" in message else ""


@contextmanager
def open_replacement(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `path` when the block ends, after it is synced to disk.

    The old file's permissions are kept; a symbolic link is replaced.

    Raises:
        UsageError: something other than a file is there, or nothing can be written.
    """
    with explain_write_errors(path):
        mode = _mode_to_keep(path)
        temporary, descriptor = _claim(partial(_create_file, path))
        try:
            with os.fdopen(descriptor, "wb") as file:
                if mode is not None:
                    temporary.chmod(mode)
                yield file
                file.flush()
                os.fsync(file.fileno())
                if fcntl is None:  # Windows cannot rename an open file; elsewhere its lock must last until then
                    file.close()
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file's content, as `open_replacement` does; text is encoded as UTF-8."""
    with open_replacement(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _mode_to_keep(path: Path) -> int | None:
    """Return the permissions of the file at `path`; None if there is no file, or a link."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return stat.S_IMODE(mode)
    if not stat.S_ISLNK(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return None


def open_append(path: Path) -> io.FileIO:
    """Open a file for appending, unbuffered; create it if necessary.

    Raises:
        UsageError: it is a symbolic link, a pipe, a device or a folder, or cannot be written.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_FOLLOW | NO_WAIT
    with explain_write_errors(path):
        file = io.FileIO(os.open(path, flags, 0o666), "a+")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return file


def append(file: io.FileIO, path: Path, data: bytes) -> None:
    """Append all of the data, or nothing: a partial write on a full disk is undone."""
    begin = os.fstat(file.fileno()).st_size
    rest = memoryview(data)
    with explain_write_errors(path):
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(begin)
            raise


def append_line(path: Path, line: str) -> None:
    """Append one line to a log and sync it to disk."""
    with open_append(path) as file:
        append(file, path, line.encode() + b"\n")
        os.fsync(file.fileno())


def lock(descriptor: int) -> bool | None:
    """Lock an open file or folder until it is closed; False if another process holds the lock, None without locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # network file systems without locks
        return None
    return True


@contextmanager
def scratch_folder(parent: Path, name: str, keep: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """Create a temporary folder in `parent` for the block; delete those of the same name left by killed processes.

    A folder for which `keep` returns True stays.

    Raises:
        UsageError: it cannot be created.
    """
    with exit_on_signals():
        with explain_write_errors(parent / name):
            parent.mkdir(parents=True, exist_ok=True)
            for left in leftovers(parent, name):
                if not keep(left):
                    with suppress(OSError):
                        remove(left)
            folder, descriptor = _claim(partial(_create_folder, parent, name))
        try:
            yield folder
        finally:
            if not keep(folder):
                shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


@contextmanager
def install_files(folder: Path, advice: str = ADVICE) -> Iterator[Path]:
    """Create a temporary folder inside `folder`; files written there are moved into `folder` when the block ends.

    Raises:
        UsageError: one of them cannot be written; then those in `folder` are unchanged and complete.
    """
    with explain_write_errors(folder, advice), scratch_folder(folder, "installing") as fresh:
        yield fresh
        sync_tree(fresh)
        for file in sorted(fresh.iterdir()):
            file.replace(folder / file.name)
        sync_folder(folder)


def leftovers(folder: Path, name: str = "") -> Iterator[Path]:
    """Yield temporaries in a folder whose process is dead, of one target or of all; each is locked meanwhile."""
    beginning = f".{glob.escape(_shorten(name))}-" if name else ".*-"
    for path in sorted(folder.glob(f"{beginning}????????{SUFFIX}")):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | NO_FOLLOW | NO_WAIT)
            try:
                if lock(descriptor) and _is_at(descriptor, path):
                    yield path
            finally:
                os.close(descriptor)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and SIGHUP in the block, so that it cleans up instead of being killed."""

    def leave(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
        sys.exit(128 + number)

    taken = []
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        taken = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _claim(create: Callable[[], tuple[Path, int]]) -> tuple[Path, int]:
    """Create a temporary and lock it; try again if another run deletes it as a leftover before that."""
    while True:
        path, descriptor = create()
        held = lock(descriptor)
        if held is None or (held and _is_at(descriptor, path)):
            return path, descriptor
        os.close(descriptor)


def _shorten(name: str) -> str:
    """Shorten a name to leave room for a temporary's suffix; different names stay different."""
    return name if len(name) <= LONGEST_NAME else f"{name[:31]}~{zlib.crc32(os.fsencode(name)):08x}"


def _create_file(path: Path) -> tuple[Path, int]:
    temporary = path.with_name(f".{_shorten(path.name)}-{secrets.token_hex(4)}{SUFFIX}")
    return temporary, os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666)


def _create_folder(parent: Path, name: str) -> tuple[Path, int]:
    folder = Path(tempfile.mkdtemp(prefix=f".{_shorten(name)}-", suffix=SUFFIX, dir=parent))
    try:
        return folder, os.open(folder if fcntl else os.devnull, os.O_RDONLY | NO_FOLLOW)  # Windows cannot open folders
    except FileNotFoundError:  # deleted as a leftover before it was locked
        return _create_folder(parent, name)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
