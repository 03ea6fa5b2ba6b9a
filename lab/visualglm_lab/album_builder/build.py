"""Build an album: fetch, render, deduplicate, split, write."""

from __future__ import annotations

import datetime
import hashlib
import json
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from visualglm.errors import UsageError
from visualglm.evaluation.scenes.concepts import by_key, concept_of_emoji, glyphs
from visualglm.evaluation.scenes.kinds import KINDS

from .candidates import Candidate, candidates
from .config import AlbumRecipe, Splits
from .near_duplicates import clusters, perceptual_hash
from .normalise import UnsuitableImageError, render
from .packages import open_package
from .splits import DROPPED, Placed, split, unseen_concepts
from .teacher_features import write_features
from .write_album import SUMMARY, Row, write_album

NEVER_UNSEEN = ("shape", "person")
"""Categories whose concepts are always trained; so are drawn kinds, letters and digits."""


@dataclass(frozen=True)
class Drawn:
    """A candidate that was rendered."""

    candidate: Candidate
    pixels: np.ndarray
    cutout: bool
    sha256: str


def build(recipe: AlbumRecipe) -> dict[str, Any]:
    """Build the album that a recipe describes; return its summary.

    Raises:
        UsageError: no package shows any of the concepts.
    """
    drawn, failed = draw(candidates(recipe, concept_of_emoji()))
    if not drawn:
        raise UsageError("The recipe's packages show none of the concepts. Add sources of their images.")
    hashes = np.stack([perceptual_hash(one.pixels) for one in drawn])
    groups = clusters(hashes, recipe.splits.distance, [one.candidate.drawing for one in drawn])
    places, unseen = _places(drawn, groups, recipe.splits)
    kept = [index for index, place in enumerate(places) if place != DROPPED]
    rows = [_row(new, drawn[old], int(groups[old]), places[old]) for new, old in enumerate(kept)]
    write_album(Path(recipe.output), [drawn[index].pixels for index in kept], rows)
    if recipe.teacher:
        weights = open_package(recipe.teacher, Path(recipe.downloads)).folder / recipe.teacher_file
        write_features(Path(recipe.output), [row.split == "train" for row in rows], weights)
    summary = _summary(rows, [drawn[i].candidate for i, place in enumerate(places) if place == DROPPED], failed, unseen)
    (Path(recipe.output) / SUMMARY).write_text(json.dumps(summary, ensure_ascii=False, indent=2) + "\n", "utf-8")
    return summary


def draw(found: Sequence[Candidate]) -> tuple[list[Drawn], Counter[str]]:
    """Render every candidate; failures and exact duplicates of earlier ones are counted."""
    drawn: list[Drawn] = []
    failed: Counter[str] = Counter()
    seen: set[bytes] = set()
    for candidate in track(found, "Drawing", disable=not sys.stderr.isatty()):
        try:
            content = candidate.package.read(candidate.file)
            image = render(content, candidate.file)
        except UnsuitableImageError as error:
            failed[f"{candidate.source}: {error}"] += 1
            continue
        same = hashlib.sha256(image.pixels.tobytes()).digest()
        if same in seen:
            failed[f"{candidate.source}: the same picture came before"] += 1
            continue
        seen.add(same)
        drawn.append(Drawn(candidate, image.pixels, image.cutout, hashlib.sha256(content).hexdigest()))
    return drawn, failed


def _places(drawn: list[Drawn], groups: np.ndarray, splits: Splits) -> tuple[list[str], list[str]]:
    """Return the split of every image, and the concepts that are not trained."""
    placed = [
        Placed(one.candidate.concept, one.candidate.role, int(group), one.sha256)
        for one, group in zip(drawn, groups, strict=True)
    ]
    drawn_kinds = {kind.key for kind in (*KINDS, *glyphs())}
    eligible = {key for key, kind in by_key().items() if kind.category not in NEVER_UNSEEN} - drawn_kinds
    unseen = unseen_concepts(placed, eligible, splits)
    return split(placed, unseen, splits), sorted(unseen)


def _row(index: int, drawn: Drawn, cluster: int, place: str) -> Row:
    candidate = drawn.candidate
    address = candidate.package.address
    return Row(
        index=index,
        concept=candidate.concept,
        source=candidate.source,
        package=f"{address.kind}:{address.name}",
        version=address.version,
        file=candidate.file,
        licence=candidate.licence,
        sha256=drawn.sha256,
        style=candidate.style,
        cutout=drawn.cutout,
        cluster=cluster,
        split=place,
        also=candidate.also,
    )


def _test_of(dropped: Candidate) -> str:
    """Name the source of a dropped test image, and its test."""
    return f"{dropped.source} ({'unseen_concept' if dropped.role == 'train' else dropped.role})"


def _summary(rows: list[Row], dropped: list[Candidate], failed: Counter[str], unseen: list[str]) -> dict[str, Any]:
    by_source: dict[str, Counter[str]] = defaultdict(Counter)
    by_concept: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        by_source[row.source][row.split] += 1
        by_concept[row.concept][row.split] += 1
    return {
        "command": shlex.join(["python", "-m", "visualglm_lab.album_builder", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "images": len(rows),
        "splits": Counter(row.split for row in rows),
        "sources": by_source,
        "licences": Counter(row.licence for row in rows),
        "packages": {row.package: row.version for row in rows},
        "clusters": len({row.cluster for row in rows}),
        "near_duplicates_of_training_dropped_from_tests": Counter(map(_test_of, dropped)),
        "not_drawn": dict(sorted(failed.items())),
        "unseen_concepts": unseen,
        "concepts_without_names": sorted(set(by_concept) - set(by_key())),
        "concepts": dict(sorted(by_concept.items())),
    }
