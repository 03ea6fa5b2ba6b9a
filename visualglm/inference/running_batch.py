"""Rows that are answered together, each from when it enters until its own last token.

    add(row): its prompt alone, first token --> step(): one token for every row --> a row that has ended leaves

A row's answer is the one it gets alone (see batch_generation.py): its prompt is read alone, its keys have a row of the
cache to themselves (network/row_cache.py), and its penalties and draws are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.cache_utils import DynamicCache

from ..network.row_cache import RowCache
from ..network.visualglm import VisualGLMNetwork
from .batch_generation import GenerationRow, generate_batch, row_processors

Row = TypeVar("Row", bound=GenerationRow)


class Batch(Protocol[Row]):
    """What a server does with a batch."""

    @property
    def rows(self) -> Sequence[Row]:
        """The rows that have not left."""

    def add(self, row: Row) -> None:
        """Let a row enter; it may end at once."""

    def step(self) -> list[Row]:
        """Generate one token for every row; return those that left, because they have ended or were ended."""


def start_batch(model: VisualGLMNetwork) -> Batch[Row]:
    """Begin a batch of the kind that this model can compute."""
    return WholeBatch(model) if model.compiles_steps else RunningBatch(model)


@dataclass(frozen=True)
class _Member(Generic[Row]):
    row: Row
    processors: LogitsProcessorList
    ids: Tensor
    """Prompt and answer, [1, prompt + longest answer], filled so far as there are ids."""

    @property
    def filled(self) -> int:
        return len(self.row.input_ids) + len(self.row.ids)

    def process(self, scores: Tensor) -> Tensor:
        """Scores [1, vocabulary] of the next id -> the row's own scores; unchanged where it has ended."""
        if self.row.ended:
            return scores
        self.row.observe(scores[0])
        try:
            return self.processors(self.ids[:, : self.filled], scores)  # type: ignore[no-any-return]
        except Exception as error:
            self.row.fail(error)
            return scores

    def accept(self, index: int) -> None:
        if not self.row.ended:
            self.ids[0, self.filled] = index
            self.row.accept(index)


class RunningBatch(Generic[Row]):
    """A batch with a cache whose rows come and go."""

    def __init__(self, model: VisualGLMNetwork) -> None:
        self.model = model
        self._members: list[_Member[Row]] = []
        self._cache = RowCache()

    @property
    def rows(self) -> Sequence[Row]:
        """The rows that have not left."""
        return [member.row for member in self._members]

    @torch.no_grad()
    def add(self, row: Row) -> None:
        """Read a row's prompt and take its first token; where that was its last, the row does not enter.

        Raises:
            PromptError: images and placeholder tokens do not match.
        """
        prompt = torch.tensor([row.input_ids], device=self.model.device)
        ids = torch.cat([prompt, prompt.new_zeros(1, row.room)], dim=1)
        member = _Member(row, row_processors(self.model, row), ids)
        cache = DynamicCache(config=self.model.config)
        output = self.model(
            input_ids=prompt,
            image_embeds=row.image_embeds,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        _take_next_ids([member], output.logits)
        if not row.ended:
            self._cache.add(cache)
            self._members.append(member)

    @torch.no_grad()
    def step(self) -> list[Row]:
        """Take the next token of every row; return the rows that left."""
        left = self._remove_ended()
        if self._members:
            ids = torch.tensor([[row.ids[-1]] for row in self.rows], device=self.model.device)
            output = self.model(
                input_ids=ids,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
                **self._cache.next_step(),
            )
            _take_next_ids(self._members, output.logits)
        return left + self._remove_ended()

    def _remove_ended(self) -> list[Row]:
        left = []
        for index in reversed(range(len(self._members))):
            if self._members[index].row.ended:
                left.append(self._members[index].row)
                self._cache.remove(index)
                self._members[index] = self._members[-1]  # as the cache does
                self._members.pop()
        return left


def _take_next_ids(members: Sequence[_Member[Row]], logits: Tensor) -> None:
    """Logits [rows, 1, vocabulary] -> each row's next id, as `generate` would take it."""
    scores = logits[:, -1].to(copy=True, dtype=torch.float32)
    for index, member in enumerate(members):
        scores[index] = member.process(scores[index : index + 1])[0]
    for member, token in zip(members, scores.argmax(-1).tolist(), strict=True):
        member.accept(token)


class WholeBatch(Generic[Row]):
    """The same for a model with compiled steps, whose shapes are fixed: rows begin together, and the longest ends."""

    def __init__(self, model: VisualGLMNetwork) -> None:
        self.model = model
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Let a row wait for the next step."""
        self.rows.append(row)

    def step(self) -> list[Row]:
        """Answer all rows; they leave."""
        rows, self.rows = self.rows, []
        generate_batch(self.model, rows)
        return rows
