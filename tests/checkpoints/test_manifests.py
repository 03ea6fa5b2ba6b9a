"""The name maps cover every tensor of the full model in both layouts, with nothing left over on either side."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from visualglm.checkpoints import Checkpoint
from visualglm.checkpoints.formats import hugging_face, sat
from visualglm.checkpoints.formats.unused_tensors import POSITION_TABLE, SAT_BUFFER, is_hf_buffer
from visualglm.checkpoints.formats.upstream_config import from_sat
from visualglm.checkpoints.storage.lazy_tensor import LazyTensor
from visualglm.checkpoints.tensor_check import expected_shapes
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import ChatGLMConfig, VisualGLMConfig

REFERENCE = Path(__file__).parents[1] / "reference"
CONFIGS = json.loads((REFERENCE / "config-full.json").read_text())
Shapes = dict[str, tuple[int, ...]]


def manifest(layout: str) -> Shapes:
    entries = json.loads((REFERENCE / f"manifest-{layout}.json").read_text())
    return {name: tuple(shape) for name, (shape, _) in entries.items()}


@pytest.fixture(scope="module")
def full_size() -> tuple[VisualGLMConfig, Shapes]:
    config = ChatGLMConfig.from_dict(dict(CONFIGS["hf_config"]))
    return config, expected_shapes(VisualGLMForConditionalGeneration, config)


def test_parameters(full_size: tuple[VisualGLMConfig, Shapes]) -> None:
    assert sum(math.prod(shape) for shape in full_size[1].values()) == 7_802_193_408


def test_hugging_face_names(full_size: tuple[VisualGLMConfig, Shapes]) -> None:
    stored = manifest("hf")
    assert len(stored) == 1039
    assert {name: shape for name, shape in stored.items() if not is_hf_buffer(name)} == full_size[1]
    assert sum(is_hf_buffer(name) for name in stored) == 28


def test_sat_names(full_size: tuple[VisualGLMConfig, Shapes]) -> None:
    stored = manifest("sat")
    assert len(stored) == 1013
    live = {sat.our_name(name): shape for name, shape in stored.items() if name not in sat.UNUSED}
    assert live == full_size[1]
    assert {sat.sat_name(name) for name in full_size[1]} == set(stored) - {POSITION_TABLE, SAT_BUFFER}


def test_both_layouts_are_written_whole(full_size: tuple[VisualGLMConfig, Shapes]) -> None:
    config, shapes = full_size
    tensors = {name: LazyTensor(shape, torch.float16, lambda: torch.empty(0)) for name, shape in shapes.items()}
    source = Checkpoint(Path("nowhere"), "native", config, tensors, {})
    written = {name: tensor.shape for name, tensor in hugging_face.stored_tensors(source).items()}
    assert written == manifest("hf")
    written = {name: tensor.shape for name, tensor in sat.stored_tensors(source).items()}
    assert written == {name: shape for name, shape in manifest("sat").items() if name != POSITION_TABLE}


def test_both_configurations_say_the_same() -> None:
    hf = ChatGLMConfig.from_dict(dict(CONFIGS["hf_config"])).to_dict()
    other = ChatGLMConfig.from_dict(from_sat(CONFIGS["sat_model_config"])).to_dict()
    assert other.pop("rotary_frequencies") == "by_dtype" and hf.pop("rotary_frequencies") == "half"
    assert hf.pop("dtype") == "float16" and other.pop("dtype") is None
    assert hf.pop("position_encoding_2d") is True
    assert other == hf
