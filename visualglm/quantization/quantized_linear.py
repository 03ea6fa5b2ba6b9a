"""Linear layer with its weight in 8 or 4 bits.

`x` [..., in_features] -> [..., out_features]. State: buffers `weight` and `weight_scale` in the format of `packing`,
and the unchanged `bias`. Casts (`half()`, `to(dtype)`) cast the bias, never the stored bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.packing import (
    DEFAULT_GROUP_SIZE,
    STORED_DTYPES,
    Bits,
    check_format,
    dequantize_weight,
    quantize_weight,
    stored_shapes,
)
from .packed_module import PackedModule


class QuantizedLinear(PackedModule):
    """Linear with a stored weight of `bits` bits; built empty, filled by `load_state_dict` or `of`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        bits: Bits = 8,
        group_size: int = DEFAULT_GROUP_SIZE,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_format(bits, group_size)
        self.in_features, self.out_features = in_features, out_features
        self.bits, self.group_size = bits, group_size
        shapes = stored_shapes(out_features, in_features, bits, group_size)
        for name, shape, stored in zip(("weight", "weight_scale"), shapes, STORED_DTYPES[bits], strict=True):
            self.register_buffer(name, torch.zeros(shape, dtype=stored, device=device))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None

    @classmethod
    def of(
        cls, linear: nn.Linear, bits: Bits, group_size: int = DEFAULT_GROUP_SIZE, importance: Tensor | None = None
    ) -> QuantizedLinear:
        """Quantize `linear` on its device; the bias is shared, the weight is not kept.

        Raises:
            QuantizationError: see `quantize_weight`.
        """
        made = cls(linear.in_features, linear.out_features, False, bits, group_size, device="meta")
        made.weight, made.weight_scale = quantize_weight(linear.weight.detach(), bits, group_size, importance)
        made.bias = linear.bias
        return made.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Compute [..., in_features] -> [..., out_features] in the input's dtype."""
        if torch.is_grad_enabled() and input.requires_grad:
            output: Tensor = _Differentiable.apply(input, self)  # type: ignore[no-untyped-call]
        else:
            output = self.product(input)
        return output if self.bias is None else output + self.bias.to(output.dtype)

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the dequantized matrix [out_features, in_features]."""
        weight, weight_scale = self.stored()
        return dequantize_weight(weight, weight_scale, self.in_features, dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        self.restore()
        return apply_keeping_scale_dtype(self, super()._apply, fn, recurse)  # type: ignore[return-value]

    def extra_repr(self) -> str:
        """Describe the module for `print(model)`."""
        group = f", group_size={self.group_size}" if self.bits == 4 else ""
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}{group}, bias={bias}"


def apply_keeping_scale_dtype(
    module: Any, apply: Callable[..., Any], fn: Callable[[Tensor], Tensor], recurse: bool
) -> nn.Module:
    """Run `Module._apply` without casting `weight_scale`: a cast of the model must not change stored numbers."""
    scale = module.weight_scale
    apply(fn, recurse)
    if module.weight_scale.dtype != scale.dtype:
        kept = module.weight_scale if scale.is_meta else scale
        module.weight_scale = kept.to(module.weight.device, scale.dtype)
    return module  # type: ignore[no-any-return]


class _Differentiable(torch.autograd.Function):
    """Product with a derivative for its input; no dequantized matrix is kept between the two passes."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, linear: QuantizedLinear) -> Tensor:
        ctx.linear = linear
        return linear.exact_product(input)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient @ ctx.linear.dequantized(gradient.dtype), None
