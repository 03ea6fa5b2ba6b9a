"""checkpoints/memory: what a process holds in memory and what the machine can still give, from Linux' own files.

In bytes; elsewhere, where nobody says, 0 or None. Knows nothing about models.
"""

from __future__ import annotations

from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def anonymous_memory() -> int:
    """RssAnon of this process (pages of mapped files do not count)."""
    return status_field("/proc/self/status", "RssAnon")


def free_memory() -> int | None:
    """What the machine can still give to this process, containers' limits included."""
    limits = [int(text) for text in map(_text, CGROUP_LIMITS) if text.isdigit()]
    known = [value for value in (status_field("/proc/meminfo", "MemAvailable"), *limits) if value]
    return min(known) if known else None


def status_field(file: str | Path, name: str) -> int:
    """One field of a Linux status file."""
    lines = (line.split() for line in _text(file).splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[:1] == [f"{name}:"]), 0)


def in_words(size: float) -> str:
    """Bytes as people read them, in three digits: "6.43 GB", "26.5 MB"."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _text(file: str | Path) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
