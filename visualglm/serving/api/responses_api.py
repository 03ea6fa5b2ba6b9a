"""`POST /v1/responses`, compatible with OpenAI's clients.

Responses are not kept, so that `previous_response_id` cannot refer to one. The texts of the last answers are, since the
AI SDK refers to them by default.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from .. import error_responses
from ..answering import Answering, collect_text
from ..engine.job import Job
from ..event_stream import EVENTS, stream_events, write_event
from ..json_body import body_schema, read_json
from .recent_answers import RecentAnswers
from .responses_schema import (
    IncompleteDetails,
    OutputMessage,
    OutputText,
    ResponseError,
    ResponseObject,
    ResponsesRequest,
    ResponseUsage,
    TextSettings,
)


def router(answering: Answering) -> APIRouter:
    """Build the route."""
    answers = RecentAnswers()
    routes = APIRouter(prefix="/v1", tags=["openai"])

    @routes.post(
        "/responses",
        responses={**error_responses.DOCUMENTED, **EVENTS},
        response_model=ResponseObject,
        openapi_extra=body_schema(ResponsesRequest),
    )
    async def respond(request: Request) -> Any:
        asked = await read_json(request, ResponsesRequest)
        model = answering.served.choose(asked.model)
        sampling, keep_turns = asked.sampling(), asked.truncation == "disabled"
        messages = asked.take_messages(answers.recall)
        job = await answering.start(request, model, messages, asked, keep_turns, **sampling)
        if job is None:
            return error_responses.client_closed_response()
        reply = _Reply(job, asked, model, answers)
        return stream_events(reply.events()) if asked.stream else await reply.whole(request)

    return routes


class _Reply:
    """A job in the response shapes of this API."""

    def __init__(self, job: Job, asked: ResponsesRequest, model: str, answers: RecentAnswers) -> None:
        self.job = job
        self.answers = answers
        self.message_id = f"msg_{uuid.uuid4().hex}"
        self.place = {"item_id": self.message_id, "output_index": 0, "content_index": 0}
        self.begun = ResponseObject(
            id=f"resp_{uuid.uuid4().hex}",
            created_at=int(time.time()),
            status="in_progress",
            model=model,
            instructions=asked.instructions,
            max_output_tokens=asked.max_output_tokens,
            metadata=asked.metadata or {},
            temperature=asked.temperature,
            top_p=asked.top_p,
            truncation=asked.truncation or "auto",
            store=asked.store is not False,
            text=TextSettings(format=asked.text_format),
        )

    async def whole(self, request: Request) -> ResponseObject | Response:
        text = await collect_text(self.job, request)
        return error_responses.client_closed_response() if text is None else self._ended()

    def _ended(self) -> ResponseObject:
        """Return the response of a finished job, and remember its text."""
        if self.begun.store:
            self.answers.remember(self.message_id, self.job.text)
        whole = self.job.finish_reason == "stop"
        read, said = len(self.job.input_ids), len(self.job.ids)
        return self.begun.model_copy(
            update={
                "status": "completed" if whole else "incomplete",
                "output": [self._message()],
                "usage": ResponseUsage(input_tokens=read, output_tokens=said, total_tokens=read + said),
                "incomplete_details": None if whole else IncompleteDetails(),
            }
        )

    def _message(self) -> OutputMessage:
        status = "completed" if self.job.finish_reason == "stop" else "incomplete"
        return OutputMessage(id=self.message_id, status=status, content=[OutputText(text=self.job.text)])  # type: ignore[arg-type]

    async def events(self) -> AsyncIterator[str]:
        """Yield the numbered events; a late error is `response.failed`."""
        number = -1
        async for kind, fields in self._events():
            number += 1
            yield write_event({"type": kind, **fields, "sequence_number": number}, kind)

    async def _events(self) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        started = OutputMessage(id=self.message_id, status="in_progress", content=[]).model_dump()
        item = {"output_index": 0}
        yield "response.created", {"response": self.begun.model_dump()}
        yield "response.in_progress", {"response": self.begun.model_dump()}
        try:
            yield "response.output_item.added", {**item, "item": started}
            yield "response.content_part.added", {**self.place, "part": OutputText(text="").model_dump()}
            async for piece in self.job.pieces():
                yield "response.output_text.delta", {**self.place, "delta": piece, "logprobs": []}
            part = OutputText(text=self.job.text)
            yield "response.output_text.done", {**self.place, "text": part.text, "logprobs": []}
            yield "response.content_part.done", {**self.place, "part": part.model_dump()}
            yield "response.output_item.done", {**item, "item": self._message().model_dump()}
            ended = self._ended()
            yield f"response.{ended.status}", {"response": ended.model_dump()}
        except Exception as error:
            said = error_responses.error_fields(error, "/v1/responses")["error"]
            failed = ResponseError(code=said["code"], message=said["message"])
            yield (
                "response.failed",
                {"response": self.begun.model_copy(update={"status": "failed", "error": failed}).model_dump()},
            )
        finally:
            self.job.cancel()
