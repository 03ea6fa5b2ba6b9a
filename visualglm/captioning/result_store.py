"""Which pictures have a row already, and which items of a source still wait for theirs.

The one rule of resuming, for every engine. What the run was (source and flags) stands beside OUT, in `.OUT.run.json`.
jsonl_results.py (JSON lines) and parquet_results.py (Parquet) read the rows.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.atomic import write_file
from ..files.reading import read_json
from .sources import CaptionItem


class ResultStore(ABC):
    """What lies at `path`: `finished` (picture -> questions answered), and how many rows are errors (`failed`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished: dict[str, set[str]] = {}
        self.failed = 0

    @abstractmethod
    def rows(self) -> Iterator[Mapping[str, Any]]:
        """The rows that lie there."""

    @abstractmethod
    def forget_failed(self) -> None:
        """Takes the rows with an error out, so that their pictures wait again."""

    def remember(self, row: dict[str, Any]) -> None:
        """Counts a row; `error` may be missing or None where there is none."""
        self.finished.setdefault(row["image"], set()).add(row["question"])
        self.failed += row.get("error") is not None

    def waiting(self, items: Iterable[CaptionItem], question: str) -> list[CaptionItem]:
        """The items whose question, their own or else `question`, has no row yet; no picture is asked it twice."""
        asked = {(item.image, item.asks(question)): item for item in items}
        return [item for (image, text), item in asked.items() if written(text) not in self._answered(image)]

    def _answered(self, image: str) -> set[str]:
        return self.finished.get(written(image), set())

    def check_question(self, items: Sequence[CaptionItem], question: str) -> None:
        """Raises `UsageError` where rows answer a question that nobody asks: they would pass for answers to this one.

        Of pictures that come with questions of their own, only what no item asks counts.
        """
        asked = {(item.image, written(item.asks(question))) for item in items}
        for item in items if self.finished else ():
            others = {text for text in self._answered(item.image) if (item.image, text) not in asked}
            if item.question is None and others:
                raise UsageError(f"{self.path} answers {others.pop()[:80]!r}: choose another -o, or ask that.")

    def check_run(self, run: Mapping[str, Any]) -> None:
        """Notes what the run is, by name and value; of rows that were written before notes were, nothing is known.

        Raises:
            UsageError: there are rows, and their run was another one: they would pass for answers of this one.
        """
        note = self.path.with_name(f".{self.path.name}.run.json")
        if self.finished and note.exists():
            before = _read_note(note)
            for name in (name for name in run if name in before and run[name] != before[name]):
                raise UsageError(
                    f"{self.path} was begun with {name} {_told(before[name])}, and now it is {_told(run[name])}: "
                    f"choose another -o, or delete {note} to mix them."
                )
        write_file(note, json.dumps(run, indent=1) + "\n")


def _read_note(note: Path) -> dict[str, Any]:
    """What a run was.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        before = read_json(note)
        if isinstance(before, dict):
            return before
        reason = "it holds no settings"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise UsageError(
        f"{note} is damaged ({reason}), so nothing says what the run was: delete it to go on with the same source and "
        "options as before, or choose another -o."
    )


def _told(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)


def written(text: str) -> str:
    """As rows hold it: a file's name that is no UTF-8 has question marks there."""
    return text.encode("utf-8", "replace").decode()
