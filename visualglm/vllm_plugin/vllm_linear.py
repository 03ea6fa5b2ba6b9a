"""Linear layers of vLLM with our 8-bit or 4-bit weights.

Weights keep the checkpoint's format (kernels/packing.py) and are multiplied by our operators. Under tensor parallelism
a process holds some of the rows, or some of the columns in whole quantization groups.
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
    """Computes a vLLM linear layer with a `QuantizedLinear`."""

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
        """Register empty `weight` and `weight_scale` with the shapes of this process's shard.

        Raises:
            UsageError: rows do not split into whole quantization groups.
        """
        if self.bits == 4 and input_size_per_partition < input_size and input_size_per_partition % self.group_size:
            raise UsageError(
                f"{input_size_per_partition} inputs per process do not split into whole groups of {self.group_size}. "
                "Choose a smaller --tensor-parallel-size, or quantize with a smaller --group-size."
            )
        size = sum(output_partition_sizes), input_size_per_partition
        layouts = zip(stored_shapes(*size, self.bits, self.group_size), STORED_DTYPES[self.bits], strict=True)
        for name, (shape, dtype) in zip(("weight", "weight_scale"), layouts, strict=True):
            parameter = nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
            dimensions = {"output_dim": 0, "input_dim": 1} if len(shape) == 2 else {"output_dim": 0}
            set_weight_attrs(parameter, {**dimensions, **extra_weight_attrs})
            layer.register_parameter(name, parameter)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Move the weights into a `QuantizedLinear`, which may repack them for its kernel; no copy is kept."""
        inputs, outputs = layer.input_size_per_partition, layer.output_size_per_partition
        linear = QuantizedLinear(inputs, outputs, False, self.bits, self.group_size, device="meta")
        linear.weight, linear.weight_scale = layer.weight.data, layer.weight_scale.data
        layer.quantized_linear = linear
        del layer.weight_scale
        layer.weight = nn.Parameter(linear.weight.new_empty(0), requires_grad=False)  # vLLM's LoRA reads its device

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """[rows, inputs] -> [rows, outputs]."""
        product: Tensor = layer.quantized_linear.product(x)
        return product if bias is None else product + bias
