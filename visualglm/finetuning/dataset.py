"""Rows -> what the model learns from: ids, labels and pixels; one sample per answer.

A dialogue of three turns is three samples, because only what follows `<sop>` is causal: each answer is learned after
the whole dialogue before it, as it will be asked for. Nothing is ever cut. Ids and labels are `prompt`'s, pixels the
processor's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import VisualGLMError
from ..preprocessing.processor import VisualGLMProcessor
from ..preprocessing.prompt import IGNORED_LABEL, Language, Turn
from .data_files import DataFile, DataRow, RowError


class FinetuningDataset(Dataset[dict[str, Any]]):
    """The answers of a file, by number; a sample is `input_ids` and `labels` [T] and `pictures`, its paths.

    `bad` are the messages of rows that were left out (`skip_bad`), `lengths` the samples' lengths in tokens.

    Raises:
        RowError: a row is broken or too long, and `skip_bad` is off.
    """

    def __init__(
        self,
        rows: DataFile,
        processor: VisualGLMProcessor,
        max_tokens: int,
        language: Language = "auto",
        skip_bad: bool = False,
    ) -> None:
        self.rows, self.processor, self.max_tokens, self.language = rows, processor, max_tokens, language
        self.bad: list[str] = []
        self.places, self.lengths = array("q"), array("q")
        for number in range(len(rows)):
            try:
                lengths = self._lengths(number, open_pictures=skip_bad)
            except RowError as error:
                if not skip_bad:
                    raise
                self.bad.append(str(error))
                continue
            self.lengths.extend(lengths)
            self.places.extend(value for turn in range(len(lengths)) for value in (number, turn))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, last = self.places[2 * index : 2 * index + 2]
        row = self.rows[number]
        input_ids, labels = self._encoded(number, row, last)
        shown = sum(turn.pictures for turn in row.turns[: last + 1])
        return {"input_ids": input_ids, "labels": labels, "pictures": row.pictures[:shown], "row": number}

    def turns(self, index: int) -> list[Turn]:
        """The dialogue of a sample, its answer last."""
        number, turn = self.places[2 * index : 2 * index + 2]
        return self.rows[number].turns[: turn + 1]

    def picture_paths(self) -> Iterator[str]:
        """Every picture, as often as it is shown."""
        for number in dict.fromkeys(self.places[::2]):
            yield from self.rows[number].pictures

    def pixel_values(self, sample: dict[str, Any]) -> list[Tensor]:
        """The pictures of a sample that was read, each [3, H, W]."""
        return [self._pixels(sample["row"], path) for path in sample["pictures"]]

    def _lengths(self, number: int, open_pictures: bool) -> list[int]:
        row = self.rows[number]
        last = len(row.turns) - 1
        longest = len(self._encoded(number, row, last)[0])  # first: beginnings of thousands of turns take minutes
        if longest > self.max_tokens:
            raise RowError(
                f"{self.rows.path}, row {number + 1}: it takes {longest} tokens and max_tokens is "
                f"{self.max_tokens}; nothing is cut, so shorten it, raise max_tokens, or leave it out with --skip-bad."
            )
        if open_pictures:
            for path in row.pictures:
                self._pixels(number, path)
        return [*(len(self._encoded(number, row, turn)[0]) for turn in range(last)), longest]

    def _encoded(self, number: int, row: DataRow, turn: int) -> tuple[list[int], list[int]]:
        try:
            return self.processor.build_training_row(row.turns[: turn + 1], self.language)
        except VisualGLMError as error:
            raise RowError(f"{self.rows.path}, row {number + 1}: {error}") from error

    def _pixels(self, number: int, path: str) -> Tensor:
        try:
            return self.processor.image_processor.read(path)[0]
        except VisualGLMError as error:
            raise RowError(f"{self.rows.path}, row {number + 1}: {error}") from error


class Collator:
    """Samples -> one batch, padded on the right as upstream's; pictures row by row, none where no row has one.

    `features` (path -> [image_length, hidden]) stand for pixels where the picture's road is frozen.
    """

    def __init__(self, pad: int, features: Any = None) -> None:
        self.pad, self.features = pad, features

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `labels`, `attention_mask` [B, T]; `pixel_values` [P, 3, H, W] or `image_embeds`."""
        longest = max(len(sample["input_ids"]) for sample in samples)
        batch = {
            "input_ids": _padded([sample["input_ids"] for sample in samples], longest, self.pad),
            "labels": _padded([sample["labels"] for sample in samples], longest, IGNORED_LABEL),
            "attention_mask": _padded([[1] * len(sample["input_ids"]) for sample in samples], longest, 0),
        }
        if self.features is not None:
            embeds = [self.features[path] for sample in samples for path in sample["pictures"]]
            return batch | ({"image_embeds": torch.stack(embeds)} if embeds else {})
        pixels = [picture for sample in samples for picture in sample["pixels"]]
        return batch | ({"pixel_values": torch.stack(pixels)} if pixels else {})


def _padded(rows: list[list[int]], length: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


class SubsetDataset(Dataset[dict[str, Any]]):
    """Some of the samples, pictures decoded as they are asked for unless features stand for them."""

    def __init__(self, samples: FinetuningDataset, indices: list[int], with_pixels: bool = True) -> None:
        self.samples, self.indices, self.with_pixels = samples, array("q", indices), with_pixels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[self.indices[index]]
        return sample | ({"pixels": self.samples.pixel_values(sample)} if self.with_pixels else {})


def split_dataset(samples: FinetuningDataset, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers to learn from and to hold out, by whole rows, so that no dialogue is on both sides."""
    rows = list(dict.fromkeys(samples.places[::2]))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(max(1, round(share * len(rows))), len(rows) - 1) if share and len(rows) > 1 else 0
    held = {rows[place] for place in order[:count]}
    sides: tuple[list[int], list[int]] = ([], [])
    for index, number in enumerate(samples.places[::2]):
        sides[number in held].append(index)
    return sides
