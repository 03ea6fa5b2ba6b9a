"""Use a folder that upstream's own fine-tuning saved as an adapter: its LoRA or prefix, without its base.

In: such a folder (sat's layout, LoRA not merged), and an open model that must be its base. Out: the model with PEFT's
layers, or a prefix for it. The folder also holds its base, so `--model` opens it as one merged model; as an adapter it
is switched like any other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..checkpoints import Checkpoint, local_folder, open_checkpoint
from ..errors import CheckpointError, UsageError
from ..hub.local_folder import SAT_WEIGHTS
from ..network.prefix_tuning import PrefixMixin
from .files import QUANTIZABLE, digest_weights, is_quantized, split_step
from .lora import fill, inject, low_rank_config, ranks_of
from .peft_layers import rollback_on_error
from .prefix_adapter import filled_prefix

PREFIX_TABLES = "mixins.ptuning.prefix.{}"
ADDED = r"mixins\.ptuning\..*"
QUANTIZED = r"transformer\.layers\.\d+\..*\.weight"
"""Pattern of weights that QLoRA held in 4 bits, so that the folder holds rounded values of the base's."""


def upstream_folder(place: str | Path) -> Path | None:
    """Return the folder of `DIR` or `DIR@STEP` if it is a sat folder, else None."""
    folder, step = split_step(place)
    folder /= step
    there = (folder / SAT_WEIGHTS).is_file() or any(folder.glob(f"*/{SAT_WEIGHTS}"))
    return folder if there else None


def open_sat_folder(folder: Path, model_name: str) -> Checkpoint:
    """Open the folder with its LoRA separate from the weights, and check that it belongs to this model.

    Raises:
        CheckpointError: it was trained on another model, or cannot be opened.
        UsageError: it holds neither LoRA nor a prefix.
    """
    checkpoint = open_checkpoint(folder, merge=False)
    if checkpoint.low_rank and checkpoint.config.prefix_length:
        raise UsageError(f"{folder} has both LoRA and a prefix, and an adapter is one of them. Open it with --model.")
    if not checkpoint.low_rank and not checkpoint.config.prefix_length:
        raise UsageError(
            f"{folder} is a whole model without LoRA or a prefix beside its weights (they may be merged). Open it with "
            "--model instead of --adapter."
        )
    changed = [ADDED, *([QUANTIZED] if checkpoint.raw_config.get("use_qlora") else [])]
    changed += [QUANTIZABLE.pattern] if is_quantized(model_name) else []
    left_out = re.compile("|".join(changed))
    base = open_checkpoint(local_folder(model_name))
    if digest_weights(checkpoint, left_out) != digest_weights(base, left_out):
        raise CheckpointError(
            f"{folder} was fine-tuned on another model than {model_name}. Give --model the one it was trained on, or "
            f"open the folder as a model, which it holds too (--model {folder})."
        )
    return checkpoint


def attach_low_rank(model: Any, checkpoint: Checkpoint, name: str) -> None:
    """Insert PEFT's layers with the folder's matrices, active under `name`."""
    config = low_rank_config(ranks_of(checkpoint.low_rank))
    with rollback_on_error(model, name, checkpoint.folder):
        inject(model, config, name)
        fill(model, checkpoint.low_rank, name, checkpoint.folder)
    model.requires_grad_(False)
    model.eval()


def prefix_of(model: Any, checkpoint: Checkpoint) -> PrefixMixin:
    """Build the folder's prefix for the model, on its device and in its dtype."""
    names = map(PREFIX_TABLES.format, range(model.config.num_layers))
    return filled_prefix(model, [checkpoint.tensors[name].read() for name in names], checkpoint.folder)
