"""Resume a caption run, or retry what failed: which items have a row, and which rows hold an error.

All engines share this file. The settings of the run (source and flags) are kept beside OUT, in `.OUT.run.json`.
`jsonl_results.py` and `parquet_results.py` read and write the rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ImageError, UsageError
from ..files.atomic import write_file
from ..files.untrusted_files import read_json
from .sources import CaptionItem, source_exists

SAMPLE = "sample"
"""Key of the run's settings: the sha256 of a few images, by which a moved source is recognised."""
SAMPLED = 8


class ResultStore(ABC):
    """Results at `path`: `finished` maps an image to its answered questions, `failed` counts rows with an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.finished: dict[str, set[str]] = {}
        self.failed = 0

    @abstractmethod
    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield the stored rows."""

    @abstractmethod
    def forget_failed(self) -> None:
        """Remove the rows with an error, so that their images are answered again."""

    def remember(self, row: dict[str, Any]) -> None:
        """Record a row. It holds an error if `error` is present and not None."""
        self.finished.setdefault(row["image"], set()).add(row["question"])
        self.failed += row.get("error") is not None

    def waiting(self, items: Iterable[CaptionItem], question: str) -> list[CaptionItem]:
        """List the items without a row for their own question, or else `question`. Duplicates are dropped."""
        asked = {(item.image, item.asks(question)): item for item in items}
        return [item for (image, text), item in asked.items() if encodable(text) not in self._answered(image)]

    def _answered(self, image: str) -> set[str]:
        return self.finished.get(encodable(image), set())

    def check_question(self, items: Sequence[CaptionItem], question: str) -> None:
        """Raise `UsageError` if rows answer a different question: mixing them would mislabel results.

        For an image whose items bring their own questions, only questions that no item asks count.
        """
        asked = {(item.image, encodable(item.asks(question))) for item in items}
        for item in items if self.finished else ():
            others = {text for text in self._answered(item.image) if (item.image, text) not in asked}
            if item.question is None and others:
                raise UsageError(f"{self.path} answers {others.pop()[:80]!r}. Choose another -o, or ask that question.")

    def check_run(self, run: Mapping[str, Any], items: Sequence[CaptionItem] = ()) -> None:
        """Store the run's settings (name -> value), after comparing them with the stored ones.

        Another `source` is accepted if the stored one no longer exists and `items` contain the same images: it moved.

        Raises:
            UsageError: there are rows, and their run had other settings: mixing them would mislabel results.
        """
        note = self.path.with_name(f".{self.path.name}.run.json")
        if self.finished and note.exists():
            before = _read_note(note)
            different = [name for name in run if name in before and run[name] != before[name]]
            if "source" in different and _is_moved(before, items):
                different.remove("source")
            for name in different:
                raise UsageError(
                    f"{self.path} was begun with {name} {_quote(before[name])}, and now it is {_quote(run[name])}. "
                    f"Choose another -o, or delete {note} to append anyway."
                )
        sample = {SAMPLE: _sample(items[:SAMPLED])} if items else {}
        write_file(note, json.dumps({**run, **sample}, indent=1) + "\n")


def _sample(items: Iterable[CaptionItem]) -> dict[str, str]:
    """Map the names of images to the sha256 of their files; images that cannot be read are left out."""
    digests = {}
    for item in items:
        with contextlib.suppress(OSError, ImageError):
            digests[encodable(item.image)] = hashlib.sha256(item.read()).hexdigest()
    return digests


def _is_moved(before: Mapping[str, Any], items: Iterable[CaptionItem]) -> bool:
    """Return True if the source of a stored run is gone and the items contain the images sampled from it."""
    sample = before.get(SAMPLE)
    if not isinstance(sample, dict) or not sample or source_exists(str(before["source"])):
        return False
    return _sample(item for item in items if encodable(item.image) in sample) == sample


def _read_note(note: Path) -> dict[str, Any]:
    """Read the settings of a run.

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
        f"{note} is damaged ({reason}), so nothing says what the run was. Delete it to go on with the same source and "
        "options as before, or choose another -o."
    )


def _quote(value: Any) -> str:
    return "not given" if value is None else json.dumps(value, ensure_ascii=False)


def encodable(text: str) -> str:
    """Return text as rows store it: characters of a file name that UTF-8 cannot encode become question marks."""
    return text.encode("utf-8", "replace").decode()
