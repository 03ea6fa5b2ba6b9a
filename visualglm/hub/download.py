"""Download a model from the hub: list its files, fetch what is missing, check sizes and sha256."""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UsageError
from .local_folder import HUB_ID, METADATA_PATTERNS, hub_errors, weight_patterns

OFFICIAL = "zai-org/visualglm-6b"
"""Hub id of VisualGLM-6B, THUDM/visualglm-6b before the organisation was renamed."""
ALIASES = {"6b": OFFICIAL, "visualglm-6b": OFFICIAL}


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub: its size in bytes, and its sha256 if the hub stores it as a large file."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class RemoteModel:
    """A model on the hub at one commit, and the files that are needed of it."""

    name: str
    commit: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def resolve_name(name: str) -> str:
    """Return the hub id that `name` means: `owner/name`, or the short form `6b`.

    Raises:
        UsageError: it is neither.
    """
    name = ALIASES.get(name.lower(), name)
    if HUB_ID.fullmatch(name) is None:
        raise UsageError(f"{name} is not a hub id. Write owner/name, for example {OFFICIAL}, or 6b for that.")
    return name


def list_files(name: str, revision: str | None = None, token: str | None = None) -> RemoteModel:
    """Ask the hub for the weights, configuration and vocabulary of a model; never code.

    Raises:
        CheckpointError: the hub cannot be reached, has no such model, or answers with something else.
    """
    from huggingface_hub import HfApi

    try:
        with hub_errors(name, revision):
            found = HfApi(token=token).model_info(name, revision=revision, files_metadata=True)
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"The hub's answer about {name} is not JSON, as if a login page or proxy had sent it. Open the hub in a "
            "browser, or check HF_ENDPOINT."
        ) from error
    siblings = found.siblings or []
    patterns = [*METADATA_PATTERNS, *weight_patterns([file.rfilename for file in siblings])]
    files = [
        RemoteFile(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None)
        for file in siblings
        if any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in patterns)
    ]
    if not files:
        raise CheckpointError(f"{name} has no weights in a known format on the hub. Check the name.")
    return RemoteModel(name, found.sha or "main", tuple(files))


def download(
    model: RemoteModel,
    folder: Path | None = None,
    token: str | None = None,
    report: Callable[[str], None] = lambda step: None,
) -> Path:
    """Download what is missing, into `folder` or the hub's cache, and check every file. Return the folder.

    A download that was interrupted is resumed in the middle of a file.

    Raises:
        CheckpointError: the hub cannot be reached, the disk is full, or a file is not what the hub lists; that file is
            deleted, so that the next run fetches it again.
    """
    from huggingface_hub import snapshot_download

    place = {} if folder is None else {"local_dir": str(folder)}
    _check_space(model, folder)
    with hub_errors(model.name):
        options: dict[str, Any] = {"revision": model.commit, "token": token, **place}
        names = [file.name for file in model.files]
        found = Path(snapshot_download(model.name, allow_patterns=names, **options))
    report("checking sizes and sha256")
    for file in model.files:
        _check_file(found / file.name, file)
    return found


def _check_space(model: RemoteModel, folder: Path | None) -> None:
    """Refuse to begin where the files cannot fit; what is there already counts as free."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE) if folder is None else folder
    cached = place / f"models--{model.name.replace('/', '--')}" if folder is None else folder
    there = sum(file.stat().st_size for file in cached.rglob("*") if file.is_file() and not file.is_symlink())
    existing = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
    missing = model.size - there - shutil.disk_usage(existing).free
    if missing > 0:
        raise CheckpointError(
            f"{existing} has {missing / 1e9:.1f} GB too little free space for {model.name}. Make room, or choose "
            "another place with --output or HF_HOME."
        )


def _check_file(path: Path, file: RemoteFile) -> None:
    size = path.stat().st_size
    fault = f"{size:,} bytes instead of {file.size:,}" if size != file.size else ""
    if not fault and file.sha256 is not None and _sha256(path) != file.sha256:
        fault = "another sha256"
    if fault:
        stored = path.resolve()  # in the cache, a link leads to the file
        path.unlink()
        stored.unlink(missing_ok=True)
        raise CheckpointError(f"{file.name} has {fault}, and was deleted. Run the command again to fetch it.")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
