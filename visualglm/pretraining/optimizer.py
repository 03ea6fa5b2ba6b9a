"""AdamW with parameter groups, and the learning rate schedule."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn

from .config import Stage

ENCODER = "model.image_encoder."


def schedule(progress: float, warmup: float, final: float) -> float:
    """Return the factor of the learning rate: linear warm-up to 1, then a cosine down to `final`."""
    if progress < warmup:
        return max(progress / warmup, 0.01)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def adamw(stage: Stage, named: dict[str, nn.Parameter]) -> torch.optim.AdamW:
    """Create AdamW with weight decay on matrices only, and a separate rate for the image encoder."""
    groups = []
    for encoder, matrix in itertools.product((True, False), (True, False)):
        chosen = [p for name, p in named.items() if (p.dim() >= 2) == matrix and name.startswith(ENCODER) == encoder]
        rate, decay = stage.encoder_rate if encoder else 1.0, stage.weight_decay if matrix else 0.0
        groups.append({"params": chosen, "weight_decay": decay, "rate": rate})
    return torch.optim.AdamW(groups, lr=stage.learning_rate, betas=(0.9, 0.98))


def set_rate(optimizer: torch.optim.Optimizer, stage: Stage, progress: float) -> None:
    """Set the learning rate; `progress` is the completed fraction of the stage."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * stage.learning_rate * schedule(progress, stage.warmup, stage.final_rate)
