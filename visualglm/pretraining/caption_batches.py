"""Read image-text pairs and build batches.

In: a JSON-lines file with one image per line: `{"image": "a.jpg", "zh": "一只猫。", "en": "A cat."}`, or
`{"image": ..., "question": ..., "answer": ...}`; paths are relative to the file.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import IterableDataset

from ..errors import UsageError
from ..files.untrusted_files import open_regular, parse_json
from ..preprocessing.describe_questions import DESCRIBE_QUESTIONS
from ..preprocessing.prompt import Turn, language_of
from .batches import Batch, BatchShare, PromptBuilder, blocks_of, caption_block
from .config import Stage

VALIDATION_EVERY = 50  # every 50th line is kept for validation
LONGEST_LINE = 1 << 20
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
    """Endless batches of one stage from a file, reshuffled every epoch; contains only lines of one split.

    Raises:
        UsageError: the file does not exist, has an invalid line, or too few lines.
    """

    def __init__(self, file: str, stage: Stage, prompts: PromptBuilder, validation: bool, share: BatchShare) -> None:
        self.file, self.stage, self.prompts, self.share = Path(file), stage, prompts, share
        lines = enumerate(_read(self.file))
        self.rows = [row for number, row in lines if (number % VALIDATION_EVERY == 0) == validation]
        if not self.rows:
            raise UsageError(f"{file} has too few lines. Give at least two: the first is used for validation.")

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(self.share.batch(index)) for index in self.share.indices())

    def batch(self, number: int) -> Batch:
        """Build the batch of a number; the same number always gives the same lines."""
        rows = [self._row(number * self.stage.images + index) for index in range(self.stage.images)]
        images = [self.file.parent / row["image"] for row in rows]
        pixel_values = self.prompts.processor.image_processor(images, return_tensors="pt")
        exchanges = [_example(row, random.Random(number + index)) for index, row in enumerate(rows)]
        pad = int(self.prompts.tokenizer.pad_token_id)
        captions = caption_block([self.prompts.caption(exchange.answer) for exchange in exchanges], pad)
        asked = [self.prompts.row(n, e) for n, e in enumerate(exchanges)]
        return Batch(pixel_values["pixel_values"], blocks_of(asked, pad), captions)

    def _row(self, number: int) -> dict[str, Any]:
        epoch, index = divmod(number, len(self.rows))
        return self.rows[_shuffled_indices(epoch, len(self.rows))[index]]


@lru_cache(maxsize=2)
def _shuffled_indices(epoch: int, count: int) -> list[int]:
    """Return the order of the lines in one epoch."""
    order = list(range(count))
    random.Random(epoch).shuffle(order)
    return order


def _example(row: dict[str, Any], rng: random.Random) -> CaptionExample:
    if "question" in row:
        return CaptionExample("question", language_of(row["question"]), row["question"], row["answer"])
    language = rng.choice([language for language in LANGUAGES if row.get(language)])
    return CaptionExample("describe", language, rng.choice(DESCRIBE_QUESTIONS[language]), row[language])


def _read(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines that are not blank.

    Raises:
        UsageError: the file does not exist, or a line is invalid; the message has its number.
    """
    try:
        with open_regular(file) as lines:
            for number, line in enumerate(iter(partial(lines.readline, LONGEST_LINE), b""), start=1):
                if line.strip():
                    yield _parse_line(line, f"Line {number} of {file}")
    except FileNotFoundError as error:
        raise UsageError(f"There is no {file}. Set captions to a JSON-lines file with one image per line.") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}). Set captions to a JSON-lines file.") from error


def _parse_line(line: bytes, name: str) -> dict[str, Any]:
    if len(line) == LONGEST_LINE:
        raise UsageError(f"{name} has more than {LONGEST_LINE >> 20} MiB. Write one image per line.")
    try:
        row = parse_json(line)
    except ValueError as error:
        raise UsageError(f"{name} is not JSON ({error}). Write one object per line.") from error
    if not _is_valid(row):
        raise UsageError(f"{name} needs image, and either zh or en, or question and answer.")
    return dict(row)


def _is_valid(row: Any) -> bool:
    """Return True if the row has an image and the texts that `_example` reads."""
    if not isinstance(row, dict) or not isinstance(row.get("image"), str):
        return False
    asked = "question" in row
    texts = [row.get(name) for name in (("question", "answer") if asked else LANGUAGES)]
    given = [text for text in texts if asked or text]
    return bool(given) and all(isinstance(text, str) for text in given)
