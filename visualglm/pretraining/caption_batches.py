"""Your own pictures with captions or questions -> batches, in the place of drawn scenes.

In: a JSON-lines file, one picture a line: `{"image": "a.jpg", "zh": "一只猫。", "en": "A cat."}`, or
`{"image": ..., "question": ..., "answer": ...}`; paths are relative to the file. Out: `Batch`es without labels. Knows
nothing about scenes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from ..errors import UsageError
from ..evaluation.scenes.kinds import LANGUAGES, Language
from ..evaluation.scenes.qa_pair import QAPair
from ..evaluation.scenes.question_templates import QUESTIONS
from ..evaluation.scenes.split_seeds import Split
from ..preprocessing.images import VisualGLMImageProcessor, open_image
from ..preprocessing.prompt import language_of
from .batches import Batch, BatchShare, PromptBuilder, blocks_of, caption_block
from .config import Stage

VALIDATION_EVERY = 50  # every 50th line is kept for validation


class CaptionBatches(IterableDataset[Batch]):
    """Endless batches of one stage from a file, shuffled anew every round; lines of the other split are left out."""

    def __init__(
        self, file: str, stage: Stage, prompts: PromptBuilder, image_size: int, split: Split, share: BatchShare
    ) -> None:
        self.file, self.stage, self.prompts, self.share = Path(file), stage, prompts, share
        self.images = VisualGLMImageProcessor(size={"height": image_size, "width": image_size})
        wanted = split is not Split.TRAIN
        self.rows = [row for number, row in enumerate(_read(self.file)) if (number % VALIDATION_EVERY == 0) == wanted]
        if not self.rows:
            raise UsageError(f"{file} has too few lines: it needs two, the first is for validation.")

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(self.share.batch(place)) for place in self.share.places())

    def batch(self, number: int) -> Batch:
        """The batch of a number: the same lines every time."""
        rows = [self._row(number * self.stage.pictures + place) for place in range(self.stage.pictures)]
        pixel_values = self.images([open_image(self.file.parent / r["image"]) for r in rows], return_tensors="pt")
        exchanges = [_exchange(row, random.Random(number + place)) for place, row in enumerate(rows)]
        pad = int(self.prompts.tokenizer.pad_token_id)
        captions = caption_block([self.prompts.caption(exchange.answer) for exchange in exchanges], pad)
        asked = [self.prompts.row(n, e) for n, e in enumerate(exchanges)]
        return Batch(pixel_values["pixel_values"], None, blocks_of(asked, pad), captions)

    def _row(self, place: int) -> dict[str, Any]:
        turn, index = divmod(place, len(self.rows))
        return self.rows[_order(turn, len(self.rows))[index]]


@lru_cache(maxsize=2)
def _order(turn: int, count: int) -> list[int]:
    """The lines of one round, shuffled."""
    order = list(range(count))
    random.Random(turn).shuffle(order)
    return order


def _exchange(row: dict[str, Any], rng: random.Random) -> QAPair:
    if "question" in row:
        language: Language = language_of(row["question"])  # type: ignore[assignment]
        return QAPair("question", language, row["question"], row["answer"], row["answer"])
    language = rng.choice([language for language in LANGUAGES if row.get(language)])
    return QAPair("describe", language, rng.choice(QUESTIONS["describe"][language]), row[language], row[language])


def _read(file: Path) -> Iterator[dict[str, Any]]:
    """The lines; a broken one is an error with its number."""
    try:
        lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except FileNotFoundError as error:
        raise UsageError(f"There is no {file}: captions names a JSON-lines file with one picture a line.") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"line {number} of {file} is no JSON: {error}.") from error
        if not _usable(row):
            raise UsageError(f"line {number} of {file} needs image and zh, en, or question and answer.")
        yield row


def _usable(row: Any) -> bool:
    """Whether there is a picture, and what `_exchange` reads."""
    if not isinstance(row, dict) or not isinstance(row.get("image"), str):
        return False
    asked = "question" in row
    texts = [row.get(name) for name in (("question", "answer") if asked else LANGUAGES)]
    given = [text for text in texts if asked or text]
    return bool(given) and all(isinstance(text, str) for text in given)
