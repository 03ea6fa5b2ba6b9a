"""The comparing head: a word attends to a similar image embedding, or else to itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from visualglm.network.configuration import VisualGLMConfig
from visualglm.network.glm import GLMAttention
from visualglm.network.rotary import rotary_cos_sin
from visualglm_lab.training.weight_init import compare

HIDDEN, ZONES, OTHERS, ASKED_AT = 128, 9, 7, 27


@pytest.fixture(scope="module")
def words() -> Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.layer_norm(torch.randn(40, HIDDEN), (HIDDEN,))


@pytest.fixture(scope="module")
def attention(words: Tensor) -> GLMAttention:
    config = VisualGLMConfig(hidden_size=HIDDEN, num_attention_heads=2, num_layers=1, attn_implementation="eager")
    made = GLMAttention(config, 0)
    compare(made, 1, words, slots(words), torch.cat([slots(torch.zeros(60, HIDDEN)), torch.randn(60, HIDDEN)]))
    return made


def slots(shown: Tensor) -> Tensor:
    """Image embeddings: half the embedding of the shown word, plus a common part."""
    common = torch.linspace(-1, 1, HIDDEN).roll(7)
    return torch.nn.functional.layer_norm(0.7 * shown + common + 0.3 * torch.randn(shown.shape), (HIDDEN,))


@torch.no_grad()
def looks(attention: GLMAttention, word: Tensor, zones: Tensor) -> Tensor:
    """Return the attention of a word to each placeholder, and to itself, [placeholders + 1]."""
    seen = torch.cat([zones, slots(torch.zeros(OTHERS, HIDDEN)), word[None]])
    position = torch.tensor([*range(len(seen) - 1), ASKED_AT])
    cos_sin = rotary_cos_sin(torch.stack([position, torch.zeros_like(position)])[None], 64, "exact", torch.float32)
    _, probabilities = attention(seen[None], cos_sin, None, None, True)
    scores: Tensor = probabilities[0, 1, -1]
    return scores


def test_a_word_looks_at_the_zone_that_shows_it(attention: GLMAttention, words: Tensor) -> None:
    found = [int(looks(attention, words[n], slots(words[n : n + ZONES])).argmax()) == 0 for n in range(30)]
    assert sum(found) > 25


def test_a_word_for_nothing_in_the_image_looks_more_at_itself(attention: GLMAttention, words: Tensor) -> None:
    asked = range(ZONES, 30)
    there = sum(float(looks(attention, words[n], slots(words[n : n + ZONES]))[-1]) for n in asked)
    absent = sum(float(looks(attention, words[n], slots(words[:ZONES]))[-1]) for n in asked)
    assert absent > 1.5 * there


def test_the_other_heads_stay(words: Tensor) -> None:
    made = GLMAttention(VisualGLMConfig(hidden_size=HIDDEN, num_attention_heads=2, num_layers=1), 0)
    before = made.query_key_value.weight.detach().clone()
    compare(made, 0, words, slots(words), slots(torch.zeros(20, HIDDEN)))
    assert torch.equal(made.query_key_value.weight[192:], before[192:])
    assert torch.equal(made.query_key_value.weight[128:192], before[128:192])
