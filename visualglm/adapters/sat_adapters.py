"""A folder that upstream's own fine-tuning saved, as an adapter: its LoRA or prefix, not its base.

In: such a folder (sat's layout, LoRA not merged), and an open model that must be what it was trained on. Out: the
model with PEFT's layers, or a prefix for it. The folder holds its base too, so `--model` opens it as one merged model;
as an adapter it is switched like any other. Knows nothing about training.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..checkpoints import Checkpoint, local_folder, open_checkpoint
from ..checkpoints.formats.detect import SAT_WEIGHTS
from ..errors import CheckpointError, UsageError
from ..network.prefix_tuning import PrefixMixin
from .files import QUANTIZABLE, fingerprint, is_quantized, split_step
from .lora import fill, inject, low_rank_config, ranks_of
from .peft_layers import rollback_on_error
from .prefix_adapter import filled_prefix

PREFIX_TABLES = "mixins.ptuning.prefix.{}"
ADDED = r"mixins\.ptuning\..*"
QUANTIZED = r"transformer\.layers\.\d+\..*\.weight"
"""What QLoRA held in 4 bits, so that the folder has rounded numbers of the base's."""


def upstream_folder(place: str | Path) -> Path | None:
    """The folder of `DIR` or `DIR@STEP` where it is sat's, else None."""
    folder, step = split_step(place)
    folder /= step
    there = (folder / SAT_WEIGHTS).is_file() or any(folder.glob(f"*/{SAT_WEIGHTS}"))
    return folder if there else None


def open_sat_folder(folder: Path, model_name: str) -> Checkpoint:
    """The folder with its LoRA beside the weights, made for this model.

    Raises:
        CheckpointError: it was trained on another model, or cannot be opened.
        UsageError: it holds neither LoRA nor a prefix.
    """
    checkpoint = open_checkpoint(folder, merge=False)
    if checkpoint.low_rank and checkpoint.config.prefix_length:
        raise UsageError(f"{folder} has both LoRA and a prefix, and an adapter is one of them: open it with --model.")
    if not checkpoint.low_rank and not checkpoint.config.prefix_length:
        raise UsageError(
            f"{folder} is a whole model without LoRA or a prefix beside its weights (they may be merged): open it with "
            "--model instead of --adapter."
        )
    changed = [ADDED, *([QUANTIZED] if checkpoint.raw_config.get("use_qlora") else [])]
    changed += [QUANTIZABLE.pattern] if is_quantized(model_name) else []
    left_out = re.compile("|".join(changed))
    base = open_checkpoint(local_folder(model_name))
    if fingerprint(checkpoint, left_out) != fingerprint(base, left_out):
        raise CheckpointError(
            f"{folder} was fine-tuned on another model than {model_name}: give --model the one it was trained on, or "
            f"open the folder as a model, which it holds too (--model {folder})."
        )
    return checkpoint


def lay_on_low_rank(model: Any, checkpoint: Checkpoint, name: str) -> None:
    """PEFT's layers with the folder's matrices, at work under `name`."""
    config = low_rank_config(ranks_of(checkpoint.low_rank))
    with rollback_on_error(model, name, checkpoint.folder):
        inject(model, config, name)
        fill(model, checkpoint.low_rank, name, checkpoint.folder)
    model.requires_grad_(False)
    model.eval()


def prefix_of(model: Any, checkpoint: Checkpoint) -> PrefixMixin:
    """The folder's prefix for the model, on its device and in its dtype."""
    names = map(PREFIX_TABLES.format, range(model.config.num_layers))
    return filled_prefix(model, [checkpoint.tensors[name].read() for name in names], checkpoint.folder)
