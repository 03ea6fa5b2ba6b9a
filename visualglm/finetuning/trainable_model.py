"""Preparation of a model for a fine-tuning method; saving and loading of what trains.

    lora, qlora   PEFT's layers in the selected linear layers; a module that trains `full` is in `modules_to_save`
    ptuning       a prefix mixin with PEFT's encoder
    full          the modules' own parameters

Trained parameters are float32, whatever the dtype or quantization of the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..adapters.files import Base, write_adapter
from ..adapters.lora import inject
from ..adapters.manager import WRAPPED
from ..adapters.prefix_adapter import TENSOR, flattened, new_prefix, start_from_words
from ..checkpoints.save_sat import ADAPTER
from ..checkpoints.storage.lazy_tensor import first_not_finite
from ..checkpoints.storage.read import open_safetensors
from ..errors import UsageError, require_extra
from ..network.vision import BEHIND_STEM, is_frozen, is_of_stem
from ..quantization import QuantizedEmbedding, QuantizedLinear
from ..training.distributed import gather_full_tensor, rank, shard_like
from .config import Finetuning, layer_numbers
from .initial_adapter import load_initial_adapter

MODULES = {
    "language": ("transformer", "lm_head"),
    "qformer": ("image_encoder.qformer",),
    "projection": tuple(f"image_encoder.{name}" for name in ("glm_proj", *BEHIND_STEM)),
    "vision": ("image_encoder.vit",),
}
IMAGE_ENCODER_PREFIX = ("qformer", "projection", "vision")
LINEARS, STORED = (nn.Linear, QuantizedLinear), (QuantizedLinear, QuantizedEmbedding)
TRAINED = "trained.safetensors"
NAME = "default"


@dataclass
class TrainableModel:
    """A prepared model; `dtype` is the compute dtype, `config` PEFT's configuration (None for method full)."""

    model: Any
    recipe: Finetuning
    base: Base
    dtype: torch.dtype
    config: Any = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def counts(self) -> dict[str, int]:
        """Count the trainable parameters of each part."""
        counts = dict.fromkeys(MODULES, 0)
        for name, value in self.parameters.items():
            counts[part_of(name)] += value.numel()
        return counts

    def save_state(self, folder: Path, step: int) -> None:
        """Write a checkpoint: the trained weights for resuming, and the adapter (if any) for use.

        If the model is sharded, every process must call this; rank 0 writes.
        """
        weights = self.trained_weights()
        if rank():
            return
        check_finite(weights, step)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / TRAINED)
        if self.config is not None:
            self.save_adapter(folder, step)

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the trained weights on the CPU. If the model is sharded, only rank 0 keeps them."""
        weights = {}
        for name, value in self.parameters.items():
            full = gather_full_tensor(value)
            if rank() == 0:
                weights[name] = full
        return weights

    def load_state(self, folder: Path) -> None:
        """Load what `save_state` wrote.

        Raises:
            UsageError: the checkpoint belongs to another method or other modules, or holds NaN or infinite values.
        """
        stored = {name: tensor.read() for name, tensor in open_safetensors(folder / TRAINED).items()}
        shapes, expected = ({name: value.shape for name, value in them.items()} for them in (stored, self.parameters))
        differing = sorted(name for name in shapes | expected if shapes.get(name) != expected.get(name))
        if differing:
            raise UsageError(f"{folder} was trained with other settings ({differing[0]}). Resume with the same recipe.")
        broken = first_not_finite(stored)
        if broken is not None:
            raise UsageError(
                f"{folder / TRAINED}: {broken} holds NaN or infinite values. Delete {folder}, and resume from the "
                "checkpoint before it."
            )
        self.load_weights(stored)

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy the result of `trained_weights` into the model."""
        for name, value in self.parameters.items():
            value.copy_(shard_like(weights[name], value))

    def save_adapter(self, folder: Path, step: int) -> None:
        """Write the adapter, with the step in the description of its base."""
        tensors = self._adapter_tensors()
        check_finite(tensors, step)
        write_adapter(folder, self.config, tensors, replace(self.base, step=step))

    def _adapter_tensors(self) -> dict[str, Tensor]:
        if self.recipe.method == "ptuning":
            return {TENSOR: flattened(self.model.get_mixin(ADAPTER), self.model.config.num_layers)}
        from peft import get_peft_model_state_dict

        tensors: dict[str, Tensor] = get_peft_model_state_dict(self.model, adapter_name=NAME)
        return {WRAPPED + name: value.detach().contiguous() for name, value in tensors.items()}


def check_finite(weights: Mapping[str, Tensor], step: int) -> None:
    """Raise `UsageError` if trained weights hold NaN or infinity, so that none replace good ones on the disk."""
    broken = first_not_finite(weights)
    if broken is not None:
        raise UsageError(
            f"Training stopped at step {step}: {broken} is NaN or infinite, and was not saved. Resume from the last "
            "checkpoint with a lower learning_rate, or set dtype to bfloat16 or float32."
        )


def is_four_bit(parameter: Any) -> bool:
    """Return True for bitsandbytes' 4-bit parameters (two weights per byte), without importing bitsandbytes."""
    return type(parameter).__name__ == "Params4bit"


def is_quantized_base(module: nn.Module) -> bool:
    """Return True if the module holds weights in our 8-bit or 4-bit format, which cannot train."""
    return any(isinstance(inner, STORED) for inner in module.modules())


def num_parameters(model: nn.Module) -> int:
    """Count the parameters of a model, quantized ones included."""
    stored = [module for module in model.modules() if isinstance(module, STORED)]
    count = sum(parameter.numel() * (2 if is_four_bit(parameter) else 1) for parameter in model.parameters())
    return count + sum(int(module.in_features * module.out_features) for module in stored)


def part_of(name: str) -> str:
    """Return the part that a parameter belongs to; a prefix belongs to the language model."""
    return next((part for part in IMAGE_ENCODER_PREFIX if name.startswith(MODULES[part])), "language")


def prepare_for_training(model: Any, recipe: Finetuning, base: Base, words: Sequence[int] = ()) -> TrainableModel:
    """Prepare the model for a method: freeze it, then attach adapters or unfreeze modules.

    `words` are token ids of the training data, from which a new prefix starts.

    Raises:
        UsageError: peft is not installed, the recipe names layers that do not exist or cannot train, or its `adapter`
            has other layers.
    """
    model.requires_grad_(False)
    dtype = model.transformer.final_layernorm.weight.dtype  # a float in every base; the LM head may be in 8 bits
    torch.manual_seed(recipe.seed)  # initial values of the adapters
    config = None
    if recipe.method == "full":
        for module in _modules_with_mode(model, "full", recipe):
            module.requires_grad_(True)
    elif recipe.method == "ptuning":
        settings = recipe.ptuning
        mixin, config = new_prefix(model, settings.tokens, settings.reparameterise, settings.width)
        mixin.to(model.device)
        if words and not settings.reparameterise:
            start_from_words(mixin, model, words)
        model.add_mixin(ADAPTER, mixin)
    else:
        config = _add_lora(model, recipe)
    # tells Trainer that a quantized base is not trained itself
    model._hf_peft_config_loaded = config is not None
    for name, parameter in model.named_parameters():
        if is_frozen(name):
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if recipe.adapter:
        load_initial_adapter(model, recipe, NAME)
    return TrainableModel(model, recipe, base, dtype, config)


def _modules_with_mode(model: Any, mode: str, recipe: Finetuning) -> list[nn.Module]:
    return [
        model.get_submodule(name)
        for part in MODULES
        if getattr(recipe.parts, part) == mode
        for name in _modules_of(model, part)
    ]


def _modules_of(model: Any, part: str) -> list[str]:
    """List the modules of a part; only a model with a stem has all of them."""
    return [name for name in MODULES[part] if model.config.vision.stem is not None or not is_of_stem(f"{name}.")]


def _add_lora(model: Any, recipe: Finetuning) -> Any:
    """Insert PEFT's layers into the model and return PEFT's configuration."""
    require_extra("train", "LoRA", "peft")
    from peft import LoraConfig

    full = [part for part in IMAGE_ENCODER_PREFIX if getattr(recipe.parts, part) == "full"]
    whole = [name for part in full for name in _modules_of(model, part)]
    _check_not_quantized(model, whole, recipe)
    settings = recipe.lora
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_dora=settings.dora,
        target_modules=_target_pattern(model, recipe),
        modules_to_save=whole or None,
    )
    inject(model, config, NAME)
    return config


def _check_not_quantized(model: Any, whole: list[str], recipe: Finetuning) -> None:
    """Raise `UsageError` if a module that trains `full` is quantized, or any module with DoRA."""
    stored = next((name for name in whole if is_quantized_base(model.get_submodule(name))), None)
    if stored is not None:
        raise UsageError(
            f"parts.{part_of(stored)} is full, but the base holds it in 8 or 4 bits, which cannot train. Set it to "
            "lora or frozen, or give the unquantized base."
        )
    if recipe.lora.dora and is_quantized_base(model):
        raise UsageError(
            "lora.dora needs 16-bit weights, but the base is in 8 or 4 bits. Remove it, or give the unquantized base."
        )


def _target_pattern(model: Any, recipe: Finetuning) -> str:
    """Return a regular expression for the full names of the adapted layers.

    PEFT matches the entries of a list as endings of names, which would also match layers in other parts.

    Raises:
        UsageError: a block or a target does not exist.
    """
    parts = recipe.parts
    names: list[str] = []
    if parts.language == "lora":
        for target in recipe.lora.targets:
            _check_target(model, target)
        layers = "|".join(map(str, layer_numbers(recipe.lora.layers, model.config.num_layers)))
        targets = "|".join(re.escape(target) for target in recipe.lora.targets)
        names.append(rf"transformer\.layers\.({layers})\.({targets})")
    for part in IMAGE_ENCODER_PREFIX:
        if getattr(parts, part) == "lora":
            roots = _modules_of(model, part)
            linears = [
                name
                for name, module in model.named_modules()
                if isinstance(module, LINEARS)
                and not is_frozen(f"{name}.")
                and not (recipe.lora.dora and _has_zero_row(module))
            ]
            names += [re.escape(name) for name in linears for root in roots if f"{name}.".startswith(f"{root}.")]
    return "|".join(names)


def _has_zero_row(linear: Any) -> bool:
    """Return True if DoRA, which divides each row by its length, would compute NaN; untrained layers of a stem do."""
    return bool((linear.weight == 0).all(-1).any())


def _check_target(model: Any, target: str) -> None:
    block = model.transformer.layers[0]
    known = [name for name, module in block.named_modules() if isinstance(module, LINEARS)]
    if target not in known:
        raise UsageError(f"lora.targets has {target!r}. Choose from the linear layers of a block: {', '.join(known)}.")
