"""Shares and their intervals, against known values."""

from __future__ import annotations

import pytest

from visualglm.evaluation.intervals import majority, share_of, wilson


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (5, 10, 0.2366, 0.7634)],
)
def test_wilson(right: int, total: int, low: float, high: float) -> None:
    assert wilson(right, total) == pytest.approx((low, high), abs=1e-4)


def test_share_of_nothing_is_unknown() -> None:
    assert share_of([]) == {"n": 0, "share": 0.0, "low": 0.0, "high": 1.0}


def test_majority() -> None:
    assert majority(["a", "b", "a", "a"]) == 0.75
