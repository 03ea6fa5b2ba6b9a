"""Write lazy tensors into files, one tensor in memory at a time.

Out: safetensors (written by our own code, because the library needs all tensors of a file at once) and `torch.save`'s
zip. Format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .lazy_tensor import LazyTensor, bits
from .read import SAFETENSORS_DTYPES, save_torch

Shard = dict[str, LazyTensor]
DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}


def split_into_shards(tensors: Mapping[str, LazyTensor], max_bytes: int) -> list[Shard]:
    """Group tensors in order into shards of at most `max_bytes` (or of one larger tensor)."""
    shards: list[Shard] = [{}]
    room = max_bytes
    for name, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = max_bytes
        shards[-1][name] = tensor
        room -= tensor.nbytes
    return shards


def write_safetensors(path: Path, shard: Mapping[str, LazyTensor]) -> None:
    """Write one safetensors file; wide dtypes come first, so that every tensor is aligned for memory mapping."""
    ordered = dict(sorted(shard.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered.values():
            file.write(bits(tensor.read()).numpy().data)


def write_torch(path: Path, tensors: Mapping[str, LazyTensor], wrap: str | None = None) -> None:
    """Write one `torch.save` file; with `wrap`, the dictionary is inside another under that key.

    `torch.save` needs all tensors at once, so those that are not mapped are first written to temporary files, one at a
    time.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".scratch-") as scratch:
        content = {
            name: _in_a_file(tensor, Path(scratch) / str(index)) for index, (name, tensor) in enumerate(tensors.items())
        }
        save_torch({wrap: content} if wrap else content, path)


def _in_a_file(tensor: LazyTensor, scratch: Path) -> Tensor:
    numbers = tensor.read()
    whole = numbers.is_contiguous() and numbers.untyped_storage().nbytes() == tensor.nbytes
    if tensor.nbytes == 0 or (tensor.mapped and whole):
        return numbers
    with scratch.open("wb") as file:  # written before mapping, because a full disk is an error here but a crash later
        file.write(bits(numbers).numpy().data)
    return torch.from_file(str(scratch), shared=True, size=numbers.numel(), dtype=tensor.dtype).view(tensor.shape)
