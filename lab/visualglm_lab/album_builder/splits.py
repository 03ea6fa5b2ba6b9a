"""Split images into training, validation and test sets.

No cluster is in both training and a test set. Held-out images leave training with their whole cluster. A test image
of another style, of an untrained concept or of a test-only source is dropped if it is a near-duplicate of a training
image.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from .config import Splits

DROPPED = "dropped"
TESTS = ("unseen_style", "unseen_concept", "photos")


@dataclass(frozen=True)
class Placed:
    """What the split depends on: concept, cluster, `role` (train, unseen_style or photos), and the file's `sha256`."""

    concept: str
    role: str
    cluster: int
    sha256: str


def unseen_concepts(images: Iterable[Placed], eligible: set[str], splits: Splits) -> set[str]:
    """Choose concepts that will not be trained, among those eligible with images in both kinds of style."""
    roles: dict[str, set[str]] = defaultdict(set)
    for image in images:
        roles[image.concept].add(image.role)
    possible = [concept for concept in eligible if {"train", "unseen_style"} <= roles[concept]]
    return set(sorted(possible, key=lambda concept: _lot(splits, "unseen_concept", concept))[: splits.unseen_concepts])


def split(images: list[Placed], unseen: set[str], splits: Splits) -> list[str]:
    """Assign one split per image; `dropped` for a test image that is a near-duplicate of a training image."""
    places = ["unseen_concept" if image.role == "train" and image.concept in unseen else image.role for image in images]
    for name, share in (("held_out", splits.held_out), ("validation", splits.validation)):
        _hold_out(images, places, name, share, splits)
    trained = {image.cluster for image, place in zip(images, places, strict=True) if place == "train"}
    return [
        DROPPED if place in TESTS and image.cluster in trained else place
        for image, place in zip(images, places, strict=True)
    ]


def _lot(splits: Splits, draw: str, name: str) -> str:
    """Return a pseudo-random value of a name; other concepts and images do not change it."""
    return hashlib.sha256(f"{splits.seed}/{draw}/{name}".encode()).hexdigest()


def _hold_out(images: list[Placed], places: list[str], name: str, share: float, splits: Splits) -> None:
    """Move whole clusters out of training, in pseudo-random order, while every concept keeps enough images."""
    members: dict[int, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        if image.role == "train":
            members[image.cluster].append(index)
    left = Counter(image.concept for image, place in zip(images, places, strict=True) if place == "train")
    wanted = round(share * len(members))
    lots = {
        cluster: _lot(splits, name, min(images[index].sha256 for index in indices))
        for cluster, indices in members.items()
    }
    for cluster in sorted(members, key=lambda cluster: (lots[cluster], cluster)):
        if wanted == 0:
            break
        leaving = Counter(images[index].concept for index in members[cluster])
        trained = all(places[index] == "train" for index in members[cluster])
        if trained and all(left[concept] - count >= splits.keep for concept, count in leaving.items()):
            left -= leaving
            wanted -= 1
            for index in members[cluster]:
                places[index] = name
