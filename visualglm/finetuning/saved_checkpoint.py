"""The folder of one training checkpoint: begun empty, sealed when everything is on the disk.

`files.json`, written last, says how long each file is and its sha256: a folder without it, or of other content, was not
saved to its end or was damaged since. Knows nothing about what the files hold.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..adapters.files import CHECKPOINT
from ..files.atomic import explain_write_errors, remove, sync_tree, write_file
from ..files.reading import open_regular, read_json

SEAL = "files.json"
ADVICE = "make room or allow it there, and the same command with --resume goes on from the checkpoint before"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A new, empty folder in this place, which the block fills; sealed at the end, gone again if something fails.

    Raises:
        UsageError: it cannot be written.
    """
    with explain_write_errors(folder, ADVICE):
        remove(folder)
        folder.mkdir(parents=True)
        try:
            yield
            seal(folder)
        except BaseException:
            remove(folder)
            raise


def seal(folder: Path) -> None:
    """Put all files on the disk, then write what they are."""
    sync_tree(folder)
    contents = {path.name: describe(path) for path in sorted(folder.iterdir())}
    write_file(folder / SEAL, json.dumps(contents, indent=1) + "\n")


def is_whole(folder: Path) -> bool:
    """Whether every file is there as it was when the folder was sealed."""
    try:
        contents = read_json(folder / SEAL)
        return all(describe(folder / Path(name).name) == content for name, content in contents.items())
    except (OSError, ValueError, AttributeError):
        return False


def describe(file: Path) -> dict[str, Any]:
    """Size and sha256 of a file."""
    with open_regular(file) as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()  # type: ignore[arg-type]
        return {"bytes": os.fstat(opened.fileno()).st_size, "sha256": digest}


def newest_first(output: Path) -> list[Path]:
    """The checkpoints of a run, whole or not."""
    folders = [path for path in output.glob(f"{CHECKPOINT}*") if path.name[len(CHECKPOINT) :].isdigit()]
    return sorted(folders, key=lambda path: int(path.name[len(CHECKPOINT) :]), reverse=True)
