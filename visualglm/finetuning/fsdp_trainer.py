"""Method `full` with weights, gradients and optimizer moments sharded over the processes (FSDP2).

In: a prepared model, in a group of processes. Out: a `FinetuneTrainer` over it. torch's `fully_shard` shards the model.
Trainer's own `fsdp` is not used, because it silently degrades to data parallel on a CPU. Checkpoints hold whole
weights, and one file of optimizer moments per process.
"""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ..checkpoints.storage.lazy_tensor import first_not_finite
from ..errors import UsageError
from ..files.untrusted_files import read_json
from ..training.distributed import rank, shard, world
from ..training.optimizer_state import moments, restore
from .trainer import FinetuneTrainer

MOMENTS, SCHEDULER = "moments-{}.safetensors", "scheduler.json"
ACCELERATE_VARIABLE = "ACCELERATE_USE_FSDP"


def check_accelerate_fsdp_off() -> None:
    """Raise `UsageError` if the environment makes Trainer shard the model."""
    if os.environ.get(ACCELERATE_VARIABLE, "").lower() in ("1", "true"):
        raise UsageError(
            f"{ACCELERATE_VARIABLE} is set, but Trainer's own FSDP silently degrades to data parallel on a CPU. Unset "
            'it, start with torchrun, and for method full set sharding = "fsdp".'
        )


class FsdpTrainer(FinetuneTrainer):
    """`FinetuneTrainer` that shards the model before it creates the optimizer."""

    def __init__(self, tuned: Any, **kwargs: Any) -> None:
        shard(tuned.model)
        super().__init__(tuned, **kwargs)
        # evaluation mode keeps accelerate from wrapping the model in DDP
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Gather the weights from all processes; rank 0 writes them."""
        self.tuned.save_state(Path(output_dir or str(self.args.output_dir)), self.state.global_step)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(moments(self.optimizer, self.tuned.parameters), folder / MOMENTS.format(rank()))
        if rank() == 0:
            (folder / SCHEDULER).write_text(json.dumps(self.lr_scheduler.state_dict()), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        processes = len(list(folder.glob(MOMENTS.format("*"))))
        if processes != world():
            raise UsageError(
                f"{folder} was saved by {processes} processes, but now there are {world()}. Resume with {processes}."
            )
        parts = load_file(folder / MOMENTS.format(rank()))
        broken = first_not_finite(parts)
        if broken is not None:
            raise UsageError(f"{folder}: {broken} holds NaN or infinite values. Delete {folder}, and resume again.")
        restore(self.optimizer, self.tuned.parameters, parts)
        self.lr_scheduler.load_state_dict(read_json(folder / SCHEDULER))
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
