"""Batches of the study: drawn scenes with questions to read, or with codes to draw.

Scenes, questions and their order follow from the seed of a run, so all conditions of a seed see the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from visualglm.evaluation.scenes import answers
from visualglm.evaluation.scenes.kinds import Language
from visualglm.evaluation.scenes.qa_pair import QAPair
from visualglm.evaluation.scenes.questions import exchange_of
from visualglm.evaluation.scenes.render import render_scene
from visualglm.evaluation.scenes.scene import Scene, scene_of
from visualglm.evaluation.scenes.split_seeds import Split, seeds
from visualglm.preprocessing.processor import VisualGLMProcessor
from visualglm.pretraining.batches import Batch, BatchShare, PromptBuilder, TokenRow, block_of
from visualglm.pretraining.config import Stage

from .config import StudyConfig
from .vq_tokenizer import VQTokenizer

LANGUAGE: Language = "en"
FIRST_SEED = 10_000_000
"""Seeds between the first scenes of two runs, so that no two runs share one."""


class StudyBatches(IterableDataset[Batch]):
    """Endless batches of a stage; every batch has other scenes.

    `tokenizer` gives the codes of the stage `drawing`; they are words from the id `first` on.
    """

    def __init__(
        self,
        plan: StudyConfig,
        stage: Stage,
        prompts: PromptBuilder,
        share: BatchShare,
        seed: int,
        tokenizer: VQTokenizer | None = None,
    ) -> None:
        self.plan, self.stage, self.prompts, self.share = plan, stage, prompts, share
        self.seed, self.tokenizer, self.first = seed, tokenizer, len(prompts.tokenizer.sp_model)

    def __iter__(self) -> Iterator[Batch]:
        for index in self.share.indices():
            run = 0 if self.stage.kind == "tokenizer" else 1 + self.seed
            start = run * FIRST_SEED + self.share.batch(index) * self.stage.images
            numbers = seeds(Split.TRAIN, start)
            yield self.batch([scene_of(next(numbers), self.plan.most) for _ in range(self.stage.images)])

    def batch(self, scenes: Sequence[Scene]) -> Batch:
        """Build the batch of these scenes: pixels alone for the tokenizers, else with rows."""
        pixel_values = pixels_of(scenes, self.prompts.processor)
        rows: list[TokenRow] = []
        if self.stage.kind == "reading":
            rows = [self.prompts.row(n, asked) for n, scene in enumerate(scenes) for asked in self._questions(scene)]
        elif self.tokenizer is not None:
            codes = (self.first + self.tokenizer.encode(pixel_values)).tolist()
            for scene, ids in zip(scenes, codes, strict=True):
                request = drawing_request(scene)
                rows.append(TokenRow(0, request, self.prompts.prompt(request), ids, [1.0] * len(ids)))
        pad = int(self.prompts.tokenizer.pad_token_id)
        return Batch(pixel_values, [block_of(rows, pad)] if rows else [])

    def _questions(self, scene: Scene) -> list[QAPair]:
        """Ask about the scene, in an order of tasks that its seed gives."""
        rng = np.random.default_rng(scene.seed + 2)
        tasks = (str(task) for task in rng.permutation(self.plan.tasks))
        asked = (exchange_of(task, scene, LANGUAGE, rng) for task in tasks)
        return [exchange for exchange in asked if exchange is not None][: self.plan.questions]


def drawing_request(scene: Scene) -> QAPair:
    """Ask for a drawing of a scene, by its description."""
    text = answers.description(scene, LANGUAGE)
    return QAPair("draw", LANGUAGE, f"Draw: {text}", "", text, with_image=False)


def render(scene: Scene, processor: VisualGLMProcessor) -> Image.Image:
    """Render a scene at the size of the model's images."""
    side = processor.image_processor.size["height"]
    return render_scene(scene, (side, side))


def pixels_of(scenes: Sequence[Scene], processor: VisualGLMProcessor) -> Tensor:
    """Render scenes as pixel_values [P, 3, S, S]."""
    images = [render(scene, processor) for scene in scenes]
    pixel_values: Tensor = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    return pixel_values


def images_of(pixel_values: Tensor, processor: VisualGLMProcessor) -> list[Image.Image]:
    """Undo the normalization of pixel_values [P, 3, S, S]; values out of range are clipped."""
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    levels = (255 * (pixel_values.float() * std + mean)).round().clamp(0, 255).byte()
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in levels]
