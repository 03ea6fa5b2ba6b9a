"""The answers to one request in the shapes of `/v1/chat/completions`: whole, or as chunks of a stream."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ...preprocessing.token_bytes import token_bytes
from ...preprocessing.tokenizer import ChatGLMTokenizer
from ..engine.job import Job
from .openai_schema import AssistantMessage, ChatCompletion, Choice, ChoiceLogprobs, TokenLogprob, TopLogprob, Usage

LEAST = -9999.0
"""OpenAI's number for a log probability of minus infinity, which JSON does not have."""


class ChatReply:
    """The jobs of one request, a choice each."""

    def __init__(self, jobs: Sequence[Job], name: str, tokenizer: ChatGLMTokenizer) -> None:
        self.jobs = jobs
        self.tokenizer = tokenizer
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        self._sent = [0] * len(jobs)
        self._readers: list[asyncio.Task[None]] = []

    def cancel(self) -> None:
        """Stop what still runs; call this at the end of every reply."""
        for job in self.jobs:
            job.cancel()
        for reader in self._readers:
            reader.cancel()

    async def completion(self) -> ChatCompletion:
        """Wait for all answers."""
        async for _ in self._pieces():
            pass
        choices = [
            Choice(
                index=index,
                message=AssistantMessage(content=job.text),
                finish_reason=_finish_reason(job),  # type: ignore[arg-type]
                logprobs=self._logprobs(index),
            )
            for index, job in enumerate(self.jobs)
        ]
        return ChatCompletion(**self.head, choices=choices, usage=self._usage())  # type: ignore[arg-type]

    async def chunks(self, with_usage: bool) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a stream; those of several choices are mixed, each in its own order."""
        more = {"usage": None} if with_usage else {}
        for index in range(len(self.jobs)):
            yield self._chunk(index, {"role": "assistant", "content": ""}, None, None, more)
        async for index, piece in self._pieces():
            logprobs = self._logprobs(index)
            if piece is not None or (logprobs is not None and logprobs.content):
                yield self._chunk(index, {"content": piece or ""}, None, logprobs, more)
            if piece is None:
                yield self._chunk(index, {}, _finish_reason(self.jobs[index]), None, more)
        if with_usage:
            yield {**self.head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage().model_dump()}

    async def _pieces(self) -> AsyncIterator[tuple[int, str | None]]:
        """Yield the pieces of all jobs as they come, each with its job's index; None is the end of a job.

        Raises:
            As `Job.pieces`.
        """
        pieces: asyncio.Queue[tuple[int, str | Exception | None]] = asyncio.Queue()

        async def read(index: int, job: Job) -> None:
            try:
                async for piece in job.pieces():
                    pieces.put_nowait((index, piece))
                pieces.put_nowait((index, None))
            except Exception as error:
                pieces.put_nowait((index, error))

        self._readers = [asyncio.create_task(read(index, job)) for index, job in enumerate(self.jobs)]
        running = len(self.jobs)
        while running:
            index, piece = await pieces.get()
            if isinstance(piece, Exception):
                raise piece
            running -= piece is None
            yield index, piece

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        reason: str | None,
        logprobs: ChoiceLogprobs | None,
        more: dict[str, Any],
    ) -> dict[str, Any]:
        scores = None if logprobs is None else logprobs.model_dump()
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": scores}
        return {**self.head, "object": "chat.completion.chunk", "choices": [choice], **more}

    def _usage(self) -> Usage:
        read, said = len(self.jobs[0].input_ids), sum(len(job.ids) for job in self.jobs)
        return Usage(prompt_tokens=read, completion_tokens=said, total_tokens=read + said)

    def _logprobs(self, index: int) -> ChoiceLogprobs | None:
        """Return the tokens of a choice that were not returned before; None if they were not requested."""
        recorder = self.jobs[index].recorder
        if recorder is None:
            return None
        new = recorder.scores[self._sent[index] :]
        self._sent[index] += len(new)
        return ChoiceLogprobs(
            content=[
                TokenLogprob(
                    **self._token(score.index, score.log_probability),
                    top_logprobs=[TopLogprob(**self._token(*other)) for other in score.likeliest],
                )
                for score in new
            ]
        )

    def _token(self, index: int, log_probability: float) -> dict[str, Any]:
        """Return a token's text and bytes; one that is not text has its name and no bytes."""
        table = token_bytes(self.tokenizer)
        content = table[index] if index < len(table) else b""
        name = content.decode("utf-8", "backslashreplace") or self.tokenizer.convert_ids_to_tokens(index)
        return {"token": name, "bytes": list(content) or None, "logprob": max(log_probability, LEAST)}


def _finish_reason(job: Job) -> str:
    return "stop" if job.finish_reason == "stop" else "length"
