"""Protect browsers: other sites' pages may neither send requests nor show the page in a frame.

Programs that send no `Origin` and no `Sec-Fetch-Site` header are not affected. The operator may name origins whose
pages are answered; their requests carry a key, where there are keys, and never cookies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..error_responses import error_reply

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""Host names of this machine: answering only these protects a loopback server against DNS rebinding."""
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
PROTECTION = {
    # the page has its own policy (web/static_page.py)
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SameOriginOnly:
    """Answer 403 to requests from another site's page, and add the `PROTECTION` headers to every response.

    Following a link to the page is allowed: a GET that opens a document.
    """

    protection: Mapping[str, str] = PROTECTION

    def __init__(self, app: ASGIApp, origins: Sequence[str] = ()) -> None:
        self.app = app
        self.origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)

        async def protect(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.protection.items():
                    headers.setdefault(name, value)
            await send(message)

        given = Headers(scope=scope).getlist("origin")
        is_allowed = len(given) == 1 and given[0].lower() in self.origins
        if is_allowed or not is_foreign(scope):
            return await self.app(scope, receive, protect)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        reply = error_reply(403, "The request comes from another site's page. Open this server's own page instead.")
        return await reply(scope, receive, protect)


def is_foreign(scope: Scope) -> bool:
    """Return whether the browser says that a page of another origin made the request."""
    headers = Headers(scope=scope)
    if any(not _is_origin_of(origin, headers.get("host", "")) for origin in headers.getlist("origin")):
        return True
    opens_document = (
        scope.get("method") in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest", "document") == "document"
    )
    return headers.get("sec-fetch-site", "none").lower() not in ("none", "same-origin") and not opens_document


def _is_origin_of(origin: str, host: str) -> bool:
    """Return whether an `Origin` header names host and port of a `Host` header; a reverse proxy may add https."""
    scheme, _, address = origin.lower().partition("://")
    port = DEFAULT_PORTS.get(scheme)
    return port is not None and address.removesuffix(port) == host.lower().removesuffix(port)
