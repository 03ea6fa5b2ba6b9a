"""`/v1/chat/completions` and `/v1/models`, compatible with OpenAI's client.

A request's messages become turns (preprocessing/chat_messages.py), the engine answers, and the answer is sent whole or
as server-sent events. When a client disconnects, its generation stops.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request

from .. import error_responses
from ..answering import Answering, while_connected
from ..event_stream import EVENTS, stream_events, write_event
from ..json_body import body_schema, read_json
from .chat_reply import ChatReply
from .openai_schema import ChatCompletion, ChatRequest, ModelCard, ModelList


def router(answering: Answering, cards: Mapping[str, ModelCard]) -> APIRouter:
    """Build the routes for a model and its adapters by their ids."""
    served, engine = answering.served, answering.engine
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
        return cards[served.check(model)]

    @routes.post(
        "/chat/completions",
        responses={**error_responses.DOCUMENTED, **EVENTS},
        response_model=ChatCompletion,
        openapi_extra=body_schema(ChatRequest),
    )
    async def chat(request: Request) -> Any:
        asked = await read_json(request, ChatRequest)
        model = served.choose(asked.model)
        sampling = asked.sampling()
        job = await answering.start(request, model, asked.take_messages(), asked, **sampling)
        if job is None:
            return error_responses.client_closed_response()
        reply = ChatReply([job, *engine.repeat(job, (asked.n or 1) - 1)], model, engine.model.tokenizer)
        if asked.stream:
            usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
            return stream_events(_events(reply, usage))
        try:
            whole = await while_connected(request, reply.completion())
        finally:
            reply.cancel()
        return error_responses.client_closed_response() if whole is None else whole

    return routes


async def _events(reply: ChatReply, with_usage: bool) -> AsyncIterator[str]:
    """Yield server-sent events; a late error is an event with `error`, which OpenAI's client raises."""
    try:
        async for chunk in reply.chunks(with_usage):
            yield write_event(chunk)
    except Exception as error:
        yield write_event(error_responses.error_fields(error, "/v1/chat/completions"))
    finally:
        reply.cancel()
    yield "data: [DONE]\n\n"
