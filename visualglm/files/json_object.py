"""Read the JSON objects that describe a model or an adapter, within bounds, as one error with what to do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigurationError, VisualGLMError
from .untrusted_files import parse_json, read_bytes, wrong_download


def read_object(
    path: Path, error: type[VisualGLMError] = CheckpointError, remedy: str = "Download it again."
) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        VisualGLMError: (of type `error`) the file cannot be read, is a failed download, or holds anything else; the
            message ends with `remedy`.
    """
    try:
        content = read_bytes(path)
        fault = wrong_download(content[:512])
        value = None if fault else parse_json(content, surrogates=False)
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror or cause}). Check its kind and permissions.") from cause
    except ValueError as cause:
        raise error(f"{path} cannot be read as JSON ({cause}). {remedy}") from cause
    if fault:
        raise error(f"{path} {fault}")
    if not isinstance(value, dict):
        raise error(f"{path} holds no JSON object with names and values, but a {type(value).__name__}. {remedy}")
    return value


def check_files(folder: Any, names: Iterable[str] = ("config.json",), subfolder: str = "") -> None:
    """Read a local folder's JSON files once before transformers does, which has no bounds.

    Raises:
        ConfigurationError: one is not a regular file, too large, or not a JSON object.
    """
    place = Path(folder, subfolder)
    for file in (place / name for name in names) if place.is_dir() else [place]:
        if file.exists() and file.suffix == ".json":
            read_object(file, ConfigurationError)
