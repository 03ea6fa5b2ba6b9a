"""Compare two finished runs row by row: is the second better, and is that more than chance?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..errors import UsageError
from .metrics import Metric, compare
from .results import StoredRun


def compare_runs(a: StoredRun, b: StoredRun, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Compare B with A on the rows that both have.

    Raises:
        UsageError: the runs are of different tasks or data, or share no row.
    """
    for name in ("task", "data"):
        if a.results.get(name) != b.results.get(name):
            raise UsageError(
                f"{a.folder} has {name} {a.results.get(name)!r}, and {b.folder} has {b.results.get(name)!r}. "
                "Compare two runs on the same data."
            )
    shared = [id for id in a.rows if id in b.rows]
    if not shared:
        raise UsageError(f"{a.folder} and {b.folder} have no row in common. Compare two runs on the same data.")
    found = ((m.name, compare(m, [a.rows[id] for id in shared], [b.rows[id] for id in shared])) for m in metrics)
    return {
        "task": a.results["task"],
        "data": a.results["data"],
        "a": {"folder": str(a.folder), "model": a.results.get("model")},
        "b": {"folder": str(b.folder), "model": b.results.get("model")},
        "rows": len(shared),
        "only_in_a": len(a.rows) - len(shared),
        "only_in_b": len(b.rows) - len(shared),
        "differences": {name: _rounded(asdict(difference)) for name, difference in found if difference is not None},
    }


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    """Round for JSON; NaN becomes None."""
    return {
        name: (None if math.isnan(value) else round(value, 5)) if isinstance(value, float) else value
        for name, value in fields.items()
    }
