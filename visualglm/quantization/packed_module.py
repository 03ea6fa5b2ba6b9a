"""Convert a quantized weight between stored form and a kernel's order.

Files, other devices and derivatives use the stored form. When a linear first computes, the arranged form replaces it in
memory; reading the state or moving the module restores the stored form. While a weight is arranged, the buffers
`weight` and `weight_scale` are empty (meta) tensors of the stored shapes.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import cpu_backend, torch_backend
from ..kernels.operators import arranger
from ..kernels.packing import DEFAULT_GROUP_SIZE, Bits, stored_shapes

DEVICES = ("cpu", "cuda")
"""Devices whose kernels read weights in their own order."""
LOCK = threading.Lock()
"""Held while a weight is converted: a second thread that computes with the same model waits."""


class PackedModule(nn.Module):
    """Base of modules that multiply with a quantized matrix [out_features, in_features], stored or arranged."""

    bits: Bits
    group_size: int = DEFAULT_GROUP_SIZE
    in_features: int
    out_features: int
    weight: Tensor
    weight_scale: Tensor
    arranged: Tensor | None = None

    def product(self, input: Tensor) -> Tensor:
        """Compute `forward` without bias and without a derivative.

        Raises:
            ValueError: the input has another width; a kernel would read past its end.
        """
        if input.shape[-1] != self.in_features:
            raise ValueError(f"The input has shape {list(input.shape)}: its last dimension must be {self.in_features}.")
        if self.arranged is None and _may_arrange(input):
            self.arrange(input)
        if self.arranged is not None:
            return self.arranged_product(input)
        return self.exact_product(input)

    def exact_product(self, input: Tensor) -> Tensor:
        """Compute `product` from the stored form, for training and compilers: the only error is the weight's."""
        weight, weight_scale = self.stored()
        if self.bits == 8:
            return torch.ops.visualglm.linear_int8(input, weight, weight_scale)
        return torch.ops.visualglm.linear_int4(input, weight, weight_scale, self.group_size)

    def can_arrange(self, input: Tensor) -> bool:
        """Return whether a kernel takes this weight on its device and such an input."""
        if self.weight.device.type not in DEVICES or hasattr(self, "_hf_hook"):
            return False  # accelerate's hook loads weights for one call and offloads them again
        if self.weight.device.type == "cpu" and cpu_backend.available():
            return self.bits == 8 or cpu_backend.serves_group(self.group_size)
        if self.bits == 8:
            return torch_backend.serves_int8(input)
        return torch_backend.serves_int4(input, self.out_features, self.group_size)

    def arrange(self, input: Tensor) -> None:
        """Put the weight into a kernel's order if one takes it and it is not arranged yet.

        Raises:
            ValueError: the stored weight has another shape; a kernel would read past its end.
        """
        with LOCK:
            if self.arranged is not None or not self.can_arrange(input):
                return
            shape, _ = stored_shapes(self.out_features, self.in_features, self.bits, self.group_size)
            if self.weight.shape != shape:
                raise ValueError(f"The stored weight has shape {list(self.weight.shape)}: it must be {list(shape)}.")
            if self.bits == 8:
                arranged = arranger(self.weight).arrange_int8(self.weight)
            else:
                arrange_int4 = arranger(self.weight).arrange_int4
                arranged = arrange_int4(self.weight, self.weight_scale, self.group_size)
                self.weight_scale = self.weight_scale.to("meta")
            self.weight = self.weight.to("meta")
            self.arranged = arranged

    def stored(self) -> tuple[Tensor, Tensor]:
        """Return `weight` and `weight_scale` in stored form."""
        if self.arranged is None:
            return self.weight, self.weight_scale
        rows, order = self.out_features, arranger(self.arranged)
        if self.bits == 8:
            return order.plain_int8(self.arranged, rows, self.in_features), self.weight_scale
        return order.plain_int4(self.arranged, rows, 2 * self.weight.shape[1], self.group_size)

    def restore(self) -> None:
        """Put the stored form back into the buffers."""
        self.weight, self.weight_scale = self.stored()
        self.arranged = None

    def arranged_product(self, input: Tensor) -> Tensor:
        """Multiply `input` [..., in_features] by the arranged weight."""
        assert self.arranged is not None
        if self.bits == 8:
            return torch.ops.visualglm.arranged_int8(input, self.arranged, self.weight_scale)
        return torch.ops.visualglm.arranged_int4(input, self.arranged, self.out_features, self.group_size)

    def __getstate__(self) -> dict[str, Any]:
        """Restore the stored form before copying or pickling: another machine may have another kernel."""
        self.restore()
        return self.__dict__.copy()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.arranged is not None:
            destination[prefix + "weight"], destination[prefix + "weight_scale"] = self.stored()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.restore()
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[no-untyped-call]


def _may_arrange(input: Tensor) -> bool:
    """Return whether kernels exist for the device, outside tracing."""
    return input.device.type in DEVICES and not torch.compiler.is_compiling()
