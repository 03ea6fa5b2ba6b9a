"""Fractions of right answers, with confidence intervals and baselines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Z95 = 1.959964


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of `right` out of `total`."""
    if total == 0:
        return 0.0, 1.0
    fraction, z2 = right / total, Z95**2
    centre = (fraction + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 * math.sqrt(fraction * (1 - fraction) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def fraction_of(hits: Sequence[bool]) -> dict[str, float | int]:
    """Return the number of answers, the fraction that is right (`share`), and its interval (`low`, `high`)."""
    low, high = wilson_interval(sum(hits), len(hits))
    fraction = sum(hits) / len(hits) if hits else 0.0
    return {"n": len(hits), "share": round(fraction, 4), "low": round(low, 4), "high": round(high, 4)}


def mean_fraction(*classes: dict[str, float | int]) -> dict[str, float | int]:
    """Average the fractions of several classes (balanced accuracy), with an interval by the MOVER method."""
    mean = sum(entry["share"] for entry in classes) / len(classes)
    below = math.sqrt(sum((entry["share"] - entry["low"]) ** 2 for entry in classes)) / len(classes)
    above = math.sqrt(sum((entry["high"] - entry["share"]) ** 2 for entry in classes)) / len(classes)
    n = sum(int(entry["n"]) for entry in classes)
    return {"n": n, "share": round(mean, 4), "low": round(mean - below, 4), "high": round(mean + above, 4)}


def majority_baseline(truths: Sequence[str]) -> float:
    """Return the accuracy of always giving the commonest answer."""
    return round(Counter(truths).most_common(1)[0][1] / len(truths), 4) if truths else 0.0


def group_baseline(truths: Sequence[tuple[str, str]]) -> float:
    """Return the accuracy of giving the commonest answer of each group; `truths` are (group, truth)."""
    groups = {
        group: [truth for other, truth in truths if other == group] for group in dict.fromkeys(g for g, _ in truths)
    }
    return round(sum(len(t) * majority_baseline(t) for t in groups.values()) / len(truths), 4) if truths else 0.0
