"""Two processes (gloo) with half the batch each train like one process with the whole batch, sharded or not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from visualglm.conversation import load
from visualglm.errors import UsageError
from visualglm.finetuning import run
from visualglm.finetuning.config import Finetuning
from visualglm.finetuning.trainable_model import TRAINED
from visualglm.finetuning.trainer import read_metrics

from ..process_group import run_together
from .conftest import BASE, rows, written

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PRELOADED = ["peft", "transformers.trainer", "visualglm.finetuning.run"]


def silent(line: str) -> None:
    """Print nothing."""


def losses(output: str | Path) -> list[float]:
    return [row["loss"] for row in read_metrics(Path(output) / "metrics.jsonl") if "loss" in row]


def by_command(folder: Path, data: str, processes: int, batch: int) -> Path:
    """Run the command line, through torchrun for several processes."""
    output = folder / str(processes)
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    settings = [f"batch={batch}", "epochs=2", "validation_share=0.0", "answers=0", "max_new_tokens=1"]
    changes = [part for setting in settings for part in ("--set", setting)]
    where = ["--data", data, "--output", str(output), "--model", BASE, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launch, "-m", "visualglm", "finetune", *where, *changes]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    data = written(tmp_path, rows(8))
    one, two = (losses(by_command(tmp_path, data, count, 4 // count)) for count in (1, 2))
    assert len(one) == 4 and two == pytest.approx(one, rel=1e-4)


def together(recipe: Finetuning, resume: bool = False) -> None:
    """Run a recipe in two processes."""
    run_together(partial(run.finetune, recipe, silent, resume, device="cpu"), PRELOADED)


def test_two_processes_with_half_the_model_each_learn_as_one(recipe: Any) -> None:
    """FSDP2: equal losses and model; a resumed run ends with equal weights."""
    settings = ("learning_rate=0.01", "save_steps=2", "parts.projection='full'")
    one = recipe("full", *settings, "batch=4", output="one")
    two = recipe("full", *settings, "batch=2", "sharding='fsdp'", output="two")
    assert run.finetune(one, silent, device="cpu")
    together(two)
    assert len(losses(one.output)) == 4 and losses(two.output) == pytest.approx(losses(one.output), rel=1e-3)
    whole = [load_file(Path(plan.output) / "checkpoint-4" / TRAINED) for plan in (one, two)]
    assert whole[0].keys() == whole[1].keys()
    for name, value in whole[0].items():
        torch.testing.assert_close(whole[1][name], value, atol=2e-3, rtol=0, msg=name)
    opened = load(two.output, device="cpu").model.state_dict()
    assert all(torch.equal(opened[name].half(), value.half()) for name, value in whole[1].items())

    before = losses(two.output)
    shutil.rmtree(Path(two.output) / "checkpoint-4")
    together(two, resume=True)
    assert losses(two.output) == before
    again = load_file(Path(two.output) / "checkpoint-4" / TRAINED)
    assert all(torch.equal(value, whole[1][name]) for name, value in again.items())


def test_what_accelerate_would_shard_by_itself_is_refused(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="silently degrades to data parallel"):
        run.finetune(recipe("full"), silent, device="cpu")


def test_only_whole_training_is_sharded(recipe: Any) -> None:
    with pytest.raises(UsageError, match="sharding fsdp is for method full"):
        recipe("lora", "sharding='fsdp'")
