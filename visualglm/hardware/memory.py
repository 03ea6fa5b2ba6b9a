"""Memory of this process and free memory of the machine, in bytes.

The figures come from Linux' files in /proc and /sys; on other systems they are 0 or None.
"""

from __future__ import annotations

from pathlib import Path

CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""For cgroup v2 and v1: folder, limit file, usage file, and the `memory.stat` field of reclaimable pages."""


def anonymous_memory() -> int:
    """Return RssAnon of this process: resident memory without mapped files."""
    return status_field("/proc/self/status", "RssAnon")


def free_memory() -> int | None:
    """Return the memory this process can still get, within the limits of the machine and of its container."""
    known = [status_field("/proc/meminfo", "MemAvailable") or None, *(left_in_cgroup(*group) for group in CGROUPS)]
    return min((value for value in known if value is not None), default=None)


def left_in_cgroup(folder: str, limit: str, usage: str, reclaimable: str) -> int | None:
    """Return the memory left under a container's limit, or None without a limit."""
    allowed, used = _text(f"{folder}/{limit}"), _text(f"{folder}/{usage}")
    if not allowed.isdigit() or not used.isdigit():
        return None
    lines = [line.split() for line in _text(f"{folder}/memory.stat").splitlines()]
    pages = next((int(words[1]) for words in lines if words[0] == reclaimable), 0)
    return max(0, int(allowed) - int(used) + pages)


def status_field(file: str | Path, name: str) -> int:
    """Return one field of a Linux status file in bytes, or 0."""
    lines = (line.split() for line in _text(file).splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[:1] == [f"{name}:"]), 0)


def in_words(size: float) -> str:
    """Format bytes with three digits: "6.43 GB", "26.5 MB", "3.2 kB"."""
    if size >= 999.5e6:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.3g} MB" if size >= 999.5e3 else f"{size / 1e3:.3g} kB"


def _text(file: str | Path) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
