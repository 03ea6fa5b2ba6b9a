"""VLLM's linear layer over 8 or 4 bits of our own format; see quantization.py.

Weights lie as they are stored (kernels/packing.py) and are multiplied by our operators. Under tensor parallel a
process holds its rows, or its columns, which are whole groups.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import LinearMethodBase
from vllm.model_executor.utils import set_weight_attrs

from ..errors import UsageError
from ..kernels.packing import STORED_DTYPES, stored_shapes
from ..quantization import Bits, QuantizedLinear


class StoredLinearMethod(LinearMethodBase):
    """A linear layer whose weight is a `QuantizedLinear`'s."""

    def __init__(self, bits: Bits, group_size: int) -> None:
        self.bits, self.group_size = bits, group_size

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra_weight_attrs: Any,
    ) -> None:
        """Empty `weight` and `weight_scale` of this process's part.

        Raises:
            UsageError: the processes' parts of a row are no whole groups.
        """
        if self.bits == 4 and input_size_per_partition < input_size and input_size_per_partition % self.group_size:
            raise UsageError(
                f"{input_size_per_partition} inputs for each process are no whole groups of {self.group_size}: choose "
                "a smaller --tensor-parallel-size, or quantize with a smaller --group-size."
            )
        size = sum(output_partition_sizes), input_size_per_partition
        stored = zip(stored_shapes(*size, self.bits, self.group_size), STORED_DTYPES[self.bits], strict=True)
        for name, (shape, dtype) in zip(("weight", "weight_scale"), stored, strict=True):
            parameter = nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
            dimensions = {"output_dim": 0, "input_dim": 1} if len(shape) == 2 else {"output_dim": 0}
            set_weight_attrs(parameter, {**dimensions, **extra_weight_attrs})
            layer.register_parameter(name, parameter)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Hands the bits to a `QuantizedLinear`, which may put them into its kernel's order; nothing is held twice."""
        inputs, outputs = layer.input_size_per_partition, layer.output_size_per_partition
        made = QuantizedLinear(inputs, outputs, False, self.bits, self.group_size, device="meta")
        made.weight, made.weight_scale = layer.weight.data, layer.weight_scale.data
        layer.stored = made
        del layer.weight_scale
        layer.weight = nn.Parameter(made.weight.new_empty(0), requires_grad=False)  # LoRA asks it for the device

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """[rows, inputs] -> [rows, outputs]."""
        product: Tensor = layer.stored.product(x)
        return product if bias is None else product + bias
