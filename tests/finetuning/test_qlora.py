"""QLoRA with a 4-bit base: its adapter answers on the 4-bit base, on the 16-bit base, and merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from visualglm.adapters.merge import merge
from visualglm.conversation import load
from visualglm.finetuning import run
from visualglm.finetuning.trainer import read_metrics

from .conftest import BASE, IMAGES

pytestmark = pytest.mark.slow

pytest.importorskip("bitsandbytes", reason="the extra [qlora] brings it")
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3}


def test_the_round_trip(recipe: Any, models: list[Any], tmp_path: Path) -> None:
    """Eight samples are learned, only LoRA changes, and the adapter answers on each form of its base."""
    plan = recipe("qlora", "epochs=150", "batch=8", "learning_rate=0.01", "save_steps=1000")
    said: list[str] = []
    assert run.finetune(plan, said.append, device="cpu")
    assert read_metrics(Path(plan.output) / "metrics.jsonl")[-1]["loss"] < 0.01
    ((ready, before),) = models
    moved = {name for name, value in ready.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved <= set(ready.parameters) and all(".lora_" in name for name in moved) and len(moved) == 12

    four = load(BASE, device="cpu", adapter=plan.output, quantization_config=run.four_bit())
    dense = four.model.transformer.layers[0].mlp.dense_h_to_4h
    assert dense.weight.dtype == torch.uint8 and four.model.lm_head.weight.dtype == torch.float32
    sixteen = load(BASE, device="cpu", adapter=plan.output)
    merged = load(merge(BASE, plan.output, tmp_path / "merged"), device="cpu")
    said = [one.ask(IMAGES[0], "图0？", **GREEDY).text for one in (four, sixteen, merged)]
    assert all(said)
