"""Adapters by name on an open model: laid on from folders, one at work at a time, or none.

LoRA and whole parts go through PEFT's own layers, a prefix is a mixin. Knows nothing about training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
"""What PEFT's files put before a model's own names."""
PREFIX, LORA = "PREFIX_TUNING", "LORA"


@dataclass
class AdapterManager:
    """The adapters of a model; `active` is the one at work. `laid_on`, in the order in which they came: each one's
    prefix, or the name that its layers have with PEFT."""

    model: Any
    active: str | None = None
    laid_on: dict[str, PrefixMixin | str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All that were added, in order."""
        return list(self.laid_on)

    def add(self, place: str | Path, name: str | None = None) -> str:
        """Lays the adapter of `DIR` or `DIR@STEP` on the model and puts it to work; returns its name.

        A folder that upstream's fine-tuning saved is one, too.

        Raises:
            UsageError: there is none, its name is taken, or peft is not installed.
            CheckpointError: it was trained on another model, or its file does not fit.
        """
        name = name or str(place).rstrip("/").rsplit("/", 1)[-1]
        if name in self.names:
            raise UsageError(f"there is an adapter {name!r} already: give this one another name.")
        self._require_idle()
        upstreams = sat_adapters.upstream_folder(place)
        if upstreams is not None:
            self.laid_on[name] = self._upstreams(sat_adapters.open_sat_folder(upstreams, self.model.name_or_path))
        else:
            self.laid_on[name] = self._pefts(adapter_folder(place))
        self.use(name)
        return name

    def _pefts(self, folder: Path) -> PrefixMixin | str:
        require_same_base(folder, self.model.name_or_path)
        kind = read_adapter_config(folder).get("peft_type")
        if kind == PREFIX:
            return stored_prefix(self.model, folder)
        if kind == LORA:
            attach_adapter(self.model, folder, layers := self._layer_name())
            return layers
        raise UsageError(f"{folder} is an adapter of kind {kind}: this program knows {LORA} and {PREFIX}.")

    def _upstreams(self, checkpoint: Checkpoint) -> PrefixMixin | str:
        if not checkpoint.low_rank:
            return sat_adapters.prefix_of(self.model, checkpoint)
        sat_adapters.lay_on_low_rank(self.model, checkpoint, layers := self._layer_name())
        return layers

    def use(self, name: str | None) -> None:
        """Puts one adapter to work, or with None the bare model.

        Raises:
            UsageError: there is none of that name, or an answer of another one is being generated.
        """
        if name is not None and name not in self.names:
            raise UsageError(f"there is no adapter {name!r}: choose from {', '.join(self.names) or 'none'}.")
        if name == self.active:
            return
        self._require_idle()
        if ADAPTER in self.model.mixins:
            self.model.del_mixin(ADAPTER)
        chosen = None if name is None else self.laid_on[name]
        if isinstance(chosen, PrefixMixin):
            self.model.add_mixin(ADAPTER, chosen)
        _switch(self.model, chosen if isinstance(chosen, str) else None)
        self.active = name
        self.model.adapter_at_work = name

    def _require_idle(self) -> None:
        """Raises `UsageError` while an answer is under way: the rest of it would be another adapter's."""
        if is_generating(self.model):
            now = "the bare model" if self.active is None else f"the adapter {self.active!r}"
            raise UsageError(f"an answer is being generated with {now}: read it to its end or close it, then switch.")

    def _layer_name(self) -> str:
        """PEFT makes module names of it, so it has no dots."""
        return f"adapter{len(self.laid_on)}"


def attach_adapter(model: Any, folder: Path, name: str) -> Any:
    """PEFT's layers with the numbers of a folder, at work; returns their tuner.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the model; then nothing was laid on.
        UsageError: peft is not installed, the adapter cannot lie beside those that are there, or it needs weights that
            are in 8 or 4 bits.
    """
    require_extra("train", "an adapter", "peft")
    tensors = read_lora_weights(folder)
    with rollback_on_error(model, name, folder):
        config = stored_lora(model, folder, tensors)
        _require_numbers(model, config, folder)
        tuner = inject(model, config, name)
        load_lora_weights(model, tensors, name)
    model.requires_grad_(False)
    model.eval()
    return tuner


def read_lora_weights(folder: Path) -> dict[str, Tensor]:
    """Return an adapter's tensors by the model's own names.

    Raises:
        CheckpointError: the file is damaged, or a tensor is not of finite floating-point values.
    """
    return {key.removeprefix(WRAPPED): value for key, value in read_adapter_weights(folder).items()}


def _require_numbers(model: Any, config: Any, folder: Path) -> None:
    """Raises `UsageError` where the adapter needs weights that the model holds in 8 or 4 bits."""
    stored = [name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]
    if config.use_dora and stored:
        raise UsageError(f"{folder} is DoRA, which needs the 16-bit weights: leave --quantize out, or merge it first.")
    for part in config.modules_to_save or ():
        if any(name == part or name.startswith(f"{part}.") for name in stored):
            raise UsageError(
                f"{folder} has a {part} of its own, which needs the 16-bit one in its place: leave --quantize-vision "
                "out, or merge it first."
            )


def _switch(model: Any, name: str | None) -> None:
    """One name of PEFT's layers on, the others off."""
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils import ModulesToSaveWrapper
    except ImportError:  # then nothing was laid on
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
