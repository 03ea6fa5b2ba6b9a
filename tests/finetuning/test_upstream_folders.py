"""Folders that upstream's fine-tuning saved, as adapters: equal to sat's results, and only on their own base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from visualglm.adapters.merge import merge
from visualglm.conversation import load
from visualglm.errors import CheckpointError, UsageError
from visualglm.model import VisualGLMForConditionalGeneration as Model

from ..checkpoints.test_fine_tuned import FINE_TUNED, expected, logits
from .conftest import BASE

KINDS = ("sat-lora", "sat-qlora", "sat-ptuning")


def base_of_folder(kind: str, folder: Path) -> Path:
    """Return the base of a folder in the native layout: the folder without the fine-tuned parts."""
    model = Model.from_pretrained(str(FINE_TUNED / kind), merge_lora=False, dtype="auto")
    if model.config.prefix_length:
        model.del_mixin("ptuning")
        model.config.prefix_length = 0
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_its_adapter_computes_what_sat_computes(kind: str, tmp_path: Path) -> None:
    base = base_of_folder(kind, tmp_path / "base")
    model = load(base, device="cpu", dtype="float32")
    bare = logits(model.model, kind)
    assert model.add_adapter(FINE_TUNED / kind) == kind and model.adapters == [kind]
    torch.testing.assert_close(logits(model.model, kind), expected(kind, "logits"), atol=1e-4, rtol=0)
    assert (bare - expected(kind, "logits")).abs().max() > 0.1
    model.add_adapter(f"{FINE_TUNED / kind}@1", "again")
    torch.testing.assert_close(logits(model.model, kind), expected(kind, "logits"), atol=1e-4, rtol=0)
    model.use_adapter(None)
    torch.testing.assert_close(logits(model.model, kind), bare)


@pytest.mark.parametrize("kind", ["sat-lora", "sat-ptuning"])
def test_its_adapter_works_on_a_base_in_8_bits(kind: str, tmp_path: Path) -> None:
    model = load(base_of_folder(kind, tmp_path / "base"), device="cpu", quantize=8, quantize_vocabulary=8)
    bare = (logits(model.model, kind) - expected(kind, "logits")).abs().mean()  # from here on in the kernel's order
    model.add_adapter(FINE_TUNED / kind)
    assert (logits(model.model, kind) - expected(kind, "logits")).abs().mean() < 0.1 * bare


def test_another_base_is_refused() -> None:
    for kind in KINDS:
        with pytest.raises(CheckpointError, match=r"was fine-tuned on another model than .*--model"):
            load(BASE, device="cpu", adapter=FINE_TUNED / kind)


def test_a_folder_with_nothing_added_is_a_model() -> None:
    with pytest.raises(UsageError, match="--model instead of --adapter"):
        load(BASE, device="cpu", adapter=Path(BASE).parent / "sat")


def test_merging_is_conversion() -> None:
    with pytest.raises(UsageError, match="visualglm convert"):
        merge(BASE, FINE_TUNED / "sat-lora", "merged")
