"""8-bit and 4-bit layers inside vLLM: the greedy tokens of transformers with the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import visualglm
from visualglm.checkpoints import convert, quantization_plan
from visualglm.checkpoints.quantize import LANGUAGE_LINEARS
from visualglm.errors import UsageError
from visualglm.kernels import cpu_backend

from .conftest import DIALOGUES, FOLDER, NEW_TOKENS, Oracle, check

pytest.importorskip("vllm", reason="vLLM is not installed: make test-vllm runs this in an environment of its own")
from vllm import LLM, SamplingParams

from visualglm.vllm_plugin.vllm_linear import StoredLinearMethod


def is_language_linear(module: torch.nn.Module, name: str) -> bool:
    return name.startswith("transformer.layers.") and name.endswith(LANGUAGE_LINEARS)


@pytest.fixture(scope="module", params=[8, 4])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the packed model, quantized by `visualglm quantize`."""
    target = tmp_path_factory.mktemp("quantized") / "stored"
    return convert(str(FOLDER), target, quantize=quantization_plan(request.param), with_fingerprint=False)


def answered(folder: Path, **options: Any) -> list[Any]:
    """Return vLLM's outputs for DIALOGUES."""
    llm = LLM(str(folder), dtype="float32", **options)
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)
    outputs: list[Any] = llm.chat(list(DIALOGUES.values()), sampling, use_tqdm=False)
    return outputs


def compare(outputs: list[Any], oracle: Oracle) -> None:
    with torch.inference_mode():
        for output, messages in zip(outputs, DIALOGUES.values(), strict=True):
            check(output, oracle.answer(messages))


def test_our_own_bits_equal_transformers(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's product: our kernel rounds activations, so tiny differences of sums may change a rounding."""
    monkeypatch.setattr(cpu_backend, "available", lambda: False)
    compare(answered(stored), Oracle(stored))


@pytest.mark.skipif(not cpu_backend.available(), reason="the kernel was not built")
def test_our_kernel_computes_and_nothing_is_held_twice(stored: Path) -> None:
    llm = LLM(str(stored), dtype="float32")
    llm.chat(DIALOGUES["two"], SamplingParams(temperature=0, max_tokens=4), use_tqdm=False)
    dense = llm.apply_model(lambda model: model.transformer.layers[0].attention.dense)[0]
    assert dense.quantized_linear.arranged is not None
    assert dense.quantized_linear.weight.is_meta and not dense.weight.numel()


def test_parts_of_a_group_are_refused() -> None:
    method = StoredLinearMethod(4, 256)
    with pytest.raises(UsageError, match="128 inputs per process do not split into whole groups of 256"):
        method.create_weights(torch.nn.Module(), 128, [64], 256, 64, torch.float32)


def test_torchaos_8_bits_equal_transformers() -> None:
    pytest.importorskip("torchao", reason="make test-vllm installs it")
    from torchao.core.config import config_to_dict
    from torchao.quantization import Int8Tensor, Int8WeightOnlyConfig, quantize_

    int8, oracle = Int8WeightOnlyConfig(version=2), Oracle()
    quantize_(oracle.opened.model, int8, is_language_linear)
    assert isinstance(oracle.opened.model.transformer.layers[0].attention.dense.weight, Int8Tensor)
    overrides = {"quantization_config_dict_json": json.dumps(config_to_dict(int8))}
    compare(answered(FOLDER, quantization="torchao", hf_overrides=overrides), oracle)


def test_torchaos_configuration_of_transformers_works_too() -> None:
    """Without vLLM: the weights are in our linear layers, which then leave the product to torchao."""
    pytest.importorskip("torchao", reason="make test-vllm installs it")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=["image_encoder", "lm_head"])
    image = FOLDER / "samples" / "moon.png"
    said = []
    for how in ({}, {"quantization_config": config}):
        model = visualglm.load(FOLDER, device="cpu", dtype="bfloat16", **how)
        said.append(model.conversation(image).ask("What is in the picture?", max_new_tokens=6).text)
    assert type(model.model.transformer.layers[0].attention.dense.weight).__name__ == "Int8Tensor"
    assert said[0] == said[1]
