"""Images and questions -> padded batches of tokenized rows, ready for the networks.

An image may serve several rows (questions), so that it is encoded once. Prompts come from `prompt`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from ..inference.batch_generation import padded
from ..preprocessing.prompt import Turn, build_prompt
from ..preprocessing.tokenizer import ChatGLMTokenizer


class Example(Protocol):
    """One question with its answer; `task` is the name under which its figures are reported."""

    @property
    def task(self) -> str: ...

    @property
    def language(self) -> Literal["zh", "en"]: ...

    @property
    def answer(self) -> str: ...

    @property
    def with_image(self) -> bool: ...

    @property
    def turns(self) -> list[Turn]:
        """The dialogue for `build_prompt`, unanswered at its end."""
        ...


@dataclass
class RowBlock:
    """Rows of one length class: prompts end in column `start - 1` (padded left), answers begin in column `start`.

    `input_ids`, `attention_mask` [B, T]; `targets` [B, T - start], -100 behind the end; `pictures` indexes the batch's
    pictures, one per row that has one; `tasks` names each row's task; `weights` [B, T - start]: of the targets
    in the loss.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor
    images: Tensor
    start: int
    tasks: list[str]
    weights: Tensor

    def to(self, device: torch.device) -> RowBlock:
        """The same rows on a device."""
        ids, mask, targets, images, weights = (
            x.to(device) for x in (self.input_ids, self.attention_mask, self.targets, self.images, self.weights)
        )
        return RowBlock(ids, mask, targets, images, self.start, self.tasks, weights)


@dataclass
class Batch:
    """`pixel_values` [P, 3, S, S], None where the rows are text alone; `rows` by length; `captions` [P, T], padded,
    where the stage reads them."""

    pixel_values: Tensor | None
    rows: list[RowBlock]
    captions: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        rows = [row.to(device) for row in self.rows]
        pixels, captions = (None if x is None else x.to(device) for x in (self.pixel_values, self.captions))
        return replace(self, pixel_values=pixels, rows=rows, captions=captions)


class PromptBuilder:
    """Dialogue -> prompt ids and answer ids, as the model will meet them."""

    def __init__(self, tokenizer: ChatGLMTokenizer, image_length: int, image_token_id: int) -> None:
        self.tokenizer, self.image_length, self.image_token_id = tokenizer, image_length, image_token_id

    def prompt(self, exchange: Example) -> list[int]:
        """The ids of a prompt, `[gMASK] <sop>` included; the picture stands before the first turn."""
        prompt = build_prompt(
            self.tokenizer,
            exchange.turns,
            language=exchange.language,
            image_token_id=self.image_token_id,
            image_length=self.image_length,
        )
        return prompt.input_ids

    def answer(self, exchange: Example) -> list[int]:
        """The ids of the answer with its `<eop>`."""
        return [*self.tokenizer.encode_plain(exchange.answer), int(self.tokenizer.eos_token_id)]

    def row(self, image: int, exchange: Example) -> TokenRow:
        """An exchange about the batch's picture number `picture`, in ids."""
        answer = self.answer(exchange)
        return TokenRow(image, exchange, self.prompt(exchange), answer, [1.0] * len(answer))

    def caption(self, text: str) -> list[int]:
        """`<sop>`, a caption, `<eop>`."""
        ends = int(self.tokenizer.bos_token_id), int(self.tokenizer.eos_token_id)
        return [ends[0], *self.tokenizer.encode_plain(text), ends[1]]


@dataclass(frozen=True)
class TokenRow:
    """One tokenized exchange about the batch's picture number `picture`; `weights`: of the answer's ids in the loss."""

    image: int
    exchange: Example
    prompt: list[int]
    answer: list[int]
    weights: list[float]


def block_of(rows: list[TokenRow], pad: int) -> RowBlock:
    """One padded block."""
    input_ids, mask, start = padded([row.prompt for row in rows], [row.answer for row in rows], pad)
    targets = input_ids[:, start:].masked_fill(mask[:, start:] == 0, -100)
    images = torch.tensor([row.image for row in rows if row.exchange.with_image], dtype=torch.long)
    weights = torch.ones(targets.shape)
    for number, row in enumerate(rows):
        weights[number, : len(row.weights)] = torch.tensor(row.weights)
    return RowBlock(input_ids, mask, targets, images, start, [r.exchange.task for r in rows], weights)


# Rows are cut into blocks by their share of the batch: first by the answer's length, each part by the prompt's.
CUTS = ((0.62, (0.45, 0.7, 0.9)), (0.88, (0.65, 0.9)), (1.0, (0.7,)))


def blocks_of(rows: list[TokenRow], pad: int) -> list[RowBlock]:
    """Blocks of rows of like lengths, to save padding."""
    rows = sorted(rows, key=lambda row: len(row.answer))
    parts = []
    for part, (_, cuts) in zip(_cut(rows, [share for share, _ in CUTS]), CUTS, strict=True):
        parts += _cut(sorted(part, key=lambda row: len(row.prompt)), [*cuts, 1.0])
    return [block_of(part, pad) for part in parts if part]


def _cut(rows: list[TokenRow], shares: list[float]) -> list[list[TokenRow]]:
    ends = [round(share * len(rows)) for share in shares]
    return [rows[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def caption_block(captions: list[list[int]], pad: int) -> Tensor:
    """Captions padded on the right, [P, T]."""
    block = torch.full((len(captions), max(map(len, captions))), pad)
    for row, ids in zip(block, captions, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return block


@dataclass(frozen=True)
class BatchShare:
    """Which batches a process takes: every `of`-th from `first` on, beginning with the `number`-th.

    `offset` of them, counted over all processes, are set aside for earlier stages.
    """

    first: int = 0
    number: int = 0
    of: int = 1
    offset: int = 0

    def places(self) -> Iterator[int]:
        """This process's batches in order, from 0; a loader's workers take them in turn, so their order stays."""
        worker = get_worker_info()
        return itertools.count(*((self.first + worker.id, worker.num_workers) if worker else (self.first, 1)))

    def batch(self, place: int) -> int:
        """The number of a batch among those of all processes."""
        return self.offset + place * self.of + self.number
