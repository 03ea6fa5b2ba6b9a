"""Adapters of each kind for the small random model, made without training: their numbers are random, and large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import visualglm
from visualglm.adapters.files import base_of
from visualglm.finetuning.config import read_finetuning
from visualglm.finetuning.trainable_model import prepare_for_training

from ..conftest import REFERENCE

BASE = str(REFERENCE / "hf")
IMAGES = [str(REFERENCE / "images" / name) for name in ("rgb.png", "l.png")]
KINDS = {
    "one": ("lora",),
    "two": ("lora",),
    "projection": ("lora", "parts.projection='full'"),
    "projection-lora": ("lora", "parts.projection='lora'"),
    "qformer": ("lora", "parts.qformer='full'"),
    "qformer-lora": ("lora", "parts.qformer='lora'"),
    "prefix": ("ptuning",),
}


def opened(**options: Any) -> visualglm.VisualGLM:
    return visualglm.load(BASE, device="cpu", **options)


def logits(model: visualglm.VisualGLM) -> torch.Tensor:
    """Return the logits that the whole pipeline computes for an image."""
    inner = model.model
    ids = [inner.config.image_token_id] * inner.config.image_length + [5, 6, 7]
    prompt = torch.tensor([[*ids, inner.config.gmask_token_id, inner.config.bos_token_id]])
    with torch.no_grad():
        return inner(prompt, image_embeds=model.encode(IMAGES[0])).logits


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: made(folder / name, BASE, *kind, seed=seed) for seed, (name, kind) in enumerate(KINDS.items())}


def made(folder: Path, base: str, method: str, *changes: str, seed: int = 0, size: float = 0.2) -> Path:
    """Return an adapter of a model in `base`, its numbers random and about `size`."""
    recipe = read_finetuning(None, changes, data="-", output=str(folder), method=method, model=base)
    ready = prepare_for_training(visualglm.load(base, device="cpu").model, recipe, base_of(base))
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in ready.parameters.values():
            value.add_(torch.randn_like(value) * size)
    ready.save_adapter(folder, 1)
    return folder
