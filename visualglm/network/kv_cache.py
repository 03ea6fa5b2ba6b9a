"""KV cache with spare capacity: it appends in place and reallocates only when full.

transformers' dynamic cache copies itself for every new token. Keys and values are [batch, heads, tokens, head_dim] per
layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class PreallocatedCacheLayer(DynamicLayer):
    """A dynamic layer whose `keys` and `values` are the filled beginning of larger tensors."""

    keys: Tensor
    values: Tensor
    key_room: Tensor | None = None
    value_room: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append new tokens [batch, heads, new, head_dim]; return the keys and values of all tokens."""
        if key_states.requires_grad or torch.compiler.is_compiling():  # in-place writes have no gradient
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.key_room = append_in_place(self.keys, self.key_room, key_states)
        self.values, self.value_room = append_in_place(self.values, self.value_room, value_states)
        return self.keys, self.values

    def reset(self) -> None:
        """Forget all tokens. Older transformers overwrite them with zeros, which later tokens then attend to."""
        self.__dict__.update(keys=None, values=None, key_room=None, value_room=None, is_initialized=False)


def append_in_place(filled: Tensor, room: Tensor | None, new: Tensor) -> tuple[Tensor, Tensor]:
    """Append `new` to `filled`; return the filled tensor and the larger one that it is the beginning of."""
    length = filled.shape[-2] if filled.dim() == 4 else 0
    total = length + new.shape[-2]
    if room is None or room.shape[-2] < total or not _begins(room, filled):
        room = new.new_empty(*new.shape[:-2], total + max(64, total // 4), new.shape[-1])
        if length:
            room[..., :length, :] = filled
    room[..., length:total, :] = new
    return room[..., :total, :], room


def _begins(room: Tensor, filled: Tensor) -> bool:
    """Return whether `filled` is still the beginning of `room` and may be written to.

    Selecting or repeating rows makes a new tensor.
    """
    writable = not room.is_inference() or torch.is_inference_mode_enabled()
    return writable and filled.data_ptr() == room.data_ptr() and filled.shape[:2] == room.shape[:2]


def preallocate(cache: Cache) -> Cache:
    """Replace the empty dynamic layers of the cache by preallocated ones; return the cache."""
    if cache.layer_class_to_replicate is DynamicLayer:  # a cache without a configuration makes its layers one by one
        cache.layer_class_to_replicate = PreallocatedCacheLayer
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and not layer.is_initialized:
            cache.layers[index] = PreallocatedCacheLayer()
    return cache


def is_empty(cache: Cache) -> bool:
    """Return whether the cache holds no tokens; False while compiling: a compiled step follows a prompt."""
    return not torch.compiler.is_compiling() and bool(cache.get_seq_length() == 0)
