"""Load and save quantized models with transformers.

Importing this file registers the method `visualglm`: `from_pretrained` of a quantized folder builds quantized modules
before it reads their tensors, and `save_pretrained` writes them unchanged. `quantize_in_place` quantizes a model that
is loaded already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from ..errors import QuantizationError
from ..kernels.packing import Bits
from .config import METHOD, QuantizationConfig, replace_modules, select_modules
from .quantized_embedding import QuantizedEmbedding, TiedHead, check_embedding
from .quantized_linear import QuantizedLinear

WRAPPERS = ("base_layer", "original_module")
"""Attribute names under which PEFT's layers hold the original module."""


@register_quantizer(METHOD)
class Quantizer(HfQuantizer):
    """Loader of checkpoints that are stored quantized; quantizing on load goes through `quantize_in_place`."""

    quantization_config: QuantizationConfig

    def _process_model_before_weight_loading(self, model: Any, dtype: Any = None, **kwargs: Any) -> None:
        prepare(model, self.quantization_config, dtype)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        model.is_quantized = False  # else transformers forbids half() and float(), which are safe here
        return model

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """Keep the stored dtype of a tensor."""
        return dtype

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Return whether `save_pretrained` may write the model."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Return whether `generate` may compile a step: quantized products are registered operators."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Return whether adapters may be trained on the quantized weights."""
        return True


def prepare(model: Any, config: QuantizationConfig, dtype: torch.dtype | None = None) -> None:
    """Replace the selected modules by empty quantized ones (meta device); `dtype` is the model's."""

    def empty(module: Any, bits: Bits) -> nn.Module:
        if isinstance(module, nn.Embedding):
            check_embedding(bits)
            return QuantizedEmbedding(module.num_embeddings, module.embedding_dim, "meta", dtype or module.weight.dtype)
        shape, bias = (module.in_features, module.out_features), module.bias is not None
        return QuantizedLinear(*shape, bias, bits, config.group_size, "meta", module.weight.dtype)

    replace_modules(model, config, empty)
    _tie(model)


def quantize_in_place(model: Any, config: QuantizationConfig, prefix: str = "") -> None:
    """Quantize a loaded model, one module at a time, and record it in `model.config`.

    `model` may be a part that shares the whole model's `config`; `prefix` is then the part's name in the whole.

    Raises:
        QuantizationError: a weight is not finite, an adapter is attached, or nothing matches. Nothing has changed then.
    """
    _require_bare(model, config, prefix)
    _require_finite(model, config, prefix)

    def quantized(module: Any, bits: Bits) -> nn.Module:
        if isinstance(module, nn.Embedding):
            return QuantizedEmbedding.of(module, bits)
        return QuantizedLinear.of(module, bits, config.group_size)

    if not replace_modules(model, config, quantized, prefix):
        raise QuantizationError("There is nothing to quantize: the linears of this model are quantized already.")
    _tie(model)
    model.config.quantization_config = config


def _require_bare(model: Any, config: QuantizationConfig, prefix: str) -> None:
    """Raise `QuantizationError` where PEFT's layers wrap a module: the stored form has no names for those."""
    for name, _ in select_modules(model, None, prefix):
        bare = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if bare != name and config.bits_of(prefix + bare) is not None:
            raise QuantizationError(f"An adapter is attached to {bare}: quantize first, then add adapters.")


def _require_finite(model: Any, config: QuantizationConfig, prefix: str) -> None:
    """Raise `QuantizationError` for the first weight that is not finite, before any module is changed."""
    for name, module in select_modules(model, config, prefix):
        if not bool(module.weight.isfinite().all()):
            raise QuantizationError(
                f"{name} has weights that are NaN or infinite: the checkpoint is broken, get it again."
            )


def _tie(model: Any) -> None:
    """Tie the output head to the quantized embedding where the model ties them."""
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if isinstance(table, QuantizedEmbedding) and model.config.tie_word_embeddings:
        model.set_output_embeddings(TiedHead(table))
        model._tied_weights_keys = model.all_tied_weights_keys = {}  # nothing is left for transformers to tie
