"""A quantized linear's weight in the order in which a kernel reads it, and back.

The stored form is what files, other devices and derivatives know; the arranged one takes its place in memory when a
linear first computes, and gives it back whenever someone asks for the state or moves the module. While a
weight is arranged, the buffers `weight` and `weight_scale` are empty (meta) tensors of the stored shapes. Knows
nothing about what the numbers mean.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import cpu_backend, torch_backend
from ..kernels.operators import arranger

DEVICES = ("cpu", "cuda")
"""Where kernels are that want weights in an order of theirs."""
LOCK = threading.Lock()
"""One thread arranges; a second one that computes with the same model waits."""


class PackedModule(nn.Module):
    """Base of whatever multiplies with a quantized matrix [out_features, in_features]: it lies stored or arranged."""

    bits: int
    group_size: int
    in_features: int
    out_features: int
    weight: Tensor
    weight_scale: Tensor
    arranged: Tensor | None = None

    def product(self, input: Tensor) -> Tensor:
        """`forward` without bias and without a derivative.

        Raises:
            ValueError: the input has another width; a kernel would read past its end.
        """
        if input.shape[-1] != self.in_features:
            raise ValueError(f"the input is {list(input.shape)}, its last size must be {self.in_features}.")
        if self.arranged is None and _may_arrange(input):
            self.arrange(input)
        if self.arranged is not None:
            return self.arranged_product(input)
        return self.exact_product(input)

    def exact_product(self, input: Tensor) -> Tensor:
        """`product` by the stored form, whose only error is the weight's: what training and compilers see."""
        weight, weight_scale = self.stored()
        if self.bits == 8:
            return torch.ops.visualglm.linear_int8(input, weight, weight_scale)
        return torch.ops.visualglm.linear_int4(input, weight, weight_scale, self.group_size)

    def can_arrange(self, input: Tensor) -> bool:
        """Whether a kernel computes with this weight, where it lies now, and with such an input."""
        if self.weight.device.type not in DEVICES or hasattr(self, "_hf_hook"):
            return False  # a hook of accelerate brings weights from elsewhere and takes them away again
        if self.weight.device.type == "cpu" and cpu_backend.available():
            return self.bits == 8 or cpu_backend.serves_group(self.group_size)
        if self.bits == 8:
            return torch_backend.serves_int8(input)
        return torch_backend.serves_int4(input, self.out_features, self.group_size)

    def arrange(self, input: Tensor) -> None:
        """Puts the weight into a kernel's order if one takes it; nothing happens where it is so already."""
        with LOCK:
            if self.arranged is not None or not self.can_arrange(input):
                return
            if self.bits == 8:
                arranged = arranger(self.weight).arrange_int8(self.weight)
            else:
                arrange_int4 = arranger(self.weight).arrange_int4
                arranged = arrange_int4(self.weight, self.weight_scale, self.group_size)
                self.weight_scale = self.weight_scale.to("meta")
            self.weight = self.weight.to("meta")
            self.arranged = arranged

    def stored(self) -> tuple[Tensor, Tensor]:
        """`weight` and `weight_scale` as files have them."""
        if self.arranged is None:
            return self.weight, self.weight_scale
        rows, order = self.out_features, arranger(self.arranged)
        if self.bits == 8:
            return order.plain_int8(self.arranged, rows, self.in_features), self.weight_scale
        return order.plain_int4(self.arranged, rows, 2 * self.weight.shape[1], self.group_size)

    def restore(self) -> None:
        """Puts the stored form back in its place."""
        self.weight, self.weight_scale = self.stored()
        self.arranged = None

    def arranged_product(self, input: Tensor) -> Tensor:
        """`input` [..., in_features] times the arranged weight."""
        assert self.arranged is not None
        if self.bits == 8:
            return torch.ops.visualglm.arranged_int8(input, self.arranged, self.weight_scale)
        return torch.ops.visualglm.arranged_int4(input, self.arranged, self.out_features, self.group_size)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold the stored form: another machine may have another kernel."""
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
    """Where there are kernels, and never inside a traced program."""
    return input.device.type in DEVICES and not torch.compiler.is_compiling()
