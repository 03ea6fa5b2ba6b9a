"""THUDM/visualglm-6b's own layout: `config.json`, shards of `.bin` or safetensors.

In: the folder. Out: a `Checkpoint` (nothing is renamed: our names are those of this layout). It also writes the layout:
shards, index and `config.json` that upstream's code reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...network.configuration import ChatGLMConfig, VisualGLMConfig
from ..checkpoint import (
    LM_HEAD,
    WORD_EMBEDDINGS,
    Checkpoint,
    infer_dtype,
    read_config_file,
    tie_head_if_equal,
)
from ..storage.lazy_tensor import LazyTensor
from ..storage.shards import CONFIG, has_safetensors, read_weights, shard_names, write_index
from ..storage.write import split_into_shards, write_torch
from . import upstream_config
from .unused_tensors import hf_buffers, is_hf_buffer, read_carried


def read(folder: Path, variant: str | None = None) -> Checkpoint:
    """Read the folder as a `Checkpoint`.

    Raises:
        CheckpointError: broken or missing files.
        ConfigurationError: the configuration is that of another model.
    """
    config, raw = read_config(folder)
    stored = read_weights(folder, variant)
    tensors = {name: tensor for name, tensor in stored.items() if not is_hf_buffer(name)}
    if LM_HEAD not in tensors and has_safetensors(folder, variant):
        # safetensors hold no tensor twice, and upstream's code ties by default
        config.tie_word_embeddings = raw.get("tie_word_embeddings", True)
    infer_dtype(config, tensors)
    unused = read_carried(folder) | {name: tensor for name, tensor in stored.items() if is_hf_buffer(name)}
    return Checkpoint(folder, "hf", config, tie_head_if_equal(config, tensors), raw, unused)


def read_config(folder: Path) -> tuple[VisualGLMConfig, dict[str, Any]]:
    """Return the configuration and the unchanged content of its file; errors name the folder."""
    return read_config_file(folder / CONFIG, ChatGLMConfig.from_dict)


def write(folder: Path, source: Checkpoint, max_shard_size: int) -> None:
    """Write all tensors (including head and rotary buffers) as `.bin` shards with their index, and `config.json`.

    Raises:
        UsageError: the model has a P-tuning prefix or a convolutional stem.
    """
    upstream_config.check_no_stem(source.folder, source.config)
    if source.config.prefix_length:
        raise UsageError(
            f"{source.folder} was tuned with P-tuning, and upstream's Hugging Face code has no place for its prefix. "
            "Write --to native or --to sat."
        )
    shards = split_into_shards(stored_tensors(source), max_shard_size)
    names = shard_names("bin", len(shards))
    for shard, name in zip(shards, names, strict=True):
        write_torch(folder / name, shard)
    write_index(folder, "bin", shards, names)
    raw = upstream_config.hugging_face(source.config)
    if source.layout == "hf" and "auto_map" in source.raw_config:
        raw["auto_map"] = source.raw_config["auto_map"]
    (folder / CONFIG).write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def stored_tensors(source: Checkpoint) -> dict[str, LazyTensor]:
    """Return all tensors that this layout stores, under its names, in upstream's order."""
    tensors = {**source.tensors, **hf_buffers(source)}
    tensors.setdefault(LM_HEAD, source.tensors[WORD_EMBEDDINGS])
    order = ("transformer", "lm_head", "image_encoder")
    return {name: tensors[name] for name in sorted(tensors, key=lambda name: order.index(name.split(".")[0]))}
