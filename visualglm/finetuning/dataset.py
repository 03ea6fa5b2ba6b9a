"""Training samples of a data file: ids, labels and pixels, one sample per answer.

A chat of three turns gives three samples. Only what follows `<sop>` is causal, so each answer is trained after the
whole chat before it, as at inference. A row that is too long is an error; it is not truncated.

As at upstream, `<sop>` is a target too, though it ends every prompt and is never generated. A model that was not
trained on it (the packed one) has a loss of about 20 there, which makes it forget; `sop_loss=False` leaves it out.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets.data_files import DataFile, DataRow
from ..datasets.row_files import RowError
from ..errors import VisualGLMError
from ..preprocessing.processor import VisualGLMProcessor
from ..preprocessing.prompt import IGNORED_LABEL, Language, Turn


class FinetuningDataset(Dataset[dict[str, Any]]):
    """The answers of a file. A sample holds `input_ids` and `labels` [T], and `images`, the paths of its images.

    `bad` lists the error messages of skipped rows (`skip_bad`); `lengths` are the samples' lengths in tokens.

    Raises:
        RowError: a row is invalid or too long, and `skip_bad` is off.
    """

    def __init__(
        self,
        rows: DataFile,
        processor: VisualGLMProcessor,
        max_tokens: int,
        language: Language = "auto",
        skip_bad: bool = False,
        sop_loss: bool = True,
    ) -> None:
        self.rows, self.processor, self.max_tokens, self.language = rows, processor, max_tokens, language
        self.sop_loss = sop_loss
        self.bad: list[str] = []
        self.positions, self.lengths = array("q"), array("q")
        for number in range(len(rows)):
            try:
                lengths = self._lengths(number, open_images=skip_bad)
            except RowError as error:
                if not skip_bad:
                    raise
                self.bad.append(str(error))
                continue
            self.lengths.extend(lengths)
            self.positions.extend(value for turn in range(len(lengths)) for value in (number, turn))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, last = self.positions[2 * index : 2 * index + 2]
        row = self.rows[number]
        input_ids, labels = self._encoded(number, row, last)
        shown = sum(turn.image_count for turn in row.turns[: last + 1])
        return {"input_ids": input_ids, "labels": labels, "images": row.images[:shown], "row": number}

    def turns(self, index: int) -> list[Turn]:
        """Return the turns of a sample; the last one has the answer to train on."""
        number, turn = self.positions[2 * index : 2 * index + 2]
        return self.rows[number].turns[: turn + 1]

    def image_paths(self) -> Iterator[str]:
        """Yield the path of every image, repeated if rows share it."""
        for number in dict.fromkeys(self.positions[::2]):
            yield from self.rows[number].images

    def pixel_values(self, sample: dict[str, Any]) -> list[Tensor]:
        """Decode the images of a sample, each [3, H, W]."""
        return [self._pixels(sample["row"], path) for path in sample["images"]]

    def _lengths(self, number: int, open_images: bool) -> list[int]:
        row = self.rows[number]
        last = len(row.turns) - 1
        longest = len(self._encoded(number, row, last)[0])  # first: beginnings of thousands of turns take minutes
        if longest > self.max_tokens:
            raise RowError(
                f"{self.rows.path}, row {number + 1}: it takes {longest} tokens and max_tokens is "
                f"{self.max_tokens}. Shorten it, raise max_tokens, or skip it with --skip-bad."
            )
        if open_images:
            for path in row.images:
                self._pixels(number, path)
        return [*(len(self._encoded(number, row, turn)[0]) for turn in range(last)), longest]

    def _encoded(self, number: int, row: DataRow, turn: int) -> tuple[list[int], list[int]]:
        try:
            ids, labels = self.processor.build_training_row(row.turns[: turn + 1], self.language)
            if not self.sop_loss:
                labels[labels.index(self.processor.tokenizer.bos_token_id)] = IGNORED_LABEL
            return ids, labels
        except VisualGLMError as error:
            raise RowError(f"{self.rows.path}, row {number + 1}: {error}") from error

    def _pixels(self, number: int, path: str) -> Tensor:
        try:
            return self.processor.image_processor.read(path)[0]
        except VisualGLMError as error:
            raise RowError(f"{self.rows.path}, row {number + 1}: {error}") from error


class Collator:
    """Collates samples into a batch, padded on the right as upstream does; images follow row by row.

    `features` (path -> [image_length, hidden]) replace pixels if all vision-side modules are frozen.
    """

    def __init__(self, pad: int, features: Any = None) -> None:
        self.pad, self.features = pad, features

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return `input_ids`, `labels`, `attention_mask` [B, T], and for P > 0 images their pixels or features.

        These are `pixel_values` [P, 3, H, W] or `image_embeds` [P, image_length, hidden].
        """
        longest = max(len(sample["input_ids"]) for sample in samples)
        batch = {
            "input_ids": _pad([sample["input_ids"] for sample in samples], longest, self.pad),
            "labels": _pad([sample["labels"] for sample in samples], longest, IGNORED_LABEL),
            "attention_mask": _pad([[1] * len(sample["input_ids"]) for sample in samples], longest, 0),
        }
        if self.features is not None:
            embeds = [self.features[path] for sample in samples for path in sample["images"]]
            return batch | ({"image_embeds": torch.stack(embeds)} if embeds else {})
        pixels = [image for sample in samples for image in sample["pixels"]]
        return batch | ({"pixel_values": torch.stack(pixels)} if pixels else {})


def _pad(rows: list[list[int]], length: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


class SubsetDataset(Dataset[dict[str, Any]]):
    """Some of the samples; their images are decoded on demand, unless cached features replace them."""

    def __init__(self, samples: FinetuningDataset, indices: list[int], with_pixels: bool = True) -> None:
        self.samples, self.indices, self.with_pixels = samples, array("q", indices), with_pixels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[self.indices[index]]
        return sample | ({"pixels": self.samples.pixel_values(sample)} if self.with_pixels else {})


def split_dataset(samples: FinetuningDataset, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Return sample indices to train on and to hold out, split by rows so that no chat is in both."""
    rows = list(dict.fromkeys(samples.positions[::2]))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1) if fraction and len(rows) > 1 else 0
    held_out = {rows[position] for position in order[:count]}
    splits: tuple[list[int], list[int]] = ([], [])
    for index, number in enumerate(samples.positions[::2]):
        splits[number in held_out].append(index)
    return splits
