"""Save and restore an optimizer's state by parameter name."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def moments(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copy Adam's state; keys are `PARAMETER/STATE`, such as `.../weight/exp_avg`."""
    states = ((name, key, value) for name, p in named.items() for key, value in optimizer.state.get(p, {}).items())
    return {f"{name}/{key}": value.contiguous().clone() for name, key, value in states}


def restore(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], saved: dict[str, Tensor]) -> None:
    """Restore what `moments` returned."""
    for path, value in saved.items():
        name, _, key = path.rpartition("/")
        parameter = named[name]
        optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
