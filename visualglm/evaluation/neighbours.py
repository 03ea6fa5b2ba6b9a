"""evaluation/neighbours: what a model's own picture vectors say without its language: the nearest training picture.

A control: names that are read off the nearest neighbour, or off the nearest mean of a concept's pictures. Which of the
model's vectors serve best is chosen on validation pictures. Knows nothing about files or questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..scenes.vocabulary import Kind
from .asking import Seen
from .gallery import Shown

FEATURES: dict[str, Callable[[Seen], Tensor]] = {
    "mean of the projected queries": lambda seen: seen.slots.mean(1),
    "all projected queries": lambda seen: normalize(seen.slots, dim=-1).flatten(1),
    "class token of the ViT": lambda seen: seen.token,
}


@dataclass(frozen=True)
class Memory:
    """Training pictures: unit vectors [N, D], what each shows, and the mean vector of every kind [K, D]."""

    feature: str
    vectors: Tensor
    shows: tuple[Kind, ...]
    kinds: tuple[Kind, ...]
    means: Tensor

    def nearest(self, seen: Seen) -> list[Kind]:
        """What the nearest training picture shows."""
        return [self.shows[i] for i in (self._unit(seen) @ self.vectors.T).argmax(1).tolist()]

    def nearest_mean(self, seen: Seen) -> list[Kind]:
        """The kind whose pictures are nearest on average."""
        return [self.kinds[i] for i in (self._unit(seen) @ self.means.T).argmax(1).tolist()]

    def _unit(self, seen: Seen) -> Tensor:
        return normalize(FEATURES[self.feature](seen).float(), dim=-1)


def memory(feature: str, seen: Seen, rows: Sequence[Shown]) -> Memory:
    """What the model would remember of its training pictures, by one of its vectors."""
    vectors = normalize(FEATURES[feature](seen).float(), dim=-1)
    shows = tuple(row.kinds[0] for row in rows)
    kinds = tuple(dict.fromkeys(shows))
    place = {kind: number for number, kind in enumerate(kinds)}
    owners = torch.tensor([place[kind] for kind in shows], device=vectors.device)
    sums = vectors.new_zeros(len(kinds), vectors.shape[1]).index_add_(0, owners, vectors)
    return Memory(feature, vectors, shows, kinds, normalize(sums, dim=-1))


def best_memory(
    train: Seen, train_rows: Sequence[Shown], validation: Seen, validation_rows: Sequence[Shown]
) -> tuple[Memory, dict[str, float]]:
    """The memory whose nearest neighbours name validation pictures best, and what every one of them reaches there."""
    found: dict[str, tuple[Memory, float]] = {}
    for feature in FEATURES:
        one = memory(feature, train, train_rows)
        hits = [row.is_called(k) for row, k in zip(validation_rows, one.nearest(validation), strict=True)]
        found[feature] = one, round(sum(hits) / max(1, len(hits)), 4)
    best = max(found, key=lambda feature: found[feature][1])
    return found[best][0], {feature: share for feature, (_, share) in found.items()}
