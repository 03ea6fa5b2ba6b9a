"""Save and restore an optimizer's state by parameter name; each process holds its shards of sharded parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def moments(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Copy Adam's state, of a sharded parameter this process's shard; keys are `PARAMETER/STATE`: `.../exp_avg`."""
    states = ((name, key, value) for name, p in named.items() for key, value in optimizer.state.get(p, {}).items())
    local = ((name, key, value.to_local() if isinstance(value, DTensor) else value) for name, key, value in states)
    return {f"{name}/{key}": value.contiguous().clone() for name, key, value in local}


def restore(optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], saved: dict[str, Tensor]) -> None:
    """Restore what `moments` returned in the same process of as many."""
    for path, value in saved.items():
        name, _, key = path.rpartition("/")
        parameter = named[name]
        optimizer.state[parameter][key] = value if key == "step" else _shard_like_parameter(value, parameter)


def _shard_like_parameter(part: Tensor, parameter: Any) -> Tensor:
    """Return a moment as a DTensor sharded like its parameter, if that is sharded."""
    part = part.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return part
    where = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part, *where, shape=parameter.shape, stride=parameter.stride())
