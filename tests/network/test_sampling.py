"""Upstream's two sampling rules: the distributions of sampling.npz, and whole generations."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import visualglm
from visualglm.errors import UsageError
from visualglm.inference.generation_settings import generation_settings
from visualglm.network.sampling import (
    PRESETS,
    AnswerNoRepeatNGram,
    GeneratedOnlyPenalty,
    PlaceholderAwareRepetitionPenalty,
    SuppressSlices,
    resolve,
)

from ..conftest import REFERENCE, Reference

STORED = np.load(REFERENCE / "sampling.npz")
CASES = sorted({key.split("/")[0] for key in STORED.files})


def stored(case: str, name: str) -> torch.Tensor:
    return torch.tensor(STORED[f"{case}/{name}"])


def warpers(preset: str) -> list[Any]:
    values = PRESETS[preset]
    return [
        TemperatureLogitsWarper(values["temperature"]),
        TopKLogitsWarper(values["top_k"]),
        TopPLogitsWarper(values["top_p"]),
    ]


@pytest.mark.parametrize("case", CASES)
def test_hugging_face_rule(case: str) -> None:
    ids = torch.cat([stored(case, "prompt_ids"), stored(case, "generated_ids").long()], dim=1)
    before = [PlaceholderAwareRepetitionPenalty(1.2, 767, 0, 404), MinLengthLogitsProcessor(100, 405)]
    scores = LogitsProcessorList([*before, *warpers("hf")])(ids, stored(case, "logits"))
    assert torch.allclose(scores.softmax(-1), stored(case, "hf_image_chat_probs"), atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("preset, name", [("sat", "sat_chat_default_probs"), ("sat_cli", "sat_cli_demo_probs")])
def test_sat_rule(case: str, preset: str, name: str) -> None:
    prompt, generated = stored(case, "prompt_ids"), stored(case, "generated_ids").long()
    penalty = GeneratedOnlyPenalty(PRESETS[preset]["repetition_penalty"])
    penalty(prompt, stored(case, "logits"))  # the first call of a generation tells it the prompt's length
    scores = LogitsProcessorList([penalty, *warpers(preset)])(torch.cat([prompt, generated], 1), stored(case, "logits"))
    assert torch.allclose(scores.softmax(-1), stored(case, name), atol=1e-6)


def test_placeholder_tokens_count_as_unk() -> None:
    penalty = PlaceholderAwareRepetitionPenalty(2.0, 9, 0, sop=7)
    scores = penalty(torch.tensor([[9, 9, 5, 7]]), torch.ones(1, 10))
    assert scores[0].tolist() == [0.5, 1, 1, 1, 1, 0.5, 1, 0.5, 1, 1]
    generated = penalty(torch.tensor([[9, 9, 5, 7, 9]]), torch.ones(1, 10))
    assert generated[0, 9] == 0.5, "behind <sop> it was generated, and counts like any other id"


def test_padding_is_not_penalised() -> None:
    penalty = PlaceholderAwareRepetitionPenalty(2.0, 9, 0, 7, padding=torch.tensor([2, 0]))
    scores = penalty(torch.tensor([[3, 3, 5], [4, 3, 5]]), torch.ones(2, 10))
    assert (scores == 0.5).nonzero().tolist() == [[0, 5], [1, 3], [1, 4], [1, 5]]


def test_hugging_face_penalty_end_to_end(model: Any, reference: Reference) -> None:
    """`generate` with the HF preset's numbers, greedily, against a loop that follows upstream's text."""
    inputs = reference.inputs("img_zh")
    ids = inputs["input_ids"]
    output = model.generate(**inputs, do_sample=False, repetition_penalty=1.2, min_length=70, max_length=72)
    counted = torch.where(ids == 767, 0, ids)
    expected: list[int] = []
    while ids.shape[1] + len(expected) < 72:
        new = torch.tensor([expected], dtype=torch.long)
        with torch.no_grad():
            scores = model(torch.cat([ids, new], 1), pixel_values=inputs["pixel_values"]).logits[0, -1]
        seen = torch.cat([counted, new], 1)[0].unique()
        scores[seen] = torch.where(scores[seen] < 0, scores[seen] * 1.2, scores[seen] / 1.2)
        if ids.shape[1] + len(expected) < 70:
            scores[405] = -torch.inf
        expected.append(int(scores.argmax()))
    assert output[0, ids.shape[1] :].tolist() == expected[: output.shape[1] - ids.shape[1]]


def test_greedy_has_no_penalty_and_no_min_length() -> None:
    for arguments in ({"do_sample": False}, {"temperature": 0}):
        resolved = resolve("hf", **arguments)
        assert (resolved["do_sample"], resolved["repetition_penalty"], resolved["min_length"]) == (False, 1.0, 0)
    assert resolve("hf", do_sample=False, repetition_penalty=1.3)["repetition_penalty"] == 1.3


def test_repeated_n_grams_count_within_the_answer_of_each_row() -> None:
    sop = 82
    rows = torch.tensor([[5, 6, 7, sop, 8, 9, 5, 6], [3, 3, 5, sop, 5, 6, 5, 6], [sop, 5, 6, 7, sop, 9, 5, 6]])
    banned = AnswerNoRepeatNGram(3, sop)(rows, torch.zeros(3, 100)).isinf()
    assert [row.nonzero().flatten().tolist() for row in banned] == [[], [5], [7]]
    single = AnswerNoRepeatNGram(1, sop)(rows, torch.zeros(3, 100)).isinf()
    assert [row.nonzero().flatten().tolist() for row in single] == [[5, 6, 8, 9], [5, 6], [5, 6, 7, 9, sop]]
    embedded = torch.tensor([[5, 6, 7, 5, 6]])  # the prompt was given as embeddings
    assert AnswerNoRepeatNGram(3, sop)(embedded, torch.zeros(1, 100)).isinf().nonzero().tolist() == [[0, 7]]
    assert AnswerNoRepeatNGram(1, sop)(embedded, torch.zeros(1, 100)).isinf().sum() == 3


def test_generate_stops_a_loop_and_lets_an_answer_repeat_an_earlier_turn(opened: visualglm.VisualGLM) -> None:
    image = visualglm.packed_model() / "samples" / "house.png"
    conversation = opened.conversation(image)
    first, second = (conversation.ask("描述这张图片。").text for _ in range(2))
    assert first == second and opened.model.generation_config.no_repeat_ngram_size == 12
    assert first == opened.conversation(image).ask("描述这张图片。", no_repeat_ngram_size=0).text
    short = opened.conversation(image).ask("描述这张图片。", no_repeat_ngram_size=2).text
    ids = opened.tokenizer.encode_plain(short)
    pairs = list(itertools.pairwise(ids))
    assert len(pairs) == len(set(pairs)) and short != first


def test_sat_uses_top_p_only_with_top_k() -> None:
    assert resolve("sat", top_k=0)["top_p"] == 1.0
    assert resolve("sat", top_p=0)["do_sample"] is False


def test_invalid_slices_are_never_drawn() -> None:
    scores = SuppressSlices([slice(2, 4)])(torch.tensor([[0]]), torch.zeros(1, 6))
    assert scores[0].isinf().tolist() == [False, False, True, True, False, False]


def test_an_unknown_preset_names_the_known() -> None:
    with pytest.raises(UsageError, match="sat_cli"):
        resolve("satt")


@pytest.mark.parametrize(
    "arguments, prompt_tokens, new_tokens",
    [
        ({"max_length": 100}, 60, 40),
        ({"max_length": 99999}, 60, 2048 - 60),
        ({"max_new_tokens": 7}, 60, 7),
        ({"max_new_tokens": 99999}, 60, 2048 - 60),
    ],
)
def test_the_smaller_limit_counts(model: Any, arguments: dict[str, int], prompt_tokens: int, new_tokens: int) -> None:
    settings = generation_settings(model, **arguments)
    config = settings.arguments(prompt_tokens)["generation_config"]
    assert new_tokens in (config.max_new_tokens, (config.max_length or 0) - prompt_tokens)
