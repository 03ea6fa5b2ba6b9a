"""Caption items with one model: workers decode images while the model answers a running batch.

Each answer equals that of `ask`. An image that cannot be opened becomes a row with its error, and the run continues.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..conversation import VisualGLM
from ..errors import ImageError, PromptError, UsageError
from ..files.atomic import leftovers, remove, write_file
from ..inference.image_features import decode_pixels, encode_pixels
from ..inference.running_batch import Batch, start_batch
from ..inference.text_row import TextRow
from ..preprocessing.image_pool import ImagePool
from ..preprocessing.prompt import Language
from .resume import encodable
from .sources import CaptionItem

AUTO_BATCH = {"cpu": 8}
AUTO_BATCH_ELSEWHERE = 32
DECODE_SECONDS = 60.0
"""Time limit for decoding one image, generous because the model may keep every core busy."""

PENDING_BATCHES = 4
"""Batches of items that may be begun and not written, where a long answer holds back the rows after it."""


@dataclass(frozen=True)
class CaptionPlan:
    """Settings of a run.

    `question` is asked about items without one of their own. `batch_size` None chooses by device. `workers` processes
    decode images. `sidecar` writes a `.txt` beside each image. `model` is a name for the rows.
    """

    question: str
    language: Language = "auto"
    batch_size: int | None = None
    workers: int = 2
    sidecar: bool = False
    model: str | None = None


def check_sidecars(items: Sequence[CaptionItem]) -> None:
    """Raise `UsageError` if an image cannot have a `.txt` beside it, or two images would share one.

    An existing file or symbolic link is replaced; anything else is refused.
    """
    owners: dict[Path, CaptionItem] = {}
    for item in items:
        text = item.file.with_suffix(".txt")
        if item.inside:
            raise UsageError(
                f"{item.image} is inside {item.file.name}, so no .txt can be written beside it. Remove --sidecar."
            )
        if item.fault is not None:  # it gets no text
            continue
        if text in owners:
            other = owners[text]
            raise UsageError(
                f"{other.image} and {item.image} would share {text.name}. Remove --sidecar, or rename one."
            )
        if text.exists() and not text.is_file():
            raise UsageError(f"{text} cannot be written (it is not a regular file). Move it, or remove --sidecar.")
        owners[text] = item


def write_missing_sidecars(items: Sequence[CaptionItem], rows: Iterable[Mapping[str, Any]], question: str) -> None:
    """Write the `.txt` files that are missing for stored answers, for a run that began without --sidecar."""
    missing = {
        (encodable(item.image), encodable(item.asks(question))): item.file.with_suffix(".txt")
        for item in items
        if not item.file.with_suffix(".txt").exists()
    }
    for row in rows:
        file = missing.get((row["image"], row["question"]))
        if file is not None and row.get("text") is not None:
            _write_sidecar(file, row["text"])


def remove_torn_sidecars(items: Sequence[CaptionItem]) -> None:
    """Delete the temporary files of runs that were killed while writing a `.txt`."""
    for folder in {item.file.parent for item in items}:
        for file in leftovers(folder):
            if file.is_file():
                remove(file)


def _write_sidecar(file: Path, text: str) -> None:
    write_file(file, text + "\n")


class RowWriter(Protocol):
    """Receiver of rows: a file (`jsonl_results.py`) or a list that becomes a Parquet part (`parquet_results.py`)."""

    def write(self, row: dict[str, Any]) -> None:
        """Add one row."""


class CaptionRun:
    """Answers items with a model and writes one row for each, in the order of the items.

    The model answers `batch_size` of them at a time: where an answer ends, the next item takes its place.
    """

    def __init__(self, model: VisualGLM, results: RowWriter, plan: CaptionPlan, sampling: dict[str, Any]) -> None:
        self.model = model
        self.results = results
        self.plan = plan
        self.sampling = sampling
        self.batch_size = plan.batch_size or AUTO_BATCH.get(model.model.device.type, AUTO_BATCH_ELSEWHERE)

    def __call__(self, items: Sequence[CaptionItem], done: Callable[[CaptionItem], object]) -> None:
        """Answer the items; `done` is called after each row."""
        workers = self.plan.workers
        with (
            ThreadPoolExecutor(workers, thread_name_prefix="decode") as threads,
            contextlib.closing(ImagePool(workers, DECODE_SECONDS)) as pool,
        ):
            prepared = (self._prepare(*decoded) for decoded in self._decode_ahead(threads, pool, items))
            for item, row in self._answer(prepared):
                self._write(item, row)
                done(item)

    def _decode_ahead(
        self, threads: ThreadPoolExecutor, pool: ImagePool, items: Sequence[CaptionItem]
    ) -> Iterator[tuple[CaptionItem, Tensor | str]]:
        """Yield items in order with their pixels or error message, decoding up to two batches ahead."""
        waiting: collections.deque[tuple[CaptionItem, Future[Tensor | str]]] = collections.deque()
        rest = iter(items)
        try:
            while True:
                for item in itertools.islice(rest, 2 * self.batch_size + self.plan.workers - len(waiting)):
                    waiting.append((item, threads.submit(self._open, pool, item)))
                if not waiting:
                    return
                item, future = waiting.popleft()
                yield item, future.result()
        finally:
            threads.shutdown(cancel_futures=True)

    def _open(self, pool: ImagePool, item: CaptionItem) -> Tensor | str:
        """Return `pixel_values` [1, 3, H, W], or the error message."""
        try:
            return decode_pixels(self.model, pool, item.read())
        except (ImageError, OSError) as error:
            return str(error)
        except MemoryError:
            return f"There is too little memory to read {item.image}. Free some, then run with --retry-failed."

    def _prepare(self, item: CaptionItem, pixels: Tensor | str) -> tuple[CaptionItem, TextRow | str]:
        """Encode the image and build the prompt; an error message stays or takes their place."""
        if isinstance(pixels, str):
            return item, pixels
        embeds = encode_pixels(self.model.model, pixels)
        try:
            return item, self.model.row(embeds, item.asks(self.plan.question), self.plan.language, **self.sampling)
        except PromptError as error:
            return item, str(error)

    def _answer(
        self, prepared: Iterator[tuple[CaptionItem, TextRow | str]]
    ) -> Iterator[tuple[CaptionItem, TextRow | str]]:
        """Yield the items with their finished rows, in order; if the device runs out of memory, the batch is halved."""
        batch: Batch[TextRow] = start_batch(self.model.model)
        pending: collections.deque[tuple[CaptionItem, TextRow | str]] = collections.deque()
        waiting: collections.deque[TextRow] = collections.deque()
        while True:
            while len(batch.rows) + len(waiting) < self.batch_size and len(pending) < PENDING_BATCHES * self.batch_size:
                item, row = next(prepared, (None, ""))
                if item is None:
                    break
                pending.append((item, row))
                if isinstance(row, TextRow):
                    waiting.append(row)
            if not pending:
                return
            try:
                while waiting and len(batch.rows) < self.batch_size:
                    batch.add(waiting[0])
                    waiting.popleft()
                if batch.rows:
                    batch.step()
            except torch.OutOfMemoryError:
                rows = [row for _, row in pending if isinstance(row, TextRow) and not row.ended]
                if len(rows) <= 1:
                    raise
                self.batch_size = (min(len(rows), self.batch_size) + 1) // 2
                for row in rows:
                    row.restart()
                batch, waiting = start_batch(self.model.model), collections.deque(rows)
            while pending and (isinstance(pending[0][1], str) or pending[0][1].ended):
                yield pending.popleft()

    def _write(self, item: CaptionItem, row: TextRow | str) -> None:
        """Write the `.txt` before the row: the row marks the item as finished."""
        asked = {"image": item.image, "question": item.asks(self.plan.question)}
        if isinstance(row, str):
            self.results.write({**asked, "error": row})
            return
        answer = self.model.row_answer(row)
        if self.plan.sidecar:
            _write_sidecar(item.file.with_suffix(".txt"), answer.text)
        named = {} if self.plan.model is None else {"model": self.plan.model}
        self.results.write(
            {
                **asked,
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "completion_tokens": answer.completion_tokens,
                **named,
            }
        )


class RowList(list[dict[str, Any]]):
    """A list of rows with the method of a `RowWriter`."""

    write = list.append


def open_answers(
    open_model: Callable[[], VisualGLM], plan: CaptionPlan, sampling: dict[str, Any]
) -> Callable[[Sequence[CaptionItem]], list[dict[str, Any]]]:
    """Load a model and return the function from items to rows, for an engine that runs in other processes."""
    model = open_model()

    def answers(items: Sequence[CaptionItem]) -> list[dict[str, Any]]:
        rows = RowList()
        CaptionRun(model, rows, plan, sampling)(items, lambda item: None)
        return rows

    return answers
