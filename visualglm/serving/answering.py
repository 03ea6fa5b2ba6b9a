"""Answer one request of any API: in, chat messages; out, the engine's job, as long as the client is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from ..errors import ContextLengthError, PromptError
from ..preprocessing.chat_messages import messages_to_turns
from .engine.engine import Engine
from .engine.job import Job
from .image_reader import ImageReader, refuse_long_texts
from .model_ids import ModelIds
from .request_fields import SamplingFields

T = TypeVar("T")


@dataclass(frozen=True)
class Answering:
    """What every API uses: the engine, the ids that it serves, and the reader of images."""

    engine: Engine
    served: ModelIds
    images: ImageReader

    async def start(
        self,
        request: Request,
        model: str,
        messages: list[dict[str, Any]],
        asked: SamplingFields,
        keep_turns: bool = False,
        **more: Any,
    ) -> Job | None:
        """Put the messages' last question into the queue; return None if the client disconnects first.

        `more` are sampling arguments beside those of `asked`. The messages, which hold the encoded images, are emptied
        before the request waits for its answer.

        Raises:
            PromptError: the messages are not a dialogue, or end with an answer.
            ContextLengthError: the question does not fit, or old turns do not and `keep_turns` is set.
            ImageError, QueueFullError, QueueTimeoutError: as `Engine.ask`.
        """
        job = await while_connected(request, self._ask(messages, asked, self.served.adapter(model), more))
        if job is not None and job.dropped_turns and keep_turns:
            job.cancel()
            raise ContextLengthError(f"The {job.dropped_turns} oldest turns of the dialogue do not fit. Send fewer.")
        return job

    async def _ask(
        self, messages: list[dict[str, Any]], asked: SamplingFields, adapter: str | None, more: dict[str, Any]
    ) -> Job:
        turns, sources = await asyncio.to_thread(messages_to_turns, messages)
        messages.clear()
        if turns[-1].answer is not None:
            raise PromptError("The messages end with the assistant's. Add the next question.")
        refuse_long_texts(turns)
        shown = await self.images.read_all(sources)
        sources.clear()
        sampling = {**asked.draws(), **more}
        job = await self.engine.ask(turns, shown, asked.language or "auto", asked.seed, adapter, **sampling)
        shown.clear()
        return job


async def wait_for_disconnect(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `work`, or cancel it and return None if the client disconnects first."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(wait_for_disconnect(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


async def collect_text(job: Job, request: Request) -> str | None:
    """Return the whole answer, or None if the client disconnects first."""

    async def read() -> str:
        async for _ in job.pieces():
            pass
        return job.text

    try:
        return await while_connected(request, read())
    finally:
        job.cancel()
