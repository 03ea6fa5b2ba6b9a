"""Int8 and int4 linears with torch's own kernels.

Used on a GPU, and on a CPU where the compiled kernel was not built; same functions as `cpu_backend`. Torch's kernels
are fast with bfloat16 inputs: scales are rounded to bfloat16, and the stored form is restored bit for bit. The GPU
layout is private to torch, so `works_on` tests it on a small matrix first. The GPU code has never run on a GPU.
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
"""Torch takes int4 outputs in blocks of 16, and reads int8 inputs in vectors of 64, even past the end of the row."""
TILES_TOGETHER = 8
"""Tiles of 16 inputs side by side in the GPU's int4 layout."""
ROWS_AT_ONCE = 512
HALF_DTYPES = (torch.bfloat16, torch.float16)
"""Input dtypes of the GPU kernels; the 4-bit one computes in bfloat16."""
FEW_ROWS = 16
"""Most rows of the GPU's 8-bit kernel, which reads the weights once per row."""


def serves_int8(input: Tensor) -> bool:
    """Return whether torch has a fast int8 kernel for this input [..., in]."""
    fits = input.shape[-1] % INPUTS_TOGETHER == 0
    if input.is_cuda:
        return fits and input.dtype in HALF_DTYPES and works_on(input.device, 8, input.dtype)
    return fits and input.dtype == torch.bfloat16


def serves_int4(input: Tensor, outputs: int, group_size: int) -> bool:
    """Return whether torch has a fast int4 kernel for this input [..., in] and number of outputs."""
    fits = group_size in GROUPS and outputs % OUTPUTS_TOGETHER == 0
    if input.is_cuda:
        whole = input.shape[-1] % (16 * TILES_TOGETHER) == 0 and input.shape[-1] % group_size == 0
        return fits and whole and input.dtype in HALF_DTYPES and works_on(input.device, 4, input.dtype)
    return fits and input.dtype == torch.bfloat16


@functools.cache
def works_on(device: torch.device, bits: Bits, dtype: torch.dtype) -> bool:
    """Test a GPU kernel on a small matrix: the product is right and the stored form comes back."""
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
        logging.getLogger(__name__).warning("torch's %d-bit kernel on %s gives wrong results", bits, device)
    return right


def arrange_int8(weight: Tensor) -> Tensor:
    """Return int8 [out, in] unchanged: torch reads the stored order."""
    return weight


def plain_int8(arranged: Tensor, rows: int, inputs: int) -> Tensor:
    """Undo `arrange_int8`."""
    return arranged


def rows_int8(arranged: Tensor, ids: Tensor, inputs: int) -> Tensor:
    """Look up rows `ids` [...] of an arranged matrix: int8 [..., inputs]."""
    return arranged[ids]


def linear_int8(x: Tensor, arranged: Tensor, weight_scale: Tensor) -> Tensor:
    """`x` [..., in] times weights of `arrange_int8` with float32 scales [out] -> [..., out] in x's dtype."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    if rows.is_cuda and len(rows) > FEW_ROWS:
        return reference.linear(x, arranged, weight_scale)
    product = torch.ops.aten._weight_int8pack_mm(rows, arranged, weight_scale.to(x.dtype))
    return product.view(*x.shape[:-1], arranged.shape[0])  # type: ignore[no-any-return]


def arrange_int4(weight: Tensor, weight_scale: Tensor, group_size: int) -> Tensor:
    """Convert uint8 [out, in / 2] and float16 scales [out, in / group] to torch's weights and scales, and ours."""
    if weight.is_cuda:  # the GPU kernel reads the first of two inputs from the high nibble
        packed = torch.ops.aten._convert_weight_to_int4pack(weight >> 4 | weight << 4, TILES_TOGETHER)
    else:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(nibbles(weight).int(), 1)
    scales = weight_scale.bfloat16().T
    with_zeros = torch.stack([scales, torch.zeros_like(scales)], dim=-1)
    return torch.cat([part.contiguous().view(torch.uint8).flatten() for part in (packed, with_zeros, weight_scale)])


def plain_int4(arranged: Tensor, rows: int, inputs: int, group_size: int) -> tuple[Tensor, Tensor]:
    """Undo `arrange_int4`: uint8 [rows, inputs / 2] and float16 [rows, inputs / group]; `inputs` padded.

    Torch has no function for it; its product with one-hot rows and scales of 1 returns every number.
    """
    packed, _, weight_scale = _parts(arranged, rows, inputs, group_size)
    ones = torch.tensor([1, 0], dtype=torch.bfloat16, device=arranged.device)
    ones = ones.expand(inputs // group_size, rows, 2).contiguous()
    numbers = torch.empty(rows, inputs, dtype=torch.uint8, device=arranged.device)
    for first in range(0, inputs, ROWS_AT_ONCE):
        columns = torch.arange(first, min(first + ROWS_AT_ONCE, inputs), device=arranged.device)
        product = _product(F.one_hot(columns, inputs).bfloat16(), packed, group_size, ones)
        numbers[:, columns] = (product.T + 8).to(torch.uint8)
    return bytes_of(numbers), weight_scale.clone()


def linear_int4(x: Tensor, arranged: Tensor, outputs: int, group_size: int) -> Tensor:
    """`x` [..., in] times weights of `arrange_int4` -> [..., outputs] in x's dtype."""
    inputs = -(-x.shape[-1] // group_size) * group_size
    packed, with_zeros, _ = _parts(arranged, outputs, inputs, group_size)
    rows = F.pad(x.reshape(-1, x.shape[-1]), (0, inputs - x.shape[-1])).to(torch.bfloat16).contiguous()
    return _product(rows, packed, group_size, with_zeros).view(*x.shape[:-1], outputs).to(x.dtype)


def _product(rows: Tensor, packed: Tensor, group_size: int, with_zeros: Tensor) -> Tensor:
    """Multiply bfloat16 [R, in] to [R, out] with the device's operator."""
    if rows.is_cuda:
        return torch.ops.aten._weight_int4pack_mm(rows, packed, group_size, with_zeros)  # type: ignore[no-any-return]
    return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, group_size, with_zeros)  # type: ignore[no-any-return]


def _parts(arranged: Tensor, rows: int, inputs: int, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split into torch's weights, scales with zeros [in / group, out, 2] and the stored scales [out, in / group]."""
    groups = inputs // group_size
    packed, with_zeros, scales = arranged.split([rows * inputs // 2, 4 * rows * groups, 2 * rows * groups])
    if arranged.is_cuda:  # a block of 32 threads holds 8 outputs and `TILES_TOGETHER` tiles of inputs
        shaped = packed.view(torch.int32).view(rows // 8, inputs // (16 * TILES_TOGETHER), 32, TILES_TOGETHER // 2)
    else:
        shaped = packed.view(rows, inputs // 2)
    return (
        shaped,
        with_zeros.view(torch.bfloat16).view(groups, rows, 2),
        scales.view(torch.float16).view(rows, groups),
    )
