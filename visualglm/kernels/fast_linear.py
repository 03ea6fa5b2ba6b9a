"""Torch's `nn.Linear`, whose few rows on a CPU, as a decoding step has them, go through an operator of ours.

[..., in_features] -> [..., out_features]. In bfloat16 a step of the whole model is bound by reading its weights, and
torch's product reads them at two thirds of what memory gives. A model is built of torch's own, which is what other
libraries look for when they put theirs in its place while it is loaded. Knows nothing about which layers there are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import operators  # noqa: F401  (registers `linear_few_rows`)
from .cpu_backend import MAX_FAST_ROWS


def use_fast_linear(model: nn.Module) -> nn.Module:
    """Replace every plain bfloat16 `nn.Linear` of a loaded model by a `FastLinear` of its parameters; return the model.

    A linear that another library hooked, to offload it or to split it among processes, stays: the hooks are its own.
    """
    for name, module in [*model.named_modules()]:
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16 and not _is_hooked(module):
            model.set_submodule(name, FastLinear.of(module))
    return model


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)


class FastLinear(nn.Linear):
    """`nn.Linear` in everything but the road that a few rows in bfloat16 take on a CPU."""

    @classmethod
    def of(cls, linear: nn.Linear) -> FastLinear:
        """A linear of the same parameters; nothing is copied."""
        made = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        made.weight, made.bias = linear.weight, linear.bias
        return made.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        if input.dtype == torch.bfloat16 and input.device.type == "cpu" and self._decodes(input):
            return torch.ops.visualglm.linear_few_rows(input, self.weight, self.bias)
        return super().forward(input)

    def _decodes(self, input: Tensor) -> bool:
        """Few rows, nothing to be differentiated or traced, and weights that are plain tensors (torchao's are not)."""
        plain = type(self.weight) is nn.Parameter and not torch.is_autocast_enabled("cpu")
        few = input.numel() <= MAX_FAST_ROWS * self.in_features
        return few and plain and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
