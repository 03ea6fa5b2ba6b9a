"""Generate answers for a batch of rows, each with its own sampling, seed and length, as if alone.

    rows (ids, image embeddings, settings, seed) -- left padding --> generate -- one id per row and step --> row.accept

A row's penalties, warpers and draws see that row without its padding, and its draws come from its own generator: the
same seed gives the same answer alone, in a batch, and through `ask`. Finished or cancelled rows stay in the batch until
the longest row finishes; in running_batch.py rows enter and leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from ..errors import UsageError
from ..network.visualglm import VisualGLMNetwork
from .generation_settings import GenerationSettings


class GenerationRow:
    """One prompt and its answer: `ids` grows, and setting `ended` from any thread stops it.

    `image_embeds` is [images, image_length, hidden] or None. Settings without a seed get a random one here.
    """

    def __init__(self, input_ids: list[int], image_embeds: Tensor | None, settings: GenerationSettings) -> None:
        if (settings.config.num_beams or 1) > 1:
            raise UsageError("num_beams is above 1, but beam search answers one question at a time. Use ask.")
        self.input_ids = input_ids
        self.image_embeds = image_embeds
        seed = int(torch.randint(2**63 - 1, ())) if settings.seed is None else settings.seed
        self.settings = replace(settings, seed=seed)
        self.room = settings.new_tokens(len(input_ids))
        self.eos = settings.eos
        self.restart()

    def restart(self) -> None:
        """Forget what was generated."""
        self.ids: list[int] = []
        self.ended = False

    def accept(self, index: int) -> None:
        """Append the next id; end at `<eop>` or at the maximum length."""
        self.ids.append(index)
        self.ended = self.ended or index in self.eos or len(self.ids) >= self.room

    def observe(self, logits: Tensor) -> None:
        """See the logits [vocabulary] of the next id, before anything changes them."""

    def fail(self, error: Exception) -> None:
        """Handle an error of this row alone; here it is raised, because the row has no reader."""
        raise error


def generate_batch(model: VisualGLMNetwork, rows: Sequence[GenerationRow]) -> None:
    """Generate `ids` of every row that has not ended.

    Raises:
        PromptError: images and placeholder tokens of a row do not match.
    """
    rows = [row for row in rows if not row.ended]
    if not rows:
        return
    pad = model.config.pad_token_id
    ids, mask, longest = padded([row.input_ids for row in rows], [[] for _ in rows], pad)
    pads = [longest - len(row.input_ids) for row in rows]
    embeds = [row.image_embeds for row in rows if row.image_embeds is not None]
    config = model.generation_config.__class__(
        do_sample=False,
        max_new_tokens=max(row.room for row in rows),
        eos_token_id=None,
        pad_token_id=pad,
        bos_token_id=model.config.bos_token_id,
    )
    model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        image_embeds=torch.cat(embeds) if embeds else None,
        generation_config=config,
        logits_processor=LogitsProcessorList([PerRowLogitsProcessor(model, rows, pads)]),
        stopping_criteria=StoppingCriteriaList([PerRowStopping(rows)]),
        streamer=RowStreamer(rows),
    )


def padded(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor, int]:
    """Build ids and mask [B, T] of prompts, left-padded, followed by their answers, right-padded.

    The third result is the column at which the answers begin.
    """
    start = max(map(len, prompts))
    ids = torch.full((len(prompts), start + max(map(len, answers))), pad)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        own = slice(start - len(prompt), start + len(answer))
        ids[row, own] = torch.tensor([*prompt, *answer])
        mask[row, own] = 1
    return ids, mask, start


class PerRowLogitsProcessor(LogitsProcessor):
    """Apply each row's own logits processors; those of a sampled row end with its draw."""

    def __init__(self, model: VisualGLMNetwork, rows: Sequence[GenerationRow], pads: Sequence[int]) -> None:
        self.rows = rows
        self.pads = pads
        self.processors = [row_processors(model, row) for row in rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """ids [B, T] and scores [B, vocabulary] -> scores [B, vocabulary]."""
        for place, row in enumerate(self.rows):
            if not row.ended:
                own = slice(place, place + 1)
                row.observe(scores[place])
                scores[own] = self.processors[place](input_ids[own, self.pads[place] :], scores[own])
        return scores


def row_processors(model: VisualGLMNetwork, row: GenerationRow) -> LogitsProcessorList:
    """Return the logits processors that `generate` would use for this row, by asking `generate` itself."""

    def hand_over(_: Any, input_ids: Tensor, logits_processor: LogitsProcessorList, **kwargs: Any) -> Any:
        return logits_processor

    prompt = torch.tensor([row.input_ids], device=model.device)
    arguments = row.settings.arguments(len(row.input_ids))
    return model.generate(  # type: ignore[no-any-return]
        input_ids=prompt, attention_mask=torch.ones_like(prompt), custom_generate=hand_over, **arguments
    )


class PerRowStopping(StoppingCriteria):
    def __init__(self, rows: Sequence[GenerationRow]) -> None:
        self.rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.tensor([row.ended for row in self.rows], device=input_ids.device)


class RowStreamer(BaseStreamer):
    """Pass each step's ids to their rows; the first call has the prompts and is ignored."""

    def __init__(self, rows: Sequence[GenerationRow]) -> None:
        self.rows = rows
        self.prompt_seen = False

    def put(self, value: Tensor) -> None:
        if self.prompt_seen:
            for row, index in zip(self.rows, value.flatten().tolist(), strict=True):
                if not row.ended:
                    row.accept(index)
        self.prompt_seen = True

    def end(self) -> None:
        """Do nothing: `generate_batch` returns at the end."""
