"""Read the JSON files of a model's configuration, within bounds, before transformers does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from .untrusted_files import read_json


def check_files(folder: Any, names: Iterable[str] = ("config.json",), subfolder: str = "") -> None:
    """Read a local folder's JSON files once before transformers does, which has no bounds.

    Raises:
        ConfigurationError: one is not a regular file, too large, or not a JSON object.
    """
    place = Path(folder, subfolder)
    for file in (place / name for name in names) if place.is_dir() else [place]:
        if file.exists() and file.suffix == ".json":
            read_object(file)


def read_object(file: Path) -> dict[str, Any]:
    """Read the object in a JSON file of a model's configuration.

    Raises:
        ConfigurationError: it cannot be read, or holds something else.
    """
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"{file} cannot be read as JSON ({reason}). Download it again.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{file} does not hold a JSON object with names and values. Download it again.")
    return content
