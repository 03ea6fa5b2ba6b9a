"""Quantize weights to stored 8 or 4 bits, and back.

    int8  weight int8 [out, in], scale float32 [out]: a number is its integer times its row's scale
    int4  weight uint8 [out, padded_in / 2], scale float16 [out, padded_in / group_size]: `group_size` neighbours in a
          row share a scale; byte k holds input 2k in its low nibble and input 2k + 1 in its high one, each as q + 8
          with q in -8..7; a row is padded with zeros to whole groups

Both are symmetric (no zero point), and rounding is to the nearest integer. The scale of a group is searched for the
least squared error: the likeliest range runs from the number of greatest magnitude, of either sign, which becomes -8 or
less, and for each range tried the best scale is known, <w, q> / <q, q>. On Gaussian numbers that is an output error of
0.081 instead of 0.094 of the plain rule, max / 7. On a CPU the compiled kernel does the same (`csrc/quantize.c`).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import QuantizationError
from . import cpu_backend, mapped_memory

Bits = Literal[8, 4]
DEFAULT_GROUP_SIZE = 32
GROUP_SIZES = (16, 32, 64, 128, 256)
ROWS_AT_ONCE = 2**18  # numbers quantized per slice: what fits a core's cache
SCALE_CANDIDATES = (0.80, 0.85, 0.90, 0.95, 1.00, 1.05)  # more of them gain less than 0.001


STORED_DTYPES: dict[int, tuple[torch.dtype, torch.dtype]] = {
    8: (torch.int8, torch.float32),
    4: (torch.uint8, torch.float16),
}
"""Bits -> dtypes of weight and scale."""


def check_format(bits: int, group_size: int) -> None:
    """Raise `QuantizationError` unless the format is supported."""
    if bits not in get_args(Bits):
        raise QuantizationError(f"{bits} bits are not supported. Choose 8 or 4.")
    if group_size not in GROUP_SIZES:
        raise QuantizationError(
            f"A group size of {group_size} is not supported. Choose one of {', '.join(map(str, GROUP_SIZES))}."
        )


def quantize_weight(
    weight: Tensor, bits: Bits, group_size: int = DEFAULT_GROUP_SIZE, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Quantize numbers [out, in] of any floating dtype to stored weight and scale (formats: see the module).

    `importance` [in], 4 bits only: weight of an error at each input, the mean square of its activations.

    Raises:
        QuantizationError: not a matrix, not finite, importance all zero, or an unsupported format.
    """
    check_format(bits, group_size)
    if weight.dim() != 2 or not weight.is_floating_point():
        raise QuantizationError(f"A {weight.dtype} {list(weight.shape)} cannot be quantized. Give a matrix of floats.")
    if bits == 8:
        return _int8(weight)
    if importance is not None and not (importance.isfinite().all() and importance.sum() > 0):
        raise QuantizationError("importance must be finite, and not zero everywhere.")
    return _int4(weight, group_size, importance)


def dequantize_weight(weight: Tensor, scale: Tensor, in_features: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the numbers [out, in_features] of a stored weight and scale of either format, rounded once to `dtype`."""
    if weight.dtype == torch.int8:
        return (weight * scale[:, None]).to(dtype)
    integers = nibbles(weight).to(torch.int8) - 8
    groups = integers.unflatten(-1, (scale.shape[1], -1)) * scale[..., None].float()
    return groups.flatten(-2)[:, :in_features].to(dtype)


def nibbles(weight: Tensor) -> Tensor:
    """Unpack stored 4-bit bytes [out, n] to uint8 [out, 2 n], 0 to 15 for -8 to 7; the low nibble comes first."""
    return torch.stack([weight & 15, weight >> 4], dim=-1).flatten(-2)


def bytes_of(numbers: Tensor) -> Tensor:
    """Pack numbers of any dtype, the reverse of `nibbles`."""
    return (numbers[:, 0::2] + 16 * numbers[:, 1::2]).to(torch.uint8)


def stored_shapes(
    out_features: int, in_features: int, bits: Bits, group_size: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the stored weight and scale."""
    if bits == 8:
        return (out_features, in_features), (out_features,)
    groups = -(-in_features // group_size)
    return (out_features, groups * group_size // 2), (out_features, groups)


def _int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    stored = mapped_memory.empty(weight.shape, torch.int8, weight.device)
    scale = torch.empty(weight.shape[0], dtype=torch.float32, device=weight.device)
    if cpu_backend.quantizes(weight):
        _check_finite(cpu_backend.quantize_int8(weight, stored, scale))
        return stored, scale
    for rows in _slices(weight):
        numbers = _finite(weight[rows])
        scale[rows] = numbers.abs().amax(-1) / 127
        stored[rows] = (numbers * _inverse(scale[rows, None])).round_().clamp_(-127, 127)
    return stored, scale


def _int4(weight: Tensor, group_size: int, importance: Tensor | None) -> tuple[Tensor, Tensor]:
    out_features, in_features = weight.shape
    (_, bytes_per_row), (_, groups) = stored_shapes(out_features, in_features, 4, group_size)
    stored = mapped_memory.empty((out_features, bytes_per_row), torch.uint8, weight.device)
    scale = mapped_memory.empty((out_features, groups), torch.float16, weight.device)
    if cpu_backend.quantizes(weight):
        _check_finite(cpu_backend.quantize_int4(weight, stored, scale, group_size, importance))
    else:
        padding = groups * group_size - in_features
        counts = None if importance is None else F.pad(importance.float(), (0, padding)).view(groups, group_size)
        for rows in _slices(weight):
            numbers = F.pad(_finite(weight[rows]), (0, padding)).unflatten(-1, (groups, group_size))
            scale[rows] = _searched_scale(numbers, counts).half()
            stored[rows] = bytes_of(_nearest(numbers, scale[rows].float()).flatten(-2) + 8)
    if not scale.isfinite().all():
        raise QuantizationError("The weights hold numbers above 500,000, which 4 bits cannot store. Use 8 bits.")
    return stored, scale


def _searched_scale(numbers: Tensor, counts: Tensor | None) -> Tensor:
    """Search the scale [rows, groups] of each group with the least squared error, weighted by `counts`."""
    weighed = numbers if counts is None else numbers * counts
    greatest = numbers.gather(-1, numbers.abs().argmax(-1, keepdim=True)).squeeze(-1) / -8
    best, won = torch.zeros_like(greatest), torch.zeros_like(greatest)
    for reach in SCALE_CANDIDATES:
        integers = _nearest(numbers, greatest * reach)
        match = torch.linalg.vecdot(weighed, integers)
        size = torch.linalg.vecdot(integers if counts is None else integers * counts, integers)
        scale = match * _inverse(size)
        better = match * scale > won  # what the squared error falls by
        best, won = torch.where(better, scale, best), torch.where(better, match * scale, won)
    return best


def _nearest(numbers: Tensor, scale: Tensor) -> Tensor:
    return (numbers * _inverse(scale)[..., None]).round_().clamp_(-8, 7)


def _inverse(scale: Tensor) -> Tensor:
    """Return 1 / scale, and 0 where the scale is 0: a row or group of zeros stays zeros."""
    return torch.where(scale.abs() > 1e-30, 1 / scale, 0)


def _slices(weight: Tensor) -> list[slice]:
    step = max(1, ROWS_AT_ONCE // max(1, weight.shape[1]))
    return [slice(start, start + step) for start in range(0, weight.shape[0], step)]


def _finite(rows: Tensor) -> Tensor:
    numbers = rows.float()
    _check_finite(bool(numbers.isfinite().all()))
    return numbers


def _check_finite(finite: bool) -> None:
    if not finite:
        raise QuantizationError("A weight is NaN or infinite: the checkpoint is broken, get it again.")
