"""speed/random_model: VisualGLM-6B's shapes with random weights, made in memory in their quantized form.

For measuring where no checkpoint is at hand: no file is read and no weight is ever held in more bits than asked. What
such a model says means nothing.
"""

from __future__ import annotations

import torch
from torch import nn

from ..configuration import VisualGLMConfig
from ..model import VisualGLMForConditionalGeneration
from ..quantization import DEFAULT_GROUP_SIZE, Bits, QuantizedLinear

SPREAD = 0.02
"""Standard deviation of the weights, as such models are initialised."""


def random_model(
    config: VisualGLMConfig, bits: Bits | None = None, group_size: int = DEFAULT_GROUP_SIZE
) -> VisualGLMForConditionalGeneration:
    """A model on the CPU in bfloat16; the language model's linears and its head in `bits` bits, if given."""
    with torch.device("meta"):
        model = VisualGLMForConditionalGeneration(config).to(torch.bfloat16)
    for name, module in list(model.named_modules()):
        if bits and isinstance(module, nn.Linear) and name.startswith(("transformer.", "lm_head")):
            model.set_submodule(name, random_linear(module, bits, group_size))
        else:
            fill_own_tensors(module)
    return model.eval()


def random_linear(linear: nn.Linear, bits: Bits, group_size: int) -> QuantizedLinear:
    """Random stored bits in the shape of a linear (on meta) and a scale that gives them the usual spread."""
    made = QuantizedLinear(
        linear.in_features, linear.out_features, linear.bias is not None, bits, group_size, dtype=torch.bfloat16
    )
    made.weight.view(torch.uint8).random_(0, 256)
    if bits == 8:
        made.weight.clamp_(min=-127)
    made.weight_scale.fill_(SPREAD / (73 if bits == 8 else 4.6))
    return made


def fill_own_tensors(module: nn.Module) -> None:
    """Gives a module's own parameters and buffers memory: norms begin at one, everything else is small."""
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        if not tensor.is_meta:
            continue
        numbers = torch.empty_like(tensor, device="cpu")
        if isinstance(module, nn.LayerNorm) and name == "weight":
            numbers.fill_(1)
        else:
            numbers.uniform_(-SPREAD, SPREAD)
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(numbers, requires_grad=False))
        else:
            module.register_buffer(name, numbers)
