"""A batch -> the loss of a stage: the model, its throw-away parts, what each stage asks of them.

One module, so that data parallel and sharding wrap all of it. In: `Batch`, `Stage`. Out: a scalar loss and figures to
report. Knows nothing about optimizers, files or schedules.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from visualglm_lab.training.auxiliary_heads import Heads
from visualglm_lab.training.scene_batches import Labels

from ..errors import UsageError
from ..evaluation.scenes import answers
from ..evaluation.scenes.concepts import kinds
from ..evaluation.scenes.kinds import COLOURS, ZONES, Language
from ..model import VisualGLMForConditionalGeneration
from ..preprocessing.tokenizer import ChatGLMTokenizer
from .batches import Batch, RowBlock
from .blip2_losses import TextBranch
from .config import Stage

Report = dict[str, float]
LEARNING = {
    "text": ("model.transformer.", "model.lm_head."),
    "patches": ("model.image_encoder.vit.", "heads."),
    "zones": ("model.image_encoder.", "heads."),
    "representation": ("model.image_encoder.qformer.", "text_branch."),
    "alignment": ("model.image_encoder.qformer.", "model.image_encoder.glm_proj."),
    "answers": ("model.transformer.", "model.lm_head."),
    "dialogue": ("model.", "heads."),
}
"""Which parameters learn in which kind of stage, by the beginning of their names in `Objective`."""


class Objective(nn.Module):
    """The model with its throw-away heads (`heads`) and the Q-Former's throw-away text branch (`text_branch`)."""

    def __init__(
        self,
        model: VisualGLMForConditionalGeneration,
        tokenizer: ChatGLMTokenizer,
        features: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.heads = model, tokenizer, Heads(model.config, features)
        self.text_branch = TextBranch(model.config.qformer, model.config.vocab_size)
        words = (_names(tokenizer, "zh"), _names(tokenizer, "en"), _hues(tokenizer, "zh"), _hues(tokenizer, "en"))
        for name, ids in zip(("zh_kinds", "en_kinds", "zh_colours", "en_colours"), words, strict=True):
            self.register_buffer(name, ids, persistent=False)

    def learning(self, kind: str) -> dict[str, nn.Parameter]:
        """The parameters that a kind of stage trains, by name; the others are frozen by the call."""
        named = dict(self.named_parameters())
        chosen = {name: parameter for name, parameter in named.items() if name.startswith(LEARNING[kind])}
        for name, parameter in named.items():
            parameter.requires_grad_(name in chosen)
        return chosen

    def forward(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        """The loss of a batch in a stage, and figures to report."""
        losses: dict[str, Callable[[Stage, Batch], tuple[Tensor, Report]]] = {
            "text": self._text,
            "patches": self._patches,
            "representation": self._representation,
            "alignment": self._alignment,
            "answers": self._answers,
            "zones": self._zones_and_dialogue,
            "dialogue": self._zones_and_dialogue,
        }
        return losses[stage.kind](stage, batch)

    def _text(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        loss = self.language_loss(batch, None, stage.fact_weight)
        return loss, {"language": float(loss.detach())}

    def _patches(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        loss, right = self.heads.patch_loss(self.model.image_encoder.vit(batch.pixel_values), _labels(stage, batch))
        return stage.patch_loss * loss, {f"patch_{name}": share for name, share in right.items()}

    def _representation(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        if batch.captions is None:
            raise UsageError(f"stage {stage.name} reads captions, and this data has none.")
        with torch.no_grad():
            tokens = self.model.image_encoder.vit(batch.pixel_values)
        return self.text_branch.losses(self.model.image_encoder.qformer, tokens, batch.captions)

    def _alignment(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        encoder = self.model.image_encoder
        with torch.no_grad():
            tokens = encoder.vit(batch.pixel_values)
        queries, _ = encoder.qformer(tokens)
        loss, report = self._language(stage, batch, queries)
        return loss, {"query_std": deviation(queries), **report}

    def _answers(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        encoder = self.model.image_encoder
        with torch.no_grad():
            queries, _ = encoder.qformer(encoder.vit(batch.pixel_values))
            image_embeds = encoder.glm_proj(queries)
        loss = self.language_loss(batch, image_embeds, stage.fact_weight)
        return loss, {"language": float(loss.detach())}

    def _zones_and_dialogue(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        encoder = self.model.image_encoder
        tokens = encoder.vit(batch.pixel_values)
        queries, _ = encoder.qformer(tokens)
        loss, report = torch.zeros((), device=tokens.device), {"query_std": deviation(queries)}
        if batch.labels is not None:
            loss, right = self._label_loss(stage, tokens, queries, batch.labels)
            report |= right
        if stage.kind == "dialogue":
            language, told = self._language(stage, batch, queries)
            loss, report = loss + language, report | told
        return loss, report

    def _language(self, stage: Stage, batch: Batch, queries: Tensor) -> tuple[Tensor, Report]:
        """What the language model says of the projected queries and, where labels are, which words they are near."""
        image_embeds = self.model.image_encoder.glm_proj(queries)
        loss = self.language_loss(batch, image_embeds, stage.fact_weight)
        report = {"language": float(loss.detach())}
        if batch.labels is not None and stage.word_loss:
            words = self._word_loss(batch.labels, image_embeds)
            loss, report = loss + stage.word_loss * words, report | {"words": float(words.detach())}
        return loss, report

    def _label_loss(self, stage: Stage, tokens: Tensor, queries: Tensor, labels: Labels) -> tuple[Tensor, Report]:
        patch_loss, patches = self.heads.patch_loss(tokens, labels)
        zone_loss, zones = self.heads.zone_loss(queries, labels)
        report = {f"patch_{name}": share for name, share in patches.items()}
        report |= {f"zone_{name}": share for name, share in zones.items()}
        loss = stage.patch_loss * patch_loss + stage.zone_loss * zone_loss
        if stage.teacher_loss:
            far = self.heads.teacher_loss(tokens, queries, labels)
            loss, report = loss + stage.teacher_loss * far, report | {"teacher": float(far.detach())}
        return loss, report

    def language_loss(self, batch: Batch, image_embeds: Tensor | None, fact_weight: float = 1.0) -> Tensor:
        """Cross-entropy over the answers of all blocks; a long answer weighs as the root of its length.

        The words that state the fact asked for weigh `fact_weight` times as much: where two of them are as likely as
        each other in every answer (left, right), what tells them apart is learned late, or never.
        """
        total, weight = torch.zeros((), device=self.model.device), 0.0
        for rows in batch.rows:
            logits = answer_logits(self.model, rows, image_embeds)
            losses = F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten(), reduction="none")
            share = (rows.targets >= 0).sum(dim=1, keepdim=True) ** -0.5 * torch.where(rows.facts, fact_weight, 1.0)
            total = total + (losses.view_as(rows.targets) * share).sum()
            weight += float((share * (rows.targets >= 0)).sum())
        return total / weight

    def _word_loss(self, labels: Labels, image_embeds: Tensor) -> Tensor:
        """Draws the vector of an occupied zone to the embeddings of the words for what stands there.

        [P, Q, hidden]: among the words of all kinds, then of all colours, in both languages, its own must be nearest.
        """
        zones, total = len(ZONES), torch.zeros((), device=image_embeds.device)
        vectors = F.normalize(image_embeds[:, :zones].float(), dim=-1)
        asked = ((labels.kinds, self.kind_words), (labels.colours, self.colour_words))
        for numbers, words in asked:
            numbers = numbers[:, -zones:]
            there = (numbers > 0) & (numbers <= len(words[0]))
            if not there.any():
                continue  # the mean over nothing is no number
            for ids in words:
                embeddings = F.normalize(self.model.transformer.word_embeddings(ids).float(), dim=-1)
                total = total + F.cross_entropy(12 * vectors[there] @ embeddings.T, numbers[there] - 1)
        return total / 4

    @property
    def kind_words(self) -> tuple[Tensor, Tensor]:
        """The pieces of the names of all kinds, in Chinese and in English."""
        return self.get_buffer("zh_kinds"), self.get_buffer("en_kinds")

    @property
    def colour_words(self) -> tuple[Tensor, Tensor]:
        return self.get_buffer("zh_colours"), self.get_buffer("en_colours")


def answer_logits(model: VisualGLMForConditionalGeneration, rows: RowBlock, image_embeds: Tensor | None) -> Tensor:
    """Logits [B, answer length, vocabulary] for the answers of a block of rows."""
    columns = torch.arange(rows.start - 1, rows.input_ids.shape[1] - 1, device=rows.input_ids.device)
    return model(
        rows.input_ids,
        attention_mask=rows.attention_mask,
        image_embeds=None if image_embeds is None or not len(rows.pictures) else image_embeds[rows.pictures],
        logits_to_keep=columns,
        use_cache=False,
    ).logits.float()


def deviation(queries: Tensor) -> float:
    """How much the queries differ within a picture; near 0 they have become one vector."""
    return float(queries.detach().float().std(dim=1).mean())


def _labels(stage: Stage, batch: Batch) -> Labels:
    if batch.labels is None:
        raise UsageError(f"stage {stage.name} of kind {stage.kind} needs scenes, which know what covers every patch.")
    return batch.labels


def _names(tokenizer: ChatGLMTokenizer, language: Language) -> Tensor:
    return torch.tensor([tokenizer.encode_plain(answers.noun(kind, language))[-1] for kind in kinds()])


def _hues(tokenizer: ChatGLMTokenizer, language: Language) -> Tensor:
    return torch.tensor([tokenizer.encode_plain(answers.hue(colour, language))[-1] for colour in COLOURS])
