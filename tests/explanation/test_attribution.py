"""Attribution: distributions, where planted attention leads, padding, quantized weights, adapters."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

import visualglm
from visualglm.errors import PromptError, UsageError
from visualglm.explanation.attribution import Attribution, Method, attribute
from visualglm.explanation.deletion import answer_score
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.configuration import VisualGLMConfig
from visualglm.preprocessing.prompt import Turn

METHODS = get_args(Method)


def packed_input(opened: visualglm.VisualGLM) -> dict[str, Any]:
    prompt = opened.processor.build_prompt([Turn("What is this?", image_count=1)], "en", 1000).input_ids
    answer = opened.tokenizer.encode_plain("A red circle.")
    pixels = opened.pixel_values(visualglm.packed_model() / "samples" / "circles.png")
    return {"input_ids": torch.tensor([prompt + answer]), "answer_length": len(answer), "pixel_values": pixels}


def six_b_input(model: VisualGLMForConditionalGeneration) -> dict[str, Any]:
    """Build an input in the 6B's layout, for a model from upstream's files with random weights."""
    config = model.config
    prompt = [5, *[config.image_token_id] * config.image_length, 7, 8, config.gmask_token_id, config.bos_token_id]
    torch.manual_seed(0)
    side = config.vision.image_size
    return {
        "input_ids": torch.tensor([[*prompt, 9, 10, 11]]),
        "answer_length": 3,
        "pixel_values": torch.randn(1, 3, side, side),
    }


@pytest.mark.parametrize("method", METHODS)
def test_the_log_probabilities_are_those_of_a_plain_pass(opened: visualglm.VisualGLM, method: Method) -> None:
    given = packed_input(opened)
    length = given["answer_length"]
    score = answer_score(opened.model, given["input_ids"], length, range(length))
    found = attribute(opened.model, method=method, **given).log_probabilities
    torch.testing.assert_close(found.mean(), score(given["pixel_values"])[0], rtol=1e-4, atol=1e-4)


def check_distributions(found: Attribution, config: Any, answer_length: int) -> None:
    patches = config.vision.num_positions - 1
    assert found.queries.shape == (answer_length, config.image_length)
    assert found.patches.shape == (config.image_length, patches)
    for rows in (found.queries, found.patches, found.maps):
        assert (rows >= 0).all()
        torch.testing.assert_close(rows.sum(-1), torch.ones(len(rows)))


@pytest.mark.parametrize("method", METHODS)
def test_every_row_is_a_distribution(
    opened: visualglm.VisualGLM, model: VisualGLMForConditionalGeneration, method: Method
) -> None:
    for network, given in ((opened.model, packed_input(opened)), (model, six_b_input(model))):
        check_distributions(attribute(network, method=method, **given), network.config, given["answer_length"])


@pytest.mark.parametrize("method", METHODS)
def test_the_map_does_not_depend_on_padding(opened: visualglm.VisualGLM, method: Method) -> None:
    given = packed_input(opened)
    alone = attribute(opened.model, method=method, **given)
    ids, pad = given["input_ids"], int(opened.model.config.pad_token_id)
    mask = torch.cat([torch.zeros(1, 5, dtype=torch.long), torch.ones_like(ids)], 1)
    padded = {**given, "input_ids": torch.cat([torch.full((1, 5), pad), ids], 1)}
    together = attribute(opened.model, method=method, attention_mask=mask, **padded)
    torch.testing.assert_close(together.maps, alone.maps, rtol=1e-3, atol=1e-6)


def test_attention_that_is_planted_is_found() -> None:
    """Weights at which every query of the Q-Former reads the one patch that is bright."""
    opened = visualglm.load(device="cpu", dtype="float32")
    network, given = opened.model, packed_input(opened)
    places: list[torch.Tensor] = []
    bright = 37

    def plant(module: torch.nn.Module, inputs: Any, fused: torch.Tensor) -> torch.Tensor:
        key, value = fused.chunk(2, -1)
        key = torch.zeros_like(key)
        key[:, 1 + bright] = 100.0
        places.append(key)
        return torch.cat([key, value], -1)

    for layer in network.image_encoder.qformer.transformer.layers:  # type: ignore[union-attr]
        if layer.has_cross_attention:
            layer.cross_attention.key_value.register_forward_hook(plant)  # type: ignore[union-attr]
            torch.nn.init.zeros_(layer.cross_attention.query.weight)  # type: ignore[union-attr, arg-type]
            torch.nn.init.ones_(layer.cross_attention.query.bias)  # type: ignore[union-attr, arg-type]
    found = attribute(network, **given)
    assert places and bool((found.maps.argmax(-1) == bright).all())
    assert float(found.maps[:, bright].min()) > 0.99


def test_attribution_leaves_the_model_as_it_was(opened: visualglm.VisualGLM) -> None:
    given = packed_input(opened)
    for method in METHODS:
        attribute(opened.model, method=method, **given)
    assert not any(module._forward_hooks for module in opened.model.modules())
    assert all(parameter.grad is None for parameter in opened.model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_quantized_weights_and_p_tuning(
    opened: visualglm.VisualGLM, model: VisualGLMForConditionalGeneration, method: Method
) -> None:
    quantized = visualglm.load(device="cpu", quantize=8, quantize_vision=8)
    given = packed_input(quantized)
    found = attribute(quantized.model, method=method, **given)
    check_distributions(found, quantized.model.config, given["answer_length"])
    exact = attribute(opened.model, method=method, **given)
    assert float((found.maps - exact.maps).abs().sum(-1).max()) < 0.2  # of at most 2
    torch.manual_seed(0)
    tuned = VisualGLMForConditionalGeneration(
        VisualGLMConfig.from_dict({**model.config.to_dict(), "prefix_length": 4})
    ).eval()
    given = six_b_input(tuned)
    check_distributions(attribute(tuned, method=method, **given), tuned.config, given["answer_length"])


def test_mistakes_are_named(opened: visualglm.VisualGLM) -> None:
    given = packed_input(opened)
    with pytest.raises(UsageError, match="Choose rollout or gradient"):
        attribute(opened.model, method="saliency", **given)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="an answer that is not empty, and one image"):
        attribute(opened.model, **{**given, "answer_length": 0})
    text = given["input_ids"].masked_fill(given["input_ids"] == opened.model.config.image_token_id, 9)
    with pytest.raises(PromptError, match="one image"):
        attribute(opened.model, **{**given, "input_ids": text})
