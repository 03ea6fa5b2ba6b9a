"""Middleware: limits on requests at once, and on bodies in bytes and seconds."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..error_responses import client_closed_response, error_reply
from .api_key import OPEN_PATHS

BUSY = "Busy: the server has too many requests. Try again in a moment."
BODIES_AT_ONCE = 16


class RequestLimit:
    """Answer 503 while `limit` requests are being answered; `/health` is always answered."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit
        self.answering = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self.app(scope, receive, send)
        if self.answering >= self.limit:
            return await error_reply(503, BUSY)(scope, receive, send)
        self.answering += 1
        try:
            return await self.app(scope, receive, send)
        finally:
            self.answering -= 1


class BodyLimitMiddleware:
    """Limit bodies to `byte_limit` bytes and `second_limit` seconds each, and to `BODIES_AT_ONCE` full ones."""

    def __init__(self, app: ASGIApp, byte_limit: int, second_limit: float) -> None:
        self.app = app
        self.byte_limit = byte_limit
        self.second_limit = second_limit
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            return await self.app(scope, receive, send)
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length) > self.byte_limit:
            return await self._too_large()(scope, receive, send)
        messages: list[Message] = []
        try:
            try:
                refusal = await asyncio.wait_for(self._read(receive, messages), self.second_limit)
            except TimeoutError:
                refusal = error_reply(408, "The body did not arrive in time: send it again.")
            await (refusal or self.app)(scope, _replay(messages, receive), send)
        finally:
            self.held -= sum(_size(message) for message in messages)

    def _too_large(self) -> ASGIApp:
        return error_reply(413, f"The body has more than {self.byte_limit} bytes: send smaller images.")

    async def _read(self, receive: Receive, messages: list[Message]) -> ASGIApp | None:
        """Read the body's messages; return an error response if it is too large, or None if the client leaves."""
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += _size(message)
            self.held += _size(message)
            if size > self.byte_limit:
                return self._too_large()
            if self.held > BODIES_AT_ONCE * self.byte_limit:
                return error_reply(503, BUSY)
            if message["type"] != "http.request":
                return client_closed_response()
            if not message.get("more_body"):
                return None


def _size(message: Message) -> int:
    return len(message.get("body", b""))


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """Replay the messages that were read, then pass on later ones (the client leaving)."""
    kept = iter(messages)

    async def again() -> Message:
        return next(kept, None) or await receive()

    return again
