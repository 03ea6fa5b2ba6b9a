"""Build padded batches of tokenized questions and answers.

Several rows (questions) may refer to one image, which is then encoded once. P is the number of images in a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import get_worker_info

from ..inference.batch_generation import padded
from ..preprocessing.processor import VisualGLMProcessor
from ..preprocessing.prompt import Turn
from ..preprocessing.tokenizer import ChatGLMTokenizer


class Example(Protocol):
    """One question with its answer; `task` is the name under which results are reported."""

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
        """The dialogue for `build_prompt`; its last turn has no answer."""
        ...


@dataclass
class RowBlock:
    """Rows of similar length: prompts end in column `start - 1` (left padding), answers begin in column `start`.

    Attributes:
        input_ids: [B, T], with `attention_mask` [B, T].
        targets: [B, T - start], -100 after the end.
        images: index into the batch's images for each row that has one.
        tasks: task name of each row.
        weights: [B, T - start], weight of each target in the loss.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor
    images: Tensor
    start: int
    tasks: list[str]
    weights: Tensor

    def to(self, device: torch.device) -> RowBlock:
        """Copy the rows to a device."""
        ids, mask, targets, images, weights = (
            x.to(device) for x in (self.input_ids, self.attention_mask, self.targets, self.images, self.weights)
        )
        return RowBlock(ids, mask, targets, images, self.start, self.tasks, weights)


@dataclass
class Batch:
    """One training batch.

    Attributes:
        pixel_values: [P, 3, S, S], or None for text-only rows.
        rows: blocks of rows of similar length.
        captions: [P, T], padded, for stages that read captions.
    """

    pixel_values: Tensor | None
    rows: list[RowBlock]
    captions: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device."""
        rows = [row.to(device) for row in self.rows]
        pixels, captions = (None if x is None else x.to(device) for x in (self.pixel_values, self.captions))
        return replace(self, pixel_values=pixels, rows=rows, captions=captions)


class PromptBuilder:
    """Encodes dialogues as prompt ids and answer ids."""

    def __init__(self, processor: VisualGLMProcessor) -> None:
        self.processor = processor

    @property
    def tokenizer(self) -> ChatGLMTokenizer:
        return self.processor.tokenizer

    def prompt(self, exchange: Example) -> list[int]:
        """Encode the prompt, including `[gMASK] <sop>`; the image comes before the first turn."""
        return self.processor.build_prompt(exchange.turns, exchange.language).input_ids

    def answer(self, exchange: Example) -> list[int]:
        """Encode the answer, followed by `<eop>`."""
        return [*self.tokenizer.encode_plain(exchange.answer), int(self.tokenizer.eos_token_id)]

    def row(self, image: int, exchange: Example) -> TokenRow:
        """Tokenize an example about the batch's image with index `image`."""
        answer = self.answer(exchange)
        return TokenRow(image, exchange, self.prompt(exchange), answer, [1.0] * len(answer))

    def caption(self, text: str) -> list[int]:
        """Encode a caption between `<sop>` and `<eop>`."""
        ends = int(self.tokenizer.bos_token_id), int(self.tokenizer.eos_token_id)
        return [ends[0], *self.tokenizer.encode_plain(text), ends[1]]


@dataclass(frozen=True)
class TokenRow:
    """One tokenized example about the batch's image with index `image`; `weights` are the answer ids' loss weights."""

    image: int
    exchange: Example
    prompt: list[int]
    answer: list[int]
    weights: list[float]


def block_of(rows: list[TokenRow], pad: int) -> RowBlock:
    """Pad rows into one block, prompts and answers to a multiple of `PROMPT_COLUMNS` and `ANSWER_COLUMNS`."""
    input_ids, mask, start = padded([row.prompt for row in rows], [row.answer for row in rows], pad)
    columns = (-start % PROMPT_COLUMNS, (start - input_ids.shape[1]) % ANSWER_COLUMNS)
    input_ids, mask, start = F.pad(input_ids, columns, value=pad), F.pad(mask, columns), start + columns[0]
    targets = input_ids[:, start:].masked_fill(mask[:, start:] == 0, -100)
    images = torch.tensor([row.image for row in rows if row.exchange.with_image], dtype=torch.long)
    weights = torch.ones(targets.shape)
    for number, row in enumerate(rows):
        weights[number, : len(row.weights)] = torch.tensor(row.weights)
    return RowBlock(input_ids, mask, targets, images, start, [r.exchange.task for r in rows], weights)


# oneDNN compiles a kernel for each new shape and keeps 1024 of them: with arbitrary lengths it compiles in every step.
PROMPT_COLUMNS, ANSWER_COLUMNS = 8, 4
# Quantiles at which rows are split into blocks: first by answer length, then each part by prompt length.
QUANTILES = ((0.62, (0.45, 0.7, 0.9)), (0.88, (0.65, 0.9)), (1.0, (0.7,)))


def blocks_of(rows: list[TokenRow], pad: int) -> list[RowBlock]:
    """Group rows of similar lengths into blocks, to reduce padding."""
    rows = sorted(rows, key=lambda row: len(row.answer))
    parts = []
    for part, (_, quantiles) in zip(_split(rows, [end for end, _ in QUANTILES]), QUANTILES, strict=True):
        parts += _split(sorted(part, key=lambda row: len(row.prompt)), [*quantiles, 1.0])
    return [block_of(part, pad) for part in parts if part]


def _split(rows: list[TokenRow], quantiles: list[float]) -> list[list[TokenRow]]:
    ends = [round(quantile * len(rows)) for quantile in quantiles]
    return [rows[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def caption_block(captions: list[list[int]], pad: int) -> Tensor:
    """Pad captions on the right, [P, T]."""
    block = torch.full((len(captions), max(map(len, captions))), pad)
    for row, ids in zip(block, captions, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return block


@dataclass(frozen=True)
class BatchShare:
    """The batches of one process, out of an endless sequence shared by all processes.

    Process `number` of `of` takes every `of`-th batch. It skips its first `first` batches, which are done already.
    `offset` is the number of batches (of all processes) that are reserved for earlier stages.
    """

    first: int = 0
    number: int = 0
    of: int = 1
    offset: int = 0

    def indices(self) -> Iterator[int]:
        """Yield the indices of this process's batches; a loader's workers take turns, so the order is kept."""
        worker = get_worker_info()
        return itertools.count(*((self.first + worker.id, worker.num_workers) if worker else (self.first, 1)))

    def batch(self, index: int) -> int:
        """Return the number, in the shared sequence, of this process's batch `index`."""
        return self.offset + index * self.of + self.number
