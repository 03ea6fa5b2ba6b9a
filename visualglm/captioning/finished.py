"""captioning/finished: which pictures have a row already, and which items of a source still wait for theirs.

The one rule of resuming, for every engine. Knows nothing about files: results.py (JSON lines) and parts.py (Parquet)
fill it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .sources import Item


class Finished:
    """What lies at `path`: `finished` (picture -> questions answered), and how many rows are errors (`failed`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished: dict[str, set[str]] = {}
        self.failed = 0

    def remember(self, row: dict[str, Any]) -> None:
        """Counts a row; `error` may be missing or None where there is none."""
        self.finished.setdefault(row["image"], set()).add(row["question"])
        self.failed += row.get("error") is not None

    def waiting(self, items: Iterable[Item]) -> list[Item]:
        """The items without a row; of items that bring no question of their own, any row of the picture counts."""
        return [item for item in items if not self._has(item)]

    def _has(self, item: Item) -> bool:
        answered = self.finished.get(written(item.image), set())
        return bool(answered) if item.question is None else written(item.question) in answered

    def check_question(self, items: Iterable[Item], question: str) -> None:
        """Raises `UsageError` where rows answer another question than this one: they would pass for its answers."""
        for item in items:
            others = self.finished.get(written(item.image), set()) - {written(question)}
            if item.question is None and others:
                raise UsageError(f"{self.path} answers {others.pop()[:80]!r}: choose another -o, or ask that.")


def written(text: str) -> str:
    """As rows hold it: a file's name that is no UTF-8 has question marks there."""
    return text.encode("utf-8", "replace").decode()
