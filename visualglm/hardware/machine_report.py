"""Measurement of calls (seconds, peak memory) and description of the machine for benchmark results.

Memory and processor come from Linux' files in /proc; on other systems these fields are zero or unknown.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from .. import __version__
from ..kernels import cpu_backend
from .memory import anonymous_memory, status_field

PROBE_BYTES = 256 << 20
"""Bytes; larger than any CPU cache, so that the probe reads memory."""


def timed(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """Return the result of a call and its wall-clock seconds."""
    start = time.perf_counter()
    result = call(*args, **kwargs)
    return result, time.perf_counter() - start


def timed_alone(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """Like `timed`, but return CPU seconds if one thread computes: other processes do not lengthen them."""
    if torch.get_num_threads() > 1 or torch.cuda.is_available():
        return timed(call, *args, **kwargs)
    start = time.process_time()
    result = call(*args, **kwargs)
    return result, time.process_time() - start


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yield a list whose only element is the peak anonymous memory inside the block, in bytes, sampled every 10 ms."""
    peak, done = [anonymous_memory()], threading.Event()

    def sample() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], anonymous_memory())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def machine() -> dict[str, Any]:
    """Describe the processor, threads, memory and load of this machine."""
    model = next((line.split(":")[1].strip() for line in cpu_lines() if line.startswith("model name")), "unknown")
    total = status_field("/proc/meminfo", "MemTotal")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(total / 1e9, 1),
        "load_average_1_min": round(os.getloadavg()[0], 2),
    }


def cpu_lines() -> list[str]:
    """Return the lines of /proc/cpuinfo, or none on other systems."""
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def versions() -> dict[str, str]:
    """Return the versions of the software that computes."""
    return {
        "visualglm": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


class BandwidthProbe:
    """Measures memory bandwidth by reading a block larger than every cache, with torch's number of threads."""

    def __init__(self) -> None:
        self.block = torch.ones(PROBE_BYTES // 8, dtype=torch.int64)

    def measure(self) -> float:
        """Return bytes per second of one pass, by the compiled kernel or a nearly as fast sum in torch."""
        read = (lambda: cpu_backend.read(self.block)) if cpu_backend.available() else self.block.sum
        return PROBE_BYTES / timed_alone(read)[1]


def multiplication_peak() -> float:
    """Measure int8 products per second of the instruction that the kernel uses; 0 without AVX512-VNNI."""
    if not cpu_backend.available():
        return 0.0
    cpu_backend.multiply()  # raises the clock
    products, seconds = timed_alone(cpu_backend.multiply)
    return products / seconds
