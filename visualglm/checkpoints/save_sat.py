"""Write an open model as a sat folder (`save_pretrained` writes the native layout).

In: a model, changed or not. Out: `model_config.json`, `latest` and `STEP/mp_rank_00_model_states.pt`, complete or
absent. The vocabulary is copied if it is in the folder that the model came from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..preprocessing.sentencepiece_vocabulary import VOCABULARY_FILE
from ..quantization.hf_quantizer import WRAPPERS
from .checkpoint import Checkpoint
from .formats import sat
from .formats.detect import detect_layout
from .quantize import plan_of_config
from .storage.atomic_folder import atomic_folder, check_free_space, validate_target
from .storage.lazy_tensor import LazyTensor
from .vocabulary_file import find_vocabulary

ADAPTER = "adapter"
"""Name of the mixin as which `adapters/manager.py` activates a prefix."""


def require_no_adapter(model: Any) -> None:
    """Raise `UsageError` if an adapter is attached to the model: nothing could open a folder with both."""
    layers = (name for name, _ in model.named_modules() if not set(WRAPPERS).isdisjoint(name.split(".")))
    if next(layers, None) is not None or ADAPTER in model.mixins:
        raise UsageError(
            "An adapter is attached to this model, and a folder with both could not be opened. Write one model with "
            "`visualglm merge` (sat's LoRA: merge_lora()), or save the model before an adapter is added."
        )


def save_sat(model: Any, folder: str | Path, step: str = "1") -> Path:
    """Write the model into the new folder `folder`, as the step `step`.

    Raises:
        UsageError: an adapter is attached, the model is quantized, or the folder is not empty or cannot be written.
    """
    require_no_adapter(model)
    if plan_of_config(model.config) is not None:
        raise UsageError(
            "The model is in 8 or 4 bits, and upstream's layouts have no place for them. Save the unquantized model, "
            "or this one with save_pretrained."
        )
    place = validate_target(Path(folder), overwrite=False)
    tensors = {name: LazyTensor.of(tensor.detach().cpu()) for name, tensor in model.state_dict().items()}
    source = Checkpoint(place, "native", model.config, tensors, {})
    check_free_space(place, source.nbytes)
    vocabulary = (
        find_vocabulary(detect_layout(Path(model.name_or_path))[0]) if Path(model.name_or_path).exists() else None
    )
    with atomic_folder(place, overwrite=False) as new:
        sat.write(new, source, step)
        if vocabulary is not None:
            shutil.copyfile(vocabulary, new / VOCABULARY_FILE)
    return place
