"""benchmarks/record: where figures come from (command, date, machine, versions), and the file that keeps them.

Knows nothing about what is measured, except how to time a call and to read one of Linux' status files.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import visualglm

RESULTS = Path(__file__).parent / "results"


def origin(program: str) -> dict[str, Any]:
    """The head of every record; `program` is the benchmark's `__file__`, its arguments are this process's."""
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(program).name}", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }


def machine() -> dict[str, Any]:
    """What the figures are measured on."""
    described = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "cpu": next((line.split(":")[1].strip() for line in described if line.startswith("model name")), "unknown"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(status_field(Path("/proc/meminfo"), "MemTotal") / 1e9, 1),
        "load_average_1_min": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Of what computes."""
    return {
        "visualglm": visualglm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def store(path: Path, figures: dict[str, Any]) -> None:
    """Writes the record, and shows it."""
    text = json.dumps(figures, indent=2, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)


def timed(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    result = call(*args, **kwargs)
    return result, time.perf_counter() - start


def status_field(file: Path, name: str) -> int:
    """One field of a Linux status file, in bytes."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
