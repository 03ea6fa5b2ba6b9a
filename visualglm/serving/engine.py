"""One model, many callers: a bounded queue, batches of what waits, one thread that generates.

    ask() -- prompt, Job --> queue (`max_queue`) -- up to `max_batch` at once --> generate_batch --> job.pieces()

Every answer is what the request would get alone: its images are encoded alone, its penalties and draws are its own
(inference/batch_generation.py). A batch has one adapter: it takes what waits for that of the oldest request, and the
others keep their places. A batch ends with its longest answer; then the next ones start. Where an error hits a batch,
the rows that have said nothing yet are tried again one by one, so that among them only the guilty one fails; one that
was speaking fails with it, since its reader has the beginning already. Knows nothing about HTTP.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ..conversation import VisualGLM
from ..inference.batch_generation import generate_batch
from ..inference.generation_settings import generation_settings
from ..inference.sampling_arguments import normalize_sampling
from ..inference.start_reply import ask_prompt
from ..preprocessing.chinese_token_filter import forbid_chinese_tokens
from ..preprocessing.image_pool import EndedError, Ending, ImagePool
from ..preprocessing.prompt import Language, Turn
from .image_cache import RequestImage, RequestImageCache
from .job import Job, QueueTimeoutError
from .limits import EngineLimits
from .metrics import Metrics

logger = logging.getLogger("visualglm.serving")


SHUTTING_DOWN = "the server is shutting down: try again in a moment."
CLOSING_SECONDS = 5.0
"""How long images may be decoded while the server shuts down."""


class QueueFullError(Exception):
    """The queue is full, or the server is closing."""


class Engine:
    """Answers jobs in the order they joined the queue. `start()` before the first, `close()` after the last."""

    def __init__(
        self,
        model: VisualGLM,
        limits: EngineLimits,
        metrics: Metrics,
        language: Language = "auto",
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.limits = limits
        self.metrics = metrics
        self.language: Language = language
        self.defaults = normalize_sampling(defaults or {})
        self._pool = ImagePool(limits.decoders, limits.decode_seconds)
        self.memory = RequestImageCache(model, limits.remembered, self._pool)
        self.running = 0
        self._waiting: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._decoders = ThreadPoolExecutor(limits.decoders, "decoder")  # each waits for a process of the pool
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        metrics.watch(self)

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return sum(not job.ended for job in list(self._waiting))

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def close(self) -> None:
        """Takes no more requests, finishes those it has, and returns."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._pool.close()

    def finish_decoding(self) -> None:
        """Let images that are being decoded, or wait for it, go on for `CLOSING_SECONDS`, before `close`."""
        self._pool.finish_within(CLOSING_SECONDS)

    async def ask(
        self,
        turns: Sequence[Turn],
        images: Sequence[bytes],
        language: Language = "auto",
        seed: int | None = None,
        adapter: str | None = None,
        **sampling: Any,
    ) -> Job:
        """Puts the last of `turns` into the queue; the job's `pieces()` are the answer. What is None is the server's
        default; no `adapter` is the bare model.

        Raises:
            BusyError: too many wait already.
            ImageError: a image cannot be decoded.
            LateError: its time was up before all images were decoded.
            PromptError: the question does not fit into the model.
        """
        self._refuse_if_full()  # before the work of decoding
        started = time.monotonic()
        seen = await self._look_up(images, adapter)
        sampling["seed"] = seed
        given = {**self.defaults, **normalize_sampling(sampling)}
        language = self.language if language == "auto" else language
        given = forbid_chinese_tokens(self.model.tokenizer, language, given)
        settings = generation_settings(self.model.model, **given)
        prompt = await asyncio.to_thread(ask_prompt, self.model.processor, list(turns), language, settings.limits)
        left = started + self.limits.time_limit - time.monotonic()
        job = Job(self.model.tokenizer, prompt.input_ids, seen, settings, left, adapter)
        job.dropped_turns = prompt.dropped_turns
        with self._changed:
            self._refuse_if_full()
            # whose clients left go, with their pixels: a long answer before them may keep the queue from moving
            self._waiting = collections.deque(waiting for waiting in self._waiting if not waiting.ended)
            self._waiting.append(job)
            self._changed.notify()
        return job

    async def _look_up(self, contents: Sequence[bytes], adapter: str | None) -> list[RequestImage]:
        """The images, decoded one after the other; what still runs when the request ends, or is cancelled, is killed.

        Raises:
            As `ask`.
        """
        loop, ending = asyncio.get_running_loop(), Ending()
        try:
            async with asyncio.timeout(self.limits.time_limit):
                return [
                    await loop.run_in_executor(self._decoders, self.memory.look_up, content, adapter, ending)
                    for content in contents
                ]
        except TimeoutError as error:
            raise QueueTimeoutError(
                "the request's time was up before its images were decoded: send fewer at once."
            ) from error
        except EndedError as error:
            raise QueueFullError(SHUTTING_DOWN) from error
        finally:
            ending.end()

    def _refuse_if_full(self) -> None:
        if self._closing:
            raise QueueFullError(SHUTTING_DOWN)
        if self.queued >= self.limits.max_queue:
            raise QueueFullError(f"{self.limits.max_queue} requests wait already: try again in a moment.")

    def _work(self) -> None:
        """The thread: batch after batch until closed and empty."""
        while batch := self._next_batch():
            self.running = len(batch)
            self._answer(batch)
            self.metrics.count(batch)
            self.running = 0

    def _next_batch(self) -> list[Job]:
        """Waits for jobs; nothing when the engine is closed."""
        batch: list[Job] = []
        with self._changed:
            while not batch and not (self._closing and not self._waiting):
                self._changed.wait_for(lambda: self._waiting or self._closing)
                others: list[Job] = []
                while self._waiting and len(batch) < self.limits.max_batch:
                    job = self._waiting.popleft()
                    if job.late:
                        job.fail(QueueTimeoutError("the request's time was up before its turn came: try again later."))
                    elif not job.ended:
                        (batch if not batch or job.adapter == batch[0].adapter else others).append(job)
                self._waiting.extendleft(reversed(others))
        return batch

    def _answer(self, batch: Sequence[Job]) -> None:
        try:
            if self.model.adapters:
                self.model.use_adapter(batch[0].adapter)
            for job in batch:
                job.image_embeds = self._encode(job.images)
            generate_batch(self.model.model, batch)
        except Exception as error:
            self._recover(batch, error)

    def _encode(self, images: Sequence[RequestImage]) -> torch.Tensor | None:
        return torch.cat([self.memory.encode(image) for image in images]) if images else None

    def _recover(self, batch: Sequence[Job], error: Exception) -> None:
        """Alone, each that has said nothing yet; those that were speaking, and a lone one, fail."""
        unfinished = [job for job in batch if not job.ended]
        for job in unfinished:
            if len(batch) > 1 and not job.ids:
                self._answer([job])
            else:
                logger.error("an answer failed", exc_info=error)
                job.fail(error)
