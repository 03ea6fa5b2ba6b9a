"""Keys and values of rows that enter and leave a batch while it runs.

    per layer [rows, heads, tokens, head_dim]: row i fills the first `lengths[i]` columns, the others are zeros

A step adds one token to every row, behind its own last one. So nothing moves when a longer row enters, and a row's
keys are in the same columns as alone. A row that leaves gives its index to the last row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache

from .rotary import PrefixState

FREE_TOKENS = 64
"""Columns allocated beyond the longest row, so that not every step allocates."""


class RowCache(Cache):
    """A cache of rows with a length each; `forward` gets its `mask` and `rotary_positions` with the next ids."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.lengths: list[int] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._positions = torch.empty(0, 2, dtype=torch.long)
        self._columns = torch.empty(0, dtype=torch.long)

    def add(self, prompt: DynamicCache) -> None:
        """Copy the cache of one prompt that `forward` has filled; it becomes the last row."""
        end = PrefixState.of(prompt)
        assert end is not None  # `forward` stores it
        filled = [(layer.keys, layer.values) for layer in prompt.layers if layer.keys is not None]
        if not self._keys:
            self._keys = [keys[:0] for keys, _ in filled]
            self._values = [values[:0] for _, values in filled]
            self._positions = end.rotary[:0]
        row = len(self.lengths)
        self.lengths.append(prompt.get_seq_length())
        self._positions = torch.cat([self._positions, end.rotary])
        for layer, (keys, values) in enumerate(filled):
            self._reserve(layer, max(self.lengths))
            self._keys[layer][row, :, : self.lengths[row]] = keys[0]
            self._values[layer][row, :, : self.lengths[row]] = values[0]

    def remove(self, row: int) -> None:
        """Forget a row; the last row takes its index. Nothing is kept for no rows."""
        last = len(self.lengths) - 1
        if last == 0:
            self._keys, self._values, self.lengths = [], [], []
            return
        for stored in (*self._keys, *self._values):
            used = stored[:, :, : max(self.lengths)]
            used[row] = used[last]
            used[last] = 0  # a row to come has a mask, but a NaN passes through
        self._positions[row] = self._positions[last]
        self._positions = self._positions[:last].clone()
        self.lengths[row] = self.lengths[last]
        del self.lengths[last]

    def next_step(self) -> dict[str, Tensor]:
        """Make room for one token in every row; return the arguments of `forward` that say where it belongs."""
        self.lengths = [length + 1 for length in self.lengths]
        self._positions = self._positions + torch.tensor([0, 1], device=self._positions.device)
        PrefixState(self._positions, 0).remember(self)
        lengths = torch.tensor(self.lengths, device=self._positions.device)
        columns = torch.arange(max(self.lengths), device=self._positions.device)
        self._columns = lengths - 1
        mask = columns < lengths[:, None]
        return {"attention_mask": mask[:, None, None], "rotary_positions": self._positions[..., None]}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [rows, heads, 1, head_dim]; return all of them [rows, heads, longest, head_dim]."""
        rows, longest = len(self.lengths), max(self.lengths)
        self._reserve(layer_idx, longest)
        found = []
        for stored, new in ((self._keys[layer_idx], key_states), (self._values[layer_idx], value_states)):
            columns = self._columns.to(new.device)
            stored[torch.arange(rows, device=new.device), :, columns] = new[:, :, 0]
            found.append(stored[:rows, :, :longest])
        return found[0], found[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the length of the longest row."""
        return max(self.lengths, default=0)

    def _reserve(self, layer: int, tokens: int) -> None:
        """Reallocate if rows or tokens do not fit, or tokens take less than half of what is there."""
        rows = len(self.lengths)
        room, room_tokens = self._keys[layer].shape[0], self._keys[layer].shape[2]
        if rows <= room and tokens <= room_tokens <= 2 * (tokens + FREE_TOKENS):
            return
        rows = room if rows <= room else max(rows, 2 * room)
        tokens += FREE_TOKENS
        for stored in (self._keys, self._values):
            old = stored[layer][:, :, :tokens]
            stored[layer] = F.pad(old, (0, 0, 0, tokens - old.shape[2], 0, 0, 0, rows - old.shape[0]))
