"""One request: a row that decodes its ids and passes the text to the event loop of its reader.

The engine's thread calls `accept`, `finish` and `fail`; the event loop iterates `pieces()` and may `cancel()` any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence

from torch import Tensor

from ...inference.generation_settings import GenerationSettings
from ...inference.streaming_reply import FinishReason
from ...inference.text_row import TextRow
from ...inference.token_scores import ScoreRecorder
from ...preprocessing.tokenizer import ChatGLMTokenizer
from .image_cache import RequestImage


class QueueTimeoutError(Exception):
    """The request timed out in the queue."""


class Job(TextRow):
    """A row with images to encode, an adapter (None: the base model), stop strings, a time limit in seconds, a reader,
    and a recorder of log probabilities (`top_logprobs` None: none).

    `text`, `finish_reason`, `seconds` and `first_token_seconds` are final once `pieces()` has ended.
    """

    def __init__(
        self,
        tokenizer: ChatGLMTokenizer,
        input_ids: list[int],
        images: Sequence[RequestImage],
        settings: GenerationSettings,
        time_limit: float,
        adapter: str | None = None,
        top_logprobs: int | None = None,
    ) -> None:
        self._top_logprobs = top_logprobs
        super().__init__(tokenizer, input_ids, None, settings)
        self.adapter = adapter
        self.dropped_turns = 0
        self.images = images
        self.finish_reason: FinishReason | None = None
        self.first_token_seconds: float | None = None
        self._started = time.monotonic()
        self._deadline = self._started + time_limit
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | BaseException | None] = asyncio.Queue()

    @property
    def seconds(self) -> float:
        """Seconds since it joined the queue."""
        return time.monotonic() - self._started

    @property
    def late(self) -> bool:
        """Whether its time limit has passed."""
        return time.monotonic() > self._deadline

    def another(self, number: int) -> Job:
        """Return a request for another answer to the same prompt; its seed is `number` more."""
        settings = dataclasses.replace(self.settings, seed=(self.settings.seed or 0) + number)
        left = self._deadline - time.monotonic()
        return Job(self._tokenizer, self.input_ids, self.images, settings, left, self.adapter, self._top_logprobs)

    # called by the engine's thread

    def restart(self) -> None:
        """Forget what was generated."""
        super().restart()
        self.recorder = None if self._top_logprobs is None else ScoreRecorder(self._top_logprobs)

    def observe(self, logits: Tensor) -> None:
        """See the logits [vocabulary] of the next id."""
        if self.recorder is not None:
            self.recorder.observe(logits)

    def accept(self, index: int) -> None:
        """Append the next id and pass the certain text to the reader."""
        if self.late:
            self.room = len(self.ids) + 1
        before = len(self.text)
        if self.recorder is not None and index not in self.eos:
            self.recorder.accept(index)
        super().accept(index)
        if self.first_token_seconds is None:
            self.first_token_seconds = self.seconds
        if len(self.text) > before:
            self._hand_over(self.text[before:])
        if self.ended:
            self.finish("stop" if self.stopped else "length")

    def finish(self, reason: FinishReason) -> None:
        """Mark the answer as complete."""
        self.ended = True
        self.finish_reason = self.finish_reason or reason  # it may have been cancelled meanwhile
        self._hand_over(None)

    def fail(self, error: BaseException) -> None:
        """Pass an error to the reader."""
        self.ended = True
        self._hand_over(error)

    def _hand_over(self, item: str | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop is closed, so no one waits
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, item)

    # called by the reader

    async def pieces(self) -> AsyncIterator[str]:
        """Yield the answer piece by piece; leaving early cancels it.

        Raises:
            QueueTimeoutError: it timed out in the queue.
        """
        try:
            while (item := await self._pieces.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stop the generation within one token; does nothing after the end."""
        if self.finish_reason is None:
            self.ended, self.finish_reason = True, "cancelled"
