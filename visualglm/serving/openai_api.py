"""`/v1/chat/completions` and `/v1/models`, compatible with OpenAI's client.

A request's messages become turns (preprocessing/chat_messages.py), the engine answers, and the answer is sent whole or
as server-sent events. When a client disconnects, its generation stops.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from ..errors import PromptError
from ..preprocessing.chat_messages import messages_to_turns
from ..preprocessing.prompt import Turn
from . import error_responses
from .chat_reply import ChatReply
from .engine import Engine
from .image_reader import ImageReader, refuse_long_texts
from .job import Job
from .json_body import body_schema, is_json, read_json
from .model_ids import ModelIds
from .openai_schema import ChatCompletion, ChatRequest, ModelCard, ModelList

T = TypeVar("T")

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "description": "The whole answer, or server-sent events.",
    }
}


def router(engine: Engine, served: ModelIds, images: ImageReader, cards: Mapping[str, ModelCard]) -> APIRouter:
    """Build the routes for a model and its adapters by their ids."""
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
        return cards[model] if served.knows(model) else _unknown(model, served)

    @routes.post(
        "/chat/completions",
        responses={**error_responses.DOCUMENTED, **STREAM},
        response_model=ChatCompletion,
        openapi_extra=body_schema(ChatRequest),
    )
    async def chat(request: Request) -> Any:
        if not is_json(request):
            return error_responses.error_reply(
                415, "The body is not JSON: send it with Content-Type: application/json."
            )
        asked = await read_json(request, ChatRequest)
        if not served.knows(asked.model):
            return _unknown(asked.model, served)
        job = await while_connected(request, _ask(engine, images, asked, served.adapter(asked.model)))
        if job is None:
            return error_responses.client_closed_response()
        reply = ChatReply([job, *engine.repeat(job, (asked.n or 1) - 1)], asked.model, engine.model.tokenizer)
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            return StreamingResponse(
                _events(reply, usage), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
            )
        try:
            whole = await while_connected(request, reply.completion())
        finally:
            reply.cancel()
        return error_responses.client_closed_response() if whole is None else whole

    return routes


def _unknown(model: str, served: ModelIds) -> Response:
    message = f"There is no model {model[:100]!r} here. Use {' or '.join(map(repr, served.ids))}."
    return error_responses.error_reply(404, message, param="model", code="model_not_found")


async def _ask(engine: Engine, images: ImageReader, asked: ChatRequest, adapter: str | None) -> Job:
    sampling = asked.sampling()
    turns, sources = await asyncio.to_thread(_read_messages, asked)
    if turns[-1].answer is not None:
        raise PromptError("The messages end with the assistant's. Put the next question behind it.")
    refuse_long_texts(turns)
    shown = await images.read_all(sources)
    asked.messages = []  # do not keep the encoded images while the request waits for its answer
    sources.clear()
    job = await engine.ask(turns, shown, asked.language, asked.seed, adapter, **sampling)
    shown.clear()
    return job


def _read_messages(asked: ChatRequest) -> tuple[list[Turn], list[Any]]:
    return messages_to_turns([message.model_dump() for message in asked.messages])


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


async def _events(reply: ChatReply, with_usage: bool) -> AsyncIterator[str]:
    """Yield server-sent events; a late error is an event with `error`, which OpenAI's client raises."""
    try:
        async for chunk in reply.chunks(with_usage):
            yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
    except Exception as error:
        yield f"data: {bytes(error_responses.explain(error).body).decode()}\n\n"
    finally:
        reply.cancel()
    yield "data: [DONE]\n\n"
