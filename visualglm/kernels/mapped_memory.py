"""Tensors in memory mappings of their own, which go back to the system when they are freed.

Weights are quantized in threads that read a checkpoint and put into a kernel's order in a thread that answers. glibc's
malloc keeps an arena for each thread and gives a freed block back only from an arena's end, so every weight would be in
memory twice. See "arenas" in glibc's manual, section "The GNU Allocator".
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 1 << 17  # bytes; less is cheaper in malloc's own blocks
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """Return an uninitialized tensor; one of 128 KiB or more on the CPU has a mapping of its own.

    Raises:
        MemoryError: the system has no memory for it.
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < SMALLEST or (device is not None and device.type != "cpu"):
        return torch.empty(*shape, dtype=dtype, device=device)
    try:
        memory = mmap.mmap(-1, size, **PRIVATE)
    except OSError as error:
        raise MemoryError(f"The system has no memory for {size / 1e6:.0f} MB of weights.") from error
    return torch.frombuffer(memory, dtype=dtype, count=count).view(*shape)
