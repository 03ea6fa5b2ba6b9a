"""Several processes share batches, and train and save a whole model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from visualglm.conversation import packed_model
from visualglm.pretraining.batches import BatchShare

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


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_train_and_save_a_whole_model(tmp_path: Path, sharding: str) -> None:
    lines = []
    for number in range(12):
        Image.new("RGB", (40, 30), (4 * number, 100, 50)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "zh": f"第{number}张图。"}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    values = {"output": tmp_path / "run", "captions": tmp_path / "rows.jsonl", "sharding": sharding}
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(vocabulary=packed_model() / "ice_text.model", **values), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "visualglm", "pretrain", str(path)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert weights["transformer.layers.0.mlp.dense_h_to_4h.weight"].shape == (256, 64)
