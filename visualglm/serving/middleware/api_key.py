"""Middleware: API keys, around the whole app.

With keys, everything but `/health` and the page's files requires one: `Authorization: Bearer KEY`, Anthropic's
`x-api-key: KEY`, or Basic with the key as password, which a browser asks its user for.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..error_responses import error_reply

OPEN_PATHS = ("/health",)
"""Paths that need no key and are always answered."""


class ApiKeyMiddleware:
    """Pass requests with one of the `keys`; without keys, all requests."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS or not self.keys:
            return await self.app(scope, receive, send)
        if self._knows(Headers(scope=scope)):
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        reply = error_reply(401, "The key is missing or wrong: send it as Authorization: Bearer KEY.")
        reply.headers["WWW-Authenticate"] = "Bearer" if scope["path"].startswith("/v1") else 'Basic realm="visualglm"'
        return await reply(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        """Compare with every key, in constant time."""
        scheme, _, value = headers.get("authorization", f"bearer {headers.get('x-api-key', '')}").partition(" ")
        given = value.strip().encode()
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                given = b""
        elif scheme.lower() != "bearer":
            given = b""
        return any([hmac.compare_digest(given, key) for key in self.keys])
