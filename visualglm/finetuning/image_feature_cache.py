"""What frozen networks make of the pictures, computed once and kept in a file.

In: a model whose picture road is frozen, and paths. Out: path -> [image_length, hidden], read from disk as it is asked
for, so memory stays flat. The loss is the same as with pixels. Knows nothing about steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.storage.atomic_folder import check_free_space
from ..files.atomic import explain_write_errors
from ..inference.image_features import encode_pixels
from ..preprocessing.images import VisualGLMImageProcessor
from .finetuning_config import Finetuning
from .trainable_model import IMAGE_ENCODER_PREFIX


def describe_image_handling(recipe: Finetuning) -> str:
    """What the plan says about them."""
    if recipe.caches:
        return "pictures: each is encoded once, and its vectors are kept on disk while training"
    training = [part for part in IMAGE_ENCODER_PREFIX if getattr(recipe.parts, part) != "frozen"]
    reason = f"{' and '.join(training)} train" if training else "cache_features is off"
    return f"pictures: encoded at every step, because {reason}"


class ImageFeatureCache:
    """The vectors of each picture, in the dtype that the model computes in."""

    def __init__(self, table: np.ndarray, numbers: dict[str, int], dtype: torch.dtype) -> None:
        self.table, self.numbers, self.dtype = table, numbers, dtype

    def __getitem__(self, path: str) -> Tensor:
        return torch.from_numpy(self.table[self.numbers[path]].copy()).to(self.dtype)


@torch.no_grad()
def computed(model: Any, images: VisualGLMImageProcessor, paths: Iterable[str], file: Path) -> ImageFeatureCache:
    """Encodes every picture once, into a new file of float32 numbers (they hold any narrower dtype exactly).

    Raises:
        UsageError: the disk is too small. (The file is written before it is mapped: a full disk is an error then.)
    """
    unique = list(dict.fromkeys(paths))
    shape = (max(1, len(unique)), model.config.image_length, model.config.hidden_size)
    check_free_space(file.parent, 4 * math.prod(shape))
    dtype = torch.float32
    with explain_write_errors(file), file.open("xb") as opened:
        for path in unique:
            embeds = encode_pixels(model, images.read(path))
            dtype = embeds.dtype
            opened.write(embeds[0].float().cpu().numpy().tobytes())
        opened.truncate(4 * math.prod(shape))
    table = np.memmap(file, np.float32, "r", shape=shape)
    return ImageFeatureCache(table, {path: number for number, path in enumerate(unique)}, dtype)
