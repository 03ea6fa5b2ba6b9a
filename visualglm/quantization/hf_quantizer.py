"""How transformers opens and saves what `QuantizationConfig` describes.

Importing this file registers the method `visualglm`, so that `from_pretrained` of a quantized folder makes quantized
modules before it reads their numbers, and `save_pretrained` writes them as they are. Models that are open already take
the road of `quantize_in_place`. Knows nothing about VisualGLM.
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
"""What PEFT calls the module that an adapter was laid over."""


@register_quantizer(METHOD)
class Quantizer(HfQuantizer):
    """transformers' door: it only ever meets numbers that are quantized already."""

    quantization_config: QuantizationConfig

    def _process_model_before_weight_loading(self, model: Any, dtype: Any = None, **kwargs: Any) -> None:
        prepare(model, self.quantization_config, dtype)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        model.is_quantized = False  # transformers forbids half() and float() else; here they are safe
        return model

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """A stored tensor goes into the dtype of the module's own."""
        return dtype

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Whether `save_pretrained` may write the model."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Whether `generate` may compile a step: its products are operators."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters beside the stored numbers may be trained."""
        return True


def prepare(model: Any, config: QuantizationConfig, dtype: torch.dtype | None = None) -> None:
    """Empty quantized modules (meta device) in the places that the configuration names; `dtype` is the model's."""

    def empty(module: Any, bits: Bits) -> nn.Module:
        if isinstance(module, nn.Embedding):
            check_embedding(bits)
            return QuantizedEmbedding(module.num_embeddings, module.embedding_dim, "meta", dtype or module.weight.dtype)
        shape, bias = (module.in_features, module.out_features), module.bias is not None
        return QuantizedLinear(*shape, bias, bits, config.group_size, "meta", module.weight.dtype)

    replace_modules(model, config, empty)
    _tie(model)


def quantize_in_place(model: Any, config: QuantizationConfig, prefix: str = "") -> None:
    """Quantizes an open model, one module at a time, and notes in its configuration that it is.

    `model` may be a part that shares the whole's `config`; `prefix` is then what its names have before them there.

    Raises:
        QuantizationError: a weight is not finite, adapters are laid on the modules, or none has such a name; then
            nothing is quantized.
    """
    _require_bare(model, config, prefix)
    _require_finite(model, config, prefix)

    def quantized(module: Any, bits: Bits) -> nn.Module:
        if isinstance(module, nn.Embedding):
            return QuantizedEmbedding.of(module, bits)
        return QuantizedLinear.of(module, bits, config.group_size)

    if not replace_modules(model, config, quantized, prefix):
        raise QuantizationError("there is nothing to quantize: the linears of this model are quantized already.")
    _tie(model)
    model.config.quantization_config = config


def _require_bare(model: Any, config: QuantizationConfig, prefix: str) -> None:
    """Raises `QuantizationError` where PEFT's layers lie over a module: the stored form has no names for those."""
    for name, _ in select_modules(model, None, prefix):
        bare = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if bare != name and config.bits_of(prefix + bare) is not None:
            raise QuantizationError(f"an adapter is laid on {bare}: quantize first, then add adapters.")


def _require_finite(model: Any, config: QuantizationConfig, prefix: str) -> None:
    """Raises `QuantizationError` for the first weight that is not; before any is changed, and without a second copy."""
    for name, module in select_modules(model, config, prefix):
        if not bool(module.weight.isfinite().all()):
            raise QuantizationError(f"{name} has weights that are not finite: the checkpoint is broken, get it again.")


def _tie(model: Any) -> None:
    """A head that was tied to a table that is quantized now reads that table."""
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if isinstance(table, QuantizedEmbedding) and model.config.tie_word_embeddings:
        model.set_output_embeddings(TiedHead(table))
        model._tied_weights_keys = model.all_tied_weights_keys = {}  # nothing is left for transformers to tie
