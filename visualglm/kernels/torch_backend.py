"""Int8 and int4 linears by torch's own kernels: on a GPU, and on a CPU without ours.

The same functions as `kernel`. Torch's kernels are fast with bfloat16 inputs; scales are rounded to it, and what was
stored comes back bit for bit. A GPU's kernels are tried on a small matrix before they are trusted with a model: their
order of the weights is private to torch. The GPU's half has never run on a GPU. Knows nothing about modules.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor
from torch.nn import functional as F

from . import reference
from .packing import Bits, bytes_of, dequantize_weight, nibbles, quantize_weight

GROUPS = (32, 64, 128, 256)
OUTPUTS_TOGETHER, INPUTS_TOGETHER = 16, 64
"""Torch takes int4 outputs in blocks, and reads int8 inputs in whole vectors, even beyond the end of the last."""
TILES_TOGETHER = 8
"""Of a GPU's int4 order: tiles of 16 inputs that lie side by side."""
ROWS_AT_ONCE = 512
HALF_DTYPES = (torch.bfloat16, torch.float16)
"""What a GPU's kernels take; the 4-bit one computes in bfloat16."""
FEW_ROWS = 16
"""Up to so many a GPU's 8-bit kernel is for; it reads the weights anew for each."""


def serves_int8(input: Tensor) -> bool:
    """Whether torch has a fast int8 kernel for such an input [..., in]."""
    fits = input.shape[-1] % INPUTS_TOGETHER == 0
    if input.is_cuda:
        return fits and input.dtype in HALF_DTYPES and works_on(input.device, 8, input.dtype)
    return fits and input.dtype == torch.bfloat16


def serves_int4(input: Tensor, outputs: int, group_size: int) -> bool:
    """Whether torch has a fast int4 kernel for such an input [..., in] and so many outputs."""
    fits = group_size in GROUPS and outputs % OUTPUTS_TOGETHER == 0
    if input.is_cuda:
        whole = input.shape[-1] % (16 * TILES_TOGETHER) == 0 and input.shape[-1] % group_size == 0
        return fits and whole and input.dtype in HALF_DTYPES and works_on(input.device, 4, input.dtype)
    return fits and input.dtype == torch.bfloat16


@functools.cache
def works_on(device: torch.device, bits: Bits, dtype: torch.dtype) -> bool:
    """Whether a GPU's kernel computes what the stored form says, on a small matrix, and gives it back."""
    made = torch.Generator(device).manual_seed(0)
    weight, scale = quantize_weight(torch.randn(64, 256, generator=made, device=device), bits, 32)
    x = torch.randn(3, 256, generator=made, device=device).to(dtype)
    try:
        if bits == 8:
            found, back = linear_int8(x, arrange_int8(weight), scale), weight
        else:
            arranged = arrange_int4(weight, scale, 32)
            found, back = linear_int4(x, arranged, 64, 32), plain_int4(arranged, 64, 256, 32)[0]
    except (RuntimeError, AttributeError) as error:
        logging.getLogger(__name__).warning("torch has no %d-bit kernel on %s (%s)", bits, device, error)
        return False
    wanted = x.float() @ dequantize_weight(weight, scale, 256, torch.float32).T
    right = bool((found.float() - wanted).norm() < 0.02 * wanted.norm()) and torch.equal(back, weight)
    if not right:
        logging.getLogger(__name__).warning("torch's %d-bit kernel on %s computes something else", bits, device)
    return right


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
    if rows.is_cuda and len(rows) > FEW_ROWS:
        return reference.linear(x, arranged, weight_scale)
    product = torch.ops.aten._weight_int8pack_mm(rows, arranged, weight_scale.to(x.dtype))
    return product.view(*x.shape[:-1], arranged.shape[0])  # type: ignore[no-any-return]


def arrange_int4(weight: Tensor, weight_scale: Tensor, group_size: int) -> Tensor:
    """uint8 [out, in / 2], float16 scales [out, in / group] -> bytes: torch's weights and scales, stored scales."""
    if weight.is_cuda:  # wants the first of two inputs in the high nibble
        packed = torch.ops.aten._convert_weight_to_int4pack(weight >> 4 | weight << 4, TILES_TOGETHER)
    else:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(nibbles(weight).int(), 1)
    scales = weight_scale.bfloat16().T
    with_zeros = torch.stack([scales, torch.zeros_like(scales)], dim=-1)
    return torch.cat([part.contiguous().view(torch.uint8).flatten() for part in (packed, with_zeros, weight_scale)])


def plain_int4(arranged: Tensor, rows: int, inputs: int, group_size: int) -> tuple[Tensor, Tensor]:
    """The reverse of `arrange_int4`: uint8 [rows, inputs / 2] and float16 [rows, inputs / group]; `inputs` padded.

    Torch has no function for it, but its product with one-hot rows and scales of one tells every number.
    """
    packed, _, weight_scale = _parts(arranged, rows, inputs, group_size)
    ones = torch.tensor([1, 0], dtype=torch.bfloat16, device=arranged.device)
    ones = ones.expand(inputs // group_size, rows, 2).contiguous()
    numbers = torch.empty(rows, inputs, dtype=torch.uint8, device=arranged.device)
    for first in range(0, inputs, ROWS_AT_ONCE):
        asked = torch.arange(first, min(first + ROWS_AT_ONCE, inputs), device=arranged.device)
        told = _product(F.one_hot(asked, inputs).bfloat16(), packed, group_size, ones)
        numbers[:, asked] = (told.T + 8).to(torch.uint8)
    return bytes_of(numbers), weight_scale.clone()


def linear_int4(x: Tensor, arranged: Tensor, outputs: int, group_size: int) -> Tensor:
    """`x` [..., in] times weights of `arrange_int4` -> [..., outputs] in x's dtype."""
    inputs = -(-x.shape[-1] // group_size) * group_size
    packed, with_zeros, _ = _parts(arranged, outputs, inputs, group_size)
    rows = F.pad(x.reshape(-1, x.shape[-1]), (0, inputs - x.shape[-1])).to(torch.bfloat16).contiguous()
    return _product(rows, packed, group_size, with_zeros).view(*x.shape[:-1], outputs).to(x.dtype)


def _product(rows: Tensor, packed: Tensor, group_size: int, with_zeros: Tensor) -> Tensor:
    """[R, in] in bfloat16 -> [R, out], by the device's own operator."""
    if rows.is_cuda:
        return torch.ops.aten._weight_int4pack_mm(rows, packed, group_size, with_zeros)  # type: ignore[no-any-return]
    return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, group_size, with_zeros)  # type: ignore[no-any-return]


def _parts(arranged: Tensor, rows: int, inputs: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Torch's weights, scales with zeros [in / group, out, 2], the stored scales [out, in / group]."""
    groups = inputs // group_size
    packed, with_zeros, scales = arranged.split([rows * inputs // 2, 4 * rows * groups, 2 * rows * groups])
    if arranged.is_cuda:  # 8 outputs, and so many tiles of inputs, a block of 32 threads
        shaped = packed.view(torch.int32).view(rows // 8, inputs // (16 * TILES_TOGETHER), 32, TILES_TOGETHER // 2)
    else:
        shaped = packed.view(rows, inputs // 2)
    return (
        shaped,
        with_zeros.view(torch.bfloat16).view(groups, rows, 2),
        scales.view(torch.float16).view(rows, groups),
    )
