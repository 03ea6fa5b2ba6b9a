"""finetuning/features: what frozen networks make of the pictures, computed once and kept in a file.

In: a model whose picture road is frozen, and paths. Out: path -> [image_length, hidden], read from disk as it is asked
for, so memory stays flat. The loss is the same as with pixels. Knows nothing about steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..chat import encode_picture
from .parts import PICTURE_ROAD
from .recipe import Finetuning


def how_pictures_are_read(recipe: Finetuning) -> str:
    """What the plan says about them."""
    if recipe.caches:
        return "pictures: each is encoded once, and its vectors are kept on disk while training"
    training = [part for part in PICTURE_ROAD if getattr(recipe.parts, part) != "frozen"]
    reason = f"{' and '.join(training)} train" if training else "cache_features is off"
    return f"pictures: encoded at every step, because {reason}"


class Features:
    """The vectors of each picture, in the dtype that the model computes in."""

    def __init__(self, table: np.ndarray, numbers: dict[str, int], dtype: torch.dtype) -> None:
        self.table, self.numbers, self.dtype = table, numbers, dtype

    def __getitem__(self, path: str) -> Tensor:
        return torch.from_numpy(self.table[self.numbers[path]].copy()).to(self.dtype)


@torch.no_grad()
def computed(model: Any, paths: Iterable[str], file: Path) -> Features:
    """Encodes every picture once, into a new file of float32 numbers (they hold any narrower dtype exactly)."""
    unique = list(dict.fromkeys(paths))
    shape = (max(1, len(unique)), model.config.image_length, model.config.hidden_size)
    file.parent.mkdir(parents=True, exist_ok=True)
    table = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
    dtype = torch.float32
    for number, path in enumerate(unique):
        embeds = encode_picture(model, path)
        dtype = embeds.dtype
        table[number] = embeds[0].float().cpu().numpy()
    table.flush()
    return Features(np.load(file, mmap_mode="r"), {path: number for number, path in enumerate(unique)}, dtype)
