"""QLoRA: the base held in 4 bits; its adapter answers on the 4-bit base, on the 16-bit base, and merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from visualglm.adapters.merge import merge
from visualglm.conversation import load
from visualglm.finetuning import run
from visualglm.finetuning.loop import read_metrics

from .conftest import BASE, PICTURES

pytest.importorskip("bitsandbytes", reason="pip install 'visualglm[qlora]'")
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3}


def test_the_round_trip(recipe: Any, tmp_path: Path) -> None:
    plan = recipe("qlora", "epochs=20", "batch=8", "learning_rate=0.02", "save_steps=100", "lora.rank=4")
    said: list[str] = []
    assert run.finetune(plan, said.append, device="cpu")
    losses = [row["loss"] for row in read_metrics(Path(plan.output) / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] / 2

    four = load(BASE, device="cpu", adapter=plan.output, quantization_config=run.four_bit())
    dense = four.model.transformer.layers[0].mlp.dense_h_to_4h
    assert dense.weight.dtype == torch.uint8 and four.model.lm_head.weight.dtype == torch.float32
    sixteen = load(BASE, device="cpu", adapter=plan.output)
    merged = load(merge(BASE, plan.output, tmp_path / "merged"), device="cpu")
    said = [one.ask(PICTURES[0], "图0？", **GREEDY).text for one in (four, sixteen, merged)]
    assert all(said)
