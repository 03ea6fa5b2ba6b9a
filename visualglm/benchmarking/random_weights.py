"""Models with random weights, created in memory in their quantized form.

They allow measurements without a checkpoint: no file is read, and no weight ever takes more bits than requested. Their
answers are meaningless.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels.fast_linear import use_fast_linear
from ..model import VisualGLMForConditionalGeneration
from ..network.configuration import VisualGLMConfig
from ..quantization import Bits, QuantizationConfig, QuantizedEmbedding, QuantizedLinear, prepare

WEIGHT_STD = 0.02
"""Standard deviation of the weights, as usual for the initialisation of such models."""
INTEGER_STD = {8: 73.0, 4: 4.6}
"""Bits -> standard deviation of uniformly random quantized integers."""


def blocks_and_head(bits: Bits | None) -> QuantizationConfig | None:
    """Quantize all linear layers of the language model and the LM head, as other programs do; None: not quantized."""
    modules = {"transformer.layers.*": bits, "lm_head": bits}
    return None if bits is None else QuantizationConfig(bits, modules=modules)  # type: ignore[arg-type]


def random_model(
    config: VisualGLMConfig, plan: QuantizationConfig | None = None, device: str = "cpu"
) -> VisualGLMForConditionalGeneration:
    """Build a bfloat16 model with random weights, quantized as `plan` says."""
    with torch.device("meta"):
        model = VisualGLMForConditionalGeneration(config).to(torch.bfloat16)
    if plan is not None:
        prepare(model, plan, torch.bfloat16)
    for module in model.modules():
        fill_own_tensors(module, device)
    model.tie_weights()
    use_fast_linear(model)
    return model.eval()


def fill_own_tensors(module: nn.Module, device: str) -> None:
    """Replace a module's own meta tensors by random ones on `device`."""
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if not tensor.is_meta:
            continue
        filled = fill_random(module, name, torch.empty_like(tensor, device=device))
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(filled, requires_grad=False))
        else:
            module.register_buffer(name, filled)


def fill_random(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """Fill a tensor in place: layer norms with 1, quantized integers uniformly, scales so that the std is usual."""
    if isinstance(module, QuantizedLinear | QuantizedEmbedding) and name == "weight_scale":
        return tensor.fill_(WEIGHT_STD / INTEGER_STD[module.bits])
    if tensor.dtype in (torch.int8, torch.uint8):
        tensor.view(torch.uint8).random_(0, 256)
        return tensor.clamp_(min=-127) if tensor.dtype == torch.int8 else tensor
    if isinstance(module, nn.LayerNorm) and name == "weight":
        return tensor.fill_(1)
    return tensor.uniform_(-WEIGHT_STD, WEIGHT_STD)
