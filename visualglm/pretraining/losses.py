"""A batch -> the loss of a stage: the model, its throw-away text branch, what each stage asks of them.

One module, so that data parallel and sharding wrap all of it. In: `Batch`, `Stage`. Out: a scalar loss and figures to
report. Knows nothing about optimizers, files or schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..model import VisualGLMForConditionalGeneration
from .batches import Batch, RowBlock
from .blip2_losses import TextBranch
from .config import Stage

Report = dict[str, float]
LEARNING = {
    "representation": ("model.image_encoder.qformer.", "text_branch."),
    "alignment": ("model.image_encoder.qformer.", "model.image_encoder.glm_proj."),
    "answers": ("model.transformer.", "model.lm_head."),
    "dialogue": ("model.",),
}
"""Which parameters learn in which kind of stage, by the beginning of their names in `Objective`."""


class Objective(nn.Module):
    """The model with the Q-Former's throw-away text branch (`text_branch`) and what a subclass trains beside them."""

    parts: Mapping[str, tuple[str, ...]] = LEARNING

    def __init__(self, model: VisualGLMForConditionalGeneration, heads: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        if heads is not None:
            self.heads = heads
        self.text_branch = TextBranch(model.config.qformer, model.config.vocab_size)

    def learning(self, kind: str) -> dict[str, nn.Parameter]:
        """The parameters that a kind of stage trains, by name; the others are frozen by the call."""
        named = dict(self.named_parameters())
        chosen = {name: parameter for name, parameter in named.items() if name.startswith(self.parts[kind])}
        for name, parameter in named.items():
            parameter.requires_grad_(name in chosen)
        return chosen

    def forward(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        """The loss of a batch in a stage, and figures to report."""
        losses: dict[str, Callable[[Stage, Batch], tuple[Tensor, Report]]] = {
            "representation": self._representation,
            "alignment": self._alignment,
            "answers": self._answers,
            "dialogue": self._dialogue,
        }
        return losses[stage.kind](stage, batch)

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
        loss, report = self._language(stage, batch, encoder.glm_proj(queries))
        return loss, {"query_std": deviation(queries), **report}

    def _answers(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        encoder = self.model.image_encoder
        with torch.no_grad():
            queries, _ = encoder.qformer(encoder.vit(batch.pixel_values))
            image_embeds = encoder.glm_proj(queries)
        loss = self.language_loss(batch, image_embeds)
        return loss, {"language": float(loss.detach())}

    def _dialogue(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        encoder = self.model.image_encoder
        queries, _ = encoder.qformer(encoder.vit(batch.pixel_values))
        loss, report = self._language(stage, batch, encoder.glm_proj(queries))
        return loss, {"query_std": deviation(queries), **report}

    def _language(self, stage: Stage, batch: Batch, image_embeds: Tensor) -> tuple[Tensor, Report]:
        """What the language model says of the projected queries [P, Q, hidden]."""
        loss = self.language_loss(batch, image_embeds)
        return loss, {"language": float(loss.detach())}

    def language_loss(self, batch: Batch, image_embeds: Tensor | None) -> Tensor:
        """Weighted cross-entropy over the answers of all blocks; a long answer weighs as the root of its length."""
        total, weight = torch.zeros((), device=self.model.device), 0.0
        for rows in batch.rows:
            logits = answer_logits(self.model, rows, image_embeds)
            losses = F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten(), reduction="none")
            share = (rows.targets >= 0).sum(dim=1, keepdim=True) ** -0.5 * rows.weights
            total = total + (losses.view_as(rows.targets) * share).sum()
            weight += float((share * (rows.targets >= 0)).sum())
        return total / weight


def answer_logits(model: VisualGLMForConditionalGeneration, rows: RowBlock, image_embeds: Tensor | None) -> Tensor:
    """Logits [B, answer length, vocabulary] for the answers of a block of rows."""
    columns = torch.arange(rows.start - 1, rows.input_ids.shape[1] - 1, device=rows.input_ids.device)
    return model(
        rows.input_ids,
        attention_mask=rows.attention_mask,
        image_embeds=None if image_embeds is None or not len(rows.images) else image_embeds[rows.images],
        logits_to_keep=columns,
        use_cache=False,
    ).logits.float()


def deviation(queries: Tensor) -> float:
    """How much the queries differ within a picture; near 0 they have become one vector."""
    return float(queries.detach().float().std(dim=1).mean())
