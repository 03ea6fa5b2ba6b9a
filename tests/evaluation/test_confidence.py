"""Shares and their intervals, against known values."""

from __future__ import annotations

import pytest

from visualglm.evaluation.confidence import (
    fraction_of,
    group_baseline,
    majority_baseline,
    mean_fraction,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (5, 10, 0.2366, 0.7634)],
)
def test_wilson(right: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=1e-4)


def test_share_of_nothing_is_unknown() -> None:
    assert fraction_of([]) == {"n": 0, "share": 0.0, "low": 0.0, "high": 1.0}


def test_majority() -> None:
    assert majority_baseline(["a", "b", "a", "a"]) == 0.75


def test_balanced_is_the_mean_within_its_interval() -> None:
    found = mean_fraction(fraction_of([True] * 9 + [False]), fraction_of([True] * 5 + [False] * 5))
    assert found["share"] == pytest.approx(0.7)
    assert (found["n"], found["low"] < 0.7 < found["high"]) == (20, True)


def test_prior_takes_the_commonest_of_every_sort() -> None:
    assert group_baseline([("side", "left"), ("side", "left"), ("height", "above"), ("height", "below")]) == 0.75
