"""Resolve a folder or a hub id to a folder on this machine. The only network client of this package.

Downloads only what was asked for by name, only weights, configuration and vocabulary (never code), resumes an
interrupted download, and works from the local cache when there is no network.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .formats.detect import SAT_WEIGHTS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
METADATA_PATTERNS = ["*.json", "*.model", "*.jinja", "latest"]
DISK_ERRNOS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EEXIST,
    errno.ENOTDIR,
)
UNSHARDED = ["model.safetensors", "pytorch_model.bin", f"*/{SAT_WEIGHTS}", "carried/*"]


def local_folder(name_or_dir: str | Path, **options: Any) -> Path:
    """Return the folder (or file) itself if it exists, else sat's folder of that name, else the hub snapshot.

    Args:
        name_or_dir: a path, the name of a folder in `SAT_HOME` (~/.sat_models), or `owner/name`.
        options: `snapshot_download`'s: revision, cache_dir, token, local_files_only, force_download.

    Raises:
        CheckpointError: neither; the hub has no such model or cannot be reached; or the cache cannot be written.
    """
    path = Path(name_or_dir).expanduser()
    if path.exists():
        return path
    name = str(name_or_dir)
    in_sat_home = _sat_home() / name
    if len(path.parts) == 1 and in_sat_home.is_dir():
        return in_sat_home
    if _is_path(name):
        raise CheckpointError(
            f"{name} does not exist. Give the model's folder, or a hub id like THUDM/visualglm-6b, or put a folder of "
            f"that name into {_sat_home()} (SAT_HOME)."
        )
    return _download(name, options)


def _sat_home() -> Path:
    """Return the folder of sat's downloads."""
    return Path(os.environ.get("SAT_HOME", "~/.sat_models")).expanduser()


def _is_path(name: str) -> bool:
    """Return whether the name is a path; `models/glm` is one if there is a folder `models`."""
    return HUB_ID.fullmatch(name) is None or Path(name.split("/")[0]).is_dir()


def _download(name: str, options: dict[str, Any]) -> Path:
    from huggingface_hub import errors, snapshot_download

    # network errors are not an OSError in every version of the hub client
    on_the_way: type[Exception] = getattr(errors, "HTTPError", OSError)
    try:
        folder = Path(snapshot_download(name, allow_patterns=METADATA_PATTERNS, **options))
        return Path(snapshot_download(name, allow_patterns=[*METADATA_PATTERNS, *_weights(folder)], **options))
    except errors.HFValidationError as error:
        raise CheckpointError(
            f"{name} is not a folder here, and no hub id can be spelled so. Give the model's folder, or a hub id like "
            "THUDM/visualglm-6b."
        ) from error
    except (OSError, on_the_way) as error:
        raise CheckpointError(_what_happened(name, error, options.get("revision"))) from error


def _what_happened(name: str, error: Exception, revision: str | None) -> str:
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return f"The hub's {name} has no revision {revision!r}. Check its name."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name} is neither a folder here nor a model on the hub (or a private one). Check the spelling, or pass a "
            "token."
        )
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return _disk(name, error)
    cause = error.__cause__ or error
    if isinstance(cause, HfHubHTTPError):
        reason = (str(cause).splitlines() or ["no reason given"])[0].rstrip(" .")
        return f"The hub did not provide {name} ({reason}). Try again later, or pass a token if it is private."
    return (
        f"{name} is not a folder here, is not in the local cache and the hub cannot be reached. Download it where "
        f"there is a network (`hf download {name}`), or give the folder."
    )


def _disk(name: str, error: OSError) -> str:
    where = "" if error.filename is None else f": {error.filename}"
    return (
        f"{name} cannot be stored in the cache ({error.strerror}{where}). Make room, change the permissions, or "
        "choose another cache with HF_HOME or cache_dir."
    )


def _weights(folder: Path) -> list[str]:
    """Return the file patterns of one kind of weights if the repository has both kinds."""
    for kind in ("safetensors", "bin"):
        if any(folder.glob(f"*.{kind}.index.json")):
            return [f"*.{kind}", "carried/*"]
    return UNSHARDED
