"""Write a folder atomically: check that the target may be replaced, and swap when everything is written.

In: the folder the user named. Out: a new folder to write into, which is renamed to the target at the end. The old
folder is deleted only after that, and only if it holds nothing but a checkpoint's files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from ...errors import UsageError
from ...files.atomic import explain_write_errors, leftovers, remove, scratch_folder, sync_folder, sync_tree
from ...hardware.memory import in_words

REPLACEABLE = (
    *("config.json", "model_config.json", "generation_config.json", "fingerprint.json", "latest"),
    *("model*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json", "*.bin.index.json"),
    *("carried/*.safetensors", "*/mp_rank_*.pt", "ice_text.model", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "preprocessor_config.json", "processor_config.json"),
    *("chat_template.json", "chat_template.jinja", ".gitattributes"),
    *("LICENSE*", "MODEL_LICENSE*", "NOTICE*", "README*", "MODEL_CARD*"),
)
"""Patterns of files that this package or upstream writes; any other file belongs to the user."""
ADVICE = "correct that, or choose another folder"


def validate_target(target: Path, overwrite: bool) -> Path:
    """Return the target's absolute path, with symbolic links resolved.

    Raises:
        UsageError: it cannot be replaced by a rename, or that would delete the user's files.
    """
    with explain_write_errors(target, ADVICE):
        place, here = target.resolve(), Path.cwd()
        _restore(place)
        if place == here or place in here.parents:
            what = "is" if place == here else "holds"
            raise UsageError(f"{place} {what} the current directory, which cannot be replaced. Name a new folder.")
        if os.path.ismount(place):
            raise UsageError(f"{place} is a mount point, which cannot be replaced. Name a new folder inside it.")
        check_replaceable(place, overwrite)
    return place


def check_not_nested(place: Path, source: Path) -> None:
    """Raise `UsageError` if the target is the source, or one is inside the other."""
    source = source.resolve()
    if place == source:
        raise UsageError(f"{place} is the source itself. Convert into another folder, then remove this one yourself.")
    if source in place.parents:
        raise UsageError(f"{place} is inside the source {source}. Give a folder beside it.")
    if place in source.parents:
        raise UsageError(f"The source {source} is inside {place}, which would be replaced. Give another folder.")


def check_free_space(place: Path, nbytes: int) -> None:
    """Raise `UsageError` if the disk has no room for that many bytes."""
    disk = next(parent for parent in (place, *place.parents) if parent.exists())
    free = shutil.disk_usage(disk).free
    if free < nbytes:
        raise UsageError(
            f"{place} needs {in_words(nbytes)}, but {in_words(free)} are free on its disk. Make room, or choose a "
            "folder on another disk."
        )


@contextmanager
def atomic_folder(place: Path, overwrite: bool) -> Iterator[Path]:
    """Create a folder beside `place` that replaces it when everything is written, and is deleted on an error.

    Raises:
        UsageError: the disk is full, or nothing can be written there.
    """
    with explain_write_errors(place, ADVICE), scratch_folder(place.parent, place.name, _only_copy(place)) as workshop:
        new, old = workshop / "new", workshop / "old"
        new.mkdir()
        yield new
        check_replaceable(
            place, overwrite
        )  # a conversion takes minutes, during which the user may have saved a file there
        sync_tree(new)
        _swap(new, place, old)
        sync_folder(place.parent)


def _only_copy(place: Path) -> Callable[[Path], bool]:
    """Return whether a temporary folder holds the only copy of the old folder, which could not be moved back."""
    return lambda workshop: not place.exists() and (workshop / "old").exists()


def _restore(place: Path) -> None:
    """Move the old folder back after a process was killed between the two renames."""
    for workshop in leftovers(place.parent, place.name):
        if _only_copy(place)(workshop):
            (workshop / "old").rename(place)
            remove(workshop)


def _swap(new: Path, place: Path, old: Path) -> None:
    try:
        if place.exists():
            place.rename(old)
        new.rename(place)
    finally:
        if old.exists() and not place.exists():
            old.rename(place)


def check_replaceable(place: Path, overwrite: bool) -> None:
    if not place.exists():
        return
    if not place.is_dir():
        raise UsageError(f"{place} is a file. Give a new folder.")
    if not overwrite and any(place.iterdir()):
        raise UsageError(f"{place} is not empty. Give another folder, or --overwrite to replace it.")
    foreign = next((path for path in _files(place) if not _is_replaceable(path.relative_to(place))), None)
    if foreign is not None:
        raise UsageError(
            f"{place} holds {foreign.relative_to(place)}, which is not a checkpoint's file and would be lost. Give "
            "another folder, or move that file away."
        )


def _files(folder: Path) -> Iterator[Path]:
    """Yield files and symbolic links at any depth; raise an error for an unreadable folder."""

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        yield from (Path(root) / name for name in sorted([*files, *links]))


def _is_replaceable(relative: Path) -> bool:
    patterns = [Path(pattern).parts for pattern in REPLACEABLE]
    return any(len(parts) == len(relative.parts) and all(map(fnmatchcase, relative.parts, parts)) for parts in patterns)
