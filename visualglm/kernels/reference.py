"""Reference of a quantized linear in plain torch, on any device.

Multiplies input [..., in_features] by the dequantized matrix in the input's dtype. In float32 the only error is that of
the stored bits. A slice of rows is dequantized at a time, so memory never holds a second copy of the matrix. Every
kernel is tested against this.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .packing import dequantize_weight

NUMBERS_AT_ONCE = 2**22


def linear(input: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """Compute [..., in_features] -> [..., out_features] in the input's dtype, for either format."""
    rows = max(1, NUMBERS_AT_ONCE // max(1, input.shape[-1]))
    parts = [
        F.linear(input, dequantize_weight(stored, scale, input.shape[-1], input.dtype))
        for stored, scale in zip(weight.split(rows), weight_scale.split(rows), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
