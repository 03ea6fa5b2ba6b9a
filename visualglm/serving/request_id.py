"""Give each request an id: the header `x-request-id` of its response, and a part of what the log says about it."""

from __future__ import annotations

import logging
import uuid
from contextvars import ContextVar

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")
"""The id of the request that this task answers; empty outside of one."""


class RequestId:
    """Names each request; a client's own id is not taken, since strangers would write it into the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        name = f"req_{uuid.uuid4().hex}"
        current_request_id.set(name)  # never reset: the server logs failures after the app has returned

        async def add_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        return await self.app(scope, receive, add_header)


def add_request_id(record: logging.LogRecord) -> bool:
    """Set `request_id` of a log record, and write it before the message where a request failed."""
    name = current_request_id.get()
    record.__dict__["request_id"] = name
    if name and record.exc_info:
        record.msg = f"{name}: {record.msg}"
    return True
