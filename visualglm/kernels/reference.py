"""What a quantized linear computes, written out in torch, on any device.

input [..., in_features] times the dequantized matrix; the numbers are put into the input's dtype and multiplied there,
so that in float32 nothing but the stored bits makes a difference. Some rows of the matrix are numbers at a time: no
second copy of it is ever in memory. Every kernel is measured against this. Knows nothing about kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .packing import dequantize_weight

NUMBERS_AT_ONCE = 2**22


def linear(input: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """[..., in_features] -> [..., out_features] in the input's dtype, for either format."""
    rows = max(1, NUMBERS_AT_ONCE // max(1, input.shape[-1]))
    parts = [
        F.linear(input, dequantize_weight(stored, scale, input.shape[-1], input.dtype))
        for stored, scale in zip(weight.split(rows), weight_scale.split(rows), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
