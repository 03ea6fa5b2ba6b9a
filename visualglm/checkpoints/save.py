"""checkpoints/save: an open model -> a sat folder. (Our own layout is written by the model's `save_pretrained`.)

In: a model, changed or not. Out: `model_config.json`, `latest` and `STEP/mp_rank_00_model_states.pt`, complete or not
there at all. The vocabulary comes along where one lies beside the files that the model came from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from . import sat
from .checkpoint import VOCABULARY, Checkpoint, find_vocabulary
from .lazy import LazyTensor
from .place import chosen, complete_or_absent, require_room
from .recognise import recognise


def save_sat(model: Any, folder: str | Path, step: str = "1") -> Path:
    """Writes the model into the new folder `folder`, as the step `step`.

    Raises:
        UsageError: the folder is not empty, or cannot be written.
    """
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
