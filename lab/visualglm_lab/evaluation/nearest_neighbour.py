"""Nearest-neighbour baseline on the model's image features.

A control: names are taken from the nearest training image, or from the nearest mean of a concept's images. The best
of the model's features is chosen on validation images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from visualglm.evaluation.batch_answering import EncodedImages
from visualglm.evaluation.scenes.kinds import Kind

from .album_images import Shown

FEATURES: dict[str, Callable[[EncodedImages], Tensor]] = {
    "mean of the projected queries": lambda seen: seen.embeds.mean(1),
    "all projected queries": lambda seen: normalize(seen.embeds, dim=-1).flatten(1),
    "class token of the ViT": lambda seen: seen.class_tokens,
}


@dataclass(frozen=True)
class NeighbourIndex:
    """Training images: unit vectors [N, D], their kinds, and the mean vector of every kind [K, D]."""

    feature: str
    vectors: Tensor
    shows: tuple[Kind, ...]
    kinds: tuple[Kind, ...]
    means: Tensor

    def nearest(self, seen: EncodedImages) -> list[Kind]:
        """Return the kind of the nearest training image."""
        return [self.shows[i] for i in (self._unit(seen) @ self.vectors.T).argmax(1).tolist()]

    def nearest_mean(self, seen: EncodedImages) -> list[Kind]:
        """Return the kind with the nearest mean."""
        return [self.kinds[i] for i in (self._unit(seen) @ self.means.T).argmax(1).tolist()]

    def _unit(self, seen: EncodedImages) -> Tensor:
        return normalize(FEATURES[self.feature](seen).float(), dim=-1)


def build_index(feature: str, seen: EncodedImages, rows: Sequence[Shown]) -> NeighbourIndex:
    """Index training images by one of the model's features."""
    vectors = normalize(FEATURES[feature](seen).float(), dim=-1)
    shows = tuple(row.kinds[0] for row in rows)
    kinds = tuple(dict.fromkeys(shows))
    place = {kind: number for number, kind in enumerate(kinds)}
    owners = torch.tensor([place[kind] for kind in shows], device=vectors.device)
    sums = vectors.new_zeros(len(kinds), vectors.shape[1]).index_add_(0, owners, vectors)
    return NeighbourIndex(feature, vectors, shows, kinds, normalize(sums, dim=-1))


def best_index(
    train: EncodedImages, train_rows: Sequence[Shown], validation: EncodedImages, validation_rows: Sequence[Shown]
) -> tuple[NeighbourIndex, dict[str, float]]:
    """Choose the feature whose nearest neighbours name validation images best; also return all accuracies."""
    found: dict[str, tuple[NeighbourIndex, float]] = {}
    for feature in FEATURES:
        one = build_index(feature, train, train_rows)
        hits = [row.is_called(k) for row, k in zip(validation_rows, one.nearest(validation), strict=True)]
        found[feature] = one, round(sum(hits) / max(1, len(hits)), 4)
    best = max(found, key=lambda feature: found[feature][1])
    return found[best][0], {feature: share for feature, (_, share) in found.items()}
