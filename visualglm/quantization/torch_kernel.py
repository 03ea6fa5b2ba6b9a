"""quantization/torch_kernel: int8 and int4 linears on the CPU by torch's own kernels, where ours was not built.

The same functions as `kernel`, for bfloat16 inputs, with which alone torch's kernels are fast. Scales are rounded to
the input's dtype; what was stored comes back bit for bit. Knows nothing about modules.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .formats import bytes_of, nibbles

GROUPS = (32, 64, 128, 256)
OUTPUTS_TOGETHER, INPUTS_TOGETHER = 16, 64
"""Torch takes int4 outputs in blocks, and reads int8 inputs in whole vectors, even beyond the end of the last."""
ROWS_AT_ONCE = 512


def serves_int8(input: Tensor) -> bool:
    """Whether torch has a fast int8 kernel for such an input [..., in]."""
    return input.dtype == torch.bfloat16 and input.shape[-1] % INPUTS_TOGETHER == 0


def serves_int4(input: Tensor, outputs: int, group_size: int) -> bool:
    """Whether torch has a fast int4 kernel for such an input [..., in] and so many outputs."""
    return input.dtype == torch.bfloat16 and group_size in GROUPS and outputs % OUTPUTS_TOGETHER == 0


def arrange_int8(weight: Tensor) -> Tensor:
    """int8 [out, in] is read as it is stored."""
    return weight


def plain_int8(arranged: Tensor, rows: int, inputs: int) -> Tensor:
    """The reverse of `arrange_int8`."""
    return arranged


def rows_int8(arranged: Tensor, ids: Tensor, inputs: int) -> Tensor:
    """Rows [...] of an arranged matrix: int8 [..., inputs]."""
    return arranged[ids]


def linear_int8(x: Tensor, arranged: Tensor, weight_scale: Tensor) -> Tensor:
    """`x` [..., in] times weights of `arrange_int8` with float32 scales [out] -> [..., out] in x's dtype."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    product = torch.ops.aten._weight_int8pack_mm(rows, arranged, weight_scale.to(x.dtype))
    return product.view(*x.shape[:-1], arranged.shape[0])  # type: ignore[no-any-return]


def arrange_int4(weight: Tensor, weight_scale: Tensor, group_size: int) -> Tensor:
    """uint8 [out, in / 2], float16 scales [out, in / group] -> bytes: torch's weights and scales, stored scales."""
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(nibbles(weight).int(), 1)
    scales = weight_scale.bfloat16().T
    with_zeros = torch.stack([scales, torch.zeros_like(scales)], dim=-1)
    return torch.cat([part.contiguous().view(torch.uint8).flatten() for part in (packed, with_zeros, weight_scale)])


def plain_int4(arranged: Tensor, rows: int, inputs: int, group_size: int) -> tuple[Tensor, Tensor]:
    """The reverse of `arrange_int4`: uint8 [rows, inputs / 2] and float16 [rows, inputs / group]; `inputs` padded.

    Torch has no function for it, but its product with one-hot rows and scales of one tells every number.
    """
    packed, _, weight_scale = _parts(arranged, rows, inputs, group_size)
    ones = torch.tensor([1, 0], dtype=torch.bfloat16).expand(inputs // group_size, rows, 2).contiguous()
    numbers = torch.empty(rows, inputs, dtype=torch.uint8)
    for first in range(0, inputs, ROWS_AT_ONCE):
        asked = torch.arange(first, min(first + ROWS_AT_ONCE, inputs))
        one_hot = F.one_hot(asked, inputs).bfloat16()
        told = torch.ops.aten._weight_int4pack_mm_for_cpu(one_hot, packed, group_size, ones)
        numbers[:, asked] = (told.T + 8).to(torch.uint8)
    return bytes_of(numbers), weight_scale.clone()


def linear_int4(x: Tensor, arranged: Tensor, outputs: int, group_size: int) -> Tensor:
    """`x` [..., in] times weights of `arrange_int4` -> [..., outputs] in x's dtype."""
    inputs = -(-x.shape[-1] // group_size) * group_size
    packed, with_zeros, _ = _parts(arranged, outputs, inputs, group_size)
    rows = F.pad(x.reshape(-1, x.shape[-1]), (0, inputs - x.shape[-1])).contiguous()
    product = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, group_size, with_zeros.to(x.dtype))
    return product.view(*x.shape[:-1], outputs)  # type: ignore[no-any-return]


def _parts(arranged: Tensor, rows: int, inputs: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Torch's weights [out, in / 2] and scales with zeros [in / group, out, 2], the stored scales [out, in / group]."""
    groups = inputs // group_size
    packed, with_zeros, scales = arranged.split([rows * inputs // 2, 4 * rows * groups, 2 * rows * groups])
    return (
        packed.view(rows, inputs // 2),
        with_zeros.view(torch.bfloat16).view(groups, rows, 2),
        scales.view(torch.float16).view(rows, groups),
    )
