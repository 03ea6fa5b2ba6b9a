"""Yes-or-no questions about objects (POPE, MME): hallucination shows as yes to what is not there.

An answer that states neither yes nor no is wrong, and counts neither as yes nor as no.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ...preprocessing.prompt import language_of
from ..examples import Example, Examples
from ..metrics import Array, Metric, ratio
from ..queries import Query, Reply, ScoredRow, text_of
from ..yes_no import yes_or_no

CELLS = {("yes", "yes"): 0, ("no", "yes"): 1, ("yes", "no"): 2, ("no", "no"): 3, ("yes", None): 4, ("no", None): 5}
"""(truth, answer) -> index of the statistic: true and false positives, false and true negatives, unclear."""


def precision(sums: Array) -> Array:
    return ratio(sums[..., 0], sums[..., 0] + sums[..., 1])


def recall(sums: Array) -> Array:
    return ratio(sums[..., 0], sums[..., 0] + sums[..., 2] + sums[..., 4])


def f1(sums: Array) -> Array:
    positives = sums[..., 0] + sums[..., 2] + sums[..., 4]
    return ratio(2 * sums[..., 0], positives + sums[..., 0] + sums[..., 1])


def yes_ratio(sums: Array) -> Array:
    return ratio(sums[..., 0] + sums[..., 1], sums.sum(-1))


class PopeTask:
    """Ask whether something is there; the truth is yes or no."""

    name = "pope"
    max_new_tokens = 32
    metrics = (
        Metric("accuracy", "right"),
        Metric("precision", "confusion", precision),
        Metric("recall", "confusion", recall),
        Metric("F1", "confusion", f1),
        Metric("yes ratio", "confusion", yes_ratio),
        Metric("accuracy+", "pair"),
    )

    def __init__(self, examples: Examples) -> None:
        self.examples = examples.rows

    def queries(self, replies: Mapping[str, Reply]) -> list[Query]:
        return [Query(row.id, row.row, row.image, row.image_key, row.question) for row in self.examples]

    def score(self, replies: Mapping[str, Reply]) -> list[ScoredRow]:
        return _with_pairs([self._scored(row, replies) for row in self.examples])

    def _scored(self, row: Example, replies: Mapping[str, Reply]) -> ScoredRow:
        text, errors = text_of(replies, row.id)
        truth, said = row.references[0], yes_or_no(text)
        cells = np.zeros(len(CELLS))
        cells[CELLS[truth, said]] = 1
        facets = {"language": language_of(row.question), **row.facets}
        statistics = {"right": (float(said == truth), 1.0), "confusion": tuple(cells.tolist())}
        asked = [(row.question, text)]
        quality = 1.0 if said == truth else 0.5 if said is None else 0.0
        return ScoredRow(row.id, row.row, row.image_key, statistics, quality, asked, truth, facets, errors, row.image)

    def baselines(self) -> Mapping[str, float]:
        """Return the accuracy of always giving the commoner of yes and no."""
        share = sum(row.references[0] == "yes" for row in self.examples) / len(self.examples)
        return {"accuracy": max(share, 1 - share)}


def _with_pairs(rows: list[ScoredRow]) -> list[ScoredRow]:
    """Add MME's accuracy+ to data whose images have one yes and one no question each: both must be right."""
    pairs: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        pairs[row.group, row.facets.get("category", "")].append(index)
    if any(len(pair) != 2 or rows[pair[0]].expected == rows[pair[1]].expected for pair in pairs.values()):
        return rows
    for first, second in pairs.values():
        both = float(rows[first].quality == 1.0 and rows[second].quality == 1.0)
        rows[first] = replace(rows[first], statistics={**rows[first].statistics, "pair": (both, 1.0)})
    return rows
