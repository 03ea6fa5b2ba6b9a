"""Which seeds belong to whom. Knows nothing about what is drawn from them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

RANGE = 1_000_000_000


class Split(Enum):
    """Disjoint ranges of seeds; the value is the range's number."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    SAMPLES = 3


def seeds(split: Split, start: int = 0) -> Iterator[int]:
    """The seeds of one split in order, from the `start`-th on; never a seed of another split."""
    if not 0 <= start < RANGE:
        raise ValueError(f"start is {start}: a split has the seeds 0 to {RANGE - 1}.")
    first = split.value * RANGE
    return iter(range(first + start, first + RANGE))
