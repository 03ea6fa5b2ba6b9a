"""Layers in 8 bits inside vLLM: the greedy tokens of transformers with the same library's layers in the same places."""

from __future__ import annotations

import json

import pytest
import torch

from visualglm.checkpoints.quantized import LANGUAGE_LINEARS

from .conftest import DIALOGUES, FOLDER, NEW_TOKENS, Oracle, check

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")
pytest.importorskip("torchao", reason="make test-vllm installs it")
from torchao.core.config import config_to_dict
from torchao.quantization import Int8Tensor, Int8WeightOnlyConfig, quantize_
from vllm import LLM, SamplingParams


def is_language_linear(module: torch.nn.Module, name: str) -> bool:
    return name.startswith("transformer.layers.") and name.endswith(LANGUAGE_LINEARS)


def test_weights_in_8_bits_equal_transformers() -> None:
    int8 = Int8WeightOnlyConfig(version=2)
    oracle = Oracle()
    quantize_(oracle.opened.model, int8, is_language_linear)
    assert isinstance(oracle.opened.model.transformer.layers[0].attention.dense.weight, Int8Tensor)
    overrides = {"quantization_config_dict_json": json.dumps(config_to_dict(int8))}
    llm = LLM(str(FOLDER), dtype="float32", quantization="torchao", hf_overrides=overrides)
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)
    outputs = llm.chat(list(DIALOGUES.values()), sampling, use_tqdm=False)
    with torch.inference_mode():
        for output, messages in zip(outputs, DIALOGUES.values(), strict=True):
            check(output, oracle.answer(messages))
