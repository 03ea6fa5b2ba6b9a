"""Prefix split: the engine's sequences have GLM's mask and positions. Needs no vLLM."""

from __future__ import annotations

import random

import pytest
import torch

from visualglm.network.configuration import VisualGLMConfig
from visualglm.network.rotary import prefix_positions
from visualglm.vllm_plugin.prefix_split import (
    AttentionSegment,
    SplitPromptError,
    prefix_of_rows,
    rotary_positions,
    split_requests,
)

GMASK, SOP = 130001, 130004


def seen_by_segments(split: list[AttentionSegment], request: int, computed: int, end: int) -> torch.Tensor:
    """[rows, keys]: True where a row attends to a key, if a kernel computes the segments one by one."""
    seen = torch.zeros(end - computed, end, dtype=torch.bool)
    row = 0
    for piece in (piece for piece in split if piece.request == request):
        for index in range(piece.queries):
            last = piece.keys - piece.queries + index + 1 if piece.causal else piece.keys
            seen[row, :last] = True
            row += 1
    assert row == end - computed
    return seen


def seen_in_glm(prompt: int, computed: int, end: int) -> torch.Tensor:
    """[rows, keys] of the prefix-LM mask: causal, and bidirectional before `<sop>`."""
    row, key = torch.arange(end)[:, None], torch.arange(end)
    return ((key <= row) | ((row < prompt - 1) & (key < prompt - 1)))[computed:]


def test_every_row_sees_what_glms_mask_shows() -> None:
    """New prompts, prompts after a preemption, and decoding steps, in one pass and any order."""
    chance = random.Random(0)
    for _ in range(50):
        requests = []
        for _ in range(chance.randrange(1, 6)):
            prompt, said = chance.randrange(2, 40), chance.randrange(0, 9)
            end = prompt + said
            requests.append((prompt, end - 1 if said and chance.random() < 0.5 else 0, end))
        prompts, computed, ends = zip(*requests, strict=True)
        split = split_requests([end - before for before, end in zip(computed, ends, strict=True)], ends, prompts)
        for request, (prompt, before, end) in enumerate(requests):
            assert torch.equal(seen_by_segments(split, request, before, end), seen_in_glm(prompt, before, end))


def test_positions_are_glms() -> None:
    config, prompt, end = VisualGLMConfig(), 12, 17
    ids = torch.tensor([[100] * (prompt - 2) + [GMASK, SOP] + [200] * (end - prompt)])
    expected = prefix_positions(ids, None, config).rotary[0].T
    found = rotary_positions(torch.arange(end), prefix_of_rows([end], [prompt], end))
    assert torch.equal(found[..., 0], expected)


def test_rows_of_padding_have_no_prefix() -> None:
    assert prefix_of_rows([2, 1], [3, 5], 5).tolist() == [2, 2, 4, 0, 0]


@pytest.mark.parametrize(("rows", "end"), [(4, 4), (4, 8), (9, 9)])
def test_a_part_of_a_prefix_is_refused(rows: int, end: int) -> None:
    with pytest.raises(SplitPromptError, match="prefix caching and chunked prefill"):
        split_requests([rows], [end], [10])
