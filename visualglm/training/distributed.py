"""Distributed training: process group, data parallelism, sharding, gathering weights.

`torchrun --nproc-per-node N -m visualglm pretrain RECIPE.toml` starts the same program N times; each process reads
different rows. All functions also work in a single process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ..errors import UsageError
from ..network.glm import GLMBlock
from ..network.qformer import QFormerLayer
from ..network.vision import ViTBlock

T = TypeVar("T")
GLOO_RELEASE_SECONDS = 1.0


def rank() -> int:
    """Return the index of this process, 0 in a single process."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(kind: str = "auto") -> torch.device:
    """Join torchrun's process group, if there is one, and return this process's device; `kind` "cpu" forbids GPUs."""
    if torch.cuda.is_available() and kind != "cpu":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if world() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def leave() -> None:
    """Leave the process group, if there is one.

    After FSDP, Gloo's threads outlive the group, since DTensor's caches hold the mesh. They release the tensors of the
    last collective on their own time and need the GIL for it; if the interpreter ends first, the process aborts
    ("terminate called without an active exception"). So they get a second to finish.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(GLOO_RELEASE_SECONDS)


def shard(objective: nn.Module) -> nn.Module:
    """Shard a module in place with FSDP2: one unit per block, and one for the rest."""
    mesh = init_device_mesh(next(objective.parameters()).device.type, (world(),))
    for module in objective.modules():
        if isinstance(module, (ViTBlock, QFormerLayer, GLMBlock)):
            fully_shard(module, mesh=mesh)
    return fully_shard(objective, mesh=mesh)  # type: ignore[return-value]


def wrap_data_parallel(objective: nn.Module, sharding: str) -> nn.Module:
    """Wrap a module in DistributedDataParallel for several processes, unless it is sharded (`fsdp`).

    Raises:
        UsageError: `sharding` is neither `ddp` nor `fsdp`.
    """
    if sharding not in ("ddp", "fsdp"):
        raise UsageError(f"Unknown sharding {sharding}. Write ddp (a whole model per process) or fsdp (a part of it).")
    if world() == 1 or sharding == "fsdp":
        return objective
    return DistributedDataParallel(objective, find_unused_parameters=True, broadcast_buffers=False)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """Gather all weights, sharded or not, on the CPU of process 0; every process must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    if world() == 1:
        return {name: value.detach().cpu() for name, value in module.state_dict().items()}
    state: dict[str, Any] = get_model_state_dict(module, options=options)
    return state


def gather_full_tensor(value: Tensor) -> Tensor:
    """Return the full tensor on the CPU, gathered if it is sharded; every process must call it."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu().contiguous()


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a full tensor as `like` is, if it is sharded; every process must call it."""
    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


def broadcast_object(value: T) -> T:
    """Broadcast process 0's value, so that all processes take the same decision at the same step."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until every process has reached this call."""
    if world() > 1:
        dist.barrier()


def broadcast_parameters(parameters: Iterable[Tensor]) -> None:
    """Copy the parameters of process 0 to every process."""
    if world() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, src=0)
