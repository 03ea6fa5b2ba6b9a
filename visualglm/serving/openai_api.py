"""`/v1/chat/completions` and `/v1/models`, compatible with OpenAI's client.

A request's messages become turns (preprocessing/chat_messages.py), the engine answers, and the answer is sent whole or
as server-sent events. When a client disconnects, its generation stops.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from . import error_responses
from .answering import EVENTS, Answering, collect_text, stream_events, unknown_model, write_event
from .job import Job
from .json_body import body_schema, read_json
from .openai_schema import AssistantMessage, ChatCompletion, ChatRequest, Choice, ModelCard, ModelList, Usage


def router(answering: Answering, cards: Mapping[str, ModelCard]) -> APIRouter:
    """Build the routes for a model and its adapters by their ids."""
    served = answering.served
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.get("/models", responses={401: error_responses.DOCUMENTED[401]})
    async def models() -> ModelList:
        return ModelList(data=[cards[name] for name in served.ids])

    @routes.get(
        "/models/{model:path}",
        responses={s: error_responses.DOCUMENTED[s] for s in (401, 404)},
        response_model=ModelCard,
    )
    async def model_card(model: str) -> Any:
        return cards[model] if served.knows(model) else unknown_model(model, served)

    @routes.post(
        "/chat/completions",
        responses={**error_responses.DOCUMENTED, **EVENTS},
        response_model=ChatCompletion,
        openapi_extra=body_schema(ChatRequest),
    )
    async def chat(request: Request) -> Any:
        asked = await read_json(request, ChatRequest)
        model = asked.model or served.default
        if not served.knows(model):
            return unknown_model(model, served)
        sampling = asked.sampling()
        job = await answering.start(request, model, asked.take_messages(), asked, **sampling)
        if job is None:
            return error_responses.client_closed_response()
        reply = _Reply(job, model)
        if asked.stream:
            usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
            return stream_events(reply.events(usage))
        return await reply.whole(request)

    return routes


class _Reply:
    """A job in OpenAI's response shapes."""

    def __init__(self, job: Job, name: str) -> None:
        self.job = job
        self.head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}

    def usage(self) -> Usage:
        read, said = len(self.job.input_ids), len(self.job.ids)
        return Usage(prompt_tokens=read, completion_tokens=said, total_tokens=read + said)

    async def whole(self, request: Request) -> ChatCompletion | Response:
        text = await collect_text(self.job, request)
        if text is None:
            return error_responses.client_closed_response()
        reason = "stop" if self.job.finish_reason == "stop" else "length"
        choice = Choice(message=AssistantMessage(content=text), finish_reason=reason)  # type: ignore[arg-type]
        return ChatCompletion(**self.head, choices=[choice], usage=self.usage())  # type: ignore[arg-type]

    async def events(self, with_usage: bool) -> AsyncIterator[str]:
        """Yield the chunks; a late error is a chunk with `error`, which OpenAI's client raises."""
        more = {"usage": None} if with_usage else {}
        try:
            yield self._event({"role": "assistant", "content": ""}, None, more)
            async for piece in self.job.pieces():
                yield self._event({"content": piece}, None, more)
            yield self._event({}, self.job.finish_reason, more)
            if with_usage:
                yield self._chunk(choices=[], usage=self.usage().model_dump())
        except Exception as error:
            yield f"data: {bytes(error_responses.explain(error, '/v1/chat/completions').body).decode()}\n\n"
        finally:
            self.job.cancel()
        yield "data: [DONE]\n\n"

    def _event(self, delta: dict[str, str], reason: str | None, more: dict[str, Any]) -> str:
        return self._chunk(choices=[{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}], **more)

    def _chunk(self, **fields: Any) -> str:
        return write_event({**self.head, "object": "chat.completion.chunk", **fields})
