"""LoRA on the language model's attention, as sat's `LoraMixin`: from a fine-tuned file, or new.

In: an open model, and either `LowRank` matrices by weight name or a rank. Out: the model with PEFT's layers in place of
those linear layers, and a mixin whose `merge_lora()` adds them to the weights.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import LowRank
from ..checkpoints.storage.lazy_tensor import is_finite
from ..errors import CheckpointError, UsageError, require_extra
from ..network.hooks import BaseMixin
from ..quantization import QuantizedLinear
from .files import require_finite

NAME = "default"
SATS_LINEARS = ("attention.dense", "attention.query_key_value")
"""Linear layers that sat's LoRA changes in each block of its `layer_range`."""
SATS_ALPHA = 1


class LoraMixin(BaseMixin):
    """LoRA of a model; the weights are in the model's layers, not in the mixin."""

    tuner: Any

    def __init__(self, tuner: Any) -> None:
        super().__init__()
        object.__setattr__(self, "tuner", tuner)  # not a submodule, since the model contains this mixin
        self.is_merged = False

    @classmethod
    def stored(cls, model: Any, low_ranks: Mapping[str, LowRank], folder: Path) -> LoraMixin:
        """Attach the matrices of the fine-tuned `folder` to the model they were trained on.


        Raises:
            UsageError: peft is not installed.
            CheckpointError: a matrix is not of finite values, also in the model's dtype.
        """
        mixin = cls(_tuner(model, ranks_of(low_ranks)))
        fill(model, low_ranks, NAME, folder)
        return mixin

    @classmethod
    def new(cls, model: Any, rank: int, layer_range: Iterable[int] | None = None) -> LoraMixin:
        """Attach new LoRA (initially without effect) to the blocks of `layer_range`, all if None; only it is trainable.

        Raises:
            UsageError: peft is not installed, or there is no such block.
        """
        layers = range(model.config.num_layers) if layer_range is None else list(layer_range)
        missing = [index for index in layers if not 0 <= index < model.config.num_layers]
        if missing:
            raise UsageError(f"layer_range has {missing}, the model's blocks are 0 to {model.config.num_layers - 1}.")
        names = [f"transformer.layers.{index}.{linear}" for index in layers for linear in SATS_LINEARS]
        return cls(_tuner(model, {name: (rank, SATS_ALPHA) for name in names}))

    def merge_lora(self) -> None:
        """Merge the matrices into the weights and remove PEFT's layers.

        Raises:
            UsageError: the weights are in 8 or 4 bits.
            CheckpointError: a merged weight would be NaN or infinite; nothing is merged then.
        """
        if not self.is_merged:
            if any(isinstance(module, QuantizedLinear) for module in self.tuner.model.modules()):
                raise UsageError(
                    "The model is quantized, and nothing can be added to its weights. Merge the unquantized one, then "
                    "quantize."
                )
            _check_merge(self.tuner)
            self.tuner.merge_and_unload()
            self.is_merged = True


@torch.no_grad()
def _check_merge(tuner: Any) -> None:
    for name, layer in tuner.model.named_modules():
        if NAME in getattr(layer, "lora_A", ()) and not is_finite(layer.weight + layer.get_delta_weight(NAME)):
            raise CheckpointError(
                f"{name} would be NaN or infinite with its LoRA. Open the model in float32, or train again."
            )


def _tuner(model: Any, targets: Mapping[str, tuple[int, float]]) -> Any:
    """Replace the named linear layers by PEFT's, with rank and alpha, in the model's dtype; return the tuner."""
    tuner = inject(model, low_rank_config(targets), NAME)
    for name in targets:
        layer = model.get_submodule(name)
        for matrix in (layer.lora_A[NAME], layer.lora_B[NAME]):
            matrix.to(model.transformer.final_layernorm.weight)
    return tuner


def low_rank_config(targets: Mapping[str, tuple[int, float]]) -> Any:
    """Build PEFT's configuration for full names of linear layers, each with its own rank and alpha.

    Raises:
        UsageError: peft is not installed.
    """
    require_extra("train", "LoRA beside the weights", "peft")
    from peft import LoraConfig

    rank, alpha = next(iter(targets.values()))
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules="|".join(
            map(re.escape, targets)
        ),  # a list would match name endings, also of the Q-Former's layers
        rank_pattern={re.escape(name): rank for name, (rank, _) in targets.items()},
        alpha_pattern={re.escape(name): alpha for name, (_, alpha) in targets.items()},
    )


def inject(model: Any, config: Any, name: str) -> Any:
    """Insert PEFT's layers beside those of other adapters, also over quantized layers; return the tuner."""
    from peft.tuners.lora import Linear, LoraModel

    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.restore()  # PEFT puts its matrices on the device of `weight`, and an arranged weight is on none
    config._register_custom_module({QuantizedLinear: Linear})  # which never looks at the weight, unless it is DoRA's
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several adapters are intended
        warnings.filterwarnings("ignore", message="Unsupported layer type")  # the quantized one, registered above
        return LoraModel(model, config, name)


def load_lora_weights(model: Any, tensors: Mapping[str, Tensor], name: str) -> None:
    """Copy an adapter's tensors, by the model's own names, into PEFT's layers of the adapter `name`.

    Raises:
        ValueError: layers and tensors do not match.
        RuntimeError: a tensor has another shape than its layer (torch's error).
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    # PEFT would also copy a tensor that has the name of one of the base's own weights, in its place
    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).keys()
    if tensors.keys() != expected:
        missing, unknown = sorted(expected - tensors.keys()), sorted(tensors.keys() - expected)
        raise ValueError(f"missing {missing[:2]}, too many {unknown[:2]}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")  # `doctor` checks shapes only
        set_peft_model_state_dict(model, dict(tensors), adapter_name=name)


def ranks_of(low_ranks: Mapping[str, LowRank]) -> dict[str, tuple[int, float]]:
    """Return rank and alpha of each linear layer."""
    return {_layer_of(weight): (low.rank, low.scaling * low.rank) for weight, low in low_ranks.items()}


@torch.no_grad()
def fill(model: Any, low_ranks: Mapping[str, LowRank], name: str, folder: Path) -> None:
    """Copy the matrices of `folder` into PEFT's layers, to their device and dtype.

    Raises:
        CheckpointError: a matrix is not of finite values, also in that dtype.
    """
    for weight, low_rank in low_ranks.items():
        layer = model.get_submodule(_layer_of(weight))
        for side, matrix, source in (("A", layer.lora_A, low_rank.down), ("B", layer.lora_B, low_rank.up)):
            values = source.read()
            require_finite({f"matrix_{side} of {weight}": values}, folder, matrix[name].weight.dtype)
            matrix[name].weight.copy_(values)


def _layer_of(weight: str) -> str:
    return weight.removesuffix(".weight")
