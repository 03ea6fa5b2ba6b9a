"""Check an adapter against its model, without loading the model's weights: the last line of `visualglm doctor`."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints import Check, open_checkpoint
from ..checkpoints.quantize import empty_model
from ..errors import VisualGLMError
from ..model import VisualGLMForConditionalGeneration
from .manager import AdapterManager


def verify_adapter(place: str | Path, model: str | Path) -> Check:
    """Attach the adapter `DIR` or `DIR@STEP` to a model of that checkpoint without memory, as `--adapter` does.

    So its files, its base, its names and shapes are checked, and its values in the dtype of the checkpoint.
    """
    try:
        config = open_checkpoint(model).config
        empty = empty_model(VisualGLMForConditionalGeneration, config).to(config.dtype)
        empty.name_or_path = str(model)  # type: ignore[assignment]
        AdapterManager(empty).add(place)
    except VisualGLMError as error:
        return Check("adapter", "failed", str(error))
    return Check("adapter", "passed", f"{place} fits the model, and its values are finite")
