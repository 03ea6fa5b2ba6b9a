"""Results of a run: `results.json` (figures) and `rows.jsonl` (what every row contributed, for `--compare`)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.atomic import write_file
from ..files.untrusted_files import open_regular, parse_json, read_json
from .metrics import Estimate, Metric, estimate
from .queries import ScoredRow

MOST_FACET_VALUES = 60
LONGEST_LINE = 1 << 24
SHOWN_ERRORS = 5


def summarize(metrics: Sequence[Metric], rows: Sequence[ScoredRow], baselines: Mapping[str, float]) -> dict[str, Any]:
    """Compute all metrics, over all rows and for each value of each facet, and count what has no answer."""
    unanswered = [row for row in rows if row.errors]
    return {
        "rows": len(rows),
        "unanswered": len(unanswered),
        "errors": [f"row {row.row + 1}: {row.errors[0]}" for row in unanswered[:SHOWN_ERRORS]],
        "metrics": _estimates(metrics, rows),
        "baselines": {name: round(value, 4) for name, value in baselines.items()},
        "facets": {
            facet: {value: _estimates(metrics, own) for value, own in sorted(values.items())[:MOST_FACET_VALUES]}
            for facet, values in _by_facet(rows).items()
        },
    }


def _estimates(metrics: Sequence[Metric], rows: Sequence[ScoredRow]) -> dict[str, Any]:
    found = ((metric.name, estimate(metric, rows)) for metric in metrics)
    return {name: value.to_json() for name, value in found if value is not None}


def _by_facet(rows: Sequence[ScoredRow]) -> dict[str, dict[str, list[ScoredRow]]]:
    """Group rows by facet and value; a facet with one value says nothing."""
    facets: dict[str, dict[str, list[ScoredRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for facet, value in row.facets.items():
            facets[facet][value].append(row)
    return {facet: dict(values) for facet, values in facets.items() if len(values) > 1}


def write_results(folder: Path, results: Mapping[str, Any], rows: Iterable[ScoredRow]) -> None:
    """Write both files."""
    lines = (
        json.dumps(
            {
                "id": row.id,
                "row": row.row,
                "group": row.group,
                "statistics": row.statistics,
                "facets": row.facets,
                "said": row.said,
                "expected": row.expected,
                "errors": row.errors,
            },
            ensure_ascii=False,
        )
        for row in rows
    )
    write_file(folder / "rows.jsonl", "".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
    write_file(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class StoredRow:
    """What a comparison needs of a row."""

    id: str
    group: str
    statistics: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class StoredRun:
    """A finished run, read from its folder."""

    folder: Path
    results: dict[str, Any]
    rows: dict[str, StoredRow]


def read_run(folder: Path) -> StoredRun:
    """Read a folder that `visualglm evaluate` wrote.

    Raises:
        UsageError: it is not such a folder, or a file in it is damaged.
    """
    rows: dict[str, StoredRow] = {}
    try:
        results = read_json(folder / "results.json")
        with open_regular(folder / "rows.jsonl") as file:
            for line in iter(lambda: file.readline(LONGEST_LINE), b""):
                row = parse_json(line)
                rows[row["id"]] = StoredRow(row["id"], row["group"], row["statistics"])
        if not isinstance(results, dict) or "task" not in results:
            raise ValueError("results.json names no task")
    except FileNotFoundError as error:
        raise UsageError(
            f"{folder} has no {Path(str(error.filename)).name}. Name the -o folder of a finished `visualglm evaluate`."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder} cannot be read ({error}). Run its evaluation again.") from error
    return StoredRun(folder, results, rows)


def as_estimate(entry: Mapping[str, Any]) -> Estimate:
    """Read an estimate that `Estimate.to_json` wrote."""
    nan = float("nan")
    value, low, high = (nan if entry[name] is None else float(entry[name]) for name in ("value", "low", "high"))
    return Estimate(value, low, high, int(entry["n"]), int(entry["groups"]))
