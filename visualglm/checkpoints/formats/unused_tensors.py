"""Tensors in upstream's files that no network reads.

Hugging Face files have one rotary buffer per layer, sat files one in all and an unused position table. They are ignored
when a model loads, and written unchanged when a checkpoint is converted. If the source has no buffers, they are
computed as upstream does, because sat does not load without them. Tensors that the target layout cannot store are kept
in the folder `carried/`, so that any cycle of conversions restores the same file contents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ...network.configuration import VisualGLMConfig
from ...network.rotary import inverse_frequencies
from ..checkpoint import Checkpoint
from ..storage.lazy_tensor import LazyTensor, same_bits
from ..storage.read import open_safetensors
from ..storage.write import write_safetensors

POSITION_TABLE = "transformer.position_embeddings.weight"
SAT_BUFFER = "mixins.chatglm-attn.rotary_emb.inv_freq"
HF_BUFFER = re.compile(r"transformer\.layers\.\d+\.attention\.rotary_emb\.inv_freq")
CARRIED = Path("carried") / "unused.safetensors"


def is_hf_buffer(name: str) -> bool:
    """Return whether the name is a rotary buffer of the Hugging Face layout."""
    return HF_BUFFER.fullmatch(name) is not None


def hf_buffers(source: Checkpoint) -> dict[str, LazyTensor]:
    """Return the rotary buffers of a Hugging Face file, one per layer."""
    names = [f"transformer.layers.{i}.attention.rotary_emb.inv_freq" for i in range(source.config.num_layers)]
    return {name: source.unused.get(name) or _rotary_buffer(source.config) for name in names}


def sat_buffers(source: Checkpoint) -> dict[str, LazyTensor]:
    """Return the rotary buffer of a sat file, which sat requires, and the source's position table if it has one."""
    table = {name: source.unused[name] for name in (POSITION_TABLE,) if name in source.unused}
    return {SAT_BUFFER: source.unused.get(SAT_BUFFER) or _rotary_buffer(source.config), **table}


def _rotary_buffer(config: VisualGLMConfig) -> LazyTensor:
    """Compute the buffer as upstream does, rounded to float16 (`modeling_chatglm.py` 123-128)."""
    return LazyTensor.of(inverse_frequencies(config.hidden_size // config.num_attention_heads).half())


def read_carried(folder: Path) -> dict[str, LazyTensor]:
    """Read the tensors that an earlier conversion stored in `carried/`."""
    return open_safetensors(folder / CARRIED) if (folder / CARRIED).is_file() else {}


def write_carried(folder: Path, source: Checkpoint, stored: Mapping[str, LazyTensor]) -> None:
    """Write the tensors into `carried/` that the new layout does not store and that cannot be recomputed."""
    again = {**hf_buffers(_without_unused(source)), **sat_buffers(_without_unused(source))}
    carried = {
        name: tensor
        for name, tensor in source.unused.items()
        if name not in stored and not (name in again and same_bits(tensor, again[name]))
    }
    if carried:
        (folder / CARRIED).parent.mkdir()
        write_safetensors(folder / CARRIED, carried)


def _without_unused(source: Checkpoint) -> Checkpoint:
    return Checkpoint(source.folder, source.layout, source.config, source.tensors, source.raw_config)
