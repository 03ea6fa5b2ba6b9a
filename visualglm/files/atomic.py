"""Write files and folders that appear whole or not at all, also after a kill or a power loss.

    replace a file:    PARENT/.NAME-xxxxxxxx.HOST.visualglm -- fsync, rename, fsync of PARENT --> PARENT/NAME
    scratch folder:    PARENT/.NAME-xxxxxxxx.HOST.visualglm/, deleted when its block ends, by SIGTERM or SIGHUP too

A symbolic link at a target is replaced or refused, never written through. Every temporary is locked (flock) while its
process lives: what SIGKILL leaves has no lock, and the next run in the same place deletes it. A temporary of another
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
except ImportError:  # Windows: nothing is locked there, and no leftover is deleted
    fcntl = None

SUFFIX = f".{re.sub('[^A-Za-z0-9-]', '-', platform.node())[:20]}.visualglm"
"""Of every temporary: locks of one host say nothing about processes on another."""
LONGEST_NAME = 40
"""Characters of the target's name in a temporary's; a file name has 255 bytes."""
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0)
ADVICE = "make room or allow it there, or name another place"


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can tell."""
    with suppress(OSError):
        sync_file(folder)


def sync_tree(folder: Path) -> None:
    """Wait until everything in a folder is on the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync_file(Path(root) / name)
        sync_folder(Path(root))


def remove(path: Path) -> None:
    """Delete a file, a symbolic link or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def explain_write_errors(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Turn what the system, torch or safetensors say about a failed write into a `UsageError` that names the file."""
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
    """Why safetensors or torch could not write; nothing where the message is about something else."""
    number = re.search(r"os error (\d+)", message)
    if number is not None:
        return os.strerror(int(number[1]))
    return "writing stopped, as on a full disk" if "inline_container.cc" in message else ""


@contextmanager
def open_replacement(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of `path` when the block ends, on the disk before it is seen.

    The old file's permissions are kept; a symbolic link is replaced.

    Raises:
        UsageError: something that is no file lies there, or nothing can be written.
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
                if fcntl is None:  # Windows renames no open file; elsewhere its lock must last until then
                    file.close()
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file's content, as `open_replacement` does; text becomes UTF-8."""
    with open_replacement(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, as `open_replacement` writes."""
    with source.open("rb") as original, open_replacement(target) as file:
        shutil.copyfileobj(original, file)


def _mode_to_keep(path: Path) -> int | None:
    """The permissions of the file at `path`; None where there is none yet, or a link."""
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
    """Open a file to append to, unbuffered, made where there is none.

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
    """Append all of the data, or nothing: what a full disk cut short is taken back."""
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
    """Append one line to a log, on the disk when this returns."""
    with open_append(path) as file:
        append(file, path, line.encode() + b"\n")
        os.fsync(file.fileno())


def lock(descriptor: int) -> bool | None:
    """Hold an open file or folder locked until it is closed; False where another process does, None where none can."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # network file systems that have no locks
        return None
    return True


@contextmanager
def scratch_folder(parent: Path, name: str, keep: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """A new folder in `parent` for the block alone; those of the same name that killed processes left are deleted.

    A folder that `keep` is true of stays.

    Raises:
        UsageError: it cannot be made.
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
    """A scratch folder inside `folder`; the files written there take their places in `folder` when the block ends.

    Raises:
        UsageError: one of them cannot be written; then those in `folder` are as they were, each of them whole.
    """
    with explain_write_errors(folder, advice), scratch_folder(folder, "installing") as fresh:
        yield fresh
        sync_tree(fresh)
        for file in sorted(fresh.iterdir()):
            file.replace(folder / file.name)
        sync_folder(folder)


def leftovers(folder: Path, name: str = "") -> Iterator[Path]:
    """Temporaries in a folder whose process is dead, of one target or of all; locked while the caller looks at them."""
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
    """SIGTERM and SIGHUP raise SystemExit in the block, so that it cleans up, where they would have killed it."""

    def leave(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
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
    """A new temporary and its locked descriptor; one that another run took for a leftover meanwhile is not used."""
    while True:
        path, descriptor = create()
        held = lock(descriptor)
        if held is None or (held and _is_at(descriptor, path)):
            return path, descriptor
        os.close(descriptor)


def _shorten(name: str) -> str:
    """A name that leaves room for what a temporary adds to it, different for different names."""
    return name if len(name) <= LONGEST_NAME else f"{name[:31]}~{zlib.crc32(os.fsencode(name)):08x}"


def _create_file(path: Path) -> tuple[Path, int]:
    temporary = path.with_name(f".{_shorten(path.name)}-{secrets.token_hex(4)}{SUFFIX}")
    return temporary, os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666)


def _create_folder(parent: Path, name: str) -> tuple[Path, int]:
    folder = Path(tempfile.mkdtemp(prefix=f".{_shorten(name)}-", suffix=SUFFIX, dir=parent))
    try:
        return folder, os.open(folder if fcntl else os.devnull, os.O_RDONLY | NO_FOLLOW)  # Windows opens no folders
    except FileNotFoundError:  # taken for a leftover before it was locked
        return _create_folder(parent, name)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
