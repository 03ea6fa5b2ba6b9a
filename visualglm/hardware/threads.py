"""How many threads compute: what is asked for, else what this process may use.

A container may see all cores of its machine and be allowed the time of two: more threads than that wait for each other.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def set_threads(threads: int | None) -> None:
    """Tells torch; without a number, torch's own choice (`OMP_NUM_THREADS`, the cores) within the container's limit."""
    import torch

    if threads is None and "OMP_NUM_THREADS" in os.environ:
        return
    allowed = allowed_processors(CGROUPS)
    wanted = threads or min(torch.get_num_threads(), allowed or torch.get_num_threads())
    if wanted != torch.get_num_threads():
        torch.set_num_threads(wanted)


def allowed_processors(cgroups: Path) -> int | None:
    """Processors whose time this container is given, rounded up; None where nothing limits it."""
    limit, period = _version_2(cgroups) or _version_1(cgroups) or (0.0, 1.0)
    return max(1, math.ceil(limit / period)) if limit > 0 else None


def _version_2(cgroups: Path) -> tuple[float, float] | None:
    file = cgroups / "cpu.max"
    words = file.read_text().split() if file.exists() else []
    return (float(words[0]), float(words[1])) if len(words) == 2 and words[0] != "max" else None


def _version_1(cgroups: Path) -> tuple[float, float] | None:
    files = [cgroups / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    return (float(files[0].read_text()), float(files[1].read_text())) if all(f.exists() for f in files) else None
