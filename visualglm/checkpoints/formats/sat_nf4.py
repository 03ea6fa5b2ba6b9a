"""Decode the 4-bit (NF4) weights of sat's QLoRA files.

sat's `lora2.py` stores bitsandbytes' packed bytes as `X.weight` and beside them its state, a list of plain values, as
`X.quant_state`: [scales, shape, dtype, block size, nested or None, kind, ...]; nested, the scales are bytes themselves:
[mean, [scales of 256, table of 256 values, block size, ...]]. Blocks are runs of the flat weight; the first of two
values is in a byte's upper half. In: such tensors and states. Out: lazy tensors. Sources: bitsandbytes 0.40
`functional.py` (`quantize_4bit`, `quantize_blockwise`); the sixteen values: https://arxiv.org/abs/2305.14314, appendix
E. Since 0.42 bitsandbytes keeps its state in an object, with which sat's QLoRA does not work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..storage.lazy_tensor import LazyTensor

STATE = ".quant_state"
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def drop_quant_states(module: Any) -> Any:
    """Return the content of a file without the quantization states, which are not tensors."""
    if not isinstance(module, Mapping):
        return module
    return {name: value for name, value in module.items() if not str(name).endswith(STATE)}


def unpacked(tensors: Mapping[str, LazyTensor], module: Mapping[str, Any], file: Path) -> dict[str, LazyTensor]:
    """Return all tensors; those with a state in `module` are dequantized when read.

    Raises:
        CheckpointError: a state that sat's QLoRA does not write.
    """
    found = dict(tensors)
    for name, state in module.items():
        if name.endswith(STATE) and state is not None:
            weight = f"{name.removesuffix(STATE)}.weight"
            found[weight] = _unpacked(weight, found.get(weight), state, file)
    return found


def _unpacked(name: str, packed: LazyTensor | None, state: Any, file: Path) -> LazyTensor:
    if packed is None or packed.dtype != torch.uint8 or not _is_state(state, math.prod(packed.shape)):
        raise CheckpointError(
            f"{file} has {name} in a 4-bit form that is not sat's QLoRA. Merge it with the program that wrote it."
        )
    scales, shape, dtype, block_size, nested = state[:5]

    def read() -> Tensor:
        values = _values(packed.read())[: shape.numel()]
        factors = _scales(scales, nested).repeat_interleave(block_size)[: len(values)]
        return (values * factors).view(shape).to(dtype)

    return LazyTensor(tuple(shape), dtype, read)


def _is_state(state: Any, count: int) -> bool:
    """Return whether it is the state of `count` packed bytes; inconsistent sizes could exhaust memory."""
    if not isinstance(state, (list, tuple)) or len(state) < 6 or state[5] != "nf4":
        return False
    scales, shape, dtype, block_size, nested = state[:5]
    blocks = _blocks(scales, block_size, 2 * count)
    known = isinstance(shape, torch.Size) and 0 <= 2 * count - shape.numel() <= 1 and isinstance(dtype, torch.dtype)
    if nested is None or not blocks or not known:
        return blocks and known
    inner: Any = nested[1] if isinstance(nested, (list, tuple)) and len(nested) == 2 else ()
    tables = isinstance(inner, (list, tuple)) and len(inner) >= 3 and isinstance(inner[1], Tensor)
    return tables and inner[1].shape == (256,) and _blocks(inner[0], inner[2], scales.numel())


def _blocks(scales: Any, size: Any, count: int) -> bool:
    """Return whether there is one scale for each block of so many numbers."""
    whole = isinstance(scales, Tensor) and scales.dim() == 1 and type(size) is int and size > 0
    return whole and scales.numel() == -(-count // size)


def _values(packed: Tensor) -> Tensor:
    """Decode bytes into two values in -1..1 each, in one row."""
    halves = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1)
    return torch.tensor(NF4)[halves.flatten().long()]


def _scales(scales: Tensor, nested: Any) -> Tensor:
    """Return one float32 scale per block."""
    if nested is None:
        return scales.float()
    mean, (outer, table, outer_block, *_) = nested
    return table.float()[scales.long()] * outer.float().repeat_interleave(outer_block)[: len(scales)] + mean
