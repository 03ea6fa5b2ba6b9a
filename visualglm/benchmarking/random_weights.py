"""VisualGLM-6B's shapes with random weights, made in memory in their quantized form.

For measuring where no checkpoint is at hand: no file is read and no weight is ever held in more bits than asked. What
such a model says means nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..kernels.fast_linear import use_fast_linear
from ..model import VisualGLMForConditionalGeneration
from ..network.configuration import VisualGLMConfig
from ..quantization import Bits, QuantizationConfig, QuantizedEmbedding, QuantizedLinear, prepare

SPREAD = 0.02
"""Standard deviation of the weights, as such models are initialised."""
STEPS = {8: 73.0, 4: 4.6}
"""Standard deviation of random stored integers."""


def blocks_and_head(bits: Bits | None) -> QuantizationConfig | None:
    """All that a token is multiplied with in `bits` bits, as other programs have it; None leaves it in 16."""
    modules = {"transformer.layers.*": bits, "lm_head": bits}
    return None if bits is None else QuantizationConfig(bits, modules=modules)  # type: ignore[arg-type]


def random_model(
    config: VisualGLMConfig, plan: QuantizationConfig | None = None, device: str = "cpu"
) -> VisualGLMForConditionalGeneration:
    """A model in bfloat16, what `plan` names in its bits."""
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
    """Gives a module's own parameters and buffers memory and numbers."""
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if not tensor.is_meta:
            continue
        numbers = random_numbers(module, name, torch.empty_like(tensor, device=device))
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(numbers, requires_grad=False))
        else:
            module.register_buffer(name, numbers)


def random_numbers(module: nn.Module, name: str, numbers: Tensor) -> Tensor:
    """Norms begin at one, stored integers are any, with a scale that gives them the usual spread; the rest is small."""
    if isinstance(module, QuantizedLinear | QuantizedEmbedding) and name == "weight_scale":
        return numbers.fill_(SPREAD / STEPS[module.bits])
    if numbers.dtype in (torch.int8, torch.uint8):
        numbers.view(torch.uint8).random_(0, 256)
        return numbers.clamp_(min=-127) if numbers.dtype == torch.int8 else numbers
    if isinstance(module, nn.LayerNorm) and name == "weight":
        return numbers.fill_(1)
    return numbers.uniform_(-SPREAD, SPREAD)
