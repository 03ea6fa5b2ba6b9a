"""The web page's static files, in front of the app.

The page is a client of `/v1` like any other, so its files hold nothing secret and need no key. A request's path is
only looked up in a table of the files that the package contains. No path is ever opened for a request.
"""

from __future__ import annotations

from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...hub.local_folder import packed_model

METHODS = ("GET", "HEAD")
FOLDER = Path(__file__).parent
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}


def page_files() -> dict[str, Path]:
    """Return the file of each path that the page consists of."""
    files = sorted(file for file in FOLDER.iterdir() if file.suffix in MEDIA_TYPES)
    examples = sorted((packed_model() / "samples").glob("*.png"))
    return {
        "/": FOLDER / "index.html",
        **{f"/web/{file.name}": file for file in files if file.name != "index.html"},
        **{f"/web/examples/{file.name}": file for file in examples},
    }


class StaticPage:
    """Answer GET and HEAD for the page's files, and pass every other request on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.files = {path: (file.read_bytes(), MEDIA_TYPES[file.suffix]) for path, file in page_files().items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self.files.get(scope.get("path", "")) if scope["type"] == "http" else None
        if found is None:
            return await self.app(scope, receive, send)
        if scope["method"] not in METHODS:
            return await self._other_method(scope, receive, send)
        content, media_type = found
        headers = {**PAGE_HEADERS, "Content-Length": str(len(content))}
        response = Response(b"" if scope["method"] == "HEAD" else content, 200, headers, media_type)
        return await response(scope, receive, send)

    async def _other_method(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer, and add the page's methods to those that its 405 allows."""

        async def extend_allow(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (404, 405):
                headers = MutableHeaders(scope=message)
                others = [name for name in headers.get("allow", "").split(", ") if name and name not in METHODS]
                headers["Allow"] = ", ".join([*METHODS, *others])
                message["status"] = 405
            await send(message)

        await self.app(scope, receive, extend_allow)
