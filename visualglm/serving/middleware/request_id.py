"""Give each request an id, which its response has in the header `x-request-id` and the log shows."""

from __future__ import annotations

import logging
import uuid
from contextvars import ContextVar

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")
"""The id of the request that the current task answers; empty if there is none."""


class RequestId:
    """Set the id of each request. Ids of clients are ignored: they would put untrusted text into the log."""

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
    """Set `request_id` of a log record; an error's message begins with it."""
    name = current_request_id.get()
    record.__dict__["request_id"] = name
    if name and record.exc_info:
        record.msg = f"{name}: {record.msg}"
    return True
