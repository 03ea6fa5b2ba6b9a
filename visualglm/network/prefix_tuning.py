"""P-tuning v2: a learned prefix of keys and values per block.

Each block's attention gets `prefix_length` additional keys and values, which have no position and are not in the KV
cache. The parameters have sat's names and shapes (`prefix.N`, [2, heads, length, head_dim]: keys, then values), so
sat's fine-tuned files load without renaming. Source: sat `model/finetune/prompt_tuning.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache

from ..errors import UsageError
from .configuration import VisualGLMConfig
from .hooks import BaseMixin

INITIAL_STD = 0.01


class PrefixList(nn.ParameterList):
    """Prefixes of all blocks; called for one, because accelerate's offloading loads weights only for a call."""

    __call__ = nn.Module.__call__  # ParameterList raises an error

    def forward(self, layer_id: int) -> Tensor:
        """Return the prefix [2, heads, length, head_dim] of a block."""
        return self[layer_id]


class PrefixMixin(BaseMixin):
    """Mixin with the prefixes of a model with `config.prefix_length` virtual tokens."""

    def __init__(self, config: VisualGLMConfig) -> None:
        super().__init__()
        heads = config.num_attention_heads
        shape = (2, heads, config.prefix_length, config.hidden_size // heads)
        self.prefix = PrefixList(nn.Parameter(torch.randn(shape) * INITIAL_STD) for _ in range(config.num_layers))

    def attention_forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention_mask: Any,
        past_key_values: Cache | None,
        output_attentions: bool,
        *,
        old_impl: Callable[..., Any],
        layer_id: int,
    ) -> Any:
        """Run the block's attention with the prefix before the keys; every query attends to it, as in sat."""
        key, value = self.prefix(layer_id)
        mask = _pad_mask(attention_mask, key.shape[1])
        return old_impl(hidden_states, rotary, mask, _PrefixedCache(past_key_values, key, value), output_attentions)


def _pad_mask(mask: Any, prefix_length: int) -> Tensor | None:
    """Add visible columns for the prefix to a mask [B, 1, T, keys]."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise UsageError("P-tuning does not support flex attention. Open the model with attn_implementation='sdpa'.")
    return F.pad(mask, (prefix_length, 0), value=True if mask.dtype == torch.bool else 0.0)


class _PrefixedCache:
    """Wraps a cache or None: returns its keys and values after the prefix, without storing the prefix."""

    def __init__(self, cache: Cache | None, key: Tensor, value: Tensor) -> None:
        self.cache = cache
        self.key = key
        self.value = value

    def update(self, key: Tensor, value: Tensor, layer_id: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, heads, T, head_dim] -> prefix, cached and new ones."""
        if self.cache is not None:
            key, value = self.cache.update(key, value, layer_id)
        return _prepend(self.key, key), _prepend(self.value, value)


def _prepend(prefix: Tensor, states: Tensor) -> Tensor:
    return torch.cat([prefix.to(states).expand(len(states), -1, -1, -1), states], dim=2)
