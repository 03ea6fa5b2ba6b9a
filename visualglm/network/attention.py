"""Attention kernels, and the image encoder's attention modules.

`attend` computes softmax(q k / sqrt(d)) v with the implementation that the configuration names (eager, sdpa, flex); all
three networks use it. The modules are self-attention (ViT, Q-Former) and cross-attention (Q-Former). Query, key and
value are [batch, heads, tokens, head_dim]; the result is [batch, tokens, heads * head_dim].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..kernels import operators  # noqa: F401  (registers `attend_one`)
from .configuration import QFormerConfig, VisionConfig


def split_heads(hidden_states: Tensor, num_heads: int) -> Tensor:
    """[batch, tokens, heads * head_dim] -> [batch, heads, tokens, head_dim]."""
    return hidden_states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Compute attention step by step; also return the probabilities [batch, heads, queries, keys].

    The query is scaled before the product, and the softmax runs in float32, so that float16 does not overflow. On a CPU
    all of it runs in float32: without instructions for them, products of many half-precision matrices take several
    times as long.
    """
    dtype = query.dtype
    if query.device.type == "cpu":
        query, key, value = query.float(), key.float(), value.float()
    scores = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None and attention_mask.dtype == torch.bool:  # a caller's mask in sdpa's form
        scores = scores.masked_fill(~attention_mask[..., : key.shape[-2]], torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    probabilities = F.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return (probabilities @ value).transpose(1, 2).to(dtype).contiguous(), probabilities.to(dtype)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    output_attentions: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention of `query` over `key` and `value`, [batch, heads, tokens, head_dim] each.

    Without a mask every query attends to every key. Returns the context [batch, queries, heads * head_dim], and the
    probabilities if the kernel returns them (eager, or with `output_attentions`).
    """
    name = attention_implementation(module.config._attn_implementation, query.shape[2], output_attentions)  # type: ignore[union-attr,arg-type]
    if attention_mask is None and name == "flex_attention":
        name = "sdpa"  # without a mask flex skips no blocks, and it does not support some head sizes
    scaling = query.shape[-1] ** -0.5
    if name == "sdpa" and decodes_on_cpu(query, key, value):
        return attend_one(query, key, value, attention_mask, scaling).flatten(1)[:, None], None
    kernel = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
    context, probabilities = kernel(module, query, key, value, attention_mask, scaling=scaling, is_causal=False)
    return context.flatten(2), probabilities


def decodes_on_cpu(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return True for one-token steps on a CPU, where our kernel is about 10x faster than sdpa.

    The kernel has no backward pass, so it is skipped if query, key or value requires grad. A trained prefix makes keys
    and values require grad even where the query does not.
    """
    one = query.shape[2] == 1 and query.device.type == "cpu"
    return one and not any(x.requires_grad for x in (query, key, value)) and not torch.compiler.is_compiling()


def attend_one(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float) -> Tensor:
    """Compute attention of one query per row, [batch, heads, 1, head_dim], with our own operator."""
    return torch.ops.visualglm.attend_one(query, key, value, attention_mask, scaling)


def attention_implementation(configured: str | None, query_length: int, output_attentions: bool) -> str:
    """Return the implementation that will run, which also determines the form of its mask.

    Only eager returns probabilities. A decoding step uses sdpa instead of flex: one query has no blocks to skip, and
    flex recompiles for every length of the cache.
    """
    if output_attentions or configured is None:
        return "eager"
    return "sdpa" if configured == "flex_attention" and query_length == 1 else configured


class SelfAttention(nn.Module):
    """Self-attention without a mask; the fused rows are all queries, then all keys, then all values."""

    def __init__(self, config: VisionConfig | QFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[P, N, hidden] -> [P, N, hidden]."""
        query, key, value = (split_heads(x, self.num_heads) for x in self.query_key_value(hidden_states).chunk(3, -1))
        context, _ = attend(self, query, key, value)
        return self.dense(context)


class CrossAttention(nn.Module):
    """Cross-attention to image features; the fused rows of `key_value` are all keys, then all values."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key_value = nn.Linear(config.cross_attn_hidden_size, 2 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: Tensor, image_features: Tensor, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """[P, Q, hidden] over [P, N, cross] -> [P, Q, hidden] and, if asked, probabilities [P, heads, Q, N]."""
        query = split_heads(self.query(hidden_states), self.num_heads)
        key, value = (split_heads(x, self.num_heads) for x in self.key_value(image_features).chunk(2, -1))
        context, probabilities = attend(self, query, key, value, output_attentions=output_attentions)
        return self.dense(context), probabilities
