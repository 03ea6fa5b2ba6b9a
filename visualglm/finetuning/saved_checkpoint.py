"""Folders of training checkpoints that tell whether they are complete.

`files.json` is written last, with the size and sha256 of every file. A folder without it, or with other content, is
incomplete or damaged.
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
from ..files.untrusted_files import open_regular, read_json

SEAL = "files.json"
ADVICE = "free some space or change permissions, then resume from the previous checkpoint with --resume"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Create an empty folder for the block to fill; seal it at the end, or remove it after an error.

    Raises:
        UsageError: the folder cannot be written.
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
    """Sync all files to disk, then write their sizes and checksums."""
    sync_tree(folder)
    contents = {path.name: describe(path) for path in sorted(folder.iterdir())}
    write_file(folder / SEAL, json.dumps(contents, indent=1) + "\n")


def is_whole(folder: Path) -> bool:
    """Return True if every file is as it was when the folder was sealed."""
    try:
        contents = read_json(folder / SEAL)
        return all(describe(folder / Path(name).name) == content for name, content in contents.items())
    except (OSError, ValueError, AttributeError):
        return False


def describe(file: Path) -> dict[str, Any]:
    """Return size and sha256 of a file."""
    with open_regular(file) as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()  # type: ignore[arg-type]
        return {"bytes": os.fstat(opened.fileno()).st_size, "sha256": digest}


def newest_first(output: Path) -> list[Path]:
    """List the checkpoints of a run, newest first, complete or not."""
    folders = [path for path in output.glob(f"{CHECKPOINT}*") if path.name[len(CHECKPOINT) :].isdigit()]
    return sorted(folders, key=lambda path: int(path.name[len(CHECKPOINT) :]), reverse=True)
