"""Read image-text pairs and build batches.

In: a file of rows (formats: `datasets/`) with one image each: `{"image": "a.jpg", "zh": "一只猫。", "en": "A cat."}`,
or a question and an answer, or a caption, in any format that fine-tuning reads.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import IterableDataset

from ..datasets.image_paths import require_image
from ..datasets.row_files import RowFile
from ..datasets.row_formats import KNOWN_FIELDS, image_sources, row_to_turns
from ..errors import UsageError
from ..preprocessing.describe_questions import DESCRIBE_QUESTIONS
from ..preprocessing.prompt import Turn, language_of
from .batches import Batch, BatchShare, PromptBuilder, blocks_of, caption_block
from .config import Stage

VALIDATION_EVERY = 50  # every 50th row is kept for validation
Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")


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
        """The dialogue for `build_prompt`: one turn with the image and no answer."""
        return [Turn(self.question, image_count=1)]


class CaptionBatches(IterableDataset[Batch]):
    """Endless batches of one stage from a file, reshuffled every epoch; contains only rows of one split.

    Raises:
        UsageError: the file does not exist, has an invalid row, or too few rows.
    """

    def __init__(self, file: str, stage: Stage, prompts: PromptBuilder, validation: bool, share: BatchShare) -> None:
        self.stage, self.prompts, self.share = stage, prompts, share
        self.file = RowFile(file, (*KNOWN_FIELDS, *LANGUAGES))
        for number in range(len(self.file)):
            self._read(number, random.Random())
        split = (n for n in range(len(self.file)) if (n % VALIDATION_EVERY == 0) == validation)
        self.rows = array("q", split)
        if not self.rows:
            raise UsageError(f"{file} has too few rows. Give at least two: the first is used for validation.")

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(self.share.batch(index)) for index in self.share.indices())

    def batch(self, number: int) -> Batch:
        """Build the batch of a number; the same number always gives the same rows."""
        first = number * self.stage.images
        rows = [self._read(self._row(first + n), random.Random(number + n)) for n in range(self.stage.images)]
        pixel_values = self.prompts.processor.image_processor([image for image, _ in rows], return_tensors="pt")
        exchanges = [exchange for _, exchange in rows]
        pad = int(self.prompts.tokenizer.pad_token_id)
        captions = caption_block([self.prompts.caption(exchange.answer) for exchange in exchanges], pad)
        asked = [self.prompts.row(n, e) for n, e in enumerate(exchanges)]
        return Batch(pixel_values["pixel_values"], blocks_of(asked, pad), captions)

    def _row(self, place: int) -> int:
        """Return the number of the row at a position in the endless order."""
        epoch, index = divmod(place, len(self.rows))
        return self.rows[_shuffled_indices(epoch, len(self.rows))[index]]

    def _read(self, number: int, rng: random.Random) -> tuple[Path, CaptionExample]:
        """Read the image's path and the example of a row.

        Raises:
            RowError: it is not an image with a text, or the image is missing.
        """
        row = self.file[number]
        try:
            sources = image_sources(row)
            if len(sources) != 1 or not isinstance(sources[0], str):
                raise ValueError(f"it has {len(sources)} images, and pre-training takes one path")
            return require_image(sources[0], self.file.path.parent), _example(row, rng)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise self.file.error(number, error) from error


@lru_cache(maxsize=2)
def _shuffled_indices(epoch: int, count: int) -> list[int]:
    """Return the order of the rows in one epoch."""
    order = list(range(count))
    random.Random(epoch).shuffle(order)
    return order


def _example(row: dict[str, Any], rng: random.Random) -> CaptionExample:
    """Build the example of a caption in one or both languages (`zh`, `en`), or of a question and its answer.

    Raises:
        ValueError: it is neither.
    """
    languages = [language for language in LANGUAGES if row.get(language)]
    if not languages or "question" in row:
        turns, _ = row_to_turns(row)
        if len(turns) != 1 or not turns[0].answer:
            raise ValueError("it is not a question with one answer; write each turn of a dialogue as a row of its own")
        return CaptionExample("question", language_of(turns[0].question), turns[0].question, turns[0].answer)
    for language in languages:
        if not isinstance(row[language], str):
            raise ValueError(f"{language} is not a text")
    language = rng.choice(languages)
    return CaptionExample("describe", language, rng.choice(DESCRIBE_QUESTIONS[language]), row[language])
