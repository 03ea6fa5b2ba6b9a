"""Attention of a single query per row, as every decoding step has, over the filled cache.

query [B, heads, 1, head_dim], key and value [B, heads, keys, head_dim] -> [B, heads, 1, head_dim]. On a CPU torch's
`scaled_dot_product_attention` takes milliseconds a layer for this in bfloat16; the compiled kernel, or two plain matrix
products, take a tenth of it. Knows nothing about caches or positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import cpu_backend


def by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Written out in torch, on any device; `mask` [B, 1, 1, keys] is True where a key is seen, or is added."""
    scores = ((query * scaling) @ key.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).to(query.dtype) @ value


def on_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """The compiled kernel where it computes with these, else `by_products`."""
    if not cpu_backend.available() or not cpu_backend.attends(query, key, mask):
        return by_products(query, key, value, mask, scaling)
    return cpu_backend.attend(query, key, value, mask, scaling)
