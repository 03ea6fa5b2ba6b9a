"""quantization/reference: what a quantized linear computes, written out in torch, on any device.

input [..., in_features] times the dequantized matrix; the numbers are put into the input's dtype and multiplied there,
so that in float32 nothing but the stored bits makes a difference. Every kernel is measured against this. Knows nothing
about kernels.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .formats import dequantize_weight


def linear(input: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """[..., in_features] -> [..., out_features] in the input's dtype, for either format."""
    return F.linear(input, dequantize_weight(weight, weight_scale, input.shape[-1], input.dtype))
