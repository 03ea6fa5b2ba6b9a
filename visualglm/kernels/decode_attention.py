"""Attention of one query per row: a decoding step.

query [B, heads, 1, head_dim], key and value [B, heads, keys, head_dim] -> [B, heads, 1, head_dim]. On a CPU torch's
`scaled_dot_product_attention` takes milliseconds per layer for this in bfloat16; the compiled kernel or two plain
matrix products take a tenth of that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import cpu_backend


def by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Compute it with two matrix products, on any device.

    `mask` [B, 1, 1, keys]: boolean (True where a key is seen) or additive.
    """
    scores = ((query * scaling) @ key.transpose(-1, -2)).float()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).to(query.dtype) @ value


def on_cpu(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Call the compiled kernel where it takes these tensors, else `by_products`."""
    if not cpu_backend.available() or not cpu_backend.attends(query, key, mask):
        return by_products(query, key, value, mask, scaling)
    return cpu_backend.attend(query, key, value, mask, scaling)
