"""Train one job of the study with the product's loop, and time its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from visualglm.errors import UsageError
from visualglm.hardware.machine_report import timed_alone
from visualglm.network.vision import VisionTransformer
from visualglm.pretraining.batches import Batch, BatchShare
from visualglm.pretraining.config import RunConfig, Stage
from visualglm.pretraining.losses import Objective, Report
from visualglm.pretraining.trainer import BaseTrainer, R

from ..training.config import SceneTrainingConfig
from ..training.trainer import SceneTrainer
from .config import Job, StudyConfig
from .image_encoders import CodeEncoder, PatchCodes, PatchEncoder
from .scene_batches import StudyBatches
from .vq_tokenizer import VQTokenizer

TOKENIZER_FILE = "tokenizer.safetensors"
CODEBOOK_BATCHES = 100
"""Batches of images from which the codebook of the ViT's outputs is computed."""
LONG = 256
"""Tokens of an image from which on sdpa trains faster on a CPU than eager attention."""


class StudyObjective(Objective):
    """Losses of the study's stages; in the stage `tokenizer`, `heads` is the tokenizer that trains."""

    parts: Mapping[str, tuple[str, ...]] = {
        "tokenizer": ("heads.",),
        "reading": (
            *("model.transformer.", "model.lm_head.", "model.image_encoder.qformer."),
            *("model.image_encoder.blocks.", "model.image_encoder.glm_proj."),
        ),
        "drawing": ("model.transformer.", "model.lm_head."),
    }

    def forward(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        """Compute the loss of a batch in a stage, and values to report."""
        assert batch.pixel_values is not None
        if stage.kind == "tokenizer":
            return cast(VQTokenizer, self.heads).losses(batch.pixel_values)
        reads = stage.kind == "reading"
        return self.language_loss(batch, self.model.encode_images(batch.pixel_values) if reads else None), {}


class DivergedError(UsageError):
    """A loss or gradient is not finite."""


class TimedTrainer(BaseTrainer[R]):
    """Trainer that keeps the CPU seconds of its steps, which other processes do not lengthen."""

    def __init__(self, recipe: R, report: Callable[[str], None] = print) -> None:
        self.step_seconds: list[float] = []
        super().__init__(recipe, report)

    def train_step(
        self, stage: Stage, batch: Batch, optimizer: torch.optim.Optimizer, module: nn.Module | None = None
    ) -> dict[str, float]:
        """Run one optimizer step; return values to report."""
        values: dict[str, float]
        values, seconds = timed_alone(super().train_step, stage, batch, optimizer, module)
        self.step_seconds.append(seconds)
        return values

    def _check_step(self, loss: float, norm: float) -> None:
        try:
            super()._check_step(loss, norm)
        except UsageError as error:
            raise DivergedError(str(error)) from error


class StartTrainer(TimedTrainer[SceneTrainingConfig], SceneTrainer):
    """Trainer of the language model that all reading and drawing runs start from, or of the ViT that they share."""


class StudyTrainer(TimedTrainer[RunConfig]):
    """Trainer of one tokenizer, one reading model or one drawing model.

    `frozen` encodes images and is not trained: a ViT, or the encoder of the tokenizer `vq`.
    """

    def __init__(self, plan: StudyConfig, job: Job, report: Callable[[str], None] = print) -> None:
        self.plan, self.job = plan, job
        self.vq: VQTokenizer | None = None
        super().__init__(plan.run_config(job), report)

    def build_objective(self) -> StudyObjective:
        """Give the model the image encoder of the job's condition."""
        condition, model = self.job.condition, self.model
        assert condition is not None
        vit: VisionTransformer = model.image_encoder.vit
        self.frozen: nn.Module = vit
        if condition.tokens >= LONG:
            model.set_attn_implementation("sdpa")
        if condition.encoder == "patches":
            model.image_encoder = PatchEncoder(vit, model.config, self.plan.patch_blocks)  # type: ignore[assignment]
        if condition.encoder == "patch-codes":
            self._read_codes(self._patch_codes(vit).encode)
        if condition.encoder == "codes":
            self.vq = build_tokenizer(self.plan, self.job)
            self.frozen = self.vq.encoder
            self._read_codes(self.vq.encode)
        return StudyObjective(model, self.vq if self.job.stage == "tokenizer" else None)

    def _read_codes(self, encode: Callable[[Tensor], Tensor]) -> None:
        words = self.model.transformer.word_embeddings
        self.model.image_encoder = CodeEncoder(encode, words.forward, len(self.tokenizer.sp_model))  # type: ignore[assignment]

    def _patch_codes(self, vit: VisionTransformer) -> PatchCodes:
        """Build the codebook of the ViT's outputs, the same in all runs."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            codes = PatchCodes(vit, self.plan.codebook).eval()
            unlabelled = replace(self.plan.tokenizer, steps=CODEBOOK_BATCHES)
            for batch in islice(StudyBatches(self.plan, unlabelled, self.prompts, BatchShare(), 0), CODEBOOK_BATCHES):
                assert batch.pixel_values is not None
                codes.learn(batch.pixel_values)
        return codes

    def initialize(self) -> None:
        """Draw new embeddings of the codes; the start has trained them as words that never occur."""
        encoder, first = self.model.image_encoder, len(self.tokenizer.sp_model)
        if isinstance(encoder, CodeEncoder):
            rows = self.model.transformer.word_embeddings.weight[first : first + self.plan.codebook]
            nn.init.normal_(rows, std=self.model.config.initializer_range)

    @property
    def stage(self) -> Stage:
        """The only stage of the run."""
        return self.recipe.stages[0]

    def batches(
        self, stage: Stage, first: int, validation: bool = False, share: BatchShare | None = None
    ) -> IterableDataset[Batch]:
        """Yield the batches of the stage from the `first` on."""
        drawn = self.vq if stage.kind == "drawing" else None
        return StudyBatches(self.plan, stage, self.prompts, share or self.share(stage, first), self.job.seed, drawn)

    def validate(self, stage: Stage) -> dict[str, object]:
        """Return nothing: every run is measured at its end."""
        return {}

    def save_tokenizer(self) -> None:
        """Write the trained tokenizer for the jobs that read or draw with it."""
        save_file(self.objective.heads.state_dict(), self.folder / TOKENIZER_FILE)


def build_tokenizer(plan: StudyConfig, job: Job) -> VQTokenizer:
    """Build the tokenizer of a job's condition; a job that does not train it loads its weights."""
    assert job.condition is not None
    tokenizer = VQTokenizer(plan.model.image_size, job.condition.tokens, plan.codebook, plan.channels)
    if job.stage != "tokenizer":
        tokenizer.load_state_dict(load_file(tokenizer_file(plan, job)))
    return tokenizer.eval()


def tokenizer_file(plan: StudyConfig, job: Job) -> Path:
    """Return the file of the tokenizer of a job's condition."""
    return plan.folder(Job("tokenizer", job.condition)) / TOKENIZER_FILE
