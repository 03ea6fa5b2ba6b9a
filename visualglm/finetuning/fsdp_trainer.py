"""Method `full` with every weight, gradient and moment in parts, one a process (FSDP2).

In: a model made ready, in a group of processes. Out: a `FinetuneTrainer` over it. torch's `fully_shard` does the
work, and Trainer is told to leave the model as it is: its own `fsdp` becomes data parallel on a CPU without a word.
Checkpoints hold whole weights, and of the optimizer one file a process. Knows nothing about data.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..errors import UsageError
from ..files.reading import read_json
from ..training.distributed import rank, shard, world
from ..training.optimizer_state import moments, restore
from .trainer import FinetuneTrainer

MOMENTS, SCHEDULER = "moments-{}.safetensors", "scheduler.json"
ACCELERATES = "ACCELERATE_USE_FSDP"


def check_accelerate_fsdp_off() -> None:
    """Raises `UsageError` where the environment asks Trainer to shard by itself."""
    if os.environ.get(ACCELERATES, "").lower() in ("1", "true"):
        raise UsageError(
            f"{ACCELERATES} is set, but Trainer's own FSDP becomes data parallel on a CPU without a word and was never "
            'run with this program: start with torchrun, and for method full set sharding = "fsdp".'
        )


class FsdpTrainer(FinetuneTrainer):
    """`FinetuneTrainer` over a model that it shards before the optimizer is made."""

    def __init__(self, tuned: Any, **kwargs: Any) -> None:
        shard(tuned.model)
        super().__init__(tuned, **kwargs)
        self.accelerator.prepare_model = partial(
            self.accelerator.prepare_model, evaluation_mode=True
        )  # no DDP around it

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Every process helps to put the weights together; the first one writes them."""
        self.tuned.save_state(Path(output_dir or str(self.args.output_dir)), self.state.global_step)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        held = moments(self.optimizer, self.tuned.parameters)
        save_file({name: _part(value) for name, value in held.items()}, folder / MOMENTS.format(rank()))
        if rank() == 0:
            (folder / SCHEDULER).write_text(json.dumps(self.lr_scheduler.state_dict()), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        processes = len(list(folder.glob(MOMENTS.format("*"))))
        if processes != world():
            raise UsageError(f"{folder} was saved by {processes} processes: resume with as many (now {world()}).")
        named = self.tuned.parameters
        parts = load_file(folder / MOMENTS.format(rank()))
        restore(self.optimizer, named, {path: _as_its_parameter(path, part, named) for path, part in parts.items()})
        self.lr_scheduler.load_state_dict(read_json(folder / SCHEDULER))
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate


def _part(value: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return value.to_local().contiguous() if isinstance(value, DTensor) else value


def _as_its_parameter(path: str, part: Tensor, named: dict[str, Any]) -> Tensor:
    """A moment's part, sharded as its parameter; a count of steps is whole."""
    name, _, key = path.rpartition("/")
    parameter = named[name]
    if key == "step" or not isinstance(parameter, DTensor):
        return part
    where = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part.to(parameter.device), *where, shape=parameter.shape, stride=parameter.stride())
