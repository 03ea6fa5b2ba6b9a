"""A tensor of a checkpoint that is read only on request.

Shape and dtype come from the file's header; `read()` returns the tensor, as a view of the mapped file if possible
(`mapped`: its pages belong to the file and cost no memory of the process). The file also has the permutation between
upstream's two layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PIECE = 1 << 20
"""Values that `is_finite` checks at once; torch needs several times their memory for it."""


@dataclass(frozen=True)
class LazyTensor:
    """One tensor, not yet read. Indexing reads it (that is how transformers' loader asks for slices)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    mapped: bool = False

    @classmethod
    def of(cls, tensor: Tensor, mapped: bool = False) -> LazyTensor:
        """Wrap a loaded tensor; `mapped`: its storage is memory-mapped."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor, mapped)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def get_shape(self) -> list[int]:
        """Return the shape, under the name that safetensors' slices use."""
        return list(self.shape)

    def is_floating_point(self) -> bool:
        """Whether it holds floating-point values, as `torch.Tensor`'s; the loader of older transformers asks it."""
        return self.dtype.is_floating_point

    def __getitem__(self, index: Any) -> Tensor:
        return self.read()[index]


def per_head_rows(thirds: LazyTensor, heads: int) -> LazyTensor:
    """Reorder rows `[Q of all heads | K | V]` to `[q k v]` of the first head, then of the second, ... (sat -> Hugging
    Face).

    Source: upstream's issue 200, where the maintainer states both orders: thirds = per_head.view(heads, 3, d, ...)
    .transpose(0, 1).
    """
    return _regrouped(thirds, 3, heads)


def thirds_rows(per_head: LazyTensor, heads: int) -> LazyTensor:
    """Invert `per_head_rows` (Hugging Face -> sat)."""
    return _regrouped(per_head, heads, 3)


def _regrouped(tensor: LazyTensor, outer: int, inner: int) -> LazyTensor:
    def read() -> Tensor:
        groups = tensor.read().unflatten(0, (outer, inner, -1))
        return groups.transpose(0, 1).reshape(tensor.shape)

    return LazyTensor(tensor.shape, tensor.dtype, read)


def same_bits(one: LazyTensor, other: LazyTensor) -> bool:
    """Return whether two tensors have the same shape, dtype and bits (so NaN equals NaN, and 0.0 differs from -0.0)."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(bits(one.read()), bits(other.read()))


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity, or None."""
    return next((name for name, tensor in tensors.items() if not is_finite(tensor)), None)


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    pieces = tensor.detach().flatten().split(PIECE)
    # torch has no isfinite for float8
    return all(bool(torch.isfinite(piece.float() if piece.itemsize == 1 else piece).all()) for piece in pieces)


def bits(tensor: Tensor) -> Tensor:
    """Return the tensor's memory as one row of bytes [n], without a copy if it is contiguous."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)
