"""An optimizer's state as tensors by parameter name, so that a run can be saved and resumed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
