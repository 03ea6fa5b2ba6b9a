"""training/optimizer: AdamW in groups, the learning rate's course, and its state as tensors by parameter name.

Knows nothing about stages beyond their rates.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from .recipe import Stage

ENCODER = "model.image_encoder."


def adamw(stage: Stage, named: dict[str, nn.Parameter]) -> torch.optim.AdamW:
    """Weight decay on matrices only; the picture encoder learns at a rate of its own."""
    groups = []
    for encoder, matrix in itertools.product((True, False), (True, False)):
        chosen = [p for name, p in named.items() if (p.dim() >= 2) == matrix and name.startswith(ENCODER) == encoder]
        rate, decay = stage.encoder_rate if encoder else 1.0, stage.weight_decay if matrix else 0.0
        groups.append({"params": chosen, "weight_decay": decay, "rate": rate})
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98))


def set_rate(optimizer: torch.optim.Optimizer, stage: Stage, share: float) -> None:
    """The learning rate after `share` of the stage."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * stage.learning_rate * schedule(share, stage.warmup, stage.final_rate)


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
