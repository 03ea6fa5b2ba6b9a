"""What `visualglm quantize` writes, inside vLLM: which linear layers have how many bits.

In: `quantization_config` of a native folder. Out: how each of vLLM's layers computes. vLLM's interface for this is open
to others; every process of vLLM's loads this file, so the rest is imported where a quantized VisualGLM is opened.
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
    """Which layers are stored in how many bits; `plan` is our `QuantizationConfig`."""

    def __init__(self, plan: Any) -> None:
        super().__init__()
        self.plan = plan

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> VisualGLMQuantizationConfig:
        """`quantization_config` as `config.json` has it."""
        from ..checkpoints.quantize import with_default_modules
        from ..quantization import QuantizationConfig as Plan

        return cls(with_default_modules(Plan(**config)))

    def get_name(self) -> Any:
        """vLLM's name for the method."""
        return METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """What may be multiplied with the bits."""
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        """Any device's."""
        return -1

    @staticmethod
    def get_config_filenames() -> list[str]:
        """None beside `config.json`."""
        return []

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """How a layer of that name computes; None for what is no linear layer."""
        from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod

        from .vllm_linear import StoredLinearMethod

        if not isinstance(layer, LinearBase):
            return None
        bits = self.plan.bits_of(prefix)
        return UnquantizedLinearMethod() if bits is None else StoredLinearMethod(bits, self.plan.group_size)
