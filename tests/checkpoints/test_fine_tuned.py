"""Folders that sat's own fine-tuning wrote: the same logits as sat, and every layout that can hold them.

`tests/fine_tuned/make.py` made them with the package SwissArmyTransformer 0.4.12.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from visualglm.checkpoints import convert, open_checkpoint, verify
from visualglm.errors import CheckpointError, UsageError
from visualglm.model import VisualGLMForConditionalGeneration as Model

from .conftest import SAT_FILE

FINE_TUNED = Path(__file__).parents[1] / "fine_tuned"
KINDS = {"sat-lora": "merged_logits", "sat-qlora": "merged_logits", "sat-ptuning": "logits"}
"""Folders, and what sat computed with the model as we open it (LoRA inside the weights)."""


def expected(kind: str, name: str) -> Tensor:
    return torch.tensor(np.load(FINE_TUNED / kind / "expected.npz")[name])


def logits(model: Model, kind: str) -> Tensor:
    """[1, T, every eighth of the vocabulary] for the stored input; sat has the pad id where we have the image id."""
    ids = expected(kind, "input_ids").clone()
    ids[ids == model.config.pad_token_id] = model.config.image_token_id
    with torch.no_grad():
        return model(ids, pixel_values=expected(kind, "pixel_values")).logits[..., ::8]


def opened(folder: Path | str, **kwargs: Any) -> Model:
    return Model.from_pretrained(str(folder), dtype=torch.float32, **kwargs).eval()


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_sats(kind: str, kernel: str) -> None:
    model = opened(FINE_TUNED / kind, attn_implementation=kernel)
    torch.testing.assert_close(logits(model, kind), expected(kind, KINDS[kind]), atol=1e-4, rtol=0)


def test_what_fine_tuning_added_counts() -> None:
    """A reader that left the prefix or LoRA out would fail the test above by far."""
    base = opened(FINE_TUNED / "sat-lora", merge_lora=False)
    assert (logits(base, "sat-lora") - expected("sat-lora", "logits")).abs().max() > 0.1
    tuned = opened(FINE_TUNED / "sat-ptuning")
    tuned.del_mixin("ptuning")
    assert (logits(tuned, "sat-ptuning") - expected("sat-ptuning", "logits")).abs().max() > 0.1


@pytest.mark.parametrize("kind, to", [(kind, to) for kind in KINDS for to in ("native", "sat")] + [("sat-lora", "hf")])
def test_conversion_keeps_the_logits(kind: str, to: Any, tmp_path: Path) -> None:
    """Also out of the converted folder, as a reader would: its fingerprint holds, and its numbers are sat's."""
    folder = convert(FINE_TUNED / kind, tmp_path / to, to)
    assert [check.detail for check in verify(folder) if check.result == "failed"] == []
    once, again = opened(FINE_TUNED / kind), opened(folder)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in once.state_dict().items())
    again.config.rotary_frequencies = "by_dtype"  # sat's in float32; a Hugging Face folder carries it, too
    torch.testing.assert_close(logits(again, kind), expected(kind, KINDS[kind]), atol=1e-4, rtol=0)


def test_a_prefix_has_no_place_in_upstreams_hugging_face_layout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--to native or --to sat"):
        convert(FINE_TUNED / "sat-ptuning", tmp_path / "hf", "hf")
    assert not (tmp_path / "hf").exists()


def test_merged_folders_do_not_ask_for_lora_again(tmp_path: Path) -> None:
    folder = convert(FINE_TUNED / "sat-lora", tmp_path / "sat", "sat", with_fingerprint=False)
    raw = json.loads((folder / "model_config.json").read_text())
    assert raw["model_class"] == "VisualGLMModel" and "use_lora" not in raw and "layer_range" not in raw


def test_a_prefix_with_cache_and_padding() -> None:
    """Cached generation equals the whole pass; a padded row equals the row alone."""
    model = opened(FINE_TUNED / "sat-ptuning")
    ids = torch.tensor([[7, 8, 9, 401, 404]])
    greedy = model.generate(ids, do_sample=False, max_new_tokens=6, eos_token_id=409)
    for end in range(ids.shape[1], greedy.shape[1]):
        with torch.no_grad():
            assert int(model(greedy[:, :end]).logits[0, -1].argmax()) == int(greedy[0, end])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
    padded = torch.cat([torch.full((1, 2), 3), ids], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 2:], model(ids).logits)


def test_incomplete_lora_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    shutil.copytree(FINE_TUNED / "sat-lora", folder, copy_function=shutil.copy)
    content = torch.load(folder / SAT_FILE, weights_only=True)
    del content["module"]["transformer.layers.2.attention.query_key_value.matrix_B.1"]
    torch.save(content, folder / SAT_FILE)
    with pytest.raises(CheckpointError, match=r"layers\.2\.attention\.query_key_value"):
        open_checkpoint(folder)


def test_another_4_bit_form_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "qlora"
    shutil.copytree(FINE_TUNED / "sat-qlora", folder, copy_function=shutil.copy)
    content = torch.load(folder / SAT_FILE, weights_only=True)
    name = "transformer.layers.1.mlp.dense_h_to_4h.quant_state"
    content["module"][name][5] = "fp4"
    torch.save(content, folder / SAT_FILE)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.dense_h_to_4h\.weight in a 4-bit form"):
        open_checkpoint(folder)
