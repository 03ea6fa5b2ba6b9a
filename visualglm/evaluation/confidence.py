"""How sure a share is. Knows nothing about models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

Z95 = 1.959964


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson interval of `right` out of `total`."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = right / total, Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def share_of(hits: Sequence[bool]) -> dict[str, float | int]:
    """n, the share that is right, and its interval."""
    low, high = wilson(sum(hits), len(hits))
    share = sum(hits) / len(hits) if hits else 0.0
    return {"n": len(hits), "share": round(share, 4), "low": round(low, 4), "high": round(high, 4)}


def balanced(*sides: dict[str, float | int]) -> dict[str, float | int]:
    """The mean of several shares as a share, with the interval that theirs allow (MOVER)."""
    share = sum(side["share"] for side in sides) / len(sides)
    below = math.sqrt(sum((side["share"] - side["low"]) ** 2 for side in sides)) / len(sides)
    above = math.sqrt(sum((side["high"] - side["share"]) ** 2 for side in sides)) / len(sides)
    n = sum(int(side["n"]) for side in sides)
    return {"n": n, "share": round(share, 4), "low": round(share - below, 4), "high": round(share + above, 4)}


def majority(truths: Sequence[str]) -> float:
    """What the commonest answer alone would reach."""
    return round(Counter(truths).most_common(1)[0][1] / len(truths), 4) if truths else 0.0


def prior(truths: Sequence[tuple[str, str]]) -> float:
    """What the commonest answer to each sort of question alone would reach; `truths` are (sort, truth)."""
    sorts = {sort: [truth for other, truth in truths if other == sort] for sort in dict.fromkeys(s for s, _ in truths)}
    return round(sum(len(t) * majority(t) for t in sorts.values()) / len(truths), 4) if truths else 0.0
