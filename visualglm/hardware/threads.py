"""Number of CPU threads: as requested, else the limit of the container.

A container may see all cores of a machine but get the CPU time of two. More threads than that wait for each other.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def set_threads(threads: int | None) -> None:
    """Set torch's threads. None keeps torch's choice (`OMP_NUM_THREADS` or the cores) within the container's limit."""
    import torch

    if threads is None and "OMP_NUM_THREADS" in os.environ:
        return
    allowed = allowed_processors(CGROUPS)
    count = threads or min(torch.get_num_threads(), allowed or torch.get_num_threads())
    if count != torch.get_num_threads():
        torch.set_num_threads(count)


def allowed_processors(cgroups: Path) -> int | None:
    """Return the processors whose CPU time the container may use, rounded up, or None without a limit."""
    limit, period = _version_2(cgroups) or _version_1(cgroups) or (0.0, 1.0)
    return max(1, math.ceil(limit / period)) if limit > 0 else None


def _version_2(cgroups: Path) -> tuple[float, float] | None:
    file = cgroups / "cpu.max"
    words = file.read_text().split() if file.exists() else []
    return (float(words[0]), float(words[1])) if len(words) == 2 and words[0] != "max" else None


def _version_1(cgroups: Path) -> tuple[float, float] | None:
    files = [cgroups / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    return (float(files[0].read_text()), float(files[1].read_text())) if all(f.exists() for f in files) else None
