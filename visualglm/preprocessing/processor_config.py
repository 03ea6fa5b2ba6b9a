"""Read processor settings from a model's folder or hub repository.

Out: arguments of `VisualGLMProcessor` and `VisualGLMImageProcessor.from_dict`. Upstream's folders have no image
processor file and sat's have no transformers files, so the model's configuration supplies the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..errors import ConfigurationError
from ..files.json_object import read_object
from ..network.configuration_checks import check_size

MODEL_CONFIGS = ("config.json", "model_config.json")  # ours and upstream's, sat's
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies")


def hub_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Select the arguments of `from_pretrained` that locate files."""
    return {key: given[key] for key in HUB_ARGUMENTS if given.get(key) is not None}


def complete_settings(stored: Mapping[str, Any], folder: Any, hub: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a processor's stored settings from the model's configuration.

    These are `image_length`, `image_token_id` and `image_processor`, whose settings may also be in a file of their own.
    """
    config = _read_json(folder, MODEL_CONFIGS, hub)
    length, rows = config.get("image_length", 32), config.get("vocab_size", 130528)
    token = config.get("image_token_id") or rows
    for key, value in (("image_length", length), ("vocab_size", rows), ("vocab_size", token)):
        check_size("", key, value)
    images = stored.get("image_processor") or _read_json(folder, ("preprocessor_config.json",), hub)
    return {
        "image_length": length,
        "image_token_id": config.get("image_token_id") or rows - 1,
        **stored,
        "image_processor": images or {"size": _image_size(config)},
    }


def _read_json(folder: Any, names: Sequence[str], hub: Mapping[str, Any]) -> dict[str, Any]:
    """Read the first of these files that exists; return {} if none does."""
    for name in names:
        found = cached_file(
            folder,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **hub,
        )
        if found is not None:
            return read_object(Path(found), ConfigurationError)
    return {}


def _image_size(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the image size in our `config.json`, upstream's, or sat's `model_config.json`; 224 by default."""
    parts = (config.get(name) for name in ("vision_config", "eva_config", "eva_args"))
    size = next((part["image_size"] for part in parts if isinstance(part, dict) and "image_size" in part), 224)
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    for side in (height, width):
        check_size("", "image_size", side)
    return {"height": height, "width": width}
