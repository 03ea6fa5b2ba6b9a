"""Resolve a folder or a hub id to a folder on this machine.

Only what was asked for by name is downloaded, only weights, configuration and vocabulary (never code). A download
resumes where an earlier one stopped; without a network the local cache is used. Nothing here imports torch, so that a
wrong path costs no time.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

SAT_WEIGHTS = "mp_rank_00_model_states.pt"
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


def local_folder(name_or_dir: str | PathLike[str], **options: Any) -> Path:
    """Return the folder (or file) itself if it exists, else sat's folder of that name, else that hub id's snapshot.

    Args:
        name_or_dir: a path, the name of a folder in `SAT_HOME` (~/.sat_models), or `owner/name`.
        options: `snapshot_download`'s: revision, cache_dir, token, local_files_only, force_download.

    Raises:
        CheckpointError: neither; the hub has no such model or cannot be reached; or the cache cannot be written.
    """
    return find_local(name_or_dir) or _download(str(name_or_dir), options)


def find_local(name_or_dir: str | PathLike[str]) -> Path | None:
    """Return what `local_folder` returns without a download, or None for a hub id.

    Raises:
        CheckpointError: the name is a path, and nothing is there.
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
            f"{name} does not exist. Give the model's folder, or a hub id like zai-org/visualglm-6b, or put a folder "
            f"of that name into {_sat_home()} (SAT_HOME)."
        )
    return None


def _sat_home() -> Path:
    """Return the folder of sat's downloads."""
    return Path(os.environ.get("SAT_HOME", "~/.sat_models")).expanduser()


def _is_path(name: str) -> bool:
    """Return whether the name is a path; `models/glm` is one if there is a folder `models`."""
    return HUB_ID.fullmatch(name) is None or Path(name.split("/")[0]).is_dir()


def _download(name: str, options: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    with hub_errors(name, options.get("revision")):
        folder = Path(snapshot_download(name, allow_patterns=METADATA_PATTERNS, **options))
        weights = weight_patterns([file.name for file in folder.iterdir()])
        return Path(snapshot_download(name, allow_patterns=[*METADATA_PATTERNS, *weights], **options))


@contextmanager
def hub_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn the errors of the hub's client into a `CheckpointError`."""
    from huggingface_hub import errors

    # network errors are not an OSError in every version of the hub client
    on_the_way: type[Exception] = getattr(errors, "HTTPError", OSError)
    try:
        yield
    except errors.HFValidationError as error:
        raise CheckpointError(
            f"{name} is not a folder here, and no hub id can be spelled so. Give the model's folder, or a hub id like "
            "zai-org/visualglm-6b."
        ) from error
    except (OSError, on_the_way) as error:
        raise CheckpointError(_what_happened(name, error, revision)) from error


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
        where = "" if error.filename is None else f": {error.filename}"
        return (
            f"{name} cannot be stored in the cache ({error.strerror}{where}). Make room, change the permissions, or "
            "choose another cache with HF_HOME or cache_dir."
        )
    failure = next((one for one in (error, error.__cause__) if isinstance(one, HfHubHTTPError)), None)
    if failure is not None:
        reason = (str(failure).splitlines() or ["no reason given"])[0].rstrip(" .")
        return f"The hub did not provide {name} ({reason}). Try again later, or pass a token if it is private."
    return (
        f"{name} is not a folder here, is not in the local cache and the hub cannot be reached. Download it where "
        f"there is a network (`visualglm download {name}`), or give the folder."
    )


def weight_patterns(names: Iterable[str]) -> list[str]:
    """Choose one kind of weights where a repository with these files has both."""
    indexes = [name for name in names if name.endswith(".index.json")]
    for kind in ("safetensors", "bin"):
        if any(name.endswith(f".{kind}.index.json") for name in indexes):
            return [f"*.{kind}", "carried/*"]
    return UNSHARDED


def default_model() -> str | Path:
    """Return what the environment variable `VISUALGLM_MODEL` names (a folder or hub id), or else the packed model."""
    return os.environ.get("VISUALGLM_MODEL") or packed_model()


def packed_model() -> Path:
    """Return the folder of the packed model, for `load` and transformers' Auto classes."""
    return Path(__file__).parents[1] / "mini"
