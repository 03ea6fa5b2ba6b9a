"""Losses of the pretraining stages.

In: `Batch`, `Stage`. Out: a scalar loss and values to report. The model and its training-only text branch are one
module, so that data parallelism and sharding wrap both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..model import VisualGLMForConditionalGeneration
from ..network.vision import is_frozen
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
"""Trained parameters of each kind of stage, as prefixes of their names in `Objective`."""


class Objective(nn.Module):
    """The model, the Q-Former's text branch (`text_branch`), and optional auxiliary `heads` of a subclass."""

    parts: Mapping[str, tuple[str, ...]] = LEARNING

    def __init__(self, model: VisualGLMForConditionalGeneration, heads: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        if heads is not None:
            self.heads = heads
        self.text_branch = TextBranch(model.config.qformer, model.config.vocab_size)

    def learning(self, kind: str) -> dict[str, nn.Parameter]:
        """Return the parameters that a kind of stage trains, by name, and freeze the others."""
        named = dict(self.named_parameters())
        chosen = {
            name: parameter
            for name, parameter in named.items()
            if name.startswith(self.parts[kind]) and not is_frozen(name)
        }
        for name, parameter in named.items():
            parameter.requires_grad_(name in chosen)
        return chosen

    def forward(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        """Compute the loss of a batch in a stage, and values to report."""
        losses: dict[str, Callable[[Stage, Batch], tuple[Tensor, Report]]] = {
            "representation": self._representation,
            "alignment": self._alignment,
            "answers": self._answers,
            "dialogue": self._dialogue,
        }
        return losses[stage.kind](stage, batch)

    def _representation(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        if batch.captions is None:
            raise UsageError(f"Stage {stage.name} needs captions, but the data has none.")
        with torch.no_grad():
            tokens = self.model.image_encoder.vit(batch.pixel_values)
        return self.text_branch.losses(self.model.image_encoder.qformer, tokens, batch.captions)

    def _alignment(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        encoder = self.model.image_encoder
        with torch.no_grad():
            tokens, pooled = encoder.read(cast(Tensor, batch.pixel_values))
        queries, _ = encoder.qformer(tokens)
        loss, report = self._language(stage, batch, encoder.project(queries, pooled))
        return loss, {"query_std": deviation(queries), **report}

    def _answers(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        with torch.no_grad():
            image_embeds, _ = self.model.image_encoder(batch.pixel_values)
        loss = self.language_loss(batch, image_embeds)
        return loss, {"language": float(loss.detach())}

    def _dialogue(self, stage: Stage, batch: Batch) -> tuple[Tensor, Report]:
        encoder = self.model.image_encoder
        tokens, pooled = encoder.read(cast(Tensor, batch.pixel_values))
        queries, _ = encoder.qformer(tokens)
        loss, report = self._language(stage, batch, encoder.project(queries, pooled))
        return loss, {"query_std": deviation(queries), **report}

    def _language(self, stage: Stage, batch: Batch, image_embeds: Tensor) -> tuple[Tensor, Report]:
        """Compute the language loss for projected queries [P, Q, hidden]."""
        loss = self.language_loss(batch, image_embeds)
        return loss, {"language": float(loss.detach())}

    def language_loss(self, batch: Batch, image_embeds: Tensor | None) -> Tensor:
        """Compute the weighted cross-entropy of all answers; an answer of n tokens has weight sqrt(n)."""
        total, weight = torch.zeros((), device=self.model.device), 0.0
        for rows in batch.rows:
            logits = answer_logits(self.model, rows, image_embeds)
            losses = F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten(), reduction="none")
            weights = (rows.targets >= 0).sum(dim=1, keepdim=True) ** -0.5 * rows.weights
            total = total + (losses.view_as(rows.targets) * weights).sum()
            weight += float((weights * (rows.targets >= 0)).sum())
        return total / weight


def answer_logits(model: VisualGLMForConditionalGeneration, rows: RowBlock, image_embeds: Tensor | None) -> Tensor:
    """Compute logits [B, answer length, vocab_size] for the answers of a block of rows."""
    columns = torch.arange(rows.start - 1, rows.input_ids.shape[1] - 1, device=rows.input_ids.device)
    return model(
        rows.input_ids,
        attention_mask=rows.attention_mask,
        image_embeds=None if image_embeds is None or not len(rows.images) else image_embeds[rows.images],
        logits_to_keep=columns,
        use_cache=False,
    ).logits.float()


def deviation(queries: Tensor) -> float:
    """Return the standard deviation of queries within an image; near 0 they have collapsed into one vector."""
    return float(queries.detach().float().std(dim=1).mean())
