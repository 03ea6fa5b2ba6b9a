"""Native layout: `config.json` (`model_type: visualglm`) and safetensors under our names.

`save_pretrained` writes it; a converted folder may also hold `fingerprint.json` and `carried/`. In: the folder. Out: a
`Checkpoint`. It also writes the layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...network.configuration import VisualGLMConfig
from ..checkpoint import Checkpoint, infer_dtype, read_config_file, tie_head_if_equal
from ..storage.shards import CONFIG, read_weights, shard_names, write_index
from ..storage.write import split_into_shards, write_safetensors
from .unused_tensors import read_carried

ARCHITECTURES = ["VisualGLMForConditionalGeneration"]


def read(folder: Path, variant: str | None = None) -> Checkpoint:
    """Read the folder as a `Checkpoint`.

    Raises:
        CheckpointError: broken or missing files.
        ConfigurationError: the configuration contradicts itself.
    """
    config, raw = read_config(folder)
    tensors = read_weights(folder, variant)
    infer_dtype(config, tensors)
    return Checkpoint(folder, "native", config, tie_head_if_equal(config, tensors), raw, read_carried(folder))


def read_config(folder: Path) -> tuple[VisualGLMConfig, dict[str, Any]]:
    """Return the configuration and the unchanged content of its file; errors name the folder."""
    return read_config_file(folder / CONFIG, VisualGLMConfig.from_dict)


def write(folder: Path, source: Checkpoint, max_shard_size: int) -> None:
    """Write `config.json` and `model.safetensors` (with an index if one file would be too large)."""
    config = VisualGLMConfig.from_dict(source.config.to_dict())
    config.architectures = ARCHITECTURES
    config.save_pretrained(folder)
    shards = split_into_shards(source.tensors, max_shard_size)
    names = ["model.safetensors"]
    if len(shards) > 1:
        names = shard_names("safetensors", len(shards))
        write_index(folder, "safetensors", shards, names)
    for shard, name in zip(shards, names, strict=True):
        write_safetensors(folder / name, shard)
