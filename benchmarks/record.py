"""Store figures with their origin: command, date, machine, versions."""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from visualglm.hardware.machine_report import machine, timed, versions
from visualglm.hardware.memory import status_field

__all__ = ["RESULTS", "machine", "origin", "status_field", "store", "timed", "versions"]
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def origin(program: str) -> dict[str, Any]:
    """Build the head of a record; `program` is the benchmark's `__file__`, its arguments are this process's."""
    return {
        "command": shlex.join(["python", Path(program).resolve().relative_to(ROOT).as_posix(), *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }


def store(path: Path, figures: dict[str, Any]) -> None:
    """Write the record and print it."""
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)
