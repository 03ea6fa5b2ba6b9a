"""Linears and embeddings in 8 or 4 bits: formats, arithmetic, modules, operators.

`quantize_weight` and `dequantize_weight` convert between numbers and stored bits; `QuantizedLinear` replaces an
`nn.Linear`. `QuantizationConfig` selects the modules; `prepare` builds an empty quantized model, `quantize_in_place`
quantizes a loaded one. The stored form is the same on every device.
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
