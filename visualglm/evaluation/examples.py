"""Rows of evaluation data, in one form whatever file they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UsageError
from ..preprocessing.image_bytes import read_image
from .queries import ImageContent


@dataclass(frozen=True)
class ImageFile:
    """An image file, read when it is called."""

    path: Path

    def __call__(self) -> bytes:
        return read_image(self.path)


@dataclass(frozen=True)
class Example:
    """One row: an image, a question, and the right answers.

    Attributes:
        row: index in the data; messages count from 1.
        image_key: names the image; rows with equal keys show the same one.
        references: right answers: all captions, all annotators' answers, yes or no, or the letter of an option.
        facets: properties by which results are broken down (category, split, ...).
    """

    id: str
    row: int
    image: Callable[[], ImageContent]
    image_key: str
    question: str
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    facets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Examples:
    """Rows of a data set, what names it, and what was left out, in sentences."""

    source: str
    rows: Sequence[Example]
    notes: Sequence[str] = ()

    def limited(self, count: int | None) -> Examples:
        """Keep about `count` rows, evenly spaced; None keeps all."""
        if count is None or count >= len(self.rows):
            return self
        step = len(self.rows) / count
        kept = [self.rows[int(number * step)] for number in range(count)]
        return Examples(self.source, kept, [*self.notes, f"{count} of {len(self.rows)} rows, evenly spaced"])


def check_images(examples: Examples) -> None:
    """Raise `UsageError` if none of the image files exists; a few that are missing become wrong rows."""
    files = [row.image.path for row in examples.rows if isinstance(row.image, ImageFile)]
    if files and not any(file.is_file() for file in files):
        raise UsageError(
            f"{examples.source}: none of its {len(files)} images exists, for example {files[0]}. "
            "Name their folder with --images."
        )
