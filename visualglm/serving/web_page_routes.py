"""The few routes of the page's framework that the page calls; every other one is 404.

A dialogue that the browser sends may name stored images only: no other path, no URL, no component to build.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection
from typing import Any, NoReturn

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ImageError, UsageError
from .error_responses import error_reply, explain
from .web_page_dialogues import Dialogues
from .web_page_uploads import Uploads

API = "/gradio_api/"
PASSED = ("/", "/config", "/theme.css", "/favicon.ico", f"{API}queue/data", f"{API}startup-events")
PASSED_BELOW = ("/assets/", "/static/", f"{API}heartbeat/")
POSTED = (f"{API}queue/join", f"{API}run/predict", f"{API}cancel", f"{API}reset")
PASSED_QUERIES = (f"{API}queue/data",)
DROPPED_HEADERS = (b"x-forwarded-host", b"x-gradio-server")
"""The framework would believe these about its own address."""

BODY_LIMIT = 1_000_000
"""Bytes of a dialogue without its images."""
OBJECT_LIMIT = 10_000
"""Lists and objects, by their brackets: the framework takes a tenth of a millisecond for each."""
DEPTH_LIMIT = 20
SESSION = re.compile(r"[\w-]{1,64}", re.ASCII)
"""The name that a browser gives itself; the framework keeps it."""
FILES_AT_ONCE = 64
KEYS = {
    *("session_hash", "fn_index", "trigger_id", "event_id", "event_data", "data", "batched", "simple_format"),
    *("text", "files", "role", "content", "metadata", "options", "file", "alt_text", "type", "title", "label", "value"),
    *("id", "parent_id", "log", "duration", "status", "index", "path", "url", "orig_name", "mime_type", "size"),
    *("is_stream", "meta", "_type", "component_type", "selected", "liked", "previous_value"),
}
"""Everything that a dialogue of text and images consists of; `component`, from which the framework would build any of
its components with any arguments, is not among them."""


class PageRoutes:
    """Wraps the framework's app; its `dialogues` may name what `uploads` holds; `handlers`: its functions' numbers."""

    def __init__(self, app: ASGIApp, uploads: Uploads, dialogues: Dialogues, handlers: Collection[int]) -> None:
        self.app = app
        self.uploads = uploads
        self.dialogues = dialogues
        self.handlers = tuple(handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        method, path = "GET" if scope["method"] == "HEAD" else scope["method"], scope["path"]
        if method == "GET" and (path in PASSED or (path.startswith(PASSED_BELOW) and ".." not in path)):
            return await self._get(scope, receive, send)
        if method == "POST" and path in POSTED:
            return await self._post(scope, receive, send)
        request = Request(scope, receive)
        if (method, path) == ("POST", f"{API}upload"):
            reply = await self._upload(request)
        elif method == "GET" and path.startswith(f"{API}file="):
            reply = self._file(path.removeprefix(f"{API}file="))
        else:
            reply = error_reply(404, "The page has no such address.")
        return await reply(scope, receive, send)

    async def _get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request; the framework's stream for a session that it does not know ends, and is no failure."""
        try:
            await self.app(_reduced(scope), receive, send)
        except RuntimeError as error:
            if not isinstance(error.__cause__, HTTPException):
                raise
            await send({"type": "http.response.body", "body": b""})

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a dialogue to the framework, once nothing in it names anything but stored images."""
        request = Request(scope, receive)
        try:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise UsageError("The body is not JSON. Reload the page.")
            body = await request.body()
            if len(body) > BODY_LIMIT or body.count(b"{") + body.count(b"[") > OBJECT_LIMIT:
                raise UsageError("The dialogue is too long. Clear it and start again.")
            value = _read_json(body)
            if not isinstance(value, dict) or value.get("fn_index", self.handlers[0]) not in self.handlers:
                raise UsageError("The page has no such function. Reload the page.")
            session = value.get("session_hash")
            if session is not None and not (isinstance(session, str) and SESSION.fullmatch(session)):
                raise UsageError("The dialogue belongs to no session. Reload the page.")
            checked = json.dumps(self._checked(value)).encode()
        except UsageError as error:
            return await explain(error)(scope, receive, send)
        if session is not None:
            await self.dialogues.admit(session, len(body))
        messages = iter([{"type": "http.request", "body": checked, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await receive()

        return await self.app(_reduced(scope), replay, send)

    def _checked(self, value: Any, depth: int = 0) -> Any:
        """A JSON value without URLs of files.

        Raises:
            UsageError: it is too deep, or holds a key or a path that no dialogue of the page has.
        """
        if depth > DEPTH_LIMIT:
            raise UsageError("The dialogue is nested too deeply. Reload the page.")
        if isinstance(value, list):
            return [self._checked(item, depth + 1) for item in value]
        if not isinstance(value, dict):
            return value
        if not value.keys() <= KEYS:
            raise UsageError("The dialogue holds a key that the page does not use. Reload the page.")
        if value.get("path") is not None and not self.uploads.holds(value["path"]):
            raise UsageError("This image is no longer on the server. Upload it again.")
        if "path" in value or "url" in value:
            value = {**value, "url": None, "is_stream": False}
        return {key: self._checked(item, depth + 1) for key, item in value.items()}

    async def _upload(self, request: Request) -> Response:
        """Store the files of a form; the paths in their order."""
        try:
            async with request.form(max_files=FILES_AT_ONCE, max_fields=FILES_AT_ONCE) as form:
                files = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
                paths = [
                    await asyncio.to_thread(self.uploads.store, await file.read(), file.filename or "")
                    for file in files
                ]
        except ImageError as error:
            return explain(error)
        except OSError:
            return error_reply(503, "The image cannot be stored. Try again later.")
        asyncio.get_running_loop().call_later(self.uploads.age_limit, self.uploads.expire)
        return JSONResponse([str(path) for path in paths])

    def _file(self, path: str) -> Response:
        if not self.uploads.holds(path):
            return error_reply(404, "This image is no longer on the server. Upload it again.")
        return FileResponse(path, headers={"Content-Security-Policy": "default-src 'none'; sandbox"})


def _reduced(scope: Scope) -> Scope:
    """A request without the headers and queries that the page does not need."""
    headers = [(name, value) for name, value in scope["headers"] if name.lower() not in DROPPED_HEADERS]
    query = scope["query_string"] if scope["path"] in PASSED_QUERIES else b""
    return {**scope, "headers": headers, "query_string": query}


def _read_json(body: bytes) -> Any:
    """JSON, strictly: finite numbers, and texts that can be sent.

    Raises:
        UsageError: it is anything else.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    try:
        value = json.loads(body, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # fails for half a surrogate pair
        return value
    except (ValueError, RecursionError) as error:
        raise UsageError("The body is not JSON. Reload the page.") from error
