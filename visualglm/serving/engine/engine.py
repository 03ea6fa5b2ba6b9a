"""One model, many clients: a bounded queue, one batch that requests enter and leave, one thread that generates.

    ask() -- prompt, Job --> queue (`max_queue`) -- up to `max_batch` at once --> batch --> job.pieces()
    ExplanationJob --> the same queue -- one forward pass between two tokens of the others --> job.result()

Every answer is what the request would get alone: its images and its prompt are read alone, its penalties and draws are
its own (inference/running_batch.py). A request enters between two tokens of the others and leaves with its last one.
A batch has one adapter: once the oldest waiting request needs another one, none enters until the batch is empty. An
error while a request enters, or in its own sampling, fails that request only. An error in a step fails the requests
that already streamed text, because their client has seen part of the answer; the others are retried one by one.
An explanation counts as one of the `max_batch` requests.
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

from ...conversation import VisualGLM
from ...inference.generation_settings import generation_settings
from ...inference.json_grammar import compile_json_schema
from ...inference.running_batch import Batch, start_batch
from ...inference.sampling_arguments import normalize_sampling
from ...inference.start_reply import ask_prompt
from ...preprocessing.chinese_token_filter import forbid_chinese_tokens
from ...preprocessing.image_pool import EndedError, Ending, ImagePool
from ...preprocessing.prompt import Language, Turn
from ..metrics import Metrics
from .explanation_job import ExplanationJob
from .image_cache import RequestImage, RequestImageCache
from .job import Job, QueueTimeoutError
from .limits import EngineLimits

logger = logging.getLogger("visualglm.serving")


SHUTTING_DOWN = "The server is shutting down. Try again in a moment."
CLOSING_SECONDS = 5.0
"""Seconds for which images may still be decoded while the server shuts down."""


class QueueFullError(Exception):
    """The queue is full, or the server is closing."""


class Engine:
    """Answers jobs in the order they joined the queue; call `start()` before the first and `close()` after the last."""

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
        self._waiting: collections.deque[Job | ExplanationJob] = collections.deque()
        self._changed = threading.Condition()
        self._closing = False
        self._batch: Batch[Job] = start_batch(model.model)
        self._explaining: list[ExplanationJob] = []
        self._drain = False  # whether no request enters until the batch is empty
        self._decoders = ThreadPoolExecutor(limits.decoders, "decoder")  # each waits for a process of the pool
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        metrics.watch(self)

    @property
    def queued(self) -> int:
        """Number of waiting requests."""
        return sum(not job.ended for job in list(self._waiting))

    def start(self) -> None:
        """Start the thread that answers."""
        self._thread.start()

    def close(self) -> None:
        """Accept no more requests, finish the accepted ones, and return."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._pool.close()

    def finish_decoding(self) -> None:
        """Wait up to `CLOSING_SECONDS` for images that are being decoded, before `close`."""
        self._pool.finish_within(CLOSING_SECONDS)

    async def ask(
        self,
        turns: Sequence[Turn],
        images: Sequence[bytes],
        language: Language = "auto",
        seed: int | None = None,
        adapter: str | None = None,
        top_logprobs: int | None = None,
        **sampling: Any,
    ) -> Job:
        """Put the last of `turns` into the queue; the job's `pieces()` are the answer.

        Raises:
            As `prepare`.
        """
        job = await self.prepare(turns, images, language, seed, adapter, top_logprobs, **sampling)
        self.enqueue(job)
        return job

    async def prepare(
        self,
        turns: Sequence[Turn],
        images: Sequence[bytes],
        language: Language = "auto",
        seed: int | None = None,
        adapter: str | None = None,
        top_logprobs: int | None = None,
        with_pixels: bool = False,
        **sampling: Any,
    ) -> Job:
        """Decode the images and build the prompt of a job, which is not in the queue yet.

        Arguments that are None mean the server's defaults; `adapter` None means the base model. With `top_logprobs`
        the job records its tokens and that many of the likeliest at each position. `with_pixels`: decode images even
        if their embeddings are cached.

        Raises:
            QueueFullError: too many requests wait already.
            ImageError: an image cannot be decoded.
            QueueTimeoutError: it timed out before all images were decoded.
            PromptError: the question does not fit into the model.
        """
        self._refuse_if_full()  # before the work of decoding
        started = time.monotonic()
        seen = await self._look_up(images, adapter, with_pixels)
        sampling["seed"] = seed
        given = {**self.defaults, **normalize_sampling(sampling)}
        language = self.language if language == "auto" else language
        given = forbid_chinese_tokens(self.model.tokenizer, language, given)
        given = await asyncio.to_thread(compile_json_schema, self.model.tokenizer, given)
        settings = generation_settings(self.model.model, **given)
        prompt = await asyncio.to_thread(ask_prompt, self.model.processor, list(turns), language, settings.limits)
        left = started + self.limits.time_limit - time.monotonic()
        job = Job(self.model.tokenizer, prompt.input_ids, seen, settings, left, adapter, top_logprobs)
        job.dropped_turns = prompt.dropped_turns
        return job

    def repeat(self, job: Job, count: int) -> list[Job]:
        """Put more requests for answers to the prompt of `job` into the queue, each with the next seed.

        Raises:
            QueueFullError: too many requests wait already; none of them, nor `job`, is answered.
        """
        jobs = [job.another(number) for number in range(1, count + 1)]
        try:
            for other in jobs:
                self.enqueue(other)
        except QueueFullError:
            for other in (job, *jobs):
                other.cancel()
            raise
        return jobs

    def enqueue(self, job: Job | ExplanationJob) -> None:
        """Put a prepared job, or an explanation, into the queue.

        Raises:
            QueueFullError: too many requests wait already.
        """
        with self._changed:
            self._refuse_if_full()
            # drop jobs whose client disconnected, to free their pixels during a long batch ahead
            self._waiting = collections.deque(waiting for waiting in self._waiting if not waiting.ended)
            self._waiting.append(job)
            self._changed.notify()

    async def _look_up(self, contents: Sequence[bytes], adapter: str | None, with_pixels: bool) -> list[RequestImage]:
        """Decode the images one after the other; decoding is killed when the request ends or is cancelled.

        Raises:
            As `ask`.
        """
        loop, ending = asyncio.get_running_loop(), Ending()
        try:
            async with asyncio.timeout(self.limits.time_limit):
                return [
                    await loop.run_in_executor(
                        self._decoders, self.memory.look_up, content, adapter, ending, with_pixels
                    )
                    for content in contents
                ]
        except TimeoutError as error:
            raise QueueTimeoutError(
                "The request's time was up before its images were decoded. Send fewer at once."
            ) from error
        except EndedError as error:
            raise QueueFullError(SHUTTING_DOWN) from error
        finally:
            ending.end()

    def _refuse_if_full(self) -> None:
        if self._closing:
            raise QueueFullError(SHUTTING_DOWN)
        if self.queued >= self.limits.max_queue:
            raise QueueFullError(f"{self.limits.max_queue} requests wait already. Try again in a moment.")

    def _work(self) -> None:
        """Run the thread until closed and empty: requests enter, all advance by a token, ended ones leave."""
        while (jobs := self._next_jobs()) or self._members:
            for job in jobs:
                self._enter(job)
            if self._batch.rows:
                self._step()
            if self._explaining:
                self._explain()

    @property
    def _members(self) -> list[Job | ExplanationJob]:
        """Return the requests and explanations that run now."""
        return [*self._batch.rows, *self._explaining]

    def _next_jobs(self) -> list[Job | ExplanationJob]:
        """Return the requests that may enter the batch; wait for some while it is empty and the engine is open."""
        entering: list[Job | ExplanationJob] = []
        running = self._members
        self._drain = self._drain and bool(running)
        with self._changed:
            while not running and not entering and not (self._closing and not self._waiting):
                self._changed.wait_for(lambda: self._waiting or self._closing)
                entering = self._take_jobs(running)
            return entering or self._take_jobs(running)

    def _take_jobs(self, running: Sequence[Job | ExplanationJob]) -> list[Job | ExplanationJob]:
        """Take from the queue what fits beside the running requests; the queue is locked."""
        entering: list[Job | ExplanationJob] = []
        others: list[Job | ExplanationJob] = []
        while self._waiting and len(running) + len(entering) < self.limits.max_batch and not self._drain:
            job = self._waiting.popleft()
            if job.late:
                job.fail(QueueTimeoutError("The request's time was up before its turn came. Try again later."))
            elif not job.ended:
                same = all(job.adapter == other.adapter for other in (*running, *entering))
                (entering if same else others).append(job)
                if running and not same:
                    break  # it waits until the batch is empty, and no later request overtakes it
        self._waiting.extendleft(reversed(others))
        return entering

    def _enter(self, job: Job | ExplanationJob) -> None:
        """Encode the images of a request, and read its prompt into the batch."""
        self.running = len(self._members) + 1
        try:
            if self.model.adapters and not self._members:
                self.model.use_adapter(job.adapter)
            if isinstance(job, ExplanationJob):
                self._explaining.append(job)
                return
            job.image_embeds = torch.cat([self.memory.encode(image) for image in job.images]) if job.images else None
            self._batch.add(job)
        except torch.OutOfMemoryError as error:
            self._wait_for_memory(job, error)
        except Exception as error:
            _fail(job, error)
        self.running = len(self._members)
        if isinstance(job, Job):
            self._count([job])

    def _explain(self) -> None:
        """Compute one forward pass of the oldest explanation that has not ended."""
        self._explaining = [job for job in self._explaining if not job.ended]
        if self._explaining:
            self._explaining[0].advance()
        self.running = len(self._members)

    def _wait_for_memory(self, job: Job | ExplanationJob, error: Exception) -> None:
        """Put a request that does not fit into memory beside others back into the queue until it is alone."""
        if not self._members:
            _fail(job, error)
            return
        self._drain = True
        with self._changed:
            self._waiting.appendleft(job)

    def _step(self) -> None:
        """Advance the batch by a token, and recover if that fails."""
        jobs = list(self._batch.rows)
        try:
            self._batch.step()
        except Exception as error:
            self._recover(jobs, error)
        else:
            self._count(jobs)
        self.running = len(self._members)

    def _recover(self, jobs: Sequence[Job], error: Exception) -> None:
        """Retry each request that has streamed no text yet alone; fail the others, or a request that was alone."""
        self._batch = start_batch(self.model.model)
        for job in jobs:
            if len(jobs) > 1 and not job.ids and not job.ended:
                self._enter(job)
                while self._batch.rows:
                    self._step()
                continue
            if not job.ended:
                _fail(job, error)
            self._count([job])

    def _count(self, jobs: Sequence[Job]) -> None:
        """Count the finished ones."""
        self.metrics.count([job for job in jobs if job.ended])


def _fail(job: Job | ExplanationJob, error: Exception) -> None:
    logger.error("an answer failed", exc_info=error)
    job.fail(error)
