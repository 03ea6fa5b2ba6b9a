"""Manage the adapters of an open model by name: at most one is active at a time.

LoRA and fully trained modules use PEFT's own layers, a prefix is a mixin.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import Checkpoint
from ..checkpoints.save_sat import ADAPTER
from ..errors import UsageError, require_extra
from ..inference.streaming_reply import is_generating
from ..network.prefix_tuning import PrefixMixin
from ..quantization import QuantizedLinear
from . import sat_adapters
from .files import adapter_folder, read_adapter_config, read_adapter_weights, require_same_base
from .lora import inject, load_lora_weights
from .lora_config import stored_lora
from .peft_layers import rollback_on_error
from .prefix_adapter import stored_prefix

WRAPPED = "base_model.model."
"""Prefixes that PEFT's files put before a model's own names."""
PREFIX, LORA = "PREFIX_TUNING", "LORA"


@dataclass
class AdapterManager:
    """The adapters of a model; `active` is the name of the active one.

    `attached` holds, in the order of adding, each adapter's prefix or the name of its PEFT layers.
    """

    model: Any
    active: str | None = None
    attached: dict[str, PrefixMixin | str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of all adapters that were added, in order."""
        return list(self.attached)

    def add(self, place: str | Path, name: str | None = None) -> str:
        """Attach the adapter of `DIR` or `DIR@STEP`, also of a sat folder, and activate it; return its name.

        Raises:
            UsageError: there is none, its name is taken, or peft is not installed.
            CheckpointError: it was trained on another model, or its file does not fit.
        """
        name = name or str(place).rstrip("/").rsplit("/", 1)[-1]
        if name in self.names:
            raise UsageError(f"There is an adapter {name!r} already. Give this one another name.")
        self._require_idle()
        sat_folder = sat_adapters.upstream_folder(place)
        if sat_folder is not None:
            self.attached[name] = self._attach_sat(sat_adapters.open_sat_folder(sat_folder, self.model.name_or_path))
        else:
            self.attached[name] = self._attach_peft(adapter_folder(place))
        self.use(name)
        return name

    def _attach_peft(self, folder: Path) -> PrefixMixin | str:
        require_same_base(folder, self.model.name_or_path)
        kind = read_adapter_config(folder).get("peft_type")
        if kind == PREFIX:
            return stored_prefix(self.model, folder)
        if kind == LORA:
            attach_adapter(self.model, folder, layers := self._layer_name())
            return layers
        raise UsageError(f"{folder} is an adapter of kind {kind}. Give one of kind {LORA} or {PREFIX}.")

    def _attach_sat(self, checkpoint: Checkpoint) -> PrefixMixin | str:
        if not checkpoint.low_rank:
            return sat_adapters.prefix_of(self.model, checkpoint)
        sat_adapters.attach_low_rank(self.model, checkpoint, layers := self._layer_name())
        return layers

    def use(self, name: str | None) -> None:
        """Activate one adapter, or with None the base model.

        Raises:
            UsageError: there is no adapter of that name, or an answer of another one is being generated.
        """
        if name is not None and name not in self.names:
            raise UsageError(f"There is no adapter {name!r}. Choose from {', '.join(self.names) or 'none'}.")
        if name == self.active:
            return
        self._require_idle()
        if ADAPTER in self.model.mixins:
            self.model.del_mixin(ADAPTER)
        chosen = None if name is None else self.attached[name]
        if isinstance(chosen, PrefixMixin):
            self.model.add_mixin(ADAPTER, chosen)
        _switch(self.model, chosen if isinstance(chosen, str) else None)
        self.active = name
        self.model.adapter_at_work = name

    def _require_idle(self) -> None:
        """Raise `UsageError` while an answer is being generated: another adapter would generate its rest."""
        if is_generating(self.model):
            now = "the base model" if self.active is None else f"the adapter {self.active!r}"
            raise UsageError(f"An answer is being generated with {now}. Read it to its end or close it, then switch.")

    def _layer_name(self) -> str:
        """Return a name for PEFT's layers, without dots, because PEFT makes module names of it."""
        return f"adapter{len(self.attached)}"


def attach_adapter(model: Any, folder: Path, name: str) -> Any:
    """Insert PEFT's layers with the weights of a folder and activate them; return the tuner.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the model, which is then unchanged.
        UsageError: peft is not installed, the adapter cannot be combined with the existing ones, or it needs weights
            that are in 8 or 4 bits.
    """
    require_extra("train", "an adapter", "peft")

    tensors = read_lora_weights(folder, model.transformer.final_layernorm.weight.dtype)
    with rollback_on_error(model, name, folder):
        config = stored_lora(model, folder, tensors)
        _require_numbers(model, config, folder)
        tuner = inject(model, config, name)
        load_lora_weights(model, tensors, name)
    model.requires_grad_(False)
    model.eval()
    return tuner


def read_lora_weights(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return an adapter's tensors by the model's own names; `dtype` is the one they will be used in.

    Raises:
        CheckpointError: the file is damaged, or a tensor is not of finite floating-point values.
    """
    return {key.removeprefix(WRAPPED): value for key, value in read_adapter_weights(folder, dtype).items()}


def _require_numbers(model: Any, config: Any, folder: Path) -> None:
    """Raise `UsageError` if the adapter needs weights that the model holds in 8 or 4 bits."""
    stored = [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]
    if config.use_dora and stored:
        raise UsageError(f"{folder} is DoRA, which needs the 16-bit weights. Leave --quantize out, or merge it first.")
    for part in config.modules_to_save or ():
        if any(name == part or name.startswith(f"{part}.") for name in stored):
            raise UsageError(
                f"{folder} replaces the {part}, which must be in 16 bits then. Leave --quantize-vision "
                "out, or merge it first."
            )


def _switch(model: Any, name: str | None) -> None:
    """Activate one name of PEFT's layers, and deactivate the others."""
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils import ModulesToSaveWrapper
    except ImportError:  # without peft nothing is attached
        return
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            here = name in module.modules_to_save
        elif isinstance(module, BaseTunerLayer):
            here = name is not None
        else:
            continue
        module.enable_adapters(here)
        if here:
            module.set_adapter(name)
    model.requires_grad_(False)
