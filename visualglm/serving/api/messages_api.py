"""`POST /v1/messages`, compatible with Anthropic's client."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from .. import error_responses
from ..answering import Answering, collect_text
from ..engine.job import Job
from ..event_stream import EVENTS, stream_events, write_event
from ..json_body import body_schema, read_json
from .messages_schema import AnswerBlock, MessageReply, MessagesRequest, MessageUsage


def router(answering: Answering) -> APIRouter:
    """Build the route."""
    routes = APIRouter(prefix="/v1", tags=["anthropic"])

    @routes.post(
        "/messages",
        responses={**error_responses.DOCUMENTED, **EVENTS},
        response_model=MessageReply,
        openapi_extra=body_schema(MessagesRequest),
    )
    async def reply_to_messages(request: Request) -> Any:
        asked = await read_json(request, MessagesRequest)
        model = answering.served.choose(asked.model)
        sampling = asked.sampling()
        job = await answering.start(request, model, asked.take_messages(), asked, **sampling)
        if job is None:
            return error_responses.client_closed_response()
        reply = _Reply(job, model)
        return stream_events(reply.events()) if asked.stream else await reply.whole(request)

    return routes


class _Reply:
    """A job in the response shapes of this API."""

    def __init__(self, job: Job, model: str) -> None:
        self.job = job
        self.begun = MessageReply(id=f"msg_{uuid.uuid4().hex}", model=model, usage=self._usage())

    def _usage(self) -> MessageUsage:
        return MessageUsage(input_tokens=len(self.job.input_ids), output_tokens=len(self.job.ids))

    def _reason(self) -> str:
        return "end_turn" if self.job.finish_reason == "stop" else "max_tokens"

    async def whole(self, request: Request) -> MessageReply | Response:
        text = await collect_text(self.job, request)
        if text is None:
            return error_responses.client_closed_response()
        ended = {"content": [AnswerBlock(text=text)], "stop_reason": self._reason(), "usage": self._usage()}
        return self.begun.model_copy(update=ended)

    async def events(self) -> AsyncIterator[str]:
        """Yield the events; a late error is an `error`, which the client raises."""
        try:
            yield _event("message_start", message=self.begun.model_dump())
            yield _event("content_block_start", index=0, content_block=AnswerBlock(text="").model_dump())
            async for piece in self.job.pieces():
                yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
            yield _event("content_block_stop", index=0)
            ended = {"stop_reason": self._reason(), "stop_sequence": None}
            yield _event("message_delta", delta=ended, usage=self._usage().model_dump())
            yield _event("message_stop")
        except Exception as error:
            yield write_event(error_responses.error_fields(error), "error")
        finally:
            self.job.cancel()


def _event(kind: str, **fields: Any) -> str:
    return write_event({"type": kind, **fields}, kind)
