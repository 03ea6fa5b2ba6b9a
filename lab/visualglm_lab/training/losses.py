"""Losses of the scene stages, with auxiliary losses from labels.

In: `SceneBatch`, `SceneStage`. Out: a scalar loss and values to report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visualglm.errors import UsageError
from visualglm.evaluation.scenes import answers
from visualglm.evaluation.scenes.concepts import kinds
from visualglm.evaluation.scenes.kinds import COLOURS, LANGUAGES, ZONES
from visualglm.model import VisualGLMForConditionalGeneration
from visualglm.network.vision import StemEmbed, VisionTransformer
from visualglm.preprocessing.tokenizer import ChatGLMTokenizer
from visualglm.pretraining.batches import Batch
from visualglm.pretraining.losses import LEARNING, Objective, Report, deviation

from .auxiliary_heads import Heads
from .config import SceneStage
from .scene_batches import Labels, PrototypeBatch, SceneBatch

SCENE_LEARNING = {
    **LEARNING,
    "text": ("model.transformer.", "model.lm_head."),
    "patches": ("model.image_encoder.vit.", "heads."),
    "zones": ("model.image_encoder.", "heads."),
    "dialogue": ("model.", "heads."),
}
"""Trained parameters of each kind of stage, as prefixes of their names in `SceneObjective`."""


@contextmanager
def replaced_features(vit: VisionTransformer, pooled: Tensor, logits: Tensor) -> Iterator[None]:
    """Put `pooled` [P, 1280] and `logits` [P, 1000] in the place of the stem's; its maps stay."""

    def replace(module: nn.Module, inputs: Any, output: tuple[list[Tensor], Tensor]) -> tuple[list[Tensor], Tensor]:
        maps, own = output
        return maps, pooled.to(own)

    stem = cast(StemEmbed, vit.mixins["patch_embedding"]).stem
    hooks = (
        stem.register_forward_hook(replace),
        stem.classifier.register_forward_hook(lambda module, inputs, output: logits.to(output)),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class SceneObjective(Objective):
    """The model with auxiliary heads (`heads`) and the Q-Former's text branch, both used in training only."""

    heads: Heads
    parts = SCENE_LEARNING

    def __init__(
        self,
        model: VisualGLMForConditionalGeneration,
        tokenizer: ChatGLMTokenizer,
        features: Tensor | None = None,
    ) -> None:
        super().__init__(model, Heads(model.config, features))
        for language in LANGUAGES:
            names = [answers.noun(kind, language) for kind in kinds()]
            hues = [answers.hue(colour, language) for colour in COLOURS]
            for labels, texts in (("kinds", names), ("colours", hues)):
                last = torch.tensor([tokenizer.encode_plain(text)[-1] for text in texts])
                self.register_buffer(f"{language}_{labels}", last, persistent=False)

    def forward(self, stage: SceneStage, batch: SceneBatch) -> tuple[Tensor, Report]:  # type: ignore[override]
        """Compute the loss of a batch in a stage, and values to report."""
        losses: dict[str, Callable[[SceneStage, SceneBatch], tuple[Tensor, Report]]] = {
            "text": self._text,
            "patches": self._patches,
            "zones": self._zones,
        }
        if stage.kind in losses:
            return losses[stage.kind](stage, batch)
        loss, report = super().forward(stage, batch)
        if batch.prototypes is not None:
            added = self._prototypes(stage, batch.prototypes)
            loss, report = loss + stage.prototype_loss * added, report | {"prototypes": float(added.detach())}
        return loss, report

    def _prototypes(self, stage: SceneStage, batch: PrototypeBatch) -> Tensor:
        """Compute the language loss of questions about sampled features, which stand for the stem's own."""
        encoder = self.model.image_encoder
        frozen = not any("image_encoder" in name or name == "model." for name in self.parts[stage.kind])
        with replaced_features(encoder.vit, batch.pooled, batch.logits), torch.set_grad_enabled(not frozen):
            image_embeds = encoder(batch.pixel_values)[0]
        return self.language_loss(Batch(batch.pixel_values, batch.rows), image_embeds)

    def _text(self, stage: SceneStage, batch: SceneBatch) -> tuple[Tensor, Report]:
        loss = self.language_loss(batch, None)
        return loss, {"language": float(loss.detach())}

    def _patches(self, stage: SceneStage, batch: SceneBatch) -> tuple[Tensor, Report]:
        tokens = self.model.image_encoder.vit(batch.pixel_values)
        loss, right = self.heads.patch_loss(tokens, _labels(stage, batch))
        return stage.patch_loss * loss, {f"patch_{name}": share for name, share in right.items()}

    def _zones(self, stage: SceneStage, batch: SceneBatch) -> tuple[Tensor, Report]:
        loss, report, _ = self._encoder_loss(stage, batch)
        return loss, report

    def _dialogue(self, stage: SceneStage, batch: SceneBatch) -> tuple[Tensor, Report]:  # type: ignore[override]
        loss, report, image_embeds = self._encoder_loss(stage, batch)
        language, told = self._language(stage, batch, image_embeds)
        return loss + language, report | told

    def _encoder_loss(self, stage: SceneStage, batch: SceneBatch) -> tuple[Tensor, Report, Tensor]:
        """Compute the label losses of ViT and Q-Former; also return the image embeddings [P, Q, hidden]."""
        encoder, labels = self.model.image_encoder, _labels(stage, batch)
        tokens, pooled = encoder.read(cast(Tensor, batch.pixel_values))
        queries, _ = encoder.qformer(tokens)
        patch_loss, patches = self.heads.patch_loss(tokens, labels)
        zone_loss, zones = self.heads.zone_loss(queries, labels)
        report = {"query_std": deviation(queries)}
        report |= {f"patch_{name}": share for name, share in patches.items()}
        report |= {f"zone_{name}": share for name, share in zones.items()}
        loss = stage.patch_loss * patch_loss + stage.zone_loss * zone_loss
        if stage.teacher_loss:
            far = self.heads.teacher_loss(tokens, queries, labels)
            loss, report = loss + stage.teacher_loss * far, report | {"teacher": float(far.detach())}
        return loss, report, encoder.project(queries, pooled)

    def _language(  # type: ignore[override]
        self, stage: SceneStage, batch: SceneBatch, image_embeds: Tensor
    ) -> tuple[Tensor, Report]:
        """Compute the language loss for projected queries, and the word loss if the stage has one."""
        loss, report = super()._language(stage, batch, image_embeds)
        if stage.word_loss:
            words = self._word_loss(_labels(stage, batch), image_embeds)
            loss, report = loss + stage.word_loss * words, report | {"words": float(words.detach())}
        return loss, report

    def _word_loss(self, labels: Labels, image_embeds: Tensor) -> Tensor:
        """Pull the embedding of an occupied zone towards the word embeddings of its kind and colour.

        [P, Q, hidden]: cross-entropy over the words of all kinds, then of all colours, in both languages.
        """
        zones, total = len(ZONES), torch.zeros((), device=image_embeds.device)
        vectors = F.normalize(image_embeds[:, :zones].float(), dim=-1)
        asked = ((labels.kinds, self.kind_words), (labels.colours, self.colour_words))
        for numbers, words in asked:
            numbers = numbers[:, -zones:]
            there = (numbers > 0) & (numbers <= len(words[0]))
            if not there.any():
                continue  # the mean of an empty tensor is NaN
            for ids in words:
                embeddings = F.normalize(self.model.transformer.word_embeddings(ids).float(), dim=-1)
                total = total + F.cross_entropy(12 * vectors[there] @ embeddings.T, numbers[there] - 1)
        return total / 4

    @property
    def kind_words(self) -> tuple[Tensor, Tensor]:
        """The last token of the name of each kind, in Chinese and in English."""
        return self.get_buffer("zh_kinds"), self.get_buffer("en_kinds")

    @property
    def colour_words(self) -> tuple[Tensor, Tensor]:
        """The last token of the name of each colour, in Chinese and in English."""
        return self.get_buffer("zh_colours"), self.get_buffer("en_colours")


def _labels(stage: SceneStage, batch: SceneBatch) -> Labels:
    if batch.labels is None:
        raise UsageError(f"Stage {stage.name} of kind {stage.kind} needs labelled scenes, but the batch has no labels.")
    return batch.labels
