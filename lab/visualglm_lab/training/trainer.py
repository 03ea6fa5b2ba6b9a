"""A recipe of scenes -> a trained model: the product's loop with drawn batches, labels and weights set by hand.

Run: `python -m visualglm_lab.training RECIPE.toml`; run again after a kill, it goes on where it was saved. What each
kind of stage learns stands in `losses`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
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
from .config import SceneStage, SceneTrainingConfig
from .losses import SceneObjective
from .scene_batches import SceneBatch, SceneBatches
from .weight_init import place, whiten

BOUND_IMAGES = 300  # enough to see what tells words from pictures and zones from each other
ONE_SIDED = 0.15  # a share of yes below this, or above its complement, is a prior, not an answer
VALIDATED = 32  # pictures of a batch


class SceneTrainer(BaseTrainer[SceneTrainingConfig]):
    """Training on scenes, from seeds."""

    objective: SceneObjective

    def build_objective(self) -> SceneObjective:
        """The losses of the stages, with the features of the album's teacher."""
        self.albums = _albums(self.recipe.album)
        return SceneObjective(self.model, self.tokenizer, _features(self.recipe.album))

    def check(self) -> None:
        """Tells what does not fit before the work begins.

        Raises:
            UsageError: stages, data or sizes do not fit.
        """
        super().check()
        config = self.model.config
        for stage in self.recipe.stages:
            if stage.teacher_loss and self.objective.heads.features is None:
                raise UsageError(
                    f"stage {stage.name} has a teacher_loss, but there is no features.npy in {self.recipe.album!r}."
                )
            if stage.zones_after and not room_for_zones(config):
                raise UsageError(
                    f"stage {stage.name} has zones_after, which needs a language model of 3 heads or more."
                )
            if stage.kind in ("zones", "dialogue") and config.image_length <= len(ZONES):
                raise UsageError(
                    f"{config.image_length} queries are too few for stage {stage.name}: it needs {1 + len(ZONES)}."
                )

    def initialize(self) -> None:
        """A new model sees whitened patches and plain places."""
        if self.recipe.start.model or self.recipe.start.vision:
            return
        sample = replace(self.recipe.stages[0], kind="patches", pictures=600, on_white=0)
        batch = next(iter(self.batches(sample, 0, share=BatchShare())))
        vit = self.model.image_encoder.vit
        if batch.pixel_values is not None:
            whiten(cast(PatchEmbed, vit.mixins["patch_embedding"]).proj, batch.pixel_values)
        place(vit.transformer.position_embeddings)

    def before_step(self, stage: Stage) -> None:
        """Sets in the networks what a stage sets after so many batches: see `attention_init`."""
        stage = cast(SceneStage, stage)
        if self.sharded or not self.step or self.step not in (stage.compare_after, stage.zones_after):
            return
        count = -(-BOUND_IMAGES // stage.pictures)
        seen = [cast(SceneBatch, batch).to(self.device) for batch in islice(self.batches(stage, self.step), count)]
        if self.step == stage.compare_after:
            compare_words(self.objective, seen)
        if self.step == stage.zones_after:
            tell_zones(self.model, [batch.pixel_values for batch in seen if batch.pixel_values is not None])

    def validate(self, stage: Stage) -> dict[str, object]:
        """Share of validation answers that are right to the last token, per task; and how often 'yes' is said."""
        if self.sharded:
            return {}
        answered = list(self.validation_answers(stage))
        yes_ids = {self.tokenizer.encode_plain(text)[index] for text, index in (("有，", 1), ("Yes,", 0))}
        yes = [bool(yes_ids & set(one.ids[:2])) for one in answered if one.task == "exists"]
        said = round(sum(yes) / len(yes), 3) if yes else 0.5
        if not ONE_SIDED <= said <= 1 - ONE_SIDED and stage.kind in ("answers", "dialogue"):
            self.log(alarm="existence is answered from habit, not from the picture", yes_ratio=said)
        return {**exact_shares(answered), "yes_ratio": said} if answered else {}

    def batches(
        self, stage: Stage, first: int, validation: bool = False, share: BatchShare | None = None
    ) -> IterableDataset[Batch]:
        """The batches of a stage from the `first` on; every stage draws other scenes, every process others of them."""
        config, split = self.model.config.vision, Split.VALIDATION if validation else Split.TRAIN
        stage = cast(SceneStage, stage)
        if validation:
            stage = replace(stage, on_white=0, pictures=VALIDATED)
        share, sizes = share or self.share(stage, first), (config.image_size, config.patch_size)
        return SceneBatches(stage, self.prompts, *sizes, split, self.albums.get(split), share)


def _features(folder: str) -> Tensor | None:
    """A teacher's features of the album's pictures, where they were made."""
    file = Path(folder) / "features.npy"
    return torch.from_numpy(np.load(file)) if folder and file.exists() else None


def _albums(folder: str) -> dict[Split, Album]:
    """Training scenes take their cut-outs from training pictures, validation scenes from validation pictures."""
    if not folder:
        return {}
    return {Split.TRAIN: Album(folder, ("train",)), Split.VALIDATION: Album(folder, ("validation",))}
