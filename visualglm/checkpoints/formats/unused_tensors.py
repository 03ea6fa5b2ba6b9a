"""Tensors that upstream's files carry and no network reads.

Hugging Face files have one rotary buffer per layer, sat files one in all and an unused position table. They are ignored
when a model loads, and written again when a checkpoint is converted: as the source had them. Where it had none, the
buffers, without which sat does not load, are written as upstream would. What a layout has no place for travels in the
folder `carried/`, so that any cycle of conversions gives back the very same file contents. Of the networks it knows the
rotary frequencies only.
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
CARRIED = Path("carried") / "dead.safetensors"


def is_hf_buffer(name: str) -> bool:
    """Whether the name is a rotary buffer of the Hugging Face layout."""
    return HF_BUFFER.fullmatch(name) is not None


def hf_buffers(source: Checkpoint) -> dict[str, LazyTensor]:
    """The rotary buffers of a Hugging Face file, one per layer."""
    names = [f"transformer.layers.{i}.attention.rotary_emb.inv_freq" for i in range(source.config.num_layers)]
    return {name: source.dead.get(name) or _rotary_buffer(source.config) for name in names}


def sat_dead(source: Checkpoint) -> dict[str, LazyTensor]:
    """The rotary buffer of a sat file, which sat wants, and its position table where the source had one."""
    table = {name: source.dead[name] for name in (POSITION_TABLE,) if name in source.dead}
    return {SAT_BUFFER: source.dead.get(SAT_BUFFER) or _rotary_buffer(source.config), **table}


def _rotary_buffer(config: VisualGLMConfig) -> LazyTensor:
    """As upstream's constructor makes it: half of a head's half, rounded to float16 (`modeling_chatglm.py` 123-128)."""
    return LazyTensor.of(inverse_frequencies(config.hidden_size // config.num_attention_heads).half())


def read_carried(folder: Path) -> dict[str, LazyTensor]:
    """What an earlier conversion put aside."""
    return open_safetensors(folder / CARRIED) if (folder / CARRIED).is_file() else {}


def write_carried(folder: Path, source: Checkpoint, stored: Mapping[str, LazyTensor]) -> None:
    """Puts aside what the layout just written does not store and what could not be made again."""
    again = {**hf_buffers(_without_dead(source)), **sat_dead(_without_dead(source))}
    homeless = {
        name: tensor
        for name, tensor in source.dead.items()
        if name not in stored and not (name in again and same_bits(tensor, again[name]))
    }
    if homeless:
        (folder / CARRIED).parent.mkdir()
        write_safetensors(folder / CARRIED, homeless)


def _without_dead(source: Checkpoint) -> Checkpoint:
    return Checkpoint(source.folder, source.layout, source.config, source.tensors, source.raw_config)
