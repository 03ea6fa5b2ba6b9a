"""P-tuning v2 adapters: a new prefix to train, and a trained one.

On disk it is PEFT's prefix tuning: `prompt_embeddings` [tokens, layers * 2 * hidden]. In the model it is the mixin of
`network/prefix_tuning.py`, so generation, caches and gradient checkpointing need nothing of PEFT.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import CheckpointError, UsageError, require_extra
from ..network.prefix_tuning import INITIAL_STD, PrefixList, PrefixMixin
from .files import read_adapter_weights, require_finite, weights_file

TENSOR = "prompt_embeddings"


class EncodedTables(nn.Module):
    """Compute a block's prefix from PEFT's encoder, in place of `PrefixList`."""

    def __init__(self, encoder: Any, heads: int, hidden: int) -> None:
        super().__init__()
        self.encoder, self.heads, self.hidden = encoder, heads, hidden

    def forward(self, layer: int) -> Tensor:
        """Return the prefix [2, heads, tokens, head_dim] of a block."""
        encoder: Any = self.encoder
        rows = slice(2 * layer * self.hidden, 2 * (layer + 1) * self.hidden)
        if not encoder.prefix_projection:
            return self._table(encoder.embedding.weight[:, rows])
        inner, squash, outer = encoder.transform
        return self._table(F.linear(squash(inner(encoder.embedding.weight)), outer.weight[rows], outer.bias[rows]))

    def _table(self, flat: Tensor) -> Tensor:
        """[tokens, 2 * hidden] -> [2, heads, tokens, head_dim]."""
        return flat.unflatten(1, (2, self.heads, -1)).permute(1, 2, 0, 3)


def new_prefix(model: Any, tokens: int, reparameterise: bool, width: int) -> tuple[PrefixMixin, Any]:
    """Return a prefix to train, not yet in the model, and its PEFT configuration."""
    require_extra("train", "training a prefix", "peft")
    from peft import PrefixEncoder, PrefixTuningConfig

    config = PrefixTuningConfig(
        num_virtual_tokens=tokens,
        token_dim=model.config.hidden_size,
        num_layers=model.config.num_layers,
        num_attention_heads=model.config.num_attention_heads,
        num_transformer_submodules=1,
        encoder_hidden_size=width or model.config.hidden_size,
        prefix_projection=reparameterise,
        task_type="CAUSAL_LM",
    )
    encoder = PrefixEncoder(config)
    if not reparameterise:
        nn.init.normal_(encoder.embedding.weight, std=INITIAL_STD)
    mixin = empty_prefix(model, tokens)
    tables = EncodedTables(encoder, model.config.num_attention_heads, model.config.hidden_size)
    mixin.prefix = tables  # type: ignore[assignment]
    return mixin, config


@torch.no_grad()
def start_from_words(mixin: PrefixMixin, model: Any, words: Sequence[int]) -> None:
    """Fill a new prefix with the keys and values that the model, still without it, computes for these token ids.

    They are repeated if there are fewer than virtual tokens. Numbers near 0, as sat starts with, get hardly any
    attention beside the keys of real tokens, so that training moves them slowly.
    """
    config, table = model.config, mixin.prefix.encoder.embedding.weight  # type: ignore[union-attr]
    tokens = len(table)  # type: ignore[arg-type]
    ids = [*itertools.islice(itertools.cycle(words), tokens), config.gmask_token_id, config.bos_token_id]
    cache = model(torch.tensor([ids], device=model.device), use_cache=True, logits_to_keep=1).past_key_values
    states = (one for layer in cache.layers for one in (layer.keys, layer.values))
    table.copy_(torch.cat([one[0, :, :tokens].transpose(0, 1).flatten(1) for one in states], dim=1))  # type: ignore[operator]


def flattened(mixin: PrefixMixin, layers: int) -> Tensor:
    """Return the tables of all blocks as PEFT stores them."""
    tables = [mixin.prefix(layer).detach().permute(2, 0, 1, 3).flatten(1) for layer in range(layers)]
    return torch.cat(tables, dim=1).contiguous()


def stored_prefix(model: Any, folder: Path) -> PrefixMixin:
    """Build the mixin of a trained prefix from PEFT's file in `folder`; raises what `read_prefix` raises."""
    config = model.config
    flat = read_prefix(model, folder)
    tables = flat.unflatten(1, (config.num_layers, 2, config.num_attention_heads, -1)).permute(1, 2, 3, 0, 4)
    return filled_prefix(model, tables, weights_file(folder))


def read_prefix(model: Any, folder: Path) -> Tensor:
    """Read `prompt_embeddings` [tokens, layers * 2 * hidden] from PEFT's file in `folder`.

    Raises:
        CheckpointError: the file is damaged, or holds no prefix.
        UsageError: it was made for a model of another size.
    """
    tensors, config = read_adapter_weights(folder), model.config
    if TENSOR not in tensors:
        raise CheckpointError(f"{weights_file(folder)} has no {TENSOR}, so it is not a prefix. Copy it again.")
    flat = tensors[TENSOR]
    if flat.dim() != 2 or flat.shape[1] != config.num_layers * 2 * config.hidden_size:
        raise UsageError(
            f"The prefix is {list(flat.shape)}, this model's would be [tokens, {config.num_layers * 2} * "
            f"{config.hidden_size}]: it was trained on another model."
        )
    return flat


def filled_prefix(model: Any, tables: Sequence[Tensor] | Tensor, source: Path) -> PrefixMixin:
    """Build a frozen mixin of each block's table [2, heads, tokens, head_dim], on the model's device, in its dtype.

    Raises:
        CheckpointError: a table of the file or folder `source` is not of finite values, also in that dtype.
    """
    like = model.transformer.final_layernorm.weight
    require_finite({f"the prefix of block {index}": table for index, table in enumerate(tables)}, source, like.dtype)
    mixin = empty_prefix(model, tables[0].shape[2])
    parameters = (nn.Parameter(table.to(like).contiguous(), requires_grad=False) for table in tables)
    mixin.prefix = PrefixList(parameters)
    return mixin


def empty_prefix(model: Any, tokens: int) -> PrefixMixin:
    """Build a mixin of `tokens` virtual tokens for this model, with uninitialized tables."""
    config = copy.copy(model.config)
    config.prefix_length = tokens
    return PrefixMixin(config)
