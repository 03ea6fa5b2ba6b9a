"""Several processes: data-parallel and sharded training of scenes saves a whole model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visualglm_lab.training.config import read_scene_config

RECIPE = """
output = "{output}"
vocabulary = "visualglm/mini/ice_text.model"
bfloat16 = false
threads = 1
workers = 0
sharding = "{sharding}"
[model]
image_size = 96
vision_layers = 1
vision_hidden = 64
qformer_layers = 1
qformer_hidden = 64
layers = 1
hidden = 64
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
    path.write_text(RECIPE.format(output=tmp_path / "run", sharding=sharding), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "visualglm_lab.training", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    recipe = read_scene_config(path)
    assert weights["transformer.layers.0.mlp.dense_h_to_4h.weight"].shape == (256, recipe.model.hidden)
