"""Run transformers' own model tests on `VisualGLMForConditionalGeneration`."""

from __future__ import annotations

import unittest
from typing import Any

import pytest
import torch

import visualglm.auto  # noqa: F401  # registers
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import VisualGLMConfig

from . import source

pytest.importorskip("parameterized", reason="not run: transformers' tests need parameterized")
upstream = source.import_upstream("tests.test_modeling_common")

COMPLETE = "a checkpoint with missing tensors is refused, never filled with random weights"
DIFFERENCES = {
    "test_correct_missing_keys": COMPLETE,
    "test_model_weights_reload_no_missing_tied_weights": COMPLETE,
}

STEM_DIFFERENCES = {"test_model_is_small": "a stem has one size, of 4.6 million parameters"}


class ModelTester:
    """Sizes of a small model and its inputs, under the names that transformers' tests read."""

    batch_size = 7  # with fewer rows transformers' tests add random ones, which are not prompts
    seq_length = 13
    image_length = 4
    num_hidden_layers = 2
    hidden_size = 32
    num_attention_heads = 4
    is_training = True

    def get_config(self) -> VisualGLMConfig:
        """Return the configuration of the small model."""
        return VisualGLMConfig(
            vocab_size=99, num_layers=2, hidden_size=32, num_attention_heads=4, inner_hidden_size=37, image_length=4,
            image_token_id=69, mask_token_id=70, gmask_token_id=71, bos_token_id=72, eos_token_id=73, pad_token_id=3,
            max_sequence_length=64,
            vision_config=dict(
                num_layers=2, hidden_size=32, num_attention_heads=4, inner_hidden_size=37, image_size=16, patch_size=8
            ),
            qformer_config=dict(
                num_layers=2, hidden_size=32, num_attention_heads=4, inner_hidden_size=37, cross_attn_hidden_size=32,
                num_queries=4,
            ),
        )  # fmt: skip

    def prepare_config_and_inputs_for_common(self) -> tuple[VisualGLMConfig, dict[str, Any]]:
        """Return the configuration, and rows of an image, a text, `[gMASK] <sop>` and an answer."""
        config = self.get_config()
        row = [10, *[config.image_token_id] * self.image_length, 20, 21, 22, 71, 72, 30, 31, 32]
        input_ids = torch.tensor([row] * self.batch_size)
        input_ids[:, 5:8] += torch.arange(self.batch_size)[:, None]
        pixel_values = torch.rand(self.batch_size, 3, 16, 16)
        attention_mask = torch.ones_like(input_ids)
        return config, {"input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values}


class TestModel(upstream.ModelTesterMixin, upstream.GenerationTesterMixin, unittest.TestCase):  # type: ignore[misc,name-defined]
    """The whole model in a small size."""

    all_model_classes = (VisualGLMForConditionalGeneration,)
    _is_composite = True
    additional_model_inputs = ("pixel_values",)

    def _prepare_for_class(
        self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False
    ) -> dict[str, Any]:
        inputs: dict[str, Any] = super()._prepare_for_class(inputs_dict, model_class)
        return {**inputs, "labels": inputs["input_ids"]} if return_labels else inputs

    differences = DIFFERENCES
    tester = ModelTester

    def setUp(self) -> None:
        if self._testMethodName in self.differences:
            self.skipTest(f"different on purpose: {self.differences[self._testMethodName]}")
        self.model_tester = self.tester()


class StemModelTester(ModelTester):
    """The small model with a convolutional stem."""

    def get_config(self) -> VisualGLMConfig:
        """Return the configuration, with a stem and three concepts."""
        config = super().get_config()
        config.vision.stem, config.vision.concepts = "efficientnet-lite0", 3
        return config


class TestModelWithStem(TestModel):
    """The same with a stem, as the packed model has one."""

    differences = DIFFERENCES | STEM_DIFFERENCES
    tester = StemModelTester
