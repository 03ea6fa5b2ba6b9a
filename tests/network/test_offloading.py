"""Offloaded weights: the same logits and tokens, wherever accelerate keeps the weights between calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from visualglm import VisualGLMForConditionalGeneration

from .test_model_invariants import padded, prompt, tiny

accelerate = pytest.importorskip("accelerate", reason="needs visualglm[train]")
PARTS = ("image_encoder.vit", "image_encoder.qformer", "image_encoder.glm_proj", "transformer", "lm_head", "mixins")
MAPS: dict[str, dict[str, Any]] = {
    "ViT on disk": {"device_map": dict.fromkeys(PARTS, "cpu") | {"image_encoder.vit": "disk"}},
    "Q-Former on disk": {"device_map": dict.fromkeys(PARTS, "cpu") | {"image_encoder.qformer": "disk"}},
    "language model on disk": {"device_map": dict.fromkeys(PARTS, "cpu") | {"transformer": "disk", "lm_head": "disk"}},
    "max_memory": {"device_map": "auto", "max_memory": {"cpu": 30_000}},
}


def outputs(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits and greedy tokens of two rows with three images."""
    batch = padded([prompt(1, [20, 21]), prompt(2, [30])])
    images = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(**batch, pixel_values=images).logits
    return logits, model.generate(**batch, pixel_values=images, do_sample=False, max_new_tokens=4, eos_token_id=None)


def assert_same(model: Any, expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert any(parameter.is_meta for parameter in model.parameters()), "nothing is offloaded"
    for found, wanted in zip(outputs(model), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", MAPS)
def test_device_maps_with_disk(tmp_path: Path, name: str) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    offloaded = VisualGLMForConditionalGeneration.from_pretrained(tmp_path, offload_folder=tmp_path / "w", **MAPS[name])
    assert_same(offloaded, outputs(model))


@pytest.mark.parametrize("prefix_length", [0, 3])
def test_cpu_and_disk_offload(tmp_path: Path, prefix_length: int) -> None:
    """A trained prefix is a list of parameters, which must also be loaded by a call."""
    cpu = torch.device("cpu")
    expected = outputs(tiny(prefix_length=prefix_length))
    assert_same(accelerate.cpu_offload(tiny(prefix_length=prefix_length), execution_device=cpu), expected)
    assert_same(accelerate.disk_offload(tiny(prefix_length=prefix_length), tmp_path, execution_device=cpu), expected)
