"""Is a file of PyTorch small work to open? Asked before torch reads it; nothing is executed.

`weights_only=True` keeps code out, but not work: a compressed record grows a thousandfold, and a tuple of tuples that
are all the same one takes for ever to hash. In: a file. Out: nothing, or one sentence.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

from ...errors import CheckpointError
from ...files.untrusted_files import open_regular

MOST_DIRECTORY = 1 << 24
"""Bytes of a zip's list of records; one of the 6B's thousand takes some 100."""
MOST_PICKLE = 1 << 25
MOST_STEPS = 1 << 20
"""Of a pickle; a whole 6B takes some 40 thousand."""
MOST_ITEMS = 10_000
"""Of a tuple, those of the tuples in it included, each as often as it is there."""
OLD_PICKLES = 5
"""A file before PyTorch 1.6 begins with a magic number, a version, the system, the content and the storages' keys."""
HASHED = ("TUPLE", "FROZENSET", "REDUCE", "NEWOBJ")
"""Steps that make what may be hashed with all that is in it."""
REMEDY = "it is not opened; ask its author for safetensors"


def check_records(path: Path) -> None:
    """Raises `CheckpointError` for a zip whose records are compressed, too many, or a pickle that is too much work."""
    with open_regular(path) as file:
        try:
            end: Any = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # before the list itself is read
            if end is None or end[5] > MOST_DIRECTORY:
                raise CheckpointError(f"{path} has a list of records that no file of weights has: {REMEDY}.")
            with zipfile.ZipFile(file) as archive:
                records = archive.infolist()
                if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                    if any(record.filename.endswith("data.pkl") for record in records):
                        raise CheckpointError(f"{path} has compressed records, unlike torch.save's: {REMEDY}.")
                    return  # an archive of files, which the next reader names
                for record in records:
                    if record.filename.endswith(".pkl"):
                        with archive.open(record) as pickled:
                            _check_pickle(pickled, path)
        except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError):
            return  # truncated or damaged, which torch says better


def check_pickles(path: Path) -> None:
    """Raises `CheckpointError` where the pickles of a file before PyTorch 1.6 are too much work."""
    with open_regular(path) as file:
        for _ in range(OLD_PICKLES):
            if not _check_pickle(file, path):
                return


def _check_pickle(file: IO[bytes], path: Path) -> bool:
    """Walk one pickle; False where it is damaged, which torch says better."""
    try:
        _walk(_Bounded(file, path), path)  # type: ignore[arg-type]
    except (ValueError, IndexError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        return False
    return True


class _Bounded:
    """The first bytes of a file."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.file, self.path, self.left = file, path, MOST_PICKLE

    def read(self, size: int) -> bytes:
        return self._counted(self.file.read(max(0, min(size, self.left + 1))))

    def readline(self) -> bytes:
        return self._counted(self.file.readline(self.left + 1))

    def _counted(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise CheckpointError(f"{self.path} has a pickle of more than {MOST_PICKLE >> 20} MiB: {REMEDY}.")
        return data


def _walk(file: IO[bytes], path: Path) -> None:
    """Follow the stack of a pickle's machine with the sizes of its tuples in the place of its values."""
    stack: list[int | None] = []  # None is a mark
    memo: dict[Any, int] = {}
    for step, (code, argument, _) in enumerate(pickletools.genops(file)):
        name = code.name
        if step > MOST_STEPS:
            raise CheckpointError(f"{path} has a pickle of more than {MOST_STEPS} steps: {REMEDY}.")
        if name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1] or 0
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1] or 0
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _taken(stack, code)
            size = 1 + sum(taken) if name.startswith(HASHED) else 1
            if size > MOST_ITEMS:
                raise CheckpointError(f"{path} has a pickle with tuples in tuples without end: {REMEDY}.")
            stack.extend(None if made is pickletools.markobject else size for made in code.stack_after)


def _taken(stack: list[int | None], code: Any) -> list[int]:
    """Take what a step takes off the stack: all down to the mark, and then or else its fixed number of values."""
    before, taken = list(code.stack_before), []
    if pickletools.markobject in before:
        while (value := stack.pop()) is not None:
            taken.append(value)
        before = before[: before.index(pickletools.markobject)]
    return taken + [stack.pop() or 0 for _ in before]
