"""Several processes: data-parallel and sharded training of scenes saves a whole model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visualglm_lab.training.config import read_scene_config

STAGES = """
[[stages]]
name = "zones"
kind = "zones"
steps = 2
images = 4
[[stages]]
name = "dialogue"
kind = "dialogue"
steps = 2
images = 4
rows = 2
"""
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_train_and_save_a_whole_model(tmp_path: Path, sharding: str) -> None:
    path = tmp_path / "recipe.toml"
    settings = (ROOT / "lab" / "recipes" / "smoke.toml").read_text(encoding="utf-8").split("[[stages]]")[0]
    path.write_text(settings + STAGES, encoding="utf-8")
    changes = [f'output="{tmp_path / "run"}"', f'sharding="{sharding}"', "threads=1", "workers=0", "bfloat16=false"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "visualglm_lab.training", str(path), *(f"--set={change}" for change in changes)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    recipe = read_scene_config(path)
    assert weights["transformer.layers.0.mlp.dense_h_to_4h.weight"].shape == (
        4 * recipe.model.hidden,
        recipe.model.hidden,
    )
