"""One request on its way: a row that decodes what it is given and hands it to the event loop that asked.

The engine's thread calls `accept`, `finish` and `fail`; the event loop iterates `pieces()` and may `cancel()` any time.
Knows nothing about HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

from ..inference.generation_settings import GenerationSettings
from ..inference.streaming_reply import FinishReason
from ..inference.text_row import TextRow
from ..preprocessing.tokenizer import ChatGLMTokenizer
from .image_cache import RequestImage


class QueueTimeoutError(Exception):
    """The request's time was up before its turn came."""


class Job(TextRow):
    """A row with images that are not encoded yet, the adapter that answers (None: the bare model), stop strings, a
    time limit in seconds, and a reader.

    `text`, `finish_reason`, `seconds` and `first_token_seconds` are whole once `pieces()` has ended.
    """

    def __init__(
        self,
        tokenizer: ChatGLMTokenizer,
        input_ids: list[int],
        images: Sequence[RequestImage],
        settings: GenerationSettings,
        time_limit: float,
        adapter: str | None = None,
    ) -> None:
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
        """Since it joined the queue."""
        return time.monotonic() - self._started

    @property
    def late(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() > self._deadline

    # called by the engine's thread

    def accept(self, index: int) -> None:
        """Takes the next id and hands the text that became certain to the reader."""
        if self.late:
            self.room = len(self.ids) + 1
        before = len(self.text)
        super().accept(index)
        if self.first_token_seconds is None:
            self.first_token_seconds = self.seconds
        if len(self.text) > before:
            self._hand_over(self.text[before:])
        if self.ended:
            self.finish("stop" if self.stopped else "length")

    def finish(self, reason: FinishReason) -> None:
        """The answer is whole."""
        self.ended = True
        self.finish_reason = self.finish_reason or reason  # it may have been cancelled meanwhile
        self._hand_over(None)

    def fail(self, error: BaseException) -> None:
        """The reader gets the error."""
        self.ended = True
        self._hand_over(error)

    def _hand_over(self, item: str | BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, item)

    # called by the reader

    async def pieces(self) -> AsyncIterator[str]:
        """The answer as it comes; leaving early cancels it.

        Raises:
            LateError: its time was up before its turn came.
        """
        try:
            while (item := await self._pieces.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Stops the generation within one token; does nothing once it is whole."""
        if self.finish_reason is None:
            self.ended, self.finish_reason = True, "cancelled"
