"""Auxiliary heads of ViT and Q-Former, used in training only.

In: ViT tokens or queries, and a batch's labels. Out: losses, and fractions of right predictions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visualglm.evaluation.scenes.concepts import kinds
from visualglm.evaluation.scenes.kinds import BACKGROUNDS, ZONES
from visualglm.network.configuration import VisualGLMConfig

from ..scenes.patch_labels import MIXED
from .scene_batches import Labels


class LabelHead(nn.Module):
    """Predicts the kind and colour of each vector, and the background.

    For the ViT, the vectors are its patches, and the class token predicts the background. For the Q-Former, they are
    the first nine queries, one per zone, and the tenth predicts the background. Empty vectors have the weight
    `empty`.
    """

    def __init__(self, hidden: int, empty: float = 1.0) -> None:
        super().__init__()
        self.empty = empty
        self.kind = nn.Linear(hidden, 1 + len(kinds()))
        self.colour = nn.Linear(hidden, 1 + MIXED)
        self.ground = nn.Linear(hidden, len(BACKGROUNDS))

    def forward(
        self, vectors: Tensor, ground: Tensor, kinds: Tensor, colours: Tensor, grounds: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """[P, N, hidden], [P, hidden], labels [P, N], [P, N], [P] -> loss, accuracy of non-empty vectors."""
        kind, colour = self.kind(vectors).float(), self.colour(vectors).float()
        loss = 0.8 * self._entropy(kind, kinds) + self._entropy(colour, colours)
        loss = loss + 0.3 * F.cross_entropy(self.ground(ground).float(), grounds)
        covered = kinds > 0
        right = [
            (guess.argmax(-1) == truth)[covered].float().mean() for guess, truth in ((kind, kinds), (colour, colours))
        ]
        return loss, {"kinds": float(right[0]), "colours": float(right[1])}

    def _entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        weights = torch.ones(logits.shape[-1], device=logits.device)
        weights[0] = self.empty
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights)


class PatchHead(LabelHead):
    """Predicts what covers each patch, with three helper tasks: the object's outline, zone and centre."""

    def __init__(self, hidden: int, patch_size: int) -> None:
        super().__init__(hidden, empty=0.2)
        self.outline = nn.Linear(hidden, (patch_size // 2) ** 2)
        self.zone = nn.Linear(hidden, 1 + len(ZONES))
        self.offset = nn.Linear(hidden, 3)

    def guide(self, patches: Tensor, labels: Labels) -> Tensor:
        """ViT patches [P, N, hidden] -> loss of outline, zone and offsets."""
        inside = F.binary_cross_entropy_with_logits(self.outline(patches).float(), labels.outline.float())
        zone = F.cross_entropy(self.zone(patches).float().flatten(0, 1), labels.patch_zones.flatten())
        covered = (labels.patch_zones > 0).unsqueeze(-1).float()
        off = F.smooth_l1_loss(self.offset(patches).float(), labels.offsets, reduction="none") * covered
        return 2 * inside + zone + 0.5 * off.sum() / (3 * covered.sum()).clamp(min=1)


class Heads(nn.Module):
    """The heads of ViT (`patches`) and Q-Former (`zones`); `features` [N, F] are a teacher's, if any."""

    def __init__(self, config: VisualGLMConfig, features: Tensor | None = None) -> None:
        super().__init__()
        self.patches = PatchHead(config.vision.hidden_size, config.vision.patch_size)
        self.zones = LabelHead(config.qformer.hidden_size, empty=0.15)
        self.register_buffer("features", features, persistent=False)
        if features is not None:
            self.patch_teacher = nn.Linear(config.vision.hidden_size, features.shape[1])
            self.zone_teacher = nn.Linear(config.qformer.hidden_size, features.shape[1])

    def patch_loss(self, tokens: Tensor, labels: Labels) -> tuple[Tensor, dict[str, float]]:
        """ViT tokens [P, 1 + patches, hidden] -> loss and values to report."""
        count = tokens.shape[1] - 1
        loss, right = self.patches(
            tokens[:, 1:], tokens[:, 0], labels.kinds[:, :count], labels.colours[:, :count], labels.grounds
        )
        guide = self.patches.guide(tokens[:, 1:], labels)
        return loss + guide, {**right, "guide": float(guide.detach())}

    def zone_loss(self, queries: Tensor, labels: Labels) -> tuple[Tensor, dict[str, float]]:
        """Compute loss and values to report from queries [P, Q, hidden]."""
        zones = len(ZONES)
        return self.zones(
            queries[:, :zones], queries[:, zones], labels.kinds[:, -zones:], labels.colours[:, -zones:], labels.grounds
        )

    def teacher_loss(self, tokens: Tensor, queries: Tensor, labels: Labels) -> Tensor:
        """Compute how far patches and zones are from the teacher's features of pasted images: 0 to 4."""
        zones, patches = len(ZONES), tokens.shape[1] - 1
        return self._far(self.patch_teacher(tokens[:, 1:]), labels.images[:, :patches]) + self._far(
            self.zone_teacher(queries[:, :zones]), labels.images[:, -zones:]
        )

    def _far(self, predicted: Tensor, images: Tensor) -> Tensor:
        """Compute 1 - cosine similarity, averaged over the vectors with a pasted image."""
        there = images > 0
        wanted = self.get_buffer("features")[images[there] - 1].float()
        if not len(wanted):
            return predicted.sum() * 0
        return 1 - F.cosine_similarity(predicted[there].float(), wanted, dim=-1).mean()
