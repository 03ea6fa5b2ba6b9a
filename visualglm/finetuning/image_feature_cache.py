"""Image features of frozen vision-side modules, computed once and kept in a file.

In: a model whose vision-side modules are frozen, and paths. Out: path -> [image_length, hidden], read from disk on
demand, so memory stays flat. The loss equals that with pixels.
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
from .config import Finetuning
from .trainable_model import IMAGE_ENCODER_PREFIX


def describe_image_handling(recipe: Finetuning) -> str:
    """Describe for the plan how images are encoded."""
    if recipe.caches:
        return "images: each is encoded once, and its features are kept on disk during training"
    training = [part for part in IMAGE_ENCODER_PREFIX if getattr(recipe.parts, part) != "frozen"]
    reason = f"{' and '.join(training)} train" if training else "cache_features is off"
    return f"images: encoded at every step, because {reason}"


class ImageFeatureCache:
    """Features of each image, in the compute dtype of the model."""

    def __init__(self, table: np.ndarray, numbers: dict[str, int], dtype: torch.dtype) -> None:
        self.table, self.numbers, self.dtype = table, numbers, dtype

    def __getitem__(self, path: str) -> Tensor:
        return torch.from_numpy(self.table[self.numbers[path]].copy()).to(self.dtype)


@torch.no_grad()
def compute_features(
    model: Any, images: VisualGLMImageProcessor, paths: Iterable[str], file: Path
) -> ImageFeatureCache:
    """Encode every image once into a new float32 file, which holds any narrower dtype exactly.

    The file is written before it is mapped, so that a full disk is an error instead of a crash.

    Raises:
        UsageError: the disk is too small.
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
