"""Likelihood of given answers: the mean log-probability per token of each option after a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..conversation import VisualGLM
from ..inference.text_row import TextRow
from .batch_answering import answer_log_probabilities
from .queries import Query, Reply

SEQUENCES = 32
"""Options in one forward pass."""


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
    """Run one forward pass over prompts with an option each."""
    empty = [int(model.model.config.eos_token_id)]
    answers = [model.tokenizer.encode_plain(option) or empty for _, option in pairs]
    chosen, shown = answer_log_probabilities(model, [row for row, _ in pairs], answers)
    means: list[float] = ((chosen * shown).sum(1) / shown.sum(1)).tolist()
    return [round(mean, 6) for mean in means]
