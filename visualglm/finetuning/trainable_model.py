"""A recipe's method -> a model in which the right parameters train, and how they are saved and read.

    lora, qlora   PEFT's layers in the chosen linear ones; a part that trains `full` is PEFT's `modules_to_save`
    ptuning       a prefix mixin with PEFT's encoder
    full          the parts' own parameters

What trains is held in float32 whatever the rest is held in, 8 and 4 bits included. Knows nothing about data or steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..adapters.files import WEIGHTS, Base, write_base
from ..adapters.lora import inject
from ..adapters.manager import WRAPPED
from ..adapters.prefix_adapter import TENSOR, flattened, new_prefix
from ..checkpoints.save_sat import ADAPTER
from ..errors import UsageError, require_extra
from ..quantization import QuantizedEmbedding, QuantizedLinear
from ..training.distributed import gather_full_tensor, rank, shard_like
from .finetuning_config import Finetuning, layer_numbers

MODULES = {
    "language": ("transformer", "lm_head"),
    "qformer": ("image_encoder.qformer",),
    "projection": ("image_encoder.glm_proj",),
    "vision": ("image_encoder.vit",),
}
IMAGE_ENCODER_PREFIX = ("qformer", "projection", "vision")
LINEARS, STORED = (nn.Linear, QuantizedLinear), (QuantizedLinear, QuantizedEmbedding)
TRAINED = "trained.safetensors"
NAME = "default"


@dataclass
class TrainableModel:
    """A model made ready; `dtype` is what passes compute in, `config` PEFT's, None where whole parts train."""

    model: Any
    recipe: Finetuning
    base: Base
    dtype: torch.dtype
    config: Any = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def counts(self) -> dict[str, int]:
        """How many numbers train in each part."""
        counts = dict.fromkeys(MODULES, 0)
        for name, value in self.parameters.items():
            counts[part_of(name)] += value.numel()
        return counts

    def save_state(self, folder: Path, step: int) -> None:
        """A checkpoint: the trained numbers for going on, and the adapter for use where there is one.

        Where the model is sharded, every process must call it, and the first one writes.
        """
        numbers = self.trained()
        if rank():
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_file(numbers, folder / TRAINED)
        if self.config is not None:
            self.save_adapter(folder, step)

    def trained(self) -> dict[str, Tensor]:
        """The trained numbers on the CPU; of processes that share a sharded model, only the first one keeps them."""
        numbers = {}
        for name, value in self.parameters.items():
            put_together = gather_full_tensor(value)
            if rank() == 0:
                numbers[name] = put_together
        return numbers

    def load_state(self, folder: Path) -> None:
        """Reads what `save_state` wrote.

        Raises:
            UsageError: the checkpoint is of another method, or of other parts.
        """
        stored = load_file(folder / TRAINED)
        wrong = sorted(set(stored) ^ set(self.parameters))
        if wrong:
            raise UsageError(f"{folder} was trained with other settings ({wrong[0]}): resume with the same recipe.")
        self.take(stored)

    @torch.no_grad()
    def take(self, numbers: dict[str, Tensor]) -> None:
        """Puts `trained` numbers into the model."""
        for name, value in self.parameters.items():
            value.copy_(shard_like(numbers[name], value))

    def save_adapter(self, folder: Path, step: int) -> None:
        """PEFT's two files and the description of the base."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.base_model_name_or_path = self.base.name
        self.config.save_pretrained(str(folder))
        save_file(self._adapter_tensors(), folder / WEIGHTS, metadata={"format": "pt"})
        write_base(folder, replace(self.base, step=step))

    def _adapter_tensors(self) -> dict[str, Tensor]:
        if self.recipe.method == "ptuning":
            return {TENSOR: flattened(self.model.get_mixin(ADAPTER), self.model.config.num_layers)}
        from peft import get_peft_model_state_dict

        tensors: dict[str, Tensor] = get_peft_model_state_dict(self.model, adapter_name=NAME)
        return {WRAPPED + name: value.detach().contiguous() for name, value in tensors.items()}


def is_four_bit(parameter: Any) -> bool:
    """Whether a byte of it holds two numbers (bitsandbytes' class, which need not be installed)."""
    return type(parameter).__name__ == "Params4bit"


def is_quantized_base(module: nn.Module) -> bool:
    """Whether weights in it are stored in 8 or 4 bits of our own, which no gradient reaches."""
    return any(isinstance(inner, STORED) for inner in module.modules())


def num_parameters(model: nn.Module) -> int:
    """How many numbers a model has, whatever each is held in."""
    stored = [module for module in model.modules() if isinstance(module, STORED)]
    numbers = sum(parameter.numel() * (2 if is_four_bit(parameter) else 1) for parameter in model.parameters())
    return numbers + sum(int(module.in_features * module.out_features) for module in stored)


def part_of(name: str) -> str:
    """The part that a parameter belongs to; a prefix is the language model's."""
    return next((part for part in IMAGE_ENCODER_PREFIX if name.startswith(MODULES[part])), "language")


def prepare_for_training(model: Any, recipe: Finetuning, base: Base) -> TrainableModel:
    """Makes the model ready for a method: adapters laid on, everything else frozen.

    Raises:
        UsageError: peft is not installed, or the recipe names layers that are not there or cannot train.
    """
    model.requires_grad_(False)
    dtype = model.transformer.final_layernorm.weight.dtype  # numbers in every base; the head may be in 8 bits
    torch.manual_seed(recipe.seed)  # the adapters' first values
    config = None
    if recipe.method == "full":
        for module in _modules(model, "full", recipe):
            module.requires_grad_(True)
    elif recipe.method == "ptuning":
        settings = recipe.ptuning
        mixin, config = new_prefix(model, settings.tokens, settings.reparameterise, settings.width)
        model.add_mixin(ADAPTER, mixin.to(model.device))
    else:
        config = _with_lora(model, recipe)
    # tells Trainer that a quantized base is not trained itself
    model._hf_peft_config_loaded = config is not None
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return TrainableModel(model, recipe, base, dtype, config)


def _modules(model: Any, way: str, recipe: Finetuning) -> list[nn.Module]:
    return [
        model.get_submodule(name) for part in MODULES if getattr(recipe.parts, part) == way for name in MODULES[part]
    ]


def _with_lora(model: Any, recipe: Finetuning) -> Any:
    """PEFT's layers in the model; returns its configuration."""
    require_extra("train", "LoRA", "peft")
    from peft import LoraConfig

    whole = [name for part in IMAGE_ENCODER_PREFIX if getattr(recipe.parts, part) == "full" for name in MODULES[part]]
    _require_numbers(model, whole, recipe)
    settings = recipe.lora
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_dora=settings.dora,
        target_modules=_targets(model, recipe),
        modules_to_save=whole or None,
    )
    inject(model, config, NAME)
    return config


def _require_numbers(model: Any, whole: list[str], recipe: Finetuning) -> None:
    """Raises `UsageError` where stored bits would have to be numbers: in what trains whole, and everywhere for DoRA."""
    stored = next((name for name in whole if is_quantized_base(model.get_submodule(name))), None)
    if stored is not None:
        raise UsageError(
            f"parts.{part_of(stored)} is full, but the base holds it in 8 or 4 bits, which take no gradient: give lora "
            "or frozen there, or the unquantized base."
        )
    if recipe.lora.dora and is_quantized_base(model):
        raise UsageError("lora.dora needs 16-bit weights, and the base is in 8 or 4 bits: leave it out.")


def _targets(model: Any, recipe: Finetuning) -> str:
    """An expression for the whole names of the adapted layers; a list would match endings in other parts too.

    Raises:
        UsageError: a block or a target is not there.
    """
    parts = recipe.parts
    names: list[str] = []
    if parts.language == "lora":
        for target in recipe.lora.targets:
            _require_linear(model, target)
        layers = "|".join(map(str, layer_numbers(recipe.lora.layers, model.config.num_layers)))
        targets = "|".join(re.escape(target) for target in recipe.lora.targets)
        names.append(rf"transformer\.layers\.({layers})\.({targets})")
    for part in IMAGE_ENCODER_PREFIX:
        if getattr(parts, part) == "lora":
            (root,) = MODULES[part]
            linears = [name for name, module in model.named_modules() if isinstance(module, LINEARS)]
            names += [re.escape(name) for name in linears if name == root or name.startswith(f"{root}.")]
    return "|".join(names)


def _require_linear(model: Any, target: str) -> None:
    block = model.transformer.layers[0]
    known = [name for name, module in block.named_modules() if isinstance(module, LINEARS)]
    if target not in known:
        raise UsageError(f"lora.targets has {target!r}: the linear layers of a block are {', '.join(known)}.")
