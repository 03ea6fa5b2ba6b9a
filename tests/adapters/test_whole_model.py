"""What is done to a whole model while an adapter is laid on it: quantized and saved only where that makes sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import visualglm
from visualglm.adapters.lora import LoraMixin
from visualglm.adapters.merge import merge
from visualglm.checkpoints import convert, quantization_plan, save_sat
from visualglm.errors import CheckpointError, QuantizationError, UsageError

from .conftest import BASE, logits, opened


def test_quantizing_is_refused_before_anything_changes(adapters: Any) -> None:
    model = opened(adapter=adapters["one"])
    before = logits(model)
    with pytest.raises(QuantizationError, match="quantize first"):
        model.model.quantize(8)
    assert torch.equal(logits(model), before)
    assert getattr(model.model.config, "quantization_config", None) is None


@pytest.mark.parametrize("kind", ["one", "projection", "prefix"])
def test_saving_is_refused(adapters: Any, tmp_path: Path, kind: str) -> None:
    model = opened(adapter=adapters[kind]).model
    for save in (save_sat, lambda model, folder: model.save_pretrained(folder)):
        with pytest.raises(UsageError, match="visualglm merge"):
            save(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_folder_that_was_quantized_from_the_base(adapters: Any, tmp_path: Path) -> None:
    small = convert(BASE, tmp_path / "q", quantize=quantization_plan(8, vision=8, vocabulary=8), with_fingerprint=False)
    found = logits(visualglm.load(small, device="cpu", adapter=adapters["one"]))
    wanted = logits(opened(quantize=8, quantize_vision=8, quantize_vocabulary=8, adapter=adapters["one"]))
    torch.testing.assert_close(found, wanted)
    with pytest.raises(UsageError, match=r"is quantized, .*Merge first"):
        merge(small, adapters["one"], tmp_path / "merged")
    other = opened().model
    for value in other.parameters():
        value.data += 0.01
    other.quantize(8).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="trained on"):
        visualglm.load(tmp_path / "other", device="cpu", tokenizer=BASE, adapter=adapters["one"])


def test_sats_lora_on_a_quantized_model() -> None:
    model = opened(quantize=8)
    before = logits(model)
    mixin = LoraMixin.new(model.model, 4)
    torch.testing.assert_close(logits(model), before, atol=1e-3, rtol=0)
    assert any(value.requires_grad for value in model.model.parameters())
    with pytest.raises(UsageError, match="then quantize"):
        mixin.merge_lora()
