"""Generate scenes from seeds and build batches with labels and questions.

Several questions are asked about each image, which is drawn and encoded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import IterableDataset

from visualglm.evaluation.scenes import answers
from visualglm.evaluation.scenes.kinds import BACKGROUNDS, LANGUAGES, Language
from visualglm.evaluation.scenes.qa_pair import QAPair, pick
from visualglm.evaluation.scenes.questions import TASKS, after_other_turns, exchange_of, without_image
from visualglm.evaluation.scenes.render import render_scene
from visualglm.evaluation.scenes.scene import Scene, scene_of
from visualglm.evaluation.scenes.split_seeds import Split, seeds
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer
from visualglm.pretraining.batches import (
    Batch,
    BatchShare,
    PromptBuilder,
    RowBlock,
    TokenRow,
    blocks_of,
    caption_block,
)

from ..scenes.cutouts import Album
from ..scenes.patch_labels import patch_labels, zone_labels
from ..scenes.text_only_scenes import describable_tasks, described_question, described_scene, fact_question
from .class_prototypes import PrototypeSampler
from .config import SceneStage
from .imagenet_classes import kind_probabilities
from .open_questions import open_question
from .opinion_answers import AGREED, about_background, question_about

# Relative frequency of each task: finding the object named in a question takes the longest to learn.
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
WITHOUT_IMAGE = 0.02
OPEN = 0.05  # fraction of questions that no scene answers
LATER = 0.3  # fraction of questions asked after others, so that not every second turn is about "it"


@dataclass
class Labels:
    """Labels of a batch's scenes.

    Attributes:
        kinds: [P, patches + 9 zones]; likewise `colours` and `images`.
        grounds: [P], the background.
        patch_zones: [P, patches].
        outline: [P, patches, cells].
        offsets: [P, patches, 3].
    """

    kinds: Tensor
    colours: Tensor
    images: Tensor
    grounds: Tensor
    patch_zones: Tensor
    outline: Tensor
    offsets: Tensor


@dataclass
class PrototypeBatch:
    """Questions about sampled features: `pixel_values` [M, 3, S, S] of other images, `pooled` [M, 1280], `logits`
    [M, 1000] of the classifier, rows."""

    pixel_values: Tensor
    pooled: Tensor
    logits: Tensor
    rows: list[RowBlock]

    def to(self, device: torch.device) -> PrototypeBatch:
        """Copy the batch to a device."""
        pixel_values, pooled, logits = (value.to(device) for value in (self.pixel_values, self.pooled, self.logits))
        return PrototypeBatch(pixel_values, pooled, logits, [row.to(device) for row in self.rows])


@dataclass
class SceneBatch(Batch):
    """A batch of scenes; `labels` is None for text-only stages, `prototypes` for stages without them."""

    labels: Labels | None = None
    prototypes: PrototypeBatch | None = None

    def to(self, device: torch.device) -> SceneBatch:
        """Copy the batch to a device."""
        labels = (
            Labels(**{name: value.to(device) for name, value in vars(self.labels).items()}) if self.labels else None
        )
        moved = super().to(device)
        prototypes = self.prototypes and self.prototypes.to(device)
        return SceneBatch(moved.pixel_values, moved.rows, moved.captions, labels, prototypes)


def weigh_fact(row: TokenRow, truth: str, tokenizer: ChatGLMTokenizer, weight: float) -> TokenRow:
    """Give the tokens of an answer that state the fact `weight` times the weight of the others."""
    fact = fact_of(row.answer, truth, tokenizer)
    return replace(row, weights=[weight if index in fact else 1.0 for index in range(len(row.answer))])


def fact_of(answer: list[int], truth: str, tokenizer: ChatGLMTokenizer) -> range:
    """Find the ids of an answer that state its truth."""
    ids = tokenizer.encode_plain(truth)
    if ids[:1] == [tokenizer.convert_tokens_to_ids("▁")]:
        ids = ids[1:]  # the tokenizer adds a leading space, which is a separate piece before Chinese
    return _where_in(answer, ids)


def _where_in(answer: list[int], truth: list[int]) -> range:
    """Return the last position of `truth` in `answer`; empty if it does not occur literally."""
    for begin in range(len(answer) - len(truth), -1, -1):
        if truth and answer[begin : begin + len(truth)] == truth:
            return range(begin, begin + len(truth))
    return range(0)


class SceneBatches(IterableDataset[Batch]):
    """Endless batches of one stage from a split's seeds; the same batches every time."""

    def __init__(
        self,
        stage: SceneStage,
        prompts: PromptBuilder,
        patch_size: int,
        split: Split = Split.TRAIN,
        album: Album | None = None,
        share: BatchShare | None = None,
        sampler: PrototypeSampler | None = None,
    ) -> None:
        self.stage, self.prompts, self.split, self.album = stage, prompts, split, album
        self.sampler = sampler
        weights = np.array([stage.asked.get(task, WEIGHTS.get(task, 1.0)) for task in TASKS])
        self.shares = weights / weights.sum()
        self.share = share or BatchShare()
        self.images = prompts.processor.image_processor
        self.grid, self.patch_size = self.images.size["height"] // patch_size, patch_size

    def __iter__(self) -> Iterator[Batch]:
        for index in self.share.indices():
            numbers = seeds(self.split, self.share.batch(index) * self.stage.images)
            yield self.batch([next(numbers) for _ in range(self.stage.images)], index < self.stage.on_white)

    def batch(self, chosen: list[int], on_white: bool = False) -> SceneBatch:
        """Build the batch of these seeds, with what the stage needs: labels, questions, captions."""
        stage = self.stage
        if stage.kind == "text":
            return SceneBatch(None, self._blocks([(0, e) for seed in chosen for e in self._text_questions(seed)]))
        scenes = [scene_of(seed, stage.most, stage.least, on_white, self.album, stage.mix) for seed in chosen]
        pixel_values = self.images([render_scene(scene) for scene in scenes], return_tensors="pt")["pixel_values"]
        if stage.kind == "representation":
            captions = [self.prompts.caption(_caption(scene)) for scene in scenes]
            return SceneBatch(pixel_values, [], caption_block(captions, self._pad), self._labels(scenes))
        asked = [(index, exchange) for index, scene in enumerate(scenes) for exchange in self._questions(scene)]
        prototypes = self._prototypes(chosen)
        return SceneBatch(pixel_values, self._blocks(asked), labels=self._labels(scenes), prototypes=prototypes)

    def _prototypes(self, chosen: list[int]) -> PrototypeBatch | None:
        count = round(self.stage.prototypes * self.stage.images)
        if self.sampler is None or not count:
            return None
        rng = np.random.default_rng(chosen[0] + 3)
        mix = replace(self.stage.mix, large=1.0, letters=0.0, frames=0.0)
        scenes = [scene_of(seed, 1, 1, False, self.album, mix) for seed in islice(cycle(chosen), count)]
        shown = self.images([render_scene(scene) for scene in scenes], return_tensors="pt")["pixel_values"]
        shown, photographed = self.sampler.images(shown, rng)
        believed = self.sampler.unclear(self.sampler.sample(count, rng), rng)
        pooled = self.sampler.blurred(believed, rng, photographed)
        crops = self.sampler.crops(-(-count // 4), rng)
        if crops is not None:
            shown, believed = (torch.cat([a, b]) for a, b in zip((shown, believed), crops, strict=True))
            pooled = torch.cat([pooled, crops[1]])
        logits = self.sampler.logits(believed)
        opinions = kind_probabilities(logits.softmax(-1))
        guesses = self.sampler.guesses(pooled, AGREED)
        asked = [
            (n, question_about(opinions[n], guesses[n], language, rng))
            for n in range(len(pooled))
            for language in LANGUAGES
        ]
        asked += [(n, about_background(pick(rng, LANGUAGES), rng)) for n in range(count, len(pooled))]
        return PrototypeBatch(shown, pooled, logits, self._blocks(asked))

    @property
    def _pad(self) -> int:
        return int(self.prompts.tokenizer.pad_token_id)

    def _labels(self, scenes: list[Scene]) -> Labels:
        patches = [patch_labels(scene, self.grid, self.patch_size) for scene in scenes]
        zones = [zone_labels(scene) for scene in scenes]
        kinds, colours, images = (
            torch.from_numpy(np.stack([np.append(getattr(p, name), z[n]) for p, z in zip(patches, zones, strict=True)]))
            for n, name in enumerate(("kinds", "colours", "images"))
        )
        return Labels(
            kinds,
            colours,
            images,
            torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes]),
            torch.from_numpy(np.stack([p.zones for p in patches])),
            torch.from_numpy(np.stack([p.outline for p in patches])),
            torch.from_numpy(np.stack([p.offsets for p in patches])),
        )

    def _blocks(self, asked: list[tuple[int, QAPair]]) -> list[RowBlock]:
        tokenizer, weight = self.prompts.tokenizer, self.stage.fact_weight
        rows = [weigh_fact(self.prompts.row(n, e), e.truth, tokenizer, weight) for n, e in asked]
        return blocks_of(rows, self._pad)

    def _questions(self, scene: Scene) -> list[QAPair]:
        if self.stage.kind not in ("alignment", "answers", "dialogue"):
            return []
        rng = np.random.default_rng(scene.seed + 2)
        asked: list[QAPair] = []
        if self.stage.named and len(scene.items) == 1 and rng.random() < self.stage.named:
            asked += [found for language in LANGUAGES if (found := exchange_of("name", scene, language, rng))]
        for task in rng.choice(TASKS, size=min(self.stage.rows + 5, len(TASKS)), replace=False, p=self.shares):
            exchange = _one(rng, str(task), scene)
            asked += [exchange] if exchange else []
        return asked[: self.stage.rows]

    def _text_questions(self, seed: int) -> list[QAPair]:
        """Generate rows of the text stage: questions about a described scene, and about facts on kinds."""
        scene, rng = described_scene(seed, self.stage.most, self.stage.least), np.random.default_rng(seed + 2)
        made: list[QAPair | None] = []
        for task in rng.choice(describable_tasks(), size=self.stage.rows + 2, replace=False):
            made.append(described_question(str(task), scene, "zh" if rng.random() < 0.5 else "en", rng))
        asked = [exchange for exchange in made if exchange][: self.stage.rows - 2]
        return [*asked, fact_question("zh", rng), fact_question("en", rng)]


def _caption(scene: Scene) -> str:
    """Describe a scene, briefly or in detail, in one of the languages."""
    rng = np.random.default_rng(scene.seed + 2)
    language: Language = "zh" if rng.random() < 0.5 else "en"
    return (
        answers.description(scene, language) if rng.random() < 0.5 else answers.inventory(list(scene.items), language)
    )


def _one(rng: Generator, task: str, scene: Scene) -> QAPair | None:
    language: Language = "zh" if rng.random() < 0.5 else "en"
    if rng.random() < OPEN:
        return open_question(language, rng, with_image=rng.random() < 0.6)
    if rng.random() < WITHOUT_IMAGE:
        return without_image(language, rng) if rng.random() < 0.5 else fact_question(language, rng)
    exchange = exchange_of(task, scene, language, rng)
    if exchange is None or exchange.history or rng.random() > LATER:
        return exchange
    return after_other_turns(exchange, scene, rng)
