"""Metrics that are functions of sums over rows, with bootstrap intervals and paired comparisons.

Rows about one image are drawn together (a cluster bootstrap), because their errors go together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .confidence import wilson_interval

Array = NDArray[np.float64]
RESAMPLES = 2000
BLOCK_ELEMENTS = 4_000_000
"""Weights that are drawn at once."""
SEED = 0


class Counted(Protocol):
    """A row with statistics, in a group."""

    @property
    def id(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def statistics(self) -> Mapping[str, Sequence[float]]: ...


def fraction(sums: Array) -> Array:
    """Divide the first sum by the second: a mean over rows whose statistic is (value, 1)."""
    return ratio(sums[..., 0], sums[..., 1])


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide; where the denominator is 0 the result is NaN (undefined)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, numerator / denominator)


@dataclass(frozen=True)
class Metric:
    """A figure computed from the sums of one statistic of the rows: sums [..., k] -> values [...].

    `top` is the largest possible value, None if there is none.
    """

    name: str
    statistic: str
    compute: Callable[[Array], Array] = fraction
    top: float | None = 1.0


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval over `n` rows in `groups` groups; NaN where it is undefined."""

    value: float
    low: float
    high: float
    n: int
    groups: int

    def to_json(self) -> dict[str, float | int | None]:
        """Return it for JSON, with None for NaN."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        rounded = {name: None if math.isnan(number) else round(number, 4) for name, number in numbers.items()}
        return {**rounded, "n": self.n, "groups": self.groups}


def estimate(metric: Metric, rows: Iterable[Counted]) -> Estimate | None:
    """Compute a metric and its percentile interval; None if no row has its statistic.

    A value of 0 or 1 varies in no resample: its interval is Wilson's, over the groups that the metric is defined for.
    """
    counted = [row for row in rows if metric.statistic in row.statistics]
    if not counted:
        return None
    sums, groups = _group_sums([metric.statistic], counted)
    value = float(metric.compute(sums.sum(axis=0)[0]))
    if metric.top == 1.0 and value in (0.0, 1.0):
        defined = int((~np.isnan(metric.compute(sums[:, 0]))).sum())
        low, high = wilson_interval(round(value * defined), defined)
    else:
        low, high = _percentiles(metric.compute(_resampled(sums)[:, 0]))
    return Estimate(value, low, high, len(counted), groups)


@dataclass(frozen=True)
class Difference:
    """B minus A on the same rows: the values, the difference with its 95 % interval, and significance.

    `p_bootstrap` is two-sided. `p_mcnemar` is exact, for metrics whose rows are right or wrong; it takes rows as
    independent. None where it does not apply.
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    n: int
    groups: int
    p_bootstrap: float | None
    p_mcnemar: float | None
    only_a: int
    only_b: int


def compare(metric: Metric, a: Sequence[Counted], b: Sequence[Counted]) -> Difference | None:
    """Compare two runs row by row; `a` and `b` have the same ids in the same order. None without the statistic."""
    pairs = [
        (one, other)
        for one, other in zip(a, b, strict=True)
        if metric.statistic in one.statistics and metric.statistic in other.statistics
    ]
    if not pairs:
        return None
    both = [_Pair(one, other, metric.statistic) for one, other in pairs]
    sums, groups = _group_sums(["a", "b"], both)
    values = metric.compute(sums.sum(axis=0))
    resampled = metric.compute(_resampled(sums))
    differences = resampled[:, 1] - resampled[:, 0]
    low, high = _percentiles(differences)
    only_a, only_b, binary = _discordant(metric, both)
    return Difference(
        a=float(values[0]),
        b=float(values[1]),
        value=float(values[1] - values[0]),
        low=low,
        high=high,
        n=len(pairs),
        groups=groups,
        p_bootstrap=_p_value(differences),
        p_mcnemar=_mcnemar(only_a, only_b) if binary else None,
        only_a=only_a,
        only_b=only_b,
    )


class _Pair:
    """The statistic of one row in two runs, as statistics `a` and `b`."""

    def __init__(self, one: Counted, other: Counted, statistic: str) -> None:
        self.id, self.group = one.id, one.group
        self.statistics = {"a": one.statistics[statistic], "b": other.statistics[statistic]}


def _group_sums(statistics: Sequence[str], rows: Sequence[Counted]) -> tuple[Array, int]:
    """Sum statistics over the rows of each group: [groups, statistics, k], and the number of groups."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(row.group for row in rows))}
    values = np.array([[row.statistics[name] for name in statistics] for row in rows], dtype=np.float64)
    sums = np.zeros((len(numbers), *values.shape[1:]))
    np.add.at(sums, [numbers[row.group] for row in rows], values)
    return sums, len(numbers)


def _resampled(sums: Array) -> Array:
    """Draw groups with replacement `RESAMPLES` times and sum them: [RESAMPLES, statistics, k]."""
    generator = np.random.default_rng(SEED)
    groups, flat = len(sums), sums.reshape(len(sums), -1)
    block = max(1, BLOCK_ELEMENTS // groups)
    drawn = [
        generator.multinomial(groups, np.full(groups, 1 / groups), size=min(block, RESAMPLES - start)) @ flat
        for start in range(0, RESAMPLES, block)
    ]
    return np.concatenate(drawn).reshape(RESAMPLES, *sums.shape[1:])


def _percentiles(values: Array) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)


def _p_value(differences: Array) -> float | None:
    """Return the two-sided bootstrap p-value of no difference, at least 1 / resamples."""
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return None
    tail = min(float((defined <= 0).mean()), float((defined >= 0).mean()))
    return max(min(1.0, 2 * tail), 1 / len(defined))


def _discordant(metric: Metric, pairs: Sequence[_Pair]) -> tuple[int, int, bool]:
    """Count the rows that only A or only B has right, and whether every row is right or wrong."""
    if metric.compute is not fraction:
        return 0, 0, False
    right = np.array([[pair.statistics["a"][0], pair.statistics["b"][0]] for pair in pairs])
    binary = bool(np.isin(right, (0.0, 1.0)).all()) and all(
        float(pair.statistics[name][1]) == 1.0 for pair in pairs for name in "ab"
    )
    only_a, only_b = (int((right[:, one] > right[:, 1 - one]).sum()) for one in (0, 1))
    return only_a, only_b, binary


def _mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p-value of McNemar's test."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
