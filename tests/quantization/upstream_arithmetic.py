"""Upstream's own 8- and 4-bit arithmetic, for who compares with it; no model here is stored so.

One scale per row, largest magnitude over 127 or 7 in float16; int8, or two neighbouring columns in a byte, the even one
in the high nibble. Source: upstream's `quantization.py` 120-151, and the C twin of its kernel. Knows nothing about
models.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visualglm.kernels.packing import Bits


def quantize_rows(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """[out, in] -> int8 [out, in] (8 bits) or [out, in / 2] (4 bits), and float16 scales [out]; all in float16."""
    weight, largest = weight.half(), 2 ** (bits - 1) - 1
    scale = weight.abs().max(dim=-1).values / largest
    integers = torch.round(weight / scale[:, None]).to(torch.int8)
    if bits == 4:
        integers = (integers[:, 0::2] << 4) | (integers[:, 1::2] & 15)
    return integers, scale


def dequantize_rows(stored: Tensor, scale: Tensor, bits: Bits) -> Tensor:
    """Return what `quantize_rows` made -> float16 [out, in], as upstream multiplies with it."""
    if bits == 4:
        stored = torch.stack([stored >> 4, (stored << 4) >> 4], dim=-1).flatten(-2)
    return stored.half() * scale[:, None]
