"""`nn.Linear` with a faster CPU path for decoding steps.

[..., in_features] -> [..., out_features]. A bfloat16 decoding step is bound by reading the weights, and torch's
product reads them at two thirds of the memory's bandwidth. A model is built with `nn.Linear`, because other libraries
replace modules of that class while they load it; `use_fast_linear` exchanges what is left afterwards.
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
    """An `nn.Linear` that computes a few bfloat16 rows on a CPU with the compiled kernel."""

    @classmethod
    def of(cls, linear: nn.Linear) -> FastLinear:
        """Build from `linear`, sharing its parameters."""
        made = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        made.weight, made.bias = linear.weight, linear.bias
        return made.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        if input.dtype == torch.bfloat16 and input.device.type == "cpu" and self._decodes(input):
            return torch.ops.visualglm.linear_few_rows(input, self.weight, self.bias)
        return super().forward(input)

    def _decodes(self, input: Tensor) -> bool:
        """Return whether this is a decoding step: few rows, no gradient or tracing, plain weights (not torchao's)."""
        plain = type(self.weight) is nn.Parameter and not torch.is_autocast_enabled("cpu")
        few = input.numel() <= MAX_FAST_ROWS * self.in_features
        return few and plain and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
