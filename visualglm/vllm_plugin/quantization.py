"""Quantization config of vLLM for checkpoints of `visualglm quantize`.

In: `quantization_config` of a native folder. Out: the method with which each vLLM layer computes. This is a public
interface of vLLM. Every vLLM process loads this file, so other modules are imported only when a quantized VisualGLM is
opened.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase

METHOD = "visualglm"
"""`quant_method` in `quantization_config`."""


@register_quantization_config(METHOD)
class VisualGLMQuantizationConfig(QuantizationConfig):
    """Bits of each layer; `plan` is our own `QuantizationConfig`."""

    def __init__(self, plan: Any) -> None:
        super().__init__()
        self.plan = plan

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VisualGLMQuantizationConfig:
        """Build from `quantization_config` of `config.json`."""
        from ..checkpoints.quantize import with_default_modules
        from ..quantization import QuantizationConfig as Plan

        return cls(with_default_modules(Plan(**config)))

    def get_name(self) -> Any:
        """Return the method's name."""
        return METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """List the supported dtypes of activations."""
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        """Return -1: any device."""
        return -1

    @staticmethod
    def get_config_filenames() -> list[str]:
        """Return no files: everything is in `config.json`."""
        return []

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """Return the method of the layer named `prefix`, or None if it is not a linear layer."""
        from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

        from .vllm_linear import StoredLinearMethod

        if not isinstance(layer, LinearBase):
            return None
        bits = self.plan.bits_of(prefix)
        return UnquantizedLinearMethod() if bits is None else StoredLinearMethod(bits, self.plan.group_size)
