"""Sample the codes of images from a language model, as CogView does (Ding et al. 2021, section 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visualglm.inference.batch_generation import padded
from visualglm.network.visualglm import VisualGLMNetwork

TOP_CODES = 100
"""Codes that may be sampled at each position: the most likely ones."""


@torch.no_grad()
def sample_codes(
    model: VisualGLMNetwork,
    prompts: Sequence[list[int]],
    tokens: int,
    words: range,
    seed: int = 0,
    top_codes: int = TOP_CODES,
) -> Tensor:
    """Sample code ids [prompts, tokens], counted from 0; `words` are the ids of all codes in the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask, _ = padded(prompts, [[] for _ in prompts], int(model.config.pad_token_id or 0))
    cache, sampled = None, []
    for _ in range(tokens):
        output = model(ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)
        scores = output.logits[:, -1, words.start : words.stop].float()
        best, codes = scores.topk(min(top_codes, len(words)))
        code = codes.gather(1, torch.multinomial(best.softmax(-1), 1, generator=generator))
        sampled.append(code)
        ids, cache = code + words.start, output.past_key_values
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return torch.cat(sampled, dim=1)
