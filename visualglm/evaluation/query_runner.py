"""Ask a model the queries of a task, in batches; workers decode images while the model answers.

In: a model and a task. Out: replies in a `ReplyStore`, from which the task's rows are scored.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..conversation import VisualGLM
from ..errors import ImageError, PromptError, UsageError
from ..inference.batch_generation import generate_batch
from ..inference.image_features import decode_pixels, encode_pixels
from ..inference.start_reply import start_row
from ..inference.text_row import TextRow
from ..preprocessing.image_pool import ImagePool
from ..preprocessing.prompt import Language
from .batch_answering import batched
from .option_likelihood import score_options
from .queries import Query, Reply, Task
from .reply_store import Part, ReplyStore

SMALL_MODEL = 1_000_000_000
"""Parameters below which a CPU takes large batches."""
KEPT_IMAGES = 256
"""Encoded images that are kept for later questions about them."""
DECODE_SECONDS = 60.0


@dataclass(frozen=True)
class AnswerPlan:
    """How queries are answered. `batch_size` None chooses by device; `workers` processes decode images."""

    language: Language = "auto"
    batch_size: int | None = None
    workers: int = 2
    sampling: dict[str, Any] = field(default_factory=dict)


def answer_task(
    model: VisualGLM, task: Task, store: ReplyStore, plan: AnswerPlan, part: Part, done: Callable[[int, int], object]
) -> None:
    """Answer everything that the task asks of this part and that has no reply yet.

    `done` is called with the numbers of replies and of queries known so far.
    """
    with contextlib.closing(_Answerer(model, plan, task.max_new_tokens)) as answerer:
        while True:
            mine = [query for query in task.queries(store.replies) if part.has(query.row)]
            waiting = [query for query in mine if query.id not in store.replies]
            if not waiting:
                return
            finished = len(mine) - len(waiting)
            for reply in answerer.replies(waiting):
                store.add(reply)
                finished += 1
                done(finished, len(mine))


class _Answerer:
    """Answers queries with a model."""

    def __init__(self, model: VisualGLM, plan: AnswerPlan, max_new_tokens: int) -> None:
        self.model, self.plan = model, plan
        self.sampling = plan.sampling
        if not {"max_new_tokens", "max_length"} & set(plan.sampling):
            self.sampling = {**plan.sampling, "max_new_tokens": max_new_tokens}
        large = sum(weight.numel() for weight in model.model.parameters()) >= SMALL_MODEL
        self.batch_size = plan.batch_size or (8 if large and model.model.device.type == "cpu" else 32)
        self.pool = ImagePool(plan.workers, DECODE_SECONDS)
        self.threads = ThreadPoolExecutor(plan.workers, thread_name_prefix="decode")
        self.encoded: OrderedDict[str, Tensor | str] = OrderedDict()

    def close(self) -> None:
        """End the processes that decode images."""
        self.threads.shutdown(cancel_futures=True)
        self.pool.close()

    def replies(self, queries: Sequence[Query]) -> Iterator[Reply]:
        """Answer queries in order, decoding the images of the next batch meanwhile."""
        runs = itertools.groupby(queries, key=lambda query: bool(query.options))
        batches = [list(batch) for _, run in runs for batch in batched(run, self.batch_size)]
        decoding = self._decode(batches[0])
        for number, batch in enumerate(batches):
            self._encode(decoding)
            decoding = self._decode(batches[number + 1]) if number + 1 < len(batches) else {}
            yield from self._answer(batch)

    def _decode(self, batch: Sequence[Query]) -> dict[str, Future[Tensor | str]]:
        """Begin to decode the images of a batch that are not encoded yet."""
        first = {query.image_key: query for query in batch if query.image_key not in self.encoded}
        return {key: self.threads.submit(self._pixels, query) for key, query in first.items()}

    def _pixels(self, query: Query) -> Tensor | str:
        """Return `pixel_values` [1, 3, H, W], or why there are none."""
        try:
            content = query.image()
            if isinstance(content, Image.Image):
                return self.model.pixel_values(content)
            return decode_pixels(self.model, self.pool, content)
        except (ImageError, OSError) as error:
            return str(error)

    def _encode(self, decoding: dict[str, Future[Tensor | str]]) -> None:
        """Encode decoded images one by one, as `ask` does."""
        for key, future in decoding.items():
            pixels = future.result()
            self.encoded[key] = pixels if isinstance(pixels, str) else encode_pixels(self.model.model, pixels)
        while len(self.encoded) > KEPT_IMAGES + len(decoding):
            self.encoded.popitem(last=False)

    def _embeds(self, query: Query) -> Tensor | str:
        """Return an image's embeddings [1, image_length, hidden]; one that was dropped meanwhile is encoded again."""
        if query.image_key not in self.encoded:
            self._encode(self._decode([query]))
        return self.encoded[query.image_key]

    def _answer(self, batch: Sequence[Query]) -> Iterator[Reply]:
        rows: dict[str, TextRow] = {}
        for query in batch:
            row = self._row(query)
            if isinstance(row, str):
                yield Reply(query.id, error=row)
            else:
                rows[query.id] = row
        asked = [query for query in batch if query.id in rows]
        try:
            if asked and asked[0].options:
                yield from score_options(self.model, [(query, rows[query.id]) for query in asked])
                return
            generate_batch(self.model.model, list(rows.values()))
        except torch.OutOfMemoryError as error:
            raise UsageError(
                f"A batch of {len(asked)} does not fit into memory. Give a smaller --batch-size and run the command "
                "again: finished rows are kept."
            ) from error
        yield from (Reply(id, self.model.row_answer(row).text) for id, row in rows.items())

    def _row(self, query: Query) -> TextRow | str:
        embeds = self._embeds(query)
        if isinstance(embeds, str):
            return embeds
        network, language = self.model.model, self.plan.language
        try:
            return start_row(network, self.model.processor, query.turns, embeds, language, **self.sampling)
        except PromptError as error:
            return str(error)
