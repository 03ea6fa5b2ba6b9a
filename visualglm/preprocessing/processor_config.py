"""What a model's folder says about slots and image size, whatever its layout, here or on a hub.

Upstream's folders have no file about images, and sat's none for transformers at all: their model configurations say
it. Out: arguments of `VisualGLMProcessor` and of `VisualGLMImageProcessor.from_dict`. Knows nothing about either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ..files.config_json import read_object
from ..network.configuration_limits import check_size

MODEL_CONFIGS = ("config.json", "model_config.json")  # ours and upstream's, sat's
HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies")


def hub_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `from_pretrained`'s arguments that say where and how to look."""
    return {key: given[key] for key in HUB if given.get(key) is not None}


def slots(folder: Any, hub: Mapping[str, Any]) -> dict[str, int]:
    """`image_length` and `image_token_id`, from the model's configuration."""
    config = _read_json(folder, MODEL_CONFIGS, hub)
    length, rows = config.get("image_length", 32), config.get("vocab_size", 130528)
    token = config.get("image_token_id") or rows
    for key, value in (("image_length", length), ("vocab_size", rows), ("vocab_size", token)):
        check_size("", key, value)
    return {"image_length": length, "image_token_id": config.get("image_token_id") or rows - 1}


def image_settings(folder: Any, hub: Mapping[str, Any]) -> dict[str, Any]:
    """`preprocessor_config.json`, or where there is none the image size in the model's configuration."""
    stored = _read_json(folder, ("preprocessor_config.json",), hub)
    return stored or {"size": _image_size(_read_json(folder, MODEL_CONFIGS, hub))}


def _read_json(folder: Any, names: Sequence[str], hub: Mapping[str, Any]) -> dict[str, Any]:
    """The first of these files that the folder or hub repository has, or nothing."""
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
            return read_object(Path(found))
    return {}


def _image_size(config: Mapping[str, Any]) -> dict[str, int]:
    """The image size in our `config.json`, in upstream's, or in sat's `model_config.json`; 224 where none says."""
    parts = (config.get(name) for name in ("vision_config", "eva_config", "eva_args"))
    size = next((part["image_size"] for part in parts if isinstance(part, dict) and "image_size" in part), 224)
    height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
    for side in (height, width):
        check_size("", "image_size", side)
    return {"height": height, "width": width}
