"""training/batches: seeds -> pictures, patch labels and tokenized rows, ready for the networks.

Each picture serves several rows (questions), so that it is drawn and encoded once. Prompts come from `prompt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import IterableDataset

from ..images import VisualGLMImageProcessor
from ..prompt import Turn, build_prompt
from ..scenes.compose import Scene, patch_labels, picture_of, scene_of, zone_labels
from ..scenes.dialogue import TASKS, Exchange, after_other_turns, exchange_of, without_picture
from ..scenes.seeds import Split, seeds
from ..scenes.vocabulary import BACKGROUNDS, Language
from ..tokenizer import ChatGLMTokenizer
from .recipe import Stage

# How often each task is asked: finding the object that the question names is what takes the longest to learn.
WEIGHTS = {
    "exists": 3.0,
    "colour": 2.5,
    "where": 2.5,
    "count": 2.0,
    "follow-up": 1.5,
    "name by colour": 1.5,
    "total": 0.7,
    "name": 0.3,
    "shapes": 0.3,
    "background": 0.3,
    "off topic": 0.1,
}
WITHOUT_PICTURE = 0.02
LATER = 0.3  # how often a question comes after others; else every second turn would be taken for one about "it"


@dataclass
class Rows:
    """Rows of one length class: prompts end in column `start - 1` (padded left), answers begin in column `start`.

    `input_ids`, `attention_mask` [B, T]; `targets` [B, T - start], -100 behind the end; `pictures` indexes the batch's
    pictures, one per row that has one; `tasks` names each row's task.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor
    pictures: Tensor
    start: int
    tasks: list[str]


@dataclass
class Batch:
    """`pixel_values` [P, 3, S, S]; `kinds`, `colours` [P, patches + 9 zones]; `grounds` [P];
    `patch_zones` [P, patches]; `outline` [P, patches, cells]; `offsets` [P, patches, 3]; `rows` by length."""

    pixel_values: Tensor
    kinds: Tensor
    colours: Tensor
    grounds: Tensor
    patch_zones: Tensor
    outline: Tensor
    offsets: Tensor
    rows: list[Rows]


class PromptBuilder:
    """Dialogue -> prompt ids and answer ids, as the model will meet them."""

    def __init__(self, tokenizer: ChatGLMTokenizer, image_length: int, image_token_id: int) -> None:
        self.tokenizer, self.image_length, self.image_token_id = tokenizer, image_length, image_token_id

    def prompt(self, exchange: Exchange) -> list[int]:
        """The ids of a prompt, `[gMASK] <sop>` included; the picture stands before the first turn."""
        turns = [Turn(question, answer) for question, answer in exchange.history]
        turns.append(Turn(exchange.question))
        turns[0] = replace(turns[0], pictures=int(exchange.with_picture))
        prompt = build_prompt(
            self.tokenizer,
            turns,
            language=exchange.language,
            image_token_id=self.image_token_id,
            image_length=self.image_length,
        )
        return prompt.input_ids

    def answer(self, exchange: Exchange) -> list[int]:
        """The ids of the answer with its `<eop>`."""
        return [*self.tokenizer.encode_plain(exchange.answer), int(self.tokenizer.eos_token_id)]


@dataclass(frozen=True)
class Row:
    """One tokenized exchange about the batch's picture number `picture`."""

    picture: int
    exchange: Exchange
    prompt: list[int]
    answer: list[int]


def block_of(rows: list[Row], pad: int) -> Rows:
    """One padded block."""
    start, length = max(len(row.prompt) for row in rows), max(len(row.answer) for row in rows)
    input_ids = torch.full((len(rows), start + length), pad)
    targets = torch.full((len(rows), length), -100)
    for index, row in enumerate(rows):
        input_ids[index, start - len(row.prompt) : start + len(row.answer)] = torch.tensor(row.prompt + row.answer)
        targets[index, : len(row.answer)] = torch.tensor(row.answer)
    pictures = torch.tensor([row.picture for row in rows if row.exchange.with_picture], dtype=torch.long)
    return Rows(input_ids, (input_ids != pad).long(), targets, pictures, start, [r.exchange.task for r in rows])


# Rows are cut into blocks by their share of the batch: first by the answer's length, each part by the prompt's.
CUTS = ((0.62, (0.45, 0.7, 0.9)), (0.88, (0.65, 0.9)), (1.0, (0.7,)))


def blocks_of(rows: list[Row], pad: int) -> list[Rows]:
    """Blocks of rows of like lengths, to save padding."""
    rows = sorted(rows, key=lambda row: len(row.answer))
    parts = []
    for part, (_, cuts) in zip(_cut(rows, [share for share, _ in CUTS]), CUTS, strict=True):
        parts += _cut(sorted(part, key=lambda row: len(row.prompt)), [*cuts, 1.0])
    return [block_of(part, pad) for part in parts if part]


def _cut(rows: list[Row], shares: list[float]) -> list[list[Row]]:
    ends = [round(share * len(rows)) for share in shares]
    return [rows[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


class SceneBatches(IterableDataset[Batch]):
    """Endless batches of one stage from training seeds, from batch number `first` on; the same ones every time."""

    def __init__(
        self, stage: Stage, prompts: PromptBuilder, image_size: int, patch_size: int, first: int, split: Split
    ) -> None:
        self.stage, self.prompts, self.first, self.split = stage, prompts, first, split
        self.images = VisualGLMImageProcessor(size={"height": image_size, "width": image_size})
        self.grid = image_size // patch_size

    def __iter__(self) -> Iterator[Batch]:
        numbers = seeds(self.split, self.first * self.stage.pictures)
        index = self.first
        while True:
            chosen = [next(numbers) for _ in range(self.stage.pictures)]
            on_white = index < self.stage.on_white
            yield self.batch([scene_of(seed, self.stage.most, self.stage.least, on_white) for seed in chosen])
            index += 1

    def batch(self, scenes: list[Scene]) -> Batch:
        """Draws the scenes and asks `rows` questions about each (none in the patch stage)."""
        patches = [patch_labels(scene, self.grid) for scene in scenes]
        zones = [zone_labels(scene) for scene in scenes]
        rows = [self._row(index, exchange) for index, scene in enumerate(scenes) for exchange in self._questions(scene)]
        return Batch(
            self.images([picture_of(scene) for scene in scenes], return_tensors="pt")["pixel_values"],
            torch.from_numpy(np.stack([np.append(p.kinds, z[0]) for p, z in zip(patches, zones, strict=True)])),
            torch.from_numpy(np.stack([np.append(p.colours, z[1]) for p, z in zip(patches, zones, strict=True)])),
            torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes]),
            torch.from_numpy(np.stack([p.zones for p in patches])),
            torch.from_numpy(np.stack([p.outline for p in patches])),
            torch.from_numpy(np.stack([p.offsets for p in patches])),
            blocks_of(rows, int(self.prompts.tokenizer.pad_token_id)),
        )

    def _questions(self, scene: Scene) -> list[Exchange]:
        if self.stage.kind != "dialogue":
            return []
        rng = np.random.default_rng(scene.seed + 2)
        weights = np.array([WEIGHTS.get(task, 1.0) for task in TASKS])
        asked: list[Exchange] = []
        for task in rng.choice(TASKS, size=self.stage.rows + 3, replace=False, p=weights / weights.sum()):
            exchange = _one(rng, str(task), scene)
            asked += [exchange] if exchange else []
        return asked[: self.stage.rows]

    def _row(self, picture: int, exchange: Exchange) -> Row:
        return Row(picture, exchange, self.prompts.prompt(exchange), self.prompts.answer(exchange))


def _one(rng: Generator, task: str, scene: Scene) -> Exchange | None:
    language: Language = "zh" if rng.random() < 0.5 else "en"
    if rng.random() < WITHOUT_PICTURE:
        return without_picture(language, rng)
    exchange = exchange_of(task, scene, language, rng)
    if exchange is None or exchange.history or rng.random() > LATER:
        return exchange
    return after_other_turns(exchange, scene, rng)
