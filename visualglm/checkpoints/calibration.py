"""Measure on images how important each input of a linear is, to choose 4-bit scales.

The model reads each image with a question, layer by layer in float32; the mean square of each input of each linear is
the importance that `quantize_weight` uses. No answer is generated. Source: activation-aware scales, AWQ (Lin et al.
2023); here they choose the group's scale, and nothing is rescaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..preprocessing.images import ImageSource
from ..preprocessing.processor import VisualGLMProcessor
from ..preprocessing.prompt import Turn
from .checkpoint import Checkpoint
from .layerwise_forward import run

QUESTION = "描述这张图片。"
IMPORTANCE_FLOOR = 0.01
"""Minimum importance, as a fraction of the mean, for inputs that these images leave near zero."""

Importance = dict[str, Tensor]
"""Name of a linear -> [in_features]."""


def importance(checkpoint: Checkpoint, images: Sequence[ImageSource], vocabulary: Path | None) -> Importance:
    """Compute the importance of the linears' inputs of an unquantized checkpoint, all images in one batch.

    Raises:
        ImageError: an image cannot be opened.
        UsageError: there is no vocabulary to tokenize the question.
    """
    if vocabulary is None:
        raise UsageError("Calibration asks about images, which needs ice_text.model. Name it with --tokenizer.")
    found: Importance = {}
    processor = VisualGLMProcessor.for_config(checkpoint.config, vocabulary)
    pixel_values = torch.cat([processor.image_processor.read(image) for image in images])
    prompt = processor.build_prompt([Turn(QUESTION, image_count=1)])
    ids = torch.tensor([prompt.input_ids]).repeat(len(images), 1)
    run(checkpoint, ids, pixel_values, watch=partial(_listen, found))
    return found


def _listen(found: Importance, model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(partial(_note, found, name))


def _note(found: Importance, name: str, module: nn.Module, arguments: Any) -> None:
    squares = arguments[0].float().flatten(0, -2).pow(2).mean(0)
    if squares.isfinite().all() and squares.sum() > 0:  # otherwise it received no input
        found[name] = squares + IMPORTANCE_FLOOR * squares.mean()
