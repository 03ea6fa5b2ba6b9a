"""Two processes (gloo) with half the batch each learn what one process with the whole batch learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from visualglm.finetuning.loop import read_metrics

from .conftest import BASE, rows, written

ROOT = Path(__file__).parents[2]


def losses(folder: Path, data: str, processes: int, batch: int) -> list[float]:
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
    return [row["loss"] for row in read_metrics(output / "metrics.jsonl") if "loss" in row]


def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    data = written(tmp_path, rows(8))
    one, two = losses(tmp_path, data, 1, 4), losses(tmp_path, data, 2, 2)
    assert len(one) == 4 and two == pytest.approx(one, rel=1e-4)
