"""quantization: linears whose weights are stored in 8 or 4 bits. Formats, their arithmetic, the module, the operators.

`quantize_weight` and `dequantize_weight` go between numbers and stored bits, `QuantizedLinear` stands where a
`nn.Linear` stood. The stored form is the same on every device. Knows nothing about VisualGLM, files or commands.
"""

from .formats import DEFAULT_GROUP_SIZE, Bits, dequantize_weight, quantize_weight
from .linear import QuantizedLinear

__all__ = [
    "DEFAULT_GROUP_SIZE",
    "Bits",
    "QuantizedLinear",
    "dequantize_weight",
    "quantize_weight",
]
