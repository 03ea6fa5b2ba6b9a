"""training/batches: seeds -> pictures, patch labels and tokenized rows, ready for the networks.

Each picture serves several rows (questions), so that it is drawn and encoded once. Prompts come from `prompt`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..batching import padded
from ..images import VisualGLMImageProcessor
from ..prompt import build_prompt
from ..scenes import speech
from ..scenes.album import Album
from ..scenes.compose import Scene, scene_of
from ..scenes.dialogue import TASKS, after_other_turns, exchange_of, without_picture
from ..scenes.exchange import Exchange
from ..scenes.labels import patch_labels, zone_labels
from ..scenes.paint import picture_of
from ..scenes.seeds import Split, seeds
from ..scenes.telling import known, tellable, told, told_scene
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
    "off topic": 0.15,
    "category": 0.7,
    "any": 1.0,
    "size": 0.5,
    "same colour": 0.5,
    "inside": 0.5,
    "name by place": 2.0,
    "side": 1.5,
    "height": 1.5,
}
WITHOUT_PICTURE = 0.02
LATER = 0.3  # how often a question comes after others; else every second turn would be taken for one about "it"


@dataclass
class Rows:
    """Rows of one length class: prompts end in column `start - 1` (padded left), answers begin in column `start`.

    `input_ids`, `attention_mask` [B, T]; `targets` [B, T - start], -100 behind the end; `pictures` indexes the batch's
    pictures, one per row that has one; `tasks` names each row's task; `facts` [B, T - start] is True where a target is
    part of the fact that the answer states.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor
    pictures: Tensor
    start: int
    tasks: list[str]
    facts: Tensor

    def to(self, device: torch.device) -> Rows:
        """The same rows on a device."""
        ids, mask, targets, pictures, facts = (
            x.to(device) for x in (self.input_ids, self.attention_mask, self.targets, self.pictures, self.facts)
        )
        return Rows(ids, mask, targets, pictures, self.start, self.tasks, facts)


@dataclass
class Labels:
    """What a batch's scenes show: `kinds`, `colours`, `pictures` [P, patches + 9 zones]; `grounds` [P];
    `patch_zones` [P, patches]; `outline` [P, patches, cells]; `offsets` [P, patches, 3]."""

    kinds: Tensor
    colours: Tensor
    pictures: Tensor
    grounds: Tensor
    patch_zones: Tensor
    outline: Tensor
    offsets: Tensor


@dataclass
class Batch:
    """`pixel_values` [P, 3, S, S] (none in the text stage); `labels`, where the pictures are scenes; `rows` by length;
    `captions` [P, T], padded, where the stage reads them."""

    pixel_values: Tensor | None
    labels: Labels | None
    rows: list[Rows]
    captions: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        labels = (
            Labels(**{name: value.to(device) for name, value in vars(self.labels).items()}) if self.labels else None
        )
        rows = [row.to(device) for row in self.rows]
        pixels, captions = (None if x is None else x.to(device) for x in (self.pixel_values, self.captions))
        return Batch(pixels, labels, rows, captions)


class PromptBuilder:
    """Dialogue -> prompt ids and answer ids, as the model will meet them."""

    def __init__(self, tokenizer: ChatGLMTokenizer, image_length: int, image_token_id: int) -> None:
        self.tokenizer, self.image_length, self.image_token_id = tokenizer, image_length, image_token_id

    def prompt(self, exchange: Exchange) -> list[int]:
        """The ids of a prompt, `[gMASK] <sop>` included; the picture stands before the first turn."""
        prompt = build_prompt(
            self.tokenizer,
            exchange.turns,
            language=exchange.language,
            image_token_id=self.image_token_id,
            image_length=self.image_length,
        )
        return prompt.input_ids

    def answer(self, exchange: Exchange) -> list[int]:
        """The ids of the answer with its `<eop>`."""
        return [*self.tokenizer.encode_plain(exchange.answer), int(self.tokenizer.eos_token_id)]

    def row(self, picture: int, exchange: Exchange) -> Row:
        """An exchange about the batch's picture number `picture`, in ids."""
        answer, truth = self.answer(exchange), self.tokenizer.encode_plain(exchange.truth)
        if truth[:1] == [self.tokenizer.convert_tokens_to_ids("▁")]:
            truth = truth[1:]  # a text begins with a space of its own, before Chinese as a piece of its own
        return Row(picture, exchange, self.prompt(exchange), answer, _where_in(answer, truth))

    def caption(self, text: str) -> list[int]:
        """`<sop>`, a caption, `<eop>`."""
        ends = int(self.tokenizer.bos_token_id), int(self.tokenizer.eos_token_id)
        return [ends[0], *self.tokenizer.encode_plain(text), ends[1]]


@dataclass(frozen=True)
class Row:
    """One tokenized exchange about the batch's picture number `picture`; `fact`: which ids of the answer state it."""

    picture: int
    exchange: Exchange
    prompt: list[int]
    answer: list[int]
    fact: range


def block_of(rows: list[Row], pad: int) -> Rows:
    """One padded block."""
    input_ids, mask, start = padded([row.prompt for row in rows], [row.answer for row in rows], pad)
    targets = input_ids[:, start:].masked_fill(mask[:, start:] == 0, -100)
    pictures = torch.tensor([row.picture for row in rows if row.exchange.with_picture], dtype=torch.long)
    facts = torch.zeros_like(targets, dtype=torch.bool)
    for number, row in enumerate(rows):
        facts[number, row.fact.start : row.fact.stop] = True
    return Rows(input_ids, mask, targets, pictures, start, [r.exchange.task for r in rows], facts)


def _where_in(answer: list[int], truth: list[int]) -> range:
    """The last place of `truth` in `answer`; empty where it does not stand there word for word."""
    for begin in range(len(answer) - len(truth), -1, -1):
        if truth and answer[begin : begin + len(truth)] == truth:
            return range(begin, begin + len(truth))
    return range(0)


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


def caption_block(captions: list[list[int]], pad: int) -> Tensor:
    """Captions padded on the right, [P, T]."""
    block = torch.full((len(captions), max(map(len, captions))), pad)
    for row, ids in zip(block, captions, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return block


@dataclass(frozen=True)
class Share:
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


class SceneBatches(IterableDataset[Batch]):
    """Endless batches of one stage from a split's seeds; the same ones every time."""

    def __init__(
        self,
        stage: Stage,
        prompts: PromptBuilder,
        image_size: int,
        patch_size: int,
        split: Split = Split.TRAIN,
        album: Album | None = None,
        share: Share | None = None,
    ) -> None:
        self.stage, self.prompts, self.split, self.album = stage, prompts, split, album
        weights = np.array([stage.asked.get(task, WEIGHTS.get(task, 1.0)) for task in TASKS])
        self.shares = weights / weights.sum()
        self.share = share or Share()
        self.images = VisualGLMImageProcessor(size={"height": image_size, "width": image_size})
        self.grid, self.patch_size = image_size // patch_size, patch_size

    def __iter__(self) -> Iterator[Batch]:
        for place in self.share.places():
            numbers = seeds(self.split, self.share.batch(place) * self.stage.pictures)
            yield self.batch([next(numbers) for _ in range(self.stage.pictures)], place < self.stage.on_white)

    def batch(self, chosen: list[int], on_white: bool = False) -> Batch:
        """The scenes of these seeds, with what the stage needs of them: labels, questions, captions."""
        stage = self.stage
        if stage.kind == "text":
            return Batch(None, None, self._blocks([(0, e) for seed in chosen for e in self._told(seed)]))
        scenes = [scene_of(seed, stage.most, stage.least, on_white, self.album, stage.mix) for seed in chosen]
        pixel_values = self.images([picture_of(scene) for scene in scenes], return_tensors="pt")["pixel_values"]
        if stage.kind == "representation":
            captions = [self.prompts.caption(_caption(scene)) for scene in scenes]
            return Batch(pixel_values, self._labels(scenes), [], caption_block(captions, self._pad))
        asked = [(index, exchange) for index, scene in enumerate(scenes) for exchange in self._questions(scene)]
        return Batch(pixel_values, self._labels(scenes), self._blocks(asked))

    @property
    def _pad(self) -> int:
        return int(self.prompts.tokenizer.pad_token_id)

    def _labels(self, scenes: list[Scene]) -> Labels:
        patches = [patch_labels(scene, self.grid, self.patch_size) for scene in scenes]
        zones = [zone_labels(scene) for scene in scenes]
        kinds, colours, pictures = (
            torch.from_numpy(np.stack([np.append(getattr(p, name), z[n]) for p, z in zip(patches, zones, strict=True)]))
            for n, name in enumerate(("kinds", "colours", "pictures"))
        )
        return Labels(
            kinds,
            colours,
            pictures,
            torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes]),
            torch.from_numpy(np.stack([p.zones for p in patches])),
            torch.from_numpy(np.stack([p.outline for p in patches])),
            torch.from_numpy(np.stack([p.offsets for p in patches])),
        )

    def _blocks(self, asked: list[tuple[int, Exchange]]) -> list[Rows]:
        return blocks_of([self.prompts.row(*one) for one in asked], self._pad)

    def _questions(self, scene: Scene) -> list[Exchange]:
        if self.stage.kind not in ("alignment", "answers", "dialogue"):
            return []
        rng = np.random.default_rng(scene.seed + 2)
        asked: list[Exchange] = []
        for task in rng.choice(TASKS, size=min(self.stage.rows + 5, len(TASKS)), replace=False, p=self.shares):
            exchange = _one(rng, str(task), scene)
            asked += [exchange] if exchange else []
        return asked[: self.stage.rows]

    def _told(self, seed: int) -> list[Exchange]:
        """Rows of the text stage: questions about a told scene, and about things known by name."""
        scene, rng = told_scene(seed, self.stage.most, self.stage.least), np.random.default_rng(seed + 2)
        made: list[Exchange | None] = []
        for task in rng.choice(tellable(), size=self.stage.rows + 2, replace=False):
            made.append(told(str(task), scene, "zh" if rng.random() < 0.5 else "en", rng))
        asked = [exchange for exchange in made if exchange][: self.stage.rows - 2]
        return [*asked, known("zh", rng), known("en", rng)]


def _caption(scene: Scene) -> str:
    """What a scene shows, in a few words or at length, in one of the languages."""
    rng = np.random.default_rng(scene.seed + 2)
    language: Language = "zh" if rng.random() < 0.5 else "en"
    return speech.description(scene, language) if rng.random() < 0.5 else speech.inventory(list(scene.items), language)


def _one(rng: Generator, task: str, scene: Scene) -> Exchange | None:
    language: Language = "zh" if rng.random() < 0.5 else "en"
    if rng.random() < WITHOUT_PICTURE:
        return without_picture(language, rng) if rng.random() < 0.5 else known(language, rng)
    exchange = exchange_of(task, scene, language, rng)
    if exchange is None or exchange.history or rng.random() > LATER:
        return exchange
    return after_other_turns(exchange, scene, rng)
