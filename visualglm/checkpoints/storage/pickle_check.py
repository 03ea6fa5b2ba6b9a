"""Check that a PyTorch file is cheap to open, before torch reads it; nothing is executed.

`weights_only=True` keeps code out, but does not bound work: a compressed record can grow a thousandfold, and nested
tuples that repeat one object take exponential time to hash.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

from ...errors import CheckpointError
from ...files.untrusted_files import open_regular

MOST_DIRECTORY = 1 << 24
"""Maximum bytes of a zip's directory; that of the 6B's thousand records takes about 100 each."""
MOST_PICKLE = 1 << 25
MOST_STEPS = 1 << 20
"""Maximum number of opcodes in a pickle; a whole 6B takes about 40 thousand."""
MOST_ITEMS = 10_000
"""Maximum number of items of a tuple, nested tuples included, counted each time they occur."""
OLD_PICKLES = 5
"""Pickles at the start of a file before PyTorch 1.6: magic number, version, system, content, storage keys."""
HASHED = ("TUPLE", "FROZENSET", "REDUCE", "NEWOBJ")
"""Opcodes that hash their operand with everything in it."""
REMEDY = "it was not opened. Ask its author for safetensors"


def check_records(path: Path) -> None:
    """Raise `CheckpointError` for a zip with compressed records, too many records, or a too expensive pickle."""
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
                    return  # an archive of files; the next reader reports it
                for record in records:
                    if record.filename.endswith(".pkl"):
                        with archive.open(record) as pickled:
                            _check_pickle(pickled, path)
        except (zipfile.BadZipFile, NotImplementedError, OSError, RuntimeError):
            return  # truncated or damaged; torch's message is better


def check_pickles(path: Path) -> None:
    """Raise `CheckpointError` if the pickles of a file before PyTorch 1.6 are too expensive."""
    with open_regular(path) as file:
        for _ in range(OLD_PICKLES):
            if not _check_pickle(file, path):
                return


def _check_pickle(file: IO[bytes], path: Path) -> bool:
    """Walk one pickle; return False if it is damaged, which torch reports better."""
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
    """Follow the stack of the pickle machine, with the sizes of tuples instead of values."""
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
    """Pop what an opcode consumes: everything down to the mark, then or otherwise its fixed number of values."""
    before, taken = list(code.stack_before), []
    if pickletools.markobject in before:
        while (value := stack.pop()) is not None:
            taken.append(value)
        before = before[: before.index(pickletools.markobject)]
    return taken + [stack.pop() or 0 for _ in before]
