"""Likelihood of given answers: the mean log-probability per token of each option after a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..conversation import VisualGLM
from ..inference.batch_generation import padded
from ..inference.text_row import TextRow
from .queries import Query, Reply

SEQUENCES = 32
"""Options in one forward pass."""


@torch.no_grad()
def score_options(model: VisualGLM, asked: Sequence[tuple[Query, TextRow]]) -> Iterator[Reply]:
    """Score the options of each query; `TextRow` has its prompt and image."""
    pairs = [(row, option) for query, row in asked for option in query.options]
    scores: list[float] = []
    for start in range(0, len(pairs), SEQUENCES):
        scores += _mean_log_probabilities(model, pairs[start : start + SEQUENCES])
    first = 0
    for query, _ in asked:
        yield Reply(query.id, scores=tuple(scores[first : first + len(query.options)]))
        first += len(query.options)


def _mean_log_probabilities(model: VisualGLM, pairs: Sequence[tuple[TextRow, str]]) -> list[float]:
    """One forward pass over prompts with an option each."""
    network = model.model
    answers = [model.tokenizer.encode_plain(option) or [int(network.config.eos_token_id)] for _, option in pairs]
    pad = int(network.config.pad_token_id or 0)
    ids, mask, start = padded([row.input_ids for row, _ in pairs], answers, pad)
    ids, mask = ids.to(network.device), mask.to(network.device)
    embeds = torch.cat([row.image_embeds for row, _ in pairs if row.image_embeds is not None])
    kept = ids.shape[1] - start + 1
    logits = network(ids, attention_mask=mask, image_embeds=embeds, logits_to_keep=kept).logits[:, :-1]
    chosen = logits.float().log_softmax(-1).gather(-1, ids[:, start:, None])[..., 0]
    shown = mask[:, start:]
    means: list[float] = ((chosen * shown).sum(1) / shown.sum(1)).tolist()
    return [round(mean, 6) for mean in means]
