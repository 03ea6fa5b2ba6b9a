"""AdamW in groups, the learning rate's course, and its state as tensors by parameter name.

Knows nothing about stages beyond their rates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

ENCODER = "model.image_encoder."


def schedule(share: float, warmup: float, final: float) -> float:
    """Linear warm-up to 1, then a cosine down to `final`."""
    if share < warmup:
        return max(share / warmup, 0.01)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def moments(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Adam's moments by parameter name."""
    found = ((name, key, value) for name, p in named.items() for key, value in optimizer.state.get(p, {}).items())
    return {f"{name}/{key}": value.contiguous().clone() for name, key, value in found}


def restore(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], saved: dict[str, Tensor]) -> None:
    """Puts back what `moments` took."""
    for path, value in saved.items():
        name, _, key = path.rpartition("/")
        parameter = named[name]
        optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
