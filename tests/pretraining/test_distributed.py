"""Several processes share batches, and train and save a whole model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from visualglm.errors import UsageError
from visualglm.hub.local_folder import packed_model
from visualglm.pretraining.batches import BatchShare
from visualglm.pretraining.config import PretrainingConfig, read_pretraining_config
from visualglm.pretraining.trainer import Trainer

from ..process_group import run_together

pytestmark = pytest.mark.slow

RECIPE = """
output = "{output}"
vocabulary = "{vocabulary}"
captions = "{captions}"
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
name = "alignment"
kind = "alignment"
steps = 2
images = 4
[[stages]]
name = "dialogue"
kind = "dialogue"
steps = 2
images = 4
"""


class Places(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    def __init__(self, share: BatchShare) -> None:
        self.share = share

    def __iter__(self):  # type: ignore[no-untyped-def]
        return (self.share.batch(index) for index, _ in zip(self.share.indices(), range(3), strict=False))


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_share_the_batches_in_order(workers: int) -> None:
    taken = [list(DataLoader(Places(BatchShare(5, n, 2)), batch_size=None, num_workers=workers)) for n in range(2)]
    count = len(taken[0])
    assert taken == [[10 + 2 * place for place in range(count)], [11 + 2 * place for place in range(count)]]


def test_what_is_set_aside_for_earlier_stages_does_not_grow_with_the_processes() -> None:
    assert [BatchShare(0, number, 8, offset=100).batch(place) for place in range(2) for number in range(8)] == [
        *range(100, 116)
    ]


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    lines = []
    for number in range(12):
        Image.new("RGB", (40, 30), (4 * number, 100, 50)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "zh": f"第{number}张图。"}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "rows.jsonl"


def written(captions: Path, sharding: str) -> Path:
    """Return a recipe of two stages."""
    values = {"output": captions.with_name("run"), "captions": captions, "sharding": sharding}
    path = captions.with_name("recipe.toml")
    path.write_text(RECIPE.format(vocabulary=packed_model() / "ice_text.model", **values), encoding="utf-8")
    return path


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_train_and_save_a_whole_model(captions: Path, tmp_path: Path, sharding: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "visualglm", "pretrain", str(written(captions, sharding))],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert weights["transformer.layers.0.mlp.dense_h_to_4h.weight"].shape == (256, 64)


def silent(line: str) -> None:
    """Nothing."""


class Stopped(Trainer):
    """A run that is killed in its first stage after two steps, each of which was saved."""

    def before_step(self, stage: object) -> None:
        if self.step == 2:
            os._exit(0)


def together(recipe: PretrainingConfig, kind: type[Trainer] = Trainer) -> dict[str, torch.Tensor]:
    """Run a recipe in two processes; return the saved weights."""
    run_together(partial(run_trainer, kind, recipe), ["visualglm.pretraining.trainer"])
    return load_file(Path(recipe.output) / "model" / "model.safetensors")


def run_trainer(kind: type[Trainer], recipe: PretrainingConfig) -> None:
    kind(recipe, silent).run()


def test_a_sharded_run_goes_on_with_its_moments(captions: Path, tmp_path: Path) -> None:
    """A killed and resumed run ends in the numbers of one that never was; other shards are refused."""
    recipe = read_pretraining_config(written(captions, "fsdp"))
    recipe = replace(recipe, save_minutes=0.0, stages=(replace(recipe.stages[0], steps=4),))
    whole = together(replace(recipe, output=str(tmp_path / "whole")))
    together(recipe, Stopped)
    run = Path(recipe.output)
    assert sorted(file.name for file in run.glob("optimizer-*")) == [f"optimizer-{n}.safetensors" for n in range(2)]
    with pytest.raises(UsageError, match="is one of 2 shards, and this run has 1"):
        Trainer(recipe, silent).run()
    resumed = together(recipe)
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
