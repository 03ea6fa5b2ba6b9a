"""One process or many (torchrun): device, data parallel, sharding, and whole weights for saving.

`torchrun --nproc-per-node N -m visualglm pretrain RECIPE.toml` starts the same program N times; every process reads
other rows. Knows nothing about stages or losses.
"""

from __future__ import annotations

import os
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


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(kind: str = "auto") -> torch.device:
    """Joins the group that torchrun opened, if there is one; the device of this process (`kind` "cpu": never a GPU)."""
    if torch.cuda.is_available() and kind != "cpu":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if world() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(objective: nn.Module) -> nn.Module:
    """FSDP2: every block is a unit of its own, the rest is the root's; in place."""
    mesh = init_device_mesh(next(objective.parameters()).device.type, (world(),))
    for module in objective.modules():
        if isinstance(module, (ViTBlock, QFormerLayer, GLMBlock)):
            fully_shard(module, mesh=mesh)
    return fully_shard(objective, mesh=mesh)  # type: ignore[return-value]


def wrapped(objective: nn.Module, sharding: str) -> nn.Module:
    """What a stage calls: the module itself, its sharded self, or its data-parallel shell.

    Raises:
        UsageError: `sharding` is neither `ddp` nor `fsdp`.
    """
    if sharding not in ("ddp", "fsdp"):
        raise UsageError(f"sharding {sharding} is not known: write ddp (a whole model per process) or fsdp (a part).")
    if world() == 1 or sharding == "fsdp":
        return objective
    return DistributedDataParallel(objective, find_unused_parameters=True, broadcast_buffers=False)


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """All weights on the CPU of process 0, whether sharded or not; every process must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    if world() == 1:
        return {name: value.detach().cpu() for name, value in module.state_dict().items()}
    state: dict[str, Any] = get_model_state_dict(module, options=options)
    return state


def gather_full_tensor(value: Tensor) -> Tensor:
    """A tensor's numbers on the CPU, put together where it is sharded; every process must call it."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu().contiguous()


def shard_like(numbers: Tensor, like: Tensor) -> Tensor:
    """Whole numbers, sharded where `like` is; every process must call it."""
    numbers = numbers.to(like.device)
    return distribute_tensor(numbers, like.device_mesh, like.placements) if isinstance(like, DTensor) else numbers


def broadcast_object(value: T) -> T:
    """Process 0's word, so that all learn at the same rate, end a stage, save and validate at the same step."""
    if world() == 1:
        return value
    word = [value]
    dist.broadcast_object_list(word, src=0)
    return word[0]


def barrier() -> None:
    """Waits until every process is here."""
    if world() > 1:
        dist.barrier()


def broadcast_parameters(parameters: Iterable[Tensor]) -> None:
    """Gives every process the parameters of process 0."""
    if world() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, src=0)
