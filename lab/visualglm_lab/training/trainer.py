"""Train on scenes: the product's loop with drawn batches and auxiliary labels.

`python -m visualglm_lab.training RECIPE.toml` starts a run, and resumes it from the last save after an interruption.
losses.py defines the losses of each kind of stage.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch.utils.data import IterableDataset

from visualglm.errors import UsageError
from visualglm.evaluation.scenes.kinds import ZONES
from visualglm.evaluation.scenes.split_seeds import Split
from visualglm.network.vision import PatchEmbed
from visualglm.pretraining.batches import Batch, BatchShare
from visualglm.pretraining.config import Stage
from visualglm.pretraining.trainer import BaseTrainer, exact_shares

from ..scenes.cutouts import Album
from .attention_init import compare_words, room_for_zones, tell_zones
from .class_prototypes import PrototypeSampler
from .config import SceneStage, SceneTrainingConfig
from .losses import SceneObjective
from .scene_batches import SceneBatch, SceneBatches
from .weight_init import place, whiten

BOUND_IMAGES = 300  # enough to distinguish words from images, and zones from each other
ONE_SIDED = 0.15  # a fraction of yes below this, or above 1 minus this, ignores the image
VALIDATED = 32  # images per validation batch


class SceneTrainer(BaseTrainer[SceneTrainingConfig]):
    """Trainer on scenes that are generated from seeds."""

    objective: SceneObjective

    def build_objective(self) -> SceneObjective:
        """Create the losses, with the teacher's features of the album's images if there are any."""
        self.albums = _albums(self.recipe.album)
        self.sampler = self._sampler() if any(stage.prototypes for stage in self.recipe.stages) else None
        file = Path(self.recipe.album) / "features.npy"
        features = torch.from_numpy(np.load(file)) if self.recipe.album and file.exists() else None
        return SceneObjective(self.model, self.tokenizer, features)

    def _sampler(self) -> PrototypeSampler:
        """Read what is sampled; it knows the model's concept head, which no stage with prototypes trains."""
        sampler = PrototypeSampler.load(self.recipe.album)
        if self.model.config.vision.stem is not None:
            sampler.concept_head = copy.deepcopy(self.model.image_encoder.concept_head).float().cpu()
        return sampler

    def check(self) -> None:
        """Check that stages, data and sizes fit, before training starts.

        Raises:
            UsageError: stages, data or sizes do not fit.
        """
        super().check()
        config = self.model.config
        for stage in self.recipe.stages:
            if stage.teacher_loss and self.objective.heads.features is None:
                raise UsageError(
                    f"Stage {stage.name} has a teacher_loss, but {self.recipe.album!r} has no features.npy. Build the "
                    "album with a teacher, or remove teacher_loss."
                )
            if stage.prototypes and (
                config.vision.stem is None or stage.kind not in ("alignment", "answers", "dialogue")
            ):
                raise UsageError(
                    f"Stage {stage.name} has prototypes, which need a model with a stem and a stage with answers. Make "
                    "start.model with python -m visualglm_lab.training.stem_weights, or remove prototypes."
                )
            if stage.zones_after and not room_for_zones(config):
                raise UsageError(
                    f"Stage {stage.name} has zones_after, which needs a model with at least 3 heads. Remove it."
                )
            if stage.kind in ("zones", "dialogue") and config.image_length <= len(ZONES):
                raise UsageError(
                    f"{config.image_length} queries are too few for stage {stage.name}. Give at least {1 + len(ZONES)}."
                )

    def initialize(self) -> None:
        """Initialize a new vision encoder with whitened patches and sinusoidal positions."""
        if self.recipe.start.model or self.recipe.start.vision:
            return
        sample = replace(self.recipe.stages[0], kind="patches", images=600, on_white=0)
        batch = next(iter(self.batches(sample, 0, share=BatchShare())))
        vit = self.model.image_encoder.vit
        if batch.pixel_values is not None:
            whiten(cast(PatchEmbed, vit.mixins["patch_embedding"]).proj, batch.pixel_values)
        place(vit.transformer.position_embeddings)

    def before_step(self, stage: Stage) -> None:
        """Set weights by hand at the steps that a stage names; see attention_init.py."""
        stage = cast(SceneStage, stage)
        if self.sharded or not self.step or self.step not in (stage.compare_after, stage.zones_after):
            return
        count = -(-BOUND_IMAGES // stage.images)
        seen = [cast(SceneBatch, batch).to(self.device) for batch in islice(self.batches(stage, self.step), count)]
        if self.step == stage.compare_after:
            compare_words(self.objective, seen)
        if self.step == stage.zones_after:
            tell_zones(self.model, [batch.pixel_values for batch in seen if batch.pixel_values is not None])

    def validate(self, stage: Stage) -> dict[str, object]:
        """Return the fraction of validation answers with every token right, per task, and the fraction of 'yes'."""
        if self.sharded:
            return {}
        answered = list(self.validation_answers(stage))
        yes_ids = {self.tokenizer.encode_plain(text)[index] for text, index in (("有，", 1), ("Yes,", 0))}
        yes = [bool(yes_ids & set(one.ids[:2])) for one in answered if one.task == "exists"]
        said = round(sum(yes) / len(yes), 3) if yes else 0.5
        if not ONE_SIDED <= said <= 1 - ONE_SIDED and stage.kind in ("answers", "dialogue"):
            self.log(alarm="existence is answered without looking at the image", yes_ratio=said)
        return {**exact_shares(answered), "yes_ratio": said} if answered else {}

    def batches(
        self, stage: Stage, first: int, validation: bool = False, share: BatchShare | None = None
    ) -> IterableDataset[Batch]:
        """Create the batches of a stage after the first `first`; stages and processes never share scenes."""
        split = Split.VALIDATION if validation else Split.TRAIN
        stage = cast(SceneStage, stage)
        if validation:
            stage = replace(stage, on_white=0, images=VALIDATED)
        share, patch_size = share or self.share(stage, first), self.model.config.vision.patch_size
        sampler = None if validation else self.sampler
        return SceneBatches(stage, self.prompts, patch_size, split, self.albums.get(split), share, sampler)


def _albums(folder: str) -> dict[Split, Album]:
    """Open the album: training scenes use its training images, validation scenes its validation images."""
    if not folder:
        return {}
    return {Split.TRAIN: Album(folder, ("train",)), Split.VALIDATION: Album(folder, ("validation",))}
