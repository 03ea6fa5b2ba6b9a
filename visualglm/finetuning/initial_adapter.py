"""Start of a run from an existing adapter (recipe key `adapter`): check that both fit, then load its weights."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import torch

from ..adapters.files import adapter_folder, read_adapter_config, require_same_base
from ..adapters.lora import load_lora_weights
from ..adapters.lora_config import stored_lora
from ..adapters.manager import LORA, PREFIX, read_lora_weights
from ..adapters.prefix_adapter import read_prefix
from ..checkpoints.save_sat import ADAPTER
from ..errors import UsageError
from .config import Finetuning

KINDS = {"lora": LORA, "qlora": LORA, "ptuning": PREFIX}
"""Method -> PEFT's name of what it trains."""
SETTINGS = {
    LORA: {"lora.rank": "r", "lora.alpha": "lora_alpha", "lora.dora": "use_dora"},
    PREFIX: {"ptuning.tokens": "num_virtual_tokens"},
}
"""Settings of a recipe that the adapter decides -> their names in PEFT's configuration."""
PER_LAYER = ("rank_pattern", "alpha_pattern", "use_rslora", "lora_bias", "fan_in_fan_out")
"""PEFT's settings that a recipe does not have, so that an adapter with them would be trained as another one."""


def check_initial_adapter(recipe: Finetuning) -> None:
    """Check the recipe's `adapter`, if it has one, by its small files, before a model is loaded.

    Raises:
        UsageError: there is no adapter, or it is of another kind or size than the recipe trains.
        CheckpointError: it was trained on another model, or its files are damaged.
    """
    if not recipe.adapter:
        return
    folder, kind = adapter_folder(recipe.adapter), KINDS[recipe.method]
    require_same_base(folder, recipe.base_model)
    stored = read_adapter_config(folder)
    if stored.get("peft_type") != kind:
        raise UsageError(
            f"{folder} is an adapter of kind {str(stored.get('peft_type'))[:40]}, but method {recipe.method} trains "
            f"{kind}. Choose the method that trained it."
        )
    settings = SETTINGS[kind].items()
    other = [
        f"{name} = {str(stored.get(key, False))[:40].lower()}"
        for name, key in settings
        if operator.attrgetter(name)(recipe) != stored.get(key, False)
    ]
    if other:
        raise UsageError(f"{folder} was trained with {', '.join(other)}. Set the same, which cannot change any more.")


def load_initial_adapter(model: Any, recipe: Finetuning, name: str) -> None:
    """Copy the adapter's weights into the model's new LoRA layers `name`, or into its new prefix.

    Raises:
        UsageError: the adapter has other layers than the recipe.
        CheckpointError: its file is damaged, or holds NaN or infinite values.
    """
    folder = adapter_folder(recipe.adapter)
    if KINDS[recipe.method] == PREFIX:
        weight = model.get_mixin(ADAPTER).prefix.encoder.embedding.weight
        with torch.no_grad():
            weight.copy_(read_prefix(model, folder))
        return
    _load_lora(model, folder, name)


def _load_lora(model: Any, folder: Path, name: str) -> None:
    tensors = read_lora_weights(folder)
    try:
        config = stored_lora(model, folder, tensors)
        changed = [key for key in PER_LAYER if getattr(config, key)] + (["bias"] if config.bias != "none" else [])
        if changed:
            raise UsageError(f"{folder} sets {changed[0]}, which a recipe cannot train further. Merge it, then train.")
        load_lora_weights(model, tensors, name)
    except (KeyError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{folder} adapts other layers than this recipe ({' '.join(str(error).split())[:200]}). Set lora.targets, "
            "lora.layers and parts as in the recipe that trained it."
        ) from error
