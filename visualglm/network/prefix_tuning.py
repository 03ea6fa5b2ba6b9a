"""P-tuning v2, learned keys and values that the attention of every block sees beside the real ones.

In: a block's attention. Out: the same attention over `prefix_length` keys more, which have no position and are in no
cache. The table's shape and name (`prefix.N`, [2, heads, length, head_dim]: keys, then values) are sat's, so that its
fine-tuned files need no renaming. Source: sat `model/finetune/prompt_tuning.py`. Knows nothing about files.
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


class PrefixMixin(BaseMixin):
    """The table of a model with `config.prefix_length` virtual tokens."""

    def __init__(self, config: VisualGLMConfig) -> None:
        super().__init__()
        heads = config.num_attention_heads
        shape = (2, heads, config.prefix_length, config.hidden_size // heads)
        self.prefix = nn.ParameterList(nn.Parameter(torch.randn(shape) * INITIAL_STD) for _ in range(config.num_layers))

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
        """Attention with the prefix in front of the keys; every query sees it, as in sat."""
        key, value = self.prefix[layer_id]
        mask = _widened(attention_mask, key.shape[1])
        return old_impl(hidden_states, rotary, mask, _PrefixedCache(past_key_values, key, value), output_attentions)


def _widened(mask: Any, prefix_length: int) -> Tensor | None:
    """The mask [B, 1, T, keys] with visible columns for the prefix."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise UsageError("P-tuning cannot run on flex attention: open the model with attn_implementation='sdpa'.")
    return F.pad(mask, (prefix_length, 0), value=True if mask.dtype == torch.bool else 0.0)


class _PrefixedCache:
    """A cache, or none, that hands out the prefix with what it holds, and stores nothing of it."""

    def __init__(self, cache: Cache | None, key: Tensor, value: Tensor) -> None:
        self.cache = cache
        self.key = key
        self.value = value

    def update(self, key: Tensor, value: Tensor, layer_id: int) -> tuple[Tensor, Tensor]:
        """Keys and values [B, heads, T, head_dim] -> the same with the past and the prefix in front."""
        if self.cache is not None:
            key, value = self.cache.update(key, value, layer_id)
        return _in_front(self.key, key), _in_front(self.value, value)


def _in_front(prefix: Tensor, states: Tensor) -> Tensor:
    return torch.cat([prefix.to(states).expand(len(states), -1, -1, -1), states], dim=2)
