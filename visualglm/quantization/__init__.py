"""Linears and embeddings in 8 or 4 bits: formats, arithmetic, modules, operators.

`quantize_weight` and `dequantize_weight` go between numbers and stored bits, `QuantizedLinear` stands where a
`nn.Linear` stood. `QuantizationConfig` says which modules; `prepare` makes an empty quantized model,
`quantize_in_place` quantizes an open one. The stored form is the same on every device. Knows nothing about VisualGLM,
files or commands.
"""

from ..kernels.packing import DEFAULT_GROUP_SIZE, Bits, dequantize_weight, quantize_weight
from .config import QuantizationConfig
from .hf_quantizer import prepare, quantize_in_place
from .quantized_embedding import QuantizedEmbedding
from .quantized_linear import QuantizedLinear

__all__ = [
    "DEFAULT_GROUP_SIZE",
    "Bits",
    "QuantizationConfig",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "dequantize_weight",
    "prepare",
    "quantize_in_place",
    "quantize_weight",
]
