"""Your own images with captions or questions -> batches.

In: a JSON-lines file, one picture a line: `{"image": "a.jpg", "zh": "一只猫。", "en": "A cat."}`, or
`{"image": ..., "question": ..., "answer": ...}`; paths are relative to the file. Knows nothing about losses.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import IterableDataset

from ..errors import UsageError
from ..preprocessing.images import VisualGLMImageProcessor, open_image
from ..preprocessing.prompt import Turn, language_of
from .batches import Batch, BatchShare, PromptBuilder, blocks_of, caption_block
from .config import Stage

VALIDATION_EVERY = 50  # every 50th line is kept for validation
Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")
DESCRIBE: dict[Language, tuple[str, ...]] = {
    "zh": (
        "描述这张图片。",
        "描述一下这张图片。",
        "请描述这张图。",
        "请描述图片内容。",
        "详细描述这张图片。",
        "介绍一下这张图。",
        "说说这张图片。",
        "描述图片",
        "这张图片画了什么？请描述。",
        "图片的内容是什么？",
    ),
    "en": (
        "Describe the picture.",
        "Describe this image.",
        "Please describe the picture.",
        "Describe what you see.",
        "Tell me about this picture.",
        "Can you describe the image?",
        "Describe the image in detail.",
        "Give a description of the picture.",
        "describe this picture",
        "Caption this image.",
    ),
}
"""What is asked about an image that has a caption."""


@dataclass(frozen=True)
class CaptionExample:
    """A question about an image, with its answer."""

    task: str
    language: Language
    question: str
    answer: str
    with_image: bool = True

    @property
    def turns(self) -> list[Turn]:
        """The dialogue for `build_prompt`: one turn with the image, unanswered."""
        return [Turn(self.question, pictures=1)]


class CaptionBatches(IterableDataset[Batch]):
    """Endless batches of one stage from a file, shuffled anew every round; lines of the other split are left out."""

    def __init__(
        self, file: str, stage: Stage, prompts: PromptBuilder, image_size: int, validation: bool, share: BatchShare
    ) -> None:
        self.file, self.stage, self.prompts, self.share = Path(file), stage, prompts, share
        self.images = VisualGLMImageProcessor(size={"height": image_size, "width": image_size})
        lines = enumerate(_read(self.file))
        self.rows = [row for number, row in lines if (number % VALIDATION_EVERY == 0) == validation]
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
        return Batch(pixel_values["pixel_values"], blocks_of(asked, pad), captions)

    def _row(self, place: int) -> dict[str, Any]:
        turn, index = divmod(place, len(self.rows))
        return self.rows[_order(turn, len(self.rows))[index]]


@lru_cache(maxsize=2)
def _order(turn: int, count: int) -> list[int]:
    """The lines of one round, shuffled."""
    order = list(range(count))
    random.Random(turn).shuffle(order)
    return order


def _exchange(row: dict[str, Any], rng: random.Random) -> CaptionExample:
    if "question" in row:
        return CaptionExample("question", language_of(row["question"]), row["question"], row["answer"])
    language = rng.choice([language for language in LANGUAGES if row.get(language)])
    return CaptionExample("describe", language, rng.choice(DESCRIBE[language]), row[language])


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
