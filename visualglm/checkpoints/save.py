"""checkpoints/save: an open model -> a sat folder. (Our own layout is written by the model's `save_pretrained`.)

In: a model, changed or not. Out: `model_config.json`, `latest` and `STEP/mp_rank_00_model_states.pt`, complete or not
there at all. The vocabulary comes along where one lies beside the files that the model came from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..quantization.quantizer import WRAPPERS
from . import sat
from .checkpoint import VOCABULARY, Checkpoint, find_vocabulary
from .lazy import LazyTensor
from .place import chosen, complete_or_absent, require_room
from .quantized import stored_plan
from .recognise import recognise

ADAPTER = "adapter"
"""The name under which `adapters/switch.py` puts a prefix to work, a mixin."""


def require_bare(model: Any) -> None:
    """Raises `UsageError` where an adapter is laid on the model: nothing could open a folder with both."""
    layers = (name for name, _ in model.named_modules() if not set(WRAPPERS).isdisjoint(name.split(".")))
    if next(layers, None) is not None or ADAPTER in model.mixins:
        raise UsageError(
            "an adapter is laid on this model, and a folder with both could not be opened: write one model with "
            "`visualglm merge` (sat's LoRA: merge_lora()), or save the model before an adapter is added."
        )


def save_sat(model: Any, folder: str | Path, step: str = "1") -> Path:
    """Writes the model into the new folder `folder`, as the step `step`.

    Raises:
        UsageError: an adapter is laid on the model, it is quantized, or the folder is not empty or cannot be written.
    """
    require_bare(model)
    if stored_plan(model.config) is not None:
        raise UsageError(
            "the model is in 8 or 4 bits, and upstream's layouts have no place for them: save the unquantized model, "
            "or this one with save_pretrained."
        )
    place = chosen(Path(folder), overwrite=False)
    tensors = {name: LazyTensor.of(tensor.detach().cpu()) for name, tensor in model.state_dict().items()}
    source = Checkpoint(place, "native", model.config, tensors, {})
    require_room(place, source.nbytes)
    vocabulary = find_vocabulary(recognise(Path(model.name_or_path))[0]) if Path(model.name_or_path).exists() else None
    with complete_or_absent(place, overwrite=False) as new:
        sat.write(new, source, step)
        if vocabulary is not None:
            shutil.copyfile(vocabulary, new / VOCABULARY)
    return place
