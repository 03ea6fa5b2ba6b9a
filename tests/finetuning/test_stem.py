"""Fine-tuning a model with a convolutional stem: the stem stays, the linear layers behind it train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from visualglm import VisualGLMForConditionalGeneration
from visualglm.adapters.files import base_of
from visualglm.finetuning.trainable_model import prepare_for_training
from visualglm.network.vision import is_frozen


@pytest.mark.parametrize("method, part", [("full", "full"), ("lora", "full"), ("lora", "lora")])
def test_the_stem_never_trains(stem_folder: Path, recipe: Any, method: str, part: str) -> None:
    model = VisualGLMForConditionalGeneration.from_pretrained(str(stem_folder), dtype=torch.float16)
    frozen = ("parts.language='frozen'",) if method == "full" else ()
    ready = prepare_for_training(model, recipe(method, f"parts.vision='{part}'", *frozen), base_of(stem_folder))
    assert not [name for name in ready.parameters if is_frozen(name)]
    assert {"map_proj", "pooled_proj"} <= {part for name in ready.parameters for part in name.split(".")}
    assert not any("classifier" in name for name in ready.parameters)
    stems = [parameter for name, parameter in ready.model.named_parameters() if is_frozen(name)]
    assert stems and {parameter.dtype for parameter in stems} == {torch.float16}


def test_dora_leaves_layers_out_whose_rows_are_zero(stem_folder: Path, recipe: Any) -> None:
    """It divides by the length of a row; the layers that add a stem's maps begin at zero."""
    model = VisualGLMForConditionalGeneration.from_pretrained(str(stem_folder), dtype=torch.float32)
    torch.nn.init.zeros_(model.image_encoder.vit.mixins["patch_embedding"].map_proj.weight)
    ready = prepare_for_training(model, recipe("lora", "parts.vision='lora'", "lora.dora=true"), base_of(stem_folder))
    trained = {part for name in ready.parameters for part in name.split(".")}
    assert "pooled_proj" in trained and "map_proj" not in trained
    size = model.config.vision.image_size
    with torch.no_grad():
        assert ready.model.encode_images(torch.randn(1, 3, size, size)).isfinite().all()


@pytest.mark.parametrize("part", ["full", "lora"])
def test_the_projection_includes_the_layers_behind_the_stem(stem_folder: Path, recipe: Any, part: str) -> None:
    model = VisualGLMForConditionalGeneration.from_pretrained(str(stem_folder), dtype=torch.float16)
    ready = prepare_for_training(model, recipe("lora", f"parts.projection='{part}'"), base_of(stem_folder))
    trained = {part for name in ready.parameters for part in name.split(".")}
    assert {"glm_proj", "concept_head", "class_proj", "certainty"} <= trained
