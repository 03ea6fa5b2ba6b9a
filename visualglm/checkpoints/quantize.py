"""Checkpoints with 8-bit or 4-bit linears: choose modules, quantize on reading, dequantize.

`plan` names this model's modules. `quantized` returns a checkpoint whose tensors are quantized when they are read, one
at a time, so loading and writing need no memory for the original. `dequantized` is the inverse. The arithmetic is in
`visualglm/quantization`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, QuantizationError, UsageError
from ..kernels.packing import STORED_DTYPES, stored_shapes
from ..network.configuration import VisualGLMConfig
from ..network.glm import GLM
from ..network.hooks import HookableModel
from ..network.visualglm import VisualGLMNetwork
from ..quantization import (
    DEFAULT_GROUP_SIZE,
    Bits,
    QuantizationConfig,
    QuantizedEmbedding,
    QuantizedLinear,
    dequantize_weight,
    prepare,
    quantize_in_place,
    quantize_weight,
)
from ..quantization.config import METHOD
from .checkpoint import Checkpoint
from .storage.lazy_tensor import LazyTensor

LANGUAGE_LINEARS = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
"""Linears of each block, by their full name endings, so that an adapter's own linears inside them do not match."""
IMAGE_LINEARS = ("image_encoder.*.layers.*", "image_encoder.glm_proj")
SCALE = "_scale"


def plan(
    bits: int,
    *,
    group_size: int = DEFAULT_GROUP_SIZE,
    vision: int | None = None,
    vocabulary: int | None = None,
) -> QuantizationConfig:
    """Build the configuration that quantizes the language model's linears to `bits` bits.

    Args:
        bits: 8 or 4.
        group_size: numbers that share a scale in 4 bits.
        vision: 8 or 4 also quantizes ViT, Q-Former and projection.
        vocabulary: 8 also quantizes the word embeddings and the head, in one table if they are tied.

    Raises:
        QuantizationError: an unsupported format.
        UsageError: the vocabulary in other than 8 bits.
    """
    if vocabulary not in (None, 8):
        raise UsageError(f"The vocabulary is stored in 8 bits or not quantized, {vocabulary} is neither.")
    modules: dict[str, Any] = {f"transformer.layers.*.{linear}": bits for linear in LANGUAGE_LINEARS}
    if vocabulary:
        modules |= {"transformer.word_embeddings": vocabulary, "lm_head": vocabulary}
    if vision:
        modules |= dict.fromkeys(IMAGE_LINEARS, vision)
    return QuantizationConfig(bits, group_size, modules)  # type: ignore[arg-type]


def plan_from_flags(
    quantize: int | str | None, *, vision: int | str | None, vocabulary: int | str | None
) -> QuantizationConfig | None:
    """Build the configuration that `quantize`, `quantize_vision` and `quantize_vocabulary` request; None if none is
    set.

    Raises:
        QuantizationError: an unsupported format.
        UsageError: only one of the latter two was given, the vocabulary in other than 8 bits, or text is not a number.
    """
    bits = _parse_bits(quantize)
    if bits is not None:
        return plan(bits, vision=_parse_bits(vision), vocabulary=_parse_bits(vocabulary))
    if vision or vocabulary:
        raise UsageError("quantize_vision and quantize_vocabulary require quantize. Give quantize=8 or quantize=4 too.")
    return None


def _parse_bits(value: int | str | None) -> int | None:
    """Parse a number of bits, which may be text."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 5:
        return int(value)
    raise UsageError(f"{value!r:.60} is not a number of bits. Choose 8 or 4.")


def with_default_modules(wanted: QuantizationConfig) -> QuantizationConfig:
    """Add this model's default linears to a configuration that names no modules."""
    return wanted if wanted.modules is not None else plan(wanted.bits, group_size=wanted.group_size)


def plan_of_config(config: VisualGLMConfig) -> QuantizationConfig | None:
    """Read our own quantization from `config.json`; None if it is another program's, or absent.

    Raises:
        CheckpointError: it is ours, but damaged.
    """
    stored = getattr(config, "quantization_config", None)
    if isinstance(stored, QuantizationConfig):
        return with_default_modules(stored)
    if not isinstance(stored, Mapping) or stored.get("quant_method") != METHOD:
        return None
    try:
        return with_default_modules(QuantizationConfig(**stored))
    except TypeError as error:
        raise CheckpointError(f"quantization_config makes no sense ({error}). Get config.json again.") from error


def quantize_model(model: Any, bits: int, **options: Any) -> Any:
    """Quantize an open model, or its `transformer`, in place; `options` are `plan`'s. A second call changes nothing.

    Raises:
        UsageError: it is quantized in other bits already.
        QuantizationError: a weight is not finite, or adapters are attached to the linears.
    """
    wanted, there = plan(bits, **options), plan_of_config(model.config)
    if there is None:
        quantize_in_place(model, wanted, "transformer." if isinstance(model, GLM) else "")
        if isinstance(model, HookableModel):
            model.rewrap()
    elif there.to_dict() != wanted.to_dict():
        raise UsageError(f"The model is in {there.bits} bits already. Open the unquantized one for other bits.")
    return model


def quantized(
    checkpoint: Checkpoint,
    wanted: QuantizationConfig,
    model_class: Any,
    importance: Mapping[str, Tensor] = MappingProxyType({}),
) -> Checkpoint:
    """Return the checkpoint of the quantized model; nothing is read yet.

    `importance` (`calibration.py`) weights the errors of the linears that it names.

    Raises:
        UsageError: it is quantized already.
    """
    if getattr(checkpoint.config, "quantization_config", None) is not None:
        raise UsageError(f"{checkpoint.folder} is quantized already. Give the unquantized checkpoint for other bits.")
    config = VisualGLMConfig.from_dict(checkpoint.config.to_dict())
    made = with_default_modules(wanted)
    config.quantization_config = made.to_dict()  # type: ignore[attr-defined]
    tensors = dict(checkpoint.tensors)
    for name, module in quantized_modules(model_class, config).items():
        form = module.bits, made.group_size, importance.get(name)
        tensors |= _pair(name, tensors.pop(f"{name}.weight"), *form)
    return replace(checkpoint, config=config, tensors=tensors)


def quantized_modules(model_class: Any, config: VisualGLMConfig) -> dict[str, Any]:
    """Return the quantized modules of a model with that configuration, by name, on the meta device."""
    model = empty_model(model_class, config)
    kinds = (QuantizedLinear, QuantizedEmbedding)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def empty_model(model_class: Any, config: VisualGLMConfig) -> nn.Module:
    """Build the model on the meta device, quantized if its configuration says so."""
    with torch.device("meta"):
        model: nn.Module = model_class(config)
    stored = plan_of_config(config)
    if stored is not None:
        prepare(model, stored)
    return model


def dequantized(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with quantized tensors replaced by lazy dequantized ones."""
    if plan_of_config(checkpoint.config) is None:
        return checkpoint
    config = VisualGLMConfig.from_dict(checkpoint.config.to_dict())
    del config.quantization_config  # type: ignore[attr-defined]
    tensors = dict(checkpoint.tensors)
    for name, numbers in empty_model(VisualGLMNetwork, config).state_dict().items():
        if f"{name}{SCALE}" in tensors:
            tensors[name] = _numbers(tensors[name], tensors.pop(f"{name}{SCALE}"), numbers.shape[1])
    return replace(checkpoint, config=config, tensors=tensors)


def _numbers(weight: LazyTensor, scale: LazyTensor, in_features: int) -> LazyTensor:
    shape = (weight.shape[0], in_features)
    return LazyTensor(shape, torch.float32, lambda: dequantize_weight(weight.read(), scale.read(), in_features))


def _pair(
    name: str, source: LazyTensor, bits: Bits, group_size: int, importance: Tensor | None
) -> dict[str, LazyTensor]:
    """Return lazy tensors of a weight's quantized values and scale, which are computed once for both."""
    halves = QuantizeOnce(name, source, bits, group_size, importance)
    dtypes = STORED_DTYPES[bits]
    shapes = stored_shapes(source.shape[0], source.shape[1], bits, group_size)
    names = (f"{name}.weight", f"{name}.weight{SCALE}")
    return {
        names[index]: LazyTensor(shapes[index], dtypes[index], lambda index=index: halves.take(index))  # type: ignore[misc]
        for index in (0, 1)
    }


class QuantizeOnce:
    """Lazy weight and scale: the first one read computes both; the other is cached until it is read."""

    def __init__(self, name: str, source: LazyTensor, bits: Bits, group_size: int, importance: Tensor | None) -> None:
        self.name, self.source = name, source
        self.form = bits, group_size, importance
        self.waiting: dict[int, Tensor] = {}
        self.lock = threading.Lock()  # transformers reads from several threads

    def take(self, index: int) -> Tensor:
        with self.lock:
            if index not in self.waiting:
                try:
                    made = quantize_weight(self.source.read(), *self.form)
                except QuantizationError as error:
                    raise CheckpointError(f"{self.name} cannot be quantized: {error}") from error
                self.waiting = dict(enumerate(made))
            return self.waiting.pop(index)
