"""What a process holds in memory and what the machine can still give, from Linux' own files.

In bytes; elsewhere, where nobody says, 0 or None. Knows nothing about models.
"""

from __future__ import annotations

from pathlib import Path

CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of both generations: folder, the limit's file, the usage's file, and what `memory.stat` calls pages that can go."""


def anonymous_memory() -> int:
    """RssAnon of this process (pages of mapped files do not count)."""
    return status_field("/proc/self/status", "RssAnon")


def free_memory() -> int | None:
    """What the machine can still give to this process, what its container may still take included."""
    known = [status_field("/proc/meminfo", "MemAvailable") or None, *(left_in_cgroup(*group) for group in CGROUPS)]
    return min((value for value in known if value is not None), default=None)


def left_in_cgroup(folder: str, limit: str, usage: str, can_go: str) -> int | None:
    """What a container's limit leaves; None where there is none."""
    allowed, used = _text(f"{folder}/{limit}"), _text(f"{folder}/{usage}")
    if not allowed.isdigit() or not used.isdigit():
        return None
    lines = [line.split() for line in _text(f"{folder}/memory.stat").splitlines()]
    pages = next((int(words[1]) for words in lines if words[0] == can_go), 0)
    return max(0, int(allowed) - int(used) + pages)


def status_field(file: str | Path, name: str) -> int:
    """One field of a Linux status file."""
    lines = (line.split() for line in _text(file).splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[:1] == [f"{name}:"]), 0)


def in_words(size: float) -> str:
    """Bytes as people read them, in three digits: "6.43 GB", "26.5 MB", "3.2 kB"."""
    if size >= 999.5e6:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.3g} MB" if size >= 999.5e3 else f"{size / 1e3:.3g} kB"


def _text(file: str | Path) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
