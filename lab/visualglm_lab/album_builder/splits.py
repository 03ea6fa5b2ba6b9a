"""Pictures with concept, role and cluster -> train, validation and the test splits.

No cluster is both in training and in a test: pictures held out leave with their whole cluster, and a test picture of
another style, of a concept never trained or of a source for tests only that is a near-duplicate of a training picture
leaves its test. Knows nothing about pixels.
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
    """What the split knows of a picture: `role` is train, unseen_style or photos; `sha256` is its file's."""

    concept: str
    role: str
    cluster: int
    sha256: str


def unseen_concepts(images: Iterable[Placed], eligible: set[str], splits: Splits) -> set[str]:
    """Concepts that will not be trained: drawn from those eligible with pictures in both kinds of style."""
    roles: dict[str, set[str]] = defaultdict(set)
    for image in images:
        roles[image.concept].add(image.role)
    possible = [concept for concept in eligible if {"train", "unseen_style"} <= roles[concept]]
    return set(sorted(possible, key=lambda concept: _lot(splits, "unseen_concept", concept))[: splits.unseen_concepts])


def split(images: list[Placed], unseen: set[str], splits: Splits) -> list[str]:
    """One split per picture; `dropped` for a test picture that is a near-duplicate of a training picture."""
    places = [_first_place(image, unseen) for image in images]
    for name, share in (("held_out", splits.held_out), ("validation", splits.validation)):
        _hold_out(images, places, name, share, splits)
    trained = {image.cluster for image, place in zip(images, places, strict=True) if place == "train"}
    return [
        DROPPED if place in TESTS and image.cluster in trained else place
        for image, place in zip(images, places, strict=True)
    ]


def _lot(splits: Splits, draw: str, name: str) -> str:
    """What a name draws: other concepts and pictures may come and go without changing it."""
    return hashlib.sha256(f"{splits.seed}/{draw}/{name}".encode()).hexdigest()


def _first_place(image: Placed, unseen: set[str]) -> str:
    return "unseen_concept" if image.role == "train" and image.concept in unseen else image.role


def _hold_out(images: list[Placed], places: list[str], name: str, share: float, splits: Splits) -> None:
    """Moves whole clusters out of training, in an order drawn by lot, while every concept keeps enough pictures."""
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
