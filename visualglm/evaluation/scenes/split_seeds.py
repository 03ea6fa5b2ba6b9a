"""Disjoint seeds for training, validation, test, samples and `visualglm evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

RANGE = 1_000_000_000


class Split(Enum):
    """Data splits with disjoint ranges of seeds; the value is the index of the range."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    SAMPLES = 3
    EVALUATION = 4


def seeds(split: Split, start: int = 0) -> Iterator[int]:
    """Iterate over the seeds of one split in order, beginning with the `start`-th.

    Raises:
        ValueError: `start` is outside the range.
    """
    if not 0 <= start < RANGE:
        raise ValueError(f"start is {start}: a split has the seeds 0 to {RANGE - 1}.")
    first = split.value * RANGE
    return iter(range(first + start, first + RANGE))
